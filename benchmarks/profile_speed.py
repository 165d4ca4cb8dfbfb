"""What `trivet.profile` takes on tables, and where it goes. Under 5 s was asked for 100,000 rows of 50 columns.

Run: `python -m benchmarks.profile_speed`. Each time is the median of calls after the first, which also imports and is
told apart; parts are calls that `profile` makes, timed inside it, so they do not add up to more than the whole.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.store import store
from trivet import Task, profile
from trivet.facts import data, doubt, model

REPEATS = 5
ROWS, COLUMNS = 100_000, 50
PARTS = (
    ("shared rows", data, "shared_rows"),
    ("label noise", data, "label_noise"),
    ("drift", data, "drift"),
    ("robust fit", data, "_robust_residual"),
    ("model", model, "_forward"),
)


def table(kind: str) -> Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    score = x @ rng.normal(size=COLUMNS).astype(np.float32) + rng.normal(size=ROWS).astype(np.float32)
    y = score if kind == "regression" else np.digitize(score, np.quantile(score, [0.25, 0.5, 0.75]))
    return Task.from_arrays(x, y, kind=kind)


def timed(spent: dict[str, float], name: str, function: Callable[..., object]) -> Callable[..., object]:
    def call(*args: object, **options: object) -> object:
        began = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

    return call


def measure(task: Task) -> dict[str, object]:
    began = time.perf_counter()
    profile(task)
    first = time.perf_counter() - began
    whole, parts = [], []
    for _ in range(REPEATS):
        spent: dict[str, float] = {}
        kept = [(module, name, getattr(module, name)) for _, module, name in PARTS]
        for (what, module, name), (_, _, function) in zip(PARTS, kept, strict=True):
            setattr(module, name, timed(spent, what, function))
        try:
            began = time.perf_counter()
            profile(task)
            whole.append(time.perf_counter() - began)
        finally:
            for module, name, function in kept:
                setattr(module, name, function)
        parts.append(spent)
    shares = {name: statistics.median(spent[name] for spent in parts) for name in parts[0]}
    return {"seconds": statistics.median(whole), "slowest": max(whole), "first call": first, "parts": shares}


def main() -> None:
    rows, usual = [], torch.get_num_threads()
    for threads in (usual, 1):
        torch.set_num_threads(threads)
        for kind in ("regression", "multiclass"):
            row = {"kind": kind, "threads": threads, **measure(table(kind))}
            rows.append(row)
            print(
                f"{kind} on {threads} threads: {row['seconds']:.2f} s "
                f"(slowest {row['slowest']:.2f}, first call {row['first call']:.2f})"
            )
            for name, seconds in row["parts"].items():  # type: ignore[attr-defined]
                print(f"  {name:<11} {seconds:.2f} s")
    limits = {"rows of doubt": doubt.ROWS, "sample": data.SAMPLE, "rows looked up": data.DUPLICATE_ROWS}
    store("profile_speed", {"rows": ROWS, "columns": COLUMNS, "repeats": REPEATS, "limits": limits, "results": rows})


if __name__ == "__main__":
    main()
