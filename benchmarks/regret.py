"""How far a recommended recipe is from the best of 64 that a search would find, on 17 real tasks.

    python -m benchmarks.regret --reference   # 64 quasi-random trials a task, the best re-run: hours, once, resumable
    python -m benchmarks.regret               # score what this version recommends, beside its rivals: under 30 minutes
    python -m benchmarks.regret --portfolio   # the recipes that cover the tasks best, written for the package

*Reference.* Trials are chosen by validation (seed 0). The best five are run again with three fresh seeds, the best mean
of these is the reference, and its test metric over five more seeds is what is compared with: no winner's luck is left.
*Regret* is (reference - recommended) / (reference - trivial), on the test split, over the same five seeds; negative
where the recommendation is better. Its interval is a bootstrap over tasks, and over seeds within them. *Equivalents*
are the trials that a random search (choosing by validation) needs until its median test metric reaches it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.regret_tasks import TASKS, load, points
from benchmarks.store import RESULTS
from trivet.errors import DivergedError
from trivet.recipes import Recipe
from trivet.tasks import Task
from trivet.training import predict_outputs, train

RUNS = RESULTS / "regret_runs.jsonl"
BEST, SELECTION = 5, (1, 2, 3)
SEEDS = (100, 101, 102, 103, 104)
CHUNK = 16  # trials of a task at a time: a reference that is not finished has trials of every task
Row = dict[str, Any]


class Runs:
    """An append-only file of runs, each known by task, recipe and seed; what is there is not run again."""

    def __init__(self, path: Path = RUNS) -> None:
        self.path, self.rows = path, dict[tuple[str, str, int], Row]()
        for line in path.read_text().splitlines() if path.exists() else []:
            row = json.loads(line)
            self.rows[_key(row["task"], row["recipe"], row["seed"])] = row

    def run(self, name: str, recipe: Recipe, seed: int, **more: object) -> Row:
        """Return the row of a run, made now unless it is known."""
        plain = recipe.as_dict()
        known = self.rows.get(_key(name, plain, seed))
        if known is not None:
            return known
        row = {"task": name, "seed": seed, **more, **_trained(load(name), recipe, seed), "recipe": plain}
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
        self.rows[_key(name, plain, seed)] = row
        return row

    def known(self, name: str, recipe: Recipe, seed: int) -> Row | None:
        """Return the row of a run that was made, or None."""
        return self.rows.get(_key(name, recipe.as_dict(), seed))


def _key(name: str, recipe: object, seed: int) -> tuple[str, str, int]:
    return name, json.dumps(recipe, sort_keys=True), seed


def _trained(task: Task, recipe: Recipe, seed: int) -> Row:
    """Train and judge: metrics on validation and test, both None where the run diverged."""
    began = time.perf_counter()
    try:
        outcome = train(task, recipe, seed=seed)
    except DivergedError:
        return {"val": None, "test": None, "seconds": round(time.perf_counter() - began, 2)}
    test = task.metric(*predict_outputs(outcome.model, task.test))
    values = [float(f"{v:.6g}") if math.isfinite(v) else None for v in (outcome.metric, test)]
    return {"val": values[0], "test": values[1], "seconds": round(time.perf_counter() - began, 2)}


# -- the reference ----------------------------------------------------------------------------------------


def make_reference(runs: Runs, names: Iterable[str]) -> None:
    """Run what the reference lacks: trials in chunks over all tasks in a shuffled order, then each task's final."""
    names = list(names)
    random.Random(0).shuffle(names)
    trials = {name: list(points(load(name))) for name in names}
    for begin in range(0, max(map(len, trials.values())), CHUNK):
        for name in names:
            began = time.perf_counter()
            for number in range(begin, min(begin + CHUNK, len(trials[name]))):
                runs.run(name, trials[name][number], 0, point=number)
            print(f"{name}: trials {begin} to {begin + CHUNK}, {time.perf_counter() - began:.0f} s", flush=True)
    for name in names:
        final(runs, name, trials[name])
        print(f"{name}: final", flush=True)


def final(runs: Runs, name: str, trials: list[Recipe]) -> tuple[Recipe, list[Row]]:
    """Return a task's reference: of the best trials the one with the best mean over fresh seeds, and its test rows."""
    sign = 1 if load(name).metric.higher_is_better else -1

    def quality(row: Row | None) -> float:
        return -math.inf if row is None or row["val"] is None else sign * row["val"]

    best = sorted(trials, key=lambda recipe: -quality(runs.known(name, recipe, 0)))[:BEST]
    means = [sum(quality(runs.run(name, recipe, seed)) for seed in SELECTION) for recipe in best]
    winner = best[means.index(max(means))]
    return winner, [runs.run(name, winner, seed) for seed in SEEDS]


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", nargs="*", metavar="TASK", help="make the reference (of these tasks)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.reference is not None:
        make_reference(Runs(), given.reference or TASKS)


if __name__ == "__main__":
    main()
