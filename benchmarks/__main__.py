"""Runs every benchmark in turn, each in a process of its own: `make bench`, or `python -m benchmarks [--quick] [NAME]`.

`--quick` is handed on to the speed tables that know it, and the others are left out: a check that they run, in a few
minutes, which stores nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# The cheap ones first; the last ones train real models for many minutes.
TABLES = (
    "pointwise_losses", "two_input_losses", "row_losses", "region_losses", "pair_losses", "linear_cross_entropy",
    "loss_memory", "optimizers",
)  # fmt: skip
OTHERS = ("schedules", "startup", "loop_overhead", "lr_finder", "main_job", "classic_claims")


def main(argv: list[str]) -> int:
    quick = "--quick" in argv
    wanted = [word for word in argv if not word.startswith("--")]
    known = [name for name in (*TABLES, *(() if quick else OTHERS)) if (HERE / f"{name}.py").exists()]
    for name in wanted:
        if name not in known:
            print(f"unknown benchmark {name!r}; there are: {', '.join(known)}", file=sys.stderr)
            return 2
    failed = []
    for name in wanted or known:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
        if subprocess.run(command, cwd=HERE.parent).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
