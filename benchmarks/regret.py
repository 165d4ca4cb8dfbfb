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
import hashlib
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

import trivet.tuning
from benchmarks.regret_score import bootstrap, equivalents, regret
from benchmarks.regret_tasks import HELD_OUT, TASKS, TRIALS, fixed_length, load, points
from benchmarks.store import RESULTS, store
from trivet.advice import recommend
from trivet.errors import DivergedError
from trivet.facts import Profile, profile
from trivet.recipes import Edit, Recipe
from trivet.tasks import KINDS, Task
from trivet.training import predict_outputs, train
from trivet.tuning import Race, find_lr, plan_race, race
from trivet.tuning.portfolio import FILE as PORTFOLIO
from trivet.tuning.portfolio import Member, Portfolio
from trivet.tuning.study import difference

RUNS = RESULTS / "regret_runs.jsonl"
BEST, SELECTION = 5, (1, 2, 3)
SEEDS = (100, 101, 102, 103, 104)
MEMBERS = 5
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


# -- the portfolio ----------------------------------------------------------------------------------------


def learn(runs: Runs, names: Sequence[str], size: int = MEMBERS) -> tuple[list[int], list[float]]:
    """Return trial numbers, best first, and the mean regret of the best of them over these tasks after each.

    Trials of one number have the same optimizer, schedule, clipping and place among their kind's losses in all tasks.
    """
    table = [trial_regrets(runs, name) for name in names]
    chosen: list[int] = []
    means: list[float] = []
    for _ in range(size):
        after = {
            number: statistics.fmean(min(row[k] for k in (*chosen, number)) for row in table)
            for number in range(len(table[0]))
            if number not in chosen
        }
        chosen.append(min(after, key=lambda number: (after[number], number)))
        means.append(round(after[chosen[-1]], 4))
    return chosen, means


def member(number: int) -> Member:
    """Return a trial as a member of a portfolio: its loss for every kind of task of the benchmark."""
    losses, one = {}, None
    for name in TASKS:
        recipe = list(points(load(name)))[number]
        losses[load(name).kind], one = recipe.loss, recipe
    assert one is not None
    return Member(optimizer=one.optimizer, schedule=one.schedule, clip=one.clip, losses=losses)


def write_portfolio(runs: Runs) -> None:
    """Learn from all tasks and write what the package carries, with what leaving each task out says of it."""
    chosen, means = learn(runs, list(TASKS))
    left_out = [_left_out(runs, name) for name in TASKS]
    made = Portfolio(
        provenance={
            "source": "benchmarks/results/regret_runs.jsonl, by python -m benchmarks.regret --portfolio",
            "trials": {"each task": TRIALS, "numbers chosen": chosen},
            "tasks": list(TASKS),
            "method": "greedy cover: each recipe lowers the mean regret of the best so far most",
            "mean regret of the best of the first k": means,
            "the same on each task, learned from the others": [
                round(statistics.fmean(column), 4) for column in zip(*left_out, strict=True)
            ],
        },
        members=tuple(member(number) for number in chosen),
    )
    path = Path(trivet.tuning.__file__).with_name(PORTFOLIO)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    print(f"wrote {path.name}: trials {chosen}, mean regrets {means}")


def _left_out(runs: Runs, name: str) -> list[float]:
    """Return the regret of the best of the first k recipes on a task that they were not learned from."""
    chosen, _ = learn(runs, [other for other in TASKS if other != name])
    regrets = trial_regrets(runs, name)
    return [min(regrets[number] for number in chosen[:k]) for k in range(1, len(chosen) + 1)]


def trial_regrets(runs: Runs, name: str) -> list[float]:
    """Return each trial's regret against the best of them; at most 1, which a trial that was not made has too."""
    rows = [runs.known(name, recipe, 0) for recipe in points(load(name))]
    tests = [None if row is None else row["test"] for row in rows]
    sign, trivial = _sign(name), load(name).baselines()[0].value
    best = max(sign * test for test in tests if test is not None)
    return [min(1.0, regret(best, None if test is None else sign * test, sign * trivial)) for test in tests]


def _sign(name: str) -> int:
    return 1 if load(name).metric.higher_is_better else -1


# -- contenders -------------------------------------------------------------------------------------------

