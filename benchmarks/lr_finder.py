"""The finder against a dense grid: how far is its pick from the best rate, and what does the difference cost?

Run: `python -m benchmarks.lr_finder reference [CELL ...]` once (resumable: cells that are stored are not done again),
then `python -m benchmarks.lr_finder score [CELL ...]` (without cells: all of them; with cells: their rows are made anew
and the others stay). With the package torch-lr-finder installed its own suggestion is asked on the same curves.

The cells, the grid and the judgement below were fixed before the finder was tuned. The reference of a cell is 13 rates
x 3 seeds of fully decayed runs, judged by the task's metric on validation; the optimum is the top of the seed means,
smoothed over neighbouring rates. Lower is better for every metric here after its sign is turned.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from benchmarks.store import RESULTS, store
from trivet.advice import recommend
from trivet.advice.recommend.rate import rate_prior
from trivet.recipes import Edit, Recipe
from trivet.recipes.build import base_lr
from trivet.record import Eval, Event
from trivet.schedules.scaling import scaled_lr
from trivet.tasks import Task, read_task
from trivet.training import train
from trivet.tuning import find_lr

DATA = Path(__file__).parents[2] / "shared" / "data"
SEEDS = (11, 12, 13)
STEPS = 600
OPTIMIZERS: dict[str, tuple[dict[str, object], float, float]] = {
    # parameters, lowest and highest rate of the grid
    "SGD": ({"name": "SGD", "momentum": 0.9}, 1e-4, 3.0),
    "AdamW": ({"name": "AdamW", "weight_decay": 0.01}, 1e-5, 0.3),
    "RMSprop": ({"name": "RMSprop"}, 1e-6, 0.03),
    "Lion": ({"name": "Lion"}, 1e-6, 0.03),
}
CELLS = (
    ("breast_cancer", "AdamW"),
    ("diabetes", "SGD"),
    ("diabetes", "Lion"),
    ("digits", "SGD"),
    ("digits", "AdamW"),
    ("digits", "RMSprop"),
    ("california", "SGD"),
    ("california", "AdamW"),
    ("california", "Lion"),
    ("annthyroid", "RMSprop"),
    ("annthyroid", "AdamW"),
    ("fashion", "SGD"),
    ("fashion", "Lion"),
)


def task_of(name: str) -> Task:
    """The task of a cell; log loss decides classification here, because accuracy has ties on small splits."""
    if name == "california":
        path = DATA / "california_housing" / "california_housing.csv.gz"
        return read_task(str(path), target="median_house_value")
    if name == "annthyroid":
        return read_task(str(DATA / "annthyroid" / "annthyroid.npz"), metric="log_loss")
    if name == "fashion":
        with np.load(DATA / "fashion_mnist" / "fashion_mnist.npz") as z:
            return Task.from_arrays(z["X_train"][:2500], z["y_train"][:2500], kind="multiclass", metric="log_loss")
    if name == "digits":  # as 64 numbers, for the perceptron: images are what fashion is for
        pixels, labels = load_digits(return_X_y=True)
        return Task.from_arrays(pixels, labels, kind="multiclass", metric="log_loss")
    return read_task(f"sklearn:{name}", metric=None if name == "diabetes" else "log_loss")


def recipe_of(task: Task, optimizer: str) -> Recipe:
    """The recommended recipe with the cell's optimizer, plain loss, and a fixed number of steps."""
    recipe = recommend(task)
    parameters, _, _ = OPTIMIZERS[optimizer]
    steps = STEPS if recipe.optimizer["name"] == "AdamW" else STEPS // 3  # convolutions take ten times as long
    epochs = steps / max(1, len(task.train) // recipe.batch_size)
    loss = {"name": recipe.loss["name"]} if "delta" not in recipe.loss else dict(recipe.loss)
    edits = (Edit("optimizer", parameters | {"lr": 1e-3}), Edit("epochs", epochs), Edit("loss", loss))  # type: ignore[arg-type]
    recipe = recipe.apply(*edits)
    # The rate that is there before is the prior's, as in any recommended recipe.
    prior = rate_prior(optimizer)
    lr = scaled_lr(prior.pick, batch_size=recipe.batch_size, base_batch_size=prior.base_batch, optimizer=optimizer).lr
    return recipe.apply(Edit("optimizer.lr", min(max(lr, prior.low), prior.high)))


def grid_of(optimizer: str) -> list[float]:
    _, low, high = OPTIMIZERS[optimizer]
    return [low * (high / low) ** (i / 12) for i in range(13)]


class _Last:
    """Keeps the metric of the last evaluation."""

    metric = math.nan

    def handle(self, event: Event) -> None:
        if isinstance(event, Eval):
            self.metric = event.metric


def error(task: Task, recipe: Recipe, lr: float, seed: int) -> float:
    """Validation metric at the end of one run, turned so that lower is better; a diverged run counts as infinite.

    The end, not the best epoch: the best of many noisy values flatters the rates with the most noise.
    """
    last = _Last()
    try:
        train(task, recipe.apply(Edit("optimizer.lr", lr)), seed=seed, patience=10**6, callbacks=[last])
    except ArithmeticError:
        return math.inf
    value = last.metric
    if not math.isfinite(value):
        return math.inf
    return -value if task.metric.higher_is_better else value


def reference(cell: tuple[str, str]) -> dict[str, object]:
    name, optimizer = cell
    task = task_of(name)
    recipe = recipe_of(task, optimizer)
    errors = [[error(task, recipe, lr, seed) for seed in SEEDS] for lr in grid_of(optimizer)]
    return {
        "cell": "/".join(cell),
        "rates": grid_of(optimizer),
        "errors": errors,
        "metric": task.metric.name,
    }


def optimum(rates: list[float], errors: list[list[float]]) -> tuple[float, float, float]:
    """Return the best rate, its error and the seeds' standard deviation there.

    Means over seeds are averaged over each rate and its two neighbours (1, 2, 1), and a parabola through the top and
    its neighbours gives the place between grid points.
    """
    worst = max(e for row in errors for e in row if math.isfinite(e))
    means = [statistics.fmean(min(e, 2 * abs(worst) + 1) for e in row) for row in errors]
    padded = [means[0], *means, means[-1]]
    smooth = [(padded[i] + 2 * padded[i + 1] + padded[i + 2]) / 4 for i in range(len(means))]
    top = min(range(len(smooth)), key=smooth.__getitem__)
    shift = 0.0
    if 0 < top < len(smooth) - 1:
        left, middle, right = smooth[top - 1 : top + 2]
        bend = left - 2 * middle + right
        shift = 0.0 if bend <= 0 else max(-0.5, min(0.5, 0.5 * (left - right) / bend))
    spacing = math.log(rates[1] / rates[0])
    finite = [e for e in errors[top] if math.isfinite(e)]
    return rates[top] * math.exp(shift * spacing), statistics.fmean(finite), statistics.stdev(finite)


def plateau(rates: list[float], errors: list[list[float]]) -> tuple[float, float]:
    """Return the lowest and highest rate whose mean is within one seed standard deviation of the best mean.

    Many cells have no sharp optimum: a rate inside this interval cannot be told from the best one by these seeds.
    """
    means = [statistics.fmean(row) for row in errors]
    spread = statistics.median(statistics.stdev(row) for row in errors if all(math.isfinite(e) for e in row))
    good = [rate for rate, mean in zip(rates, means, strict=True) if mean <= min(means) + spread]
    return min(good), max(good)


def classic_rules(rates: list[float], curve: list[float]) -> dict[str, float]:
    """What the classic rules pick on a sweep: steepest descent, a tenth of the minimum, the valley's two thirds."""
    values, logs = np.asarray(curve), np.log(np.asarray(rates[: len(curve)]))
    bottom = int(values.argmin())
    slopes = np.gradient(values[: max(bottom, 2)], logs[: max(bottom, 2)])
    # fastai's valley: the longest falling stretch, two thirds of the way along it.
    best, start, length = (0, 0), 0, 1
    for i in range(1, len(values)):
        if values[i] < values[i - 1]:
            length += 1
            if length > best[1]:
                best = (start, length)
        else:
            start, length = i, 1
    valley = min(best[0] + int(best[1] * 2 / 3), len(values) - 1)
    return {
        "steepest": float(rates[int(slopes.argmin())]),
        "minimum/10": float(rates[bottom] / 10),
        "valley": float(rates[valley]),
    }


def torch_lr_finder(rates: list[float], curve: list[float]) -> float | None:
    """What the package torch-lr-finder suggests on a curve, by its own code; None where it is absent or gives none."""
    try:
        from torch_lr_finder import LRFinder
    except ImportError:
        return None
    from matplotlib.figure import Figure

    finder = object.__new__(LRFinder)  # only the history is read, so that nothing is trained again
    finder.history = {"lr": list(rates[: len(curve)]), "loss": list(curve)}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return float(finder.plot(ax=Figure().add_subplot())[1])
    except RuntimeError:  # too few points are left after it has skipped fifteen
        return None


def score(cell: tuple[str, str], known: dict[str, object]) -> dict[str, object]:
    name, optimizer = cell
    task = task_of(name)
    recipe = recipe_of(task, optimizer)
    best, best_error, spread = optimum(known["rates"], known["errors"])  # type: ignore[arg-type]
    lowest, highest = plateau(known["rates"], known["errors"])  # type: ignore[arg-type]
    # Kernels are loaded and thread pools started before anything is timed.
    error(task, recipe.apply(Edit("epochs", 1)), base_lr(recipe), SEEDS[0])
    began = time.perf_counter()
    found = find_lr(task, recipe, seed=0)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    reached = statistics.fmean(error(task, recipe, found.pick, seed) for seed in SEEDS)
    run = (time.perf_counter() - began) / len(SEEDS)
    rules = classic_rules(list(found.rates), list(found.losses[0])) if found.losses else {}
    package = torch_lr_finder(list(found.rates), list(found.losses[0])) if found.losses else None
    rules |= {} if package is None else {"torch-lr-finder": package}
    return {
        "cell": "/".join(cell),
        "best": best,
        "pick": found.pick,
        "log10_error": abs(math.log10(found.pick / best)),
        "good_range": [lowest, highest],
        "log10_outside_good_range": max(0.0, math.log10(lowest / found.pick), math.log10(found.pick / highest)),
        "abstained": found.abstained,
        "confidence": found.confidence,
        "error_at_best": best_error,
        "error_at_pick": reached,
        "seed_sd": spread,
        "within_one_sd": reached <= best_error + spread,
        "tried": found.tried,
        "cost_in_steps": found.cost,
        "seconds": {"find": seconds, "run": run},
        "cost_in_runs": seconds / run,
        "rules_pick": rules,
        "rules_log10_error": {rule: abs(math.log10(pick / best)) for rule, pick in rules.items()},
    }


def main() -> None:
    torch.set_num_threads(1)
    stored = RESULTS / "lr_reference.json"
    known = json.loads(stored.read_text())["cells"] if stored.exists() else {}
    wanted = sys.argv[2:]
    cells = [cell for cell in CELLS if not wanted or "/".join(cell) in wanted]
    if sys.argv[1:2] == ["reference"]:
        for cell in cells:
            if "/".join(cell) not in known:
                known["/".join(cell)] = reference(cell)
                store("lr_reference", {"steps": STEPS, "seeds": SEEDS, "cells": known})
        return
    path = RESULTS / "lr_finder.json"
    rows = {row["cell"]: row for row in json.loads(path.read_text())["rows"]} if wanted and path.exists() else {}
    for cell in cells:
        if "/".join(cell) in known:
            row = rows["/".join(cell)] = score(cell, known["/".join(cell)])
            print({k: (float(f"{v:.3g}") if isinstance(v, float) else v) for k, v in row.items()}, flush=True)
            ordered = [rows["/".join(name)] for name in CELLS if "/".join(name) in rows]
            store("lr_finder", {"summary": summary(ordered), "rows": ordered})
    print(json.dumps(summary(list(rows.values())), indent=1))


def summary(rows: list[dict[str, Any]]) -> dict[str, object]:
    errors = sorted(row["log10_error"] for row in rows if not row["abstained"])
    rules = sorted({rule for row in rows for rule in row["rules_log10_error"]})
    return {
        "cells": len(rows),
        "median_log10_error": statistics.median(errors),
        "ninth_decile_log10_error": errors[math.ceil(0.9 * len(errors)) - 1],
        "worst_log10_error": errors[-1],
        "in_good_range": sum(row["log10_outside_good_range"] == 0 for row in rows) / len(rows),
        "within_one_sd": sum(bool(row["within_one_sd"]) for row in rows) / len(rows),
        "abstained": sum(bool(row["abstained"]) for row in rows) / len(rows),
        "mean_cost_in_steps": statistics.fmean(row["cost_in_steps"] for row in rows),
        "mean_cost_in_runs": statistics.fmean(row["cost_in_runs"] for row in rows),
        "rules": {rule: _rule(rows, rule) for rule in rules},
    }


def _rule(rows: list[dict[str, Any]], rule: str) -> dict[str, float]:
    errors = sorted(row["rules_log10_error"][rule] for row in rows if rule in row["rules_log10_error"])
    return {
        "cells": len(errors),
        "median_log10_error": statistics.median(errors),
        "ninth_decile_log10_error": errors[math.ceil(0.9 * len(errors)) - 1],
        "worst_log10_error": errors[-1],
    }


if __name__ == "__main__":
    main()
