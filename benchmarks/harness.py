"""One harness for every speed table: interleaved rounds, intervals of ratios, the memory floor, peak extra memory.

    case = compare(
        {"trivet": ours, "torch fused": Contender(theirs, before=fresh_gradients)},  # functions without arguments
        title="AdamW, 64M parameters",
        moved=7 * 4 * 64_000_000,  # bytes that the job must read and write: adds the floor, measured in the same run
        elements=64_000_000,  # size of the plain pass (float32) that the floor's bandwidth is taken from
        baseline="torch fused",
        memory=True,  # peak bytes beyond what was there before the call
    )
    show(case); store_rows("optimizers", [case])

Each round runs every contender once, in an order that rotates, so that a slow moment of the machine hits all alike;
ratios are formed within a round, and their interval is that of the median by order statistics (at least 95 %, no
assumption about the distribution). Calls too short to be timed alone are repeated within a round. Whoever measures
runs alone on the machine: the load average is stored, and a busy machine is said.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Contender", "arguments", "compare", "interval", "peak_extra_bytes", "show"]

SHORTEST = 2e-3  # seconds that one timed stretch lasts at least, where calls may be repeated
PLAIN = ("plain copy", "plain add")


@dataclass(frozen=True)
class Contender:
    """What is timed, and what is done before each call without being timed (then calls are not repeated)."""

    run: Callable[[], object]
    before: Callable[[], object] | None = None


def compare(
    contenders: Mapping[str, Contender | Callable[[], object]],
    *,
    title: str,
    rounds: int = 21,
    warmup: int = 2,
    seconds: float = 25.0,
    moved: int | None = None,
    elements: int | None = None,
    baseline: str | None = None,
    memory: bool = False,
) -> dict[str, Any]:
    """Time contenders against each other and return the case as plain data, ready to be shown and stored.

    `rounds` are made fewer (but at least 5) where they would take more than `seconds`. Ratios are baseline's time over
    the contender's (above 1: the contender is faster), floors are the contender's time over the floor's.
    """
    field = {name: c if isinstance(c, Contender) else Contender(c) for name, c in contenders.items()}
    if moved is not None:
        field |= _plain_passes(elements or moved // 8)
    load = os.getloadavg()[0]
    if load > 0.5 * (os.cpu_count() or 1):
        print(f"the machine is busy (load average {load:.1f}): timings are not to be trusted", file=sys.stderr)
    repeats = {name: _calibrate(c, warmup) for name, c in field.items()}
    once = sum(_timed(c, repeats[name]) * repeats[name] for name, c in field.items())
    rounds = max(5, min(rounds, int(seconds / max(once, 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in field}
    names = list(field)
    gc.collect()
    gc.disable()
    try:
        for k in range(rounds):
            for name in names[k % len(names) :] + names[: k % len(names)]:
                times[name].append(_timed(field[name], repeats[name]))
    finally:
        gc.enable()
    case: dict[str, Any] = {"case": title, "rounds": rounds, "threads": torch.get_num_threads(), "load": round(load, 2)}
    if moved is not None:
        case |= _floor(times, moved, elements or moved // 8)
    floors = case.pop("floors", None)
    case["contenders"] = [
        _row(name, times, baseline, floors) | ({"extra_bytes": peak_extra_bytes(field[name])} if memory else {})
        for name in contenders
    ]
    return case


def _calibrate(contender: Contender, warmup: int) -> int:
    """Warm a contender up; return how many calls make a stretch long enough to be timed."""
    for _ in range(max(warmup, 1)):
        _timed(contender, 1)
    if contender.before is not None:
        return 1
    fastest = min(_timed(contender, 1) for _ in range(3))
    return max(1, math.ceil(SHORTEST / max(fastest, 1e-7)))


def _timed(contender: Contender, repeats: int) -> float:
    """Return the seconds of one call, as the mean of a stretch."""
    if contender.before is not None:
        contender.before()
    run = contender.run
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - began) / repeats


def _plain_passes(elements: int) -> dict[str, Contender]:
    """The two plainest passes over memory: a copy (reads one array, writes another) and an addition in place."""
    source, target = torch.ones(elements), torch.zeros(elements)
    return dict(zip(PLAIN, (Contender(lambda: target.copy_(source)), Contender(lambda: target.add_(1.0))), strict=True))


def _floor(times: Mapping[str, list[float]], moved: int, elements: int) -> dict[str, Any]:
    """Return the floor: the bytes over the bandwidth of the better plain pass, for each round and as a median."""
    best = min(PLAIN, key=lambda name: statistics.median(times[name]))
    floors = [moved * seconds / (8 * elements) for seconds in times[best]]
    return {
        "moved_bytes": moved,
        "floor_ms": 1e3 * statistics.median(floors),
        "bandwidth_gb_s": 8e-9 * elements / statistics.median(times[best]),
        "plain_pass": best,
        "floors": floors,
    }


def _row(
    name: str, times: Mapping[str, list[float]], baseline: str | None, floors: Sequence[float] | None
) -> dict[str, Any]:
    low, middle, high = statistics.quantiles(times[name], n=4)
    row: dict[str, Any] = {"name": name, "median_ms": 1e3 * middle, "quartiles_ms": [1e3 * low, 1e3 * high]}
    if baseline is not None and name != baseline:
        row["speedup"] = interval([b / a for a, b in zip(times[name], times[baseline], strict=True)])
    if floors is not None:
        row["over_floor"] = interval([a / f for a, f in zip(times[name], floors, strict=True)])
    return row


def interval(values: Sequence[float], level: float = 0.95) -> dict[str, float]:
    """Return the median with its interval by order statistics: the narrowest symmetric one of at least this level.

    Below six values no such interval reaches 95 %: then it is the whole range.

    >>> interval(range(1, 12))
    {'median': 6, 'low': 2, 'high': 10}
    """
    ordered, n = sorted(values), len(values)
    tail, cut = 0.0, 0
    for k in range(n // 2):
        tail += math.comb(n, k) / 2**n
        if 2 * tail > 1 - level:
            break
        cut = k
    return {"median": statistics.median(ordered), "low": ordered[cut], "high": ordered[n - 1 - cut]}


def peak_extra_bytes(contender: Contender | Callable[[], object]) -> int | None:
    """Return how far one call raises the process's memory above what it held before, whoever allocates.

    Counted by the kernel in resident pages (so torch's allocator, NumPy's and Numba's alike), after free pages were
    given back; good to about half a megabyte. Returns `None` where the system cannot tell (not Linux).
    """
    contender = contender if isinstance(contender, Contender) else Contender(contender)
    if not Path("/proc/self/clear_refs").exists():
        return None
    if contender.before is not None:
        contender.before()
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident now
    before = _resident("VmRSS")
    contender.run()
    return max(0, _resident("VmHWM") - before)


def _resident(what: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return 1024 * int(line.split()[1])


def show(case: Mapping[str, Any]) -> None:
    """Print one case as a table for a person."""
    print(f"\n{case['case']}  ({case['rounds']} rounds, {case['threads']} threads)")
    if "floor_ms" in case:
        print(
            f"  floor {_duration(case['floor_ms'])}: {case['moved_bytes'] / 1e6:.4g} MB "
            f"at {case['bandwidth_gb_s']:.1f} GB/s ({case['plain_pass']})"
        )
    for row in case["contenders"]:
        low, high = row["quartiles_ms"]
        text = f"  {row['name']:<28} {_duration(row['median_ms']):>9}  [{_duration(low)}, {_duration(high)}]"
        for key, words in (("speedup", "times faster"), ("over_floor", "of the floor")):
            if key in row:
                text += f"   {row[key]['median']:.2f} [{row[key]['low']:.2f}, {row[key]['high']:.2f}] {words}"
        if row.get("extra_bytes") is not None:
            text += f"   +{row['extra_bytes'] / 1e6:.1f} MB"
        print(text)


def _duration(ms: float) -> str:
    return f"{ms:.1f} ms" if ms >= 10 else f"{ms:.3f} ms" if ms >= 0.1 else f"{1e3 * ms:.2f} us"


def arguments(doc: str | None) -> argparse.Namespace:
    """Read the command line of a benchmark: `--quick` for few rounds and small sizes, `--only TEXT` for some cases."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds and small sizes, nothing stored")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the cases whose title has this text")
    return parser.parse_args()