# TaskSet's learned list (google-research/opt_list, Apache 2.0): the numbers of its first three, as recipes. Its second
# has an epsilon of 108, so that it is momentum; its Nesterov form is Optax's.
OPT_LIST: list[tuple[dict[str, Any], str]] = [
    (
        {"name": "AdamW", "lr": 1.1948e-3, "betas": [0.936, 0.99895], "eps": 5.876e-6, "weight_decay": 0.010142},
        "hold(0.7473) >> cosine()",
    ),
    (
        {
            "name": "NAdam", "lr": 0.40601, "betas": [0.99724, 0.9868], "eps": 107.86, "weight_decay": 0.01562,
            "decoupled_weight_decay": True, "convention": "optax",
        },
        "warmup(0.32415) >> cosine()",
    ),
    (
        {"name": "AdamW", "lr": 2.1185e-4, "betas": [0.62297, 0.97278], "eps": 1.54e-7, "weight_decay": 0.053608},
        "hold(0.20993) >> cosine(floor=0.0013865)",
    ),
]  # fmt: skip


def plain(task: Task, optimizer: dict[str, Any], schedule: str = "constant()") -> Recipe:
    """Return the plain loss of a task's kind with an optimizer, at the task's length."""
    loss = dict(KINDS[task.kind].plain_loss(task.outputs))
    return fixed_length(task, Recipe(loss=loss, optimizer=optimizer, schedule=schedule))


def best_by_validation(runs: Runs, name: str, recipes: Sequence[Recipe], seed: int) -> Recipe:
    """Run recipes once and return the best by validation."""
    rows = [runs.run(name, recipe, seed) for recipe in recipes]
    quality = [-math.inf if row["val"] is None else _sign(name) * row["val"] for row in rows]
    return recipes[quality.index(max(quality))]


def one_epoch_top(runs: Runs, name: str, seed: int) -> Recipe:
    """Random recipes for one epoch each, the best two in full, the better of these: as dear as a race or dearer."""
    task = load(name)
    drawn = random.Random(seed).sample(list(points(task)), 16)
    short = [recipe.apply(Edit("epochs", 1)) for recipe in drawn]
    rows = [runs.run(name, recipe, 200 + seed) for recipe in short]
    quality = [-math.inf if row["val"] is None else _sign(name) * row["val"] for row in rows]
    ranked = sorted(range(len(drawn)), key=lambda at: -quality[at])
    return best_by_validation(runs, name, [drawn[at] for at in ranked[:2]], 200 + seed)


def raced(runs: Runs, name: str, recipe: Recipe, seed: int, books: Path) -> tuple[Recipe, Race]:
    """Race a recipe as `fit` does, with a portfolio that was learned without the task."""
    task = load(name)
    chosen, _ = learn(runs, [other for other in TASKS if other != name])
    plan = plan_race(task, recipe, profile(task), seed=seed, members=[member(number) for number in chosen])
    key = hashlib.sha256(msgspec.json.encode(plan)).hexdigest()[:12]
    books.mkdir(parents=True, exist_ok=True)
    found = race(task, plan, book=books / f"{name}-{seed}-{key}.jsonl")
    return found.advise(recipe), found


# -- scoring ----------------------------------------------------------------------------------------------

REPEATS = (0, 1, 2)  # of what draws by chance


def contenders(runs: Runs, name: str, only: Sequence[str] | None) -> dict[str, list[Recipe]]:
    """Return each contender's recipes on a task: one, or one for each repeat of what draws by chance."""
    task, books = load(name), RUNS.with_name("regret_races")
    facts = profile(task)
    mine = recommend(task, facts)
    makers: dict[str, Callable[[], list[Recipe]]] = {
        "recommended": lambda: [mine],
        "recommended, found rate": lambda: [_found(task, mine, facts, seed) for seed in REPEATS],
        "recommended, raced": lambda: [raced(runs, name, mine, seed, books)[0] for seed in REPEATS],
        "AdamW 1e-3": lambda: [plain(task, {"name": "AdamW", "lr": 1e-3})],
        "opt_list, first": lambda: [plain(task, *OPT_LIST[0])],
        "opt_list, best of 3": lambda: [
            best_by_validation(runs, name, [plain(task, *entry) for entry in OPT_LIST], 200 + seed) for seed in REPEATS
        ],
        "one-epoch top 2 of 16": lambda: [one_epoch_top(runs, name, seed) for seed in REPEATS],
    }
    return {label: make() for label, make in makers.items() if only is None or label in only}


def _found(task: Task, recipe: Recipe, facts: Profile, seed: int) -> Recipe:
    found = find_lr(task, recipe, seed=seed, profile=facts)
    return recipe if found.abstained else recipe.apply(Edit("optimizer.lr", found.pick))


