"""How the best rate moves with the length of a run, on cells outside of the finder's benchmark.

Run: `python -m benchmarks.lr_horizon measure CELL ...` (resumable), then `python -m benchmarks.lr_horizon score`, which
replays the finder's short runs on the stored losses and says how far its pick would lie from the best rate of whole
runs, for several tolerances and shifts. The finder's two constants come from here and not from its benchmark.
"""

from __future__ import annotations

import json
import math
import statistics
import sys

import numpy as np
import torch
from sklearn.datasets import make_classification, make_friedman1, make_moons

from benchmarks.lr_finder import DATA, grid_of, optimum, recipe_of
from benchmarks.store import RESULTS, store
from trivet.recipes import Edit
from trivet.record import Eval, Event
from trivet.tasks import Task, read_task
from trivet.training import train
from trivet.tuning import LRRange
from trivet.tuning.lr_finder import SHORT_RUNS, STRIDE, _next_stride, settle

SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
SEEDS = (11, 12)
# Where the walk began when these were replayed: what sweep and prior gave together, above the prior alone.
START = 10**0.7


def task_of(name: str) -> Task:
    if name in ("wine", "iris"):
        return read_task(f"sklearn:{name}", metric="log_loss")
    if name == "vowels":
        with np.load(DATA / "japanese_vowels" / "japanese_vowels.npz") as z:
            flat = z["X_train"].reshape(len(z["X_train"]), -1).astype("float32")
            return Task.from_arrays(flat, z["y_train"], kind="multiclass", metric="log_loss")
    if name == "beijing":
        return Task.from_arrays(*_beijing(), kind="regression")
    if name == "friedman":
        x, y = make_friedman1(1200, noise=1.0, random_state=5)
        return Task.from_arrays(x.astype("float32"), y.astype("float32"), kind="regression")
    if name == "moons":
        x, y = make_moons(800, noise=0.3, random_state=5)
        return Task.from_arrays(x.astype("float32"), y, kind="binary", metric="log_loss")
    x, y = make_classification(3000, 20, n_informative=8, n_classes=4, flip_y=0.1, random_state=3)
    return Task.from_arrays(x.astype("float32"), y, kind="multiclass", metric="log_loss")


def _beijing() -> tuple[np.ndarray, np.ndarray]:
    """8000 hours with a measured value: season and hour as angles, weather as numbers, wind as four columns."""
    import csv
    import gzip
    import random

    rows = []
    with gzip.open(DATA / "beijing_pm25" / "beijing_pm25.csv.gz", "rt") as lines:
        for row in csv.DictReader(lines):
            if row["pm2.5"]:
                angles = [2 * math.pi * int(row["month"]) / 12, 2 * math.pi * int(row["hour"]) / 24]
                weather = [float(row[key]) for key in ("DEWP", "TEMP", "PRES", "Iws", "Is", "Ir")]
                wind = [float(row["cbwd"] == key) for key in ("NW", "NE", "SE", "cv")]
                waves = [f(a) for a in angles for f in (math.sin, math.cos)]
                rows.append([*waves, *weather, *wind, float(row["pm2.5"])])
    random.Random(0).shuffle(rows)
    table = np.array(rows[:8000], dtype="float32")
    return table[:, :-1], table[:, -1]


class _Last:
    metric = loss = math.inf

    def handle(self, event: Event) -> None:
        if isinstance(event, Eval):
            self.metric, self.loss = event.metric, event.loss


def measure(cell: str) -> dict[str, object]:
    """Metric (lower is better) and held-out loss at the end of runs of every length, rate and seed."""
    name, optimizer = cell.split("/")
    task = task_of(name)
    recipe = recipe_of(task, optimizer)
    sign = -1 if task.metric.higher_is_better else 1
    runs = []
    for lr in grid_of(optimizer):
        rows: dict[str, list[list[float]]] = {}
        for share in SHARES:
            changed = recipe.apply(Edit("epochs", recipe.epochs * share), Edit("optimizer.lr", lr))
            for seed in SEEDS:
                last = _Last()
                try:
                    train(task, changed, seed=seed, patience=10**6, callbacks=[last])
                except ArithmeticError:
                    last = _Last()
                rows.setdefault(f"{share:g}", []).append([sign * last.metric, last.loss])
        runs.append(rows)
    return {"rates": grid_of(optimizer), "prior": recipe.optimizer["lr"], "runs": runs}


def replay(cell: dict[str, object], share: float) -> list[tuple[float, float]]:
    """What the finder's short runs would have seen: its walk over the first seed's losses, in lines between rates."""
    logs = np.log10(cell["rates"])  # type: ignore[arg-type]
    losses = [min(rows[f"{share:g}"][0][1], 1e3) for rows in cell["runs"]]  # type: ignore[attr-defined]
    middle = float(cell["prior"]) * START  # type: ignore[arg-type]
    tried: dict[int, float] = {}
    while len(tried) < SHORT_RUNS:
        at = _next_stride(tried)
        where = math.log10(middle * STRIDE**at)
        tried[at] = float(np.interp(where, logs, losses)) if where <= logs[-1] + 0.01 else math.inf
    return [(middle * STRIDE**at, loss) for at, loss in sorted(tried.items())]


def score(cells: dict[str, dict[str, object]]) -> None:
    nothing = LRRange(low=1e-9, high=1e9, pick=1.0, confidence=1.0, abstained=False, reason="")
    for share in (0.125, 0.0625):
        signed = {}
        for name, cell in cells.items():
            best, _, _ = optimum(cell["rates"], [[m for m, _ in rows["1"]] for rows in cell["runs"]])  # type: ignore
            signed[name] = math.log10(settle(nothing, replay(cell, share)).pick / best)
        sizes = sorted(map(abs, signed.values()))
        print(f"runs of {share:g}: median {statistics.median(sizes):.2f}, 9 in 10 {sizes[int(0.9 * len(sizes))]:.2f}")
        print({name: round(value, 2) for name, value in signed.items()})


def main() -> None:
    torch.set_num_threads(1)
    path = RESULTS / "lr_horizon.json"
    cells = json.loads(path.read_text())["cells"] if path.exists() else {}
    if sys.argv[1:2] == ["measure"]:
        for cell in sys.argv[2:]:
            if cell not in cells:
                cells[cell] = measure(cell)
                store("lr_horizon", {"shares": SHARES, "seeds": SEEDS, "cells": cells})
        return
    score(cells)


if __name__ == "__main__":
    main()
