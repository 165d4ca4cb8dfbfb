"""Start-up: `trivet --help`, and what `import trivet` adds to `import torch`, as medians of fresh processes.

Run: `python -m benchmarks.startup`. Budgets of the project: help < 250 ms, import < 100 ms over torch.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.store import store

REPEATS = 7

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "trivet --help": [sys.executable, "-m", "trivet", "--help"],
    "trivet fit --help": [sys.executable, "-m", "trivet", "fit", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch, trivet": [sys.executable, "-c", "import torch, trivet"],
    "import trivet, Recipe": [sys.executable, "-c", "import torch; from trivet import Recipe"],
}


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        # Interleaved, so that a slow moment of the machine hits every command alike.
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    rows = []
    for name, values in times.items():
        low, _, high = statistics.quantiles(values, n=4)
        rows.append({"what": name, "median_ms": 1e3 * statistics.median(values), "iqr_ms": 1e3 * (high - low)})
        print(f"{name:<24} {rows[-1]['median_ms']:7.0f} ms  (quartiles {1e3 * low:.0f} to {1e3 * high:.0f})")
    added = [b - a for a, b in zip(times["import torch"], times["import torch, trivet"], strict=True)]
    recipe = [b - a for a, b in zip(times["import torch"], times["import trivet, Recipe"], strict=True)]
    for name, values in (("import trivet adds", added), ("using Recipe adds", recipe)):
        rows.append({"what": name, "median_ms": 1e3 * statistics.median(values)})
        print(f"{name:<24} {rows[-1]['median_ms']:7.0f} ms")
    store("startup", {"repeats": REPEATS, "rows": rows})


if __name__ == "__main__":
    main()