def score(runs: Runs, names: Sequence[str], only: Sequence[str] | None) -> None:
    """Score every contender on every task, show the table, and store it."""
    rows: list[Row] = []
    for name in names:
        sign, trivial = _sign(name), load(name).baselines()[0].value
        trials = list(points(load(name)))
        winner, reference = final(runs, name, trials)
        aims = [sign * (trivial if row["test"] is None else row["test"]) for row in reference]
        quasi = [row for trial in trials if (row := runs.known(name, trial, 0)) and row["val"] is not None]
        pairs = [(sign * row["val"], sign * row["test"]) for row in quasi if row["test"] is not None]
        row: Row = {
            "task": name, "held out": name in HELD_OUT, "metric": load(name).metric.name, "trivial": trivial,
            "reference": sign * statistics.fmean(aims), "reference_recipe": winner.as_dict(), "contenders": {},
            "reference_sd": statistics.stdev(aims),
        }  # fmt: skip
        for label, recipes in contenders(runs, name, only).items():
            tests = [runs.run(name, recipe, seed)["test"] for recipe in recipes for seed in SEEDS]
            found = [sign * (trivial if test is None else test) for test in tests]
            mean = statistics.fmean(found)
            row["contenders"][label] = {
                "test": sign * mean,
                "regret": round(regret(statistics.fmean(aims), mean, sign * trivial), 4),
                "equivalents": equivalents(pairs, mean),
                "tests": tests,
                "recipe": recipes[0].as_dict(),
            }
        rows.append(row)
        shown = ", ".join(f"{label} {entry['regret']:+.3f}" for label, entry in row["contenders"].items())
        print(f"{name}: reference {row['reference']:.4g}, regrets: {shown}", flush=True)
    table = summary(rows)
    print("\n".join(f"{label}: {entry}" for label, entry in table.items()))
    if only is None and list(names) == list(TASKS):
        store("regret", {"summary": table, "rows": rows})


def summary(rows: Sequence[Row]) -> dict[str, Row]:
    """Return each contender's regret over tasks, over the held-out ones alone, and against the recommendation."""
    table: dict[str, Row] = {}
    signs = {row["task"]: _sign(row["task"]) for row in rows}
    for label in rows[0]["contenders"]:
        entry: Row = {}
        for part, chosen in (("all", rows), ("held out", [row for row in rows if row["held out"]])):
            if chosen:
                regrets = [row["contenders"][label]["regret"] for row in chosen]
                worst = max(chosen, key=lambda row: row["contenders"][label]["regret"])
                entry[part] = {
                    "mean": round(statistics.fmean(regrets), 4),
                    "interval": _interval(chosen, label, signs),
                    "worst": [worst["task"], max(regrets)],
                    "median equivalents": statistics.median(r["contenders"][label]["equivalents"] for r in chosen),
                }
        entry["against the recommendation"] = _verdicts(rows, label, signs)
        table[label] = entry
    return table


def _interval(rows: Sequence[Row], label: str, signs: Mapping[str, int]) -> list[float]:
    def signed(row: Row, tests: Iterable[float | None]) -> list[float]:
        return [signs[row["task"]] * (row["trivial"] if test is None else test) for test in tests]

    found = {row["task"]: signed(row, row["contenders"][label]["tests"]) for row in rows}
    runs = Runs()
    references = {
        row["task"]: signed(
            row, [runs.run(row["task"], Recipe.from_dict(row["reference_recipe"]), seed)["test"] for seed in SEEDS]
        )
        for row in rows
    }
    trivial = {row["task"]: signs[row["task"]] * row["trivial"] for row in rows}
    return [round(end, 4) for end in bootstrap(found, references, trivial)]


def _verdicts(rows: Sequence[Row], label: str, signs: Mapping[str, int]) -> dict[str, list[str]]:
    """Sort tasks by how a contender stands to the recommendation, by the rule of `trivet compare`."""
    sorted_tasks: dict[str, list[str]] = {}
    for row in rows:
        if label == "recommended" or "recommended" not in row["contenders"]:
            continue
        sign = signs[row["task"]]
        ours, theirs = (
            [
                sign * (row["trivial"] if test is None else test)
                for test in row["contenders"][who]["tests"][: len(SEEDS)]
            ]
            for who in ("recommended", label)
        )
        verdict = difference(ours, theirs, ("recommended", label), "recommended", higher_is_better=True).verdict
        sorted_tasks.setdefault(verdict, []).append(row["task"])
    return sorted_tasks


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", nargs="*", metavar="TASK", help="make the reference (of these tasks)")
    parser.add_argument("--portfolio", action="store_true", help="learn the portfolio and write it into the package")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="run these contenders only")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), metavar="TASK", help="score these tasks only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs = Runs()
    if given.reference is not None:
        make_reference(runs, given.reference or TASKS)
    elif given.portfolio:
        write_portfolio(runs)
    else:
        score(runs, given.tasks, given.only)


if __name__ == "__main__":
    main()
