"""Contenders that differ in their optimizer alone: at one shared rate, or each at a rate found for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from trivet.advice.recommend.rate import rate_prior
from trivet.errors import DivergedError, InputError, unknown_name
from trivet.recipes import Edit, Recipe, optimizer_names
from trivet.recipes.recipe import Part
from trivet.training import train
from trivet.tuning.lr_finder import find_lr

if TYPE_CHECKING:
    from trivet.tasks import Task

__all__ = ["at_shared_rate", "at_tuned_rate", "optimizer_part"]

# The seed of the runs that tune a rate lies apart from those that compare; most rates that are tried.
FAR, MOST = 1000, 7

# What people mean by these words, besides the names of the optimizers themselves.
WORDS: dict[str, Part] = {
    "momentum": {"name": "SGD", "momentum": 0.9},
    "nesterov": {"name": "SGD", "momentum": 0.9, "nesterov": True},
}


def optimizer_part(word: str) -> Part:
    """Return the recipe part of an optimizer named in any case, with its defaults; "sgd" is without momentum.

    >>> optimizer_part("rmsprop"), optimizer_part("momentum")
    ({'name': 'RMSprop'}, {'name': 'SGD', 'momentum': 0.9})
    """
    names = {name.lower(): name for name in optimizer_names()}
    if word.lower() in WORDS:
        return dict(WORDS[word.lower()])
    if word.lower() not in names:
        raise unknown_name("optimizer", word, [*optimizer_names(), *WORDS])
    return {"name": names[word.lower()]}


def at_shared_rate(recipe: Recipe, optimizers: Sequence[str], lr: float) -> dict[str, Recipe]:
    """Return the recipe once for each optimizer, all at the same rate: how the classic claims were measured."""
    if not 0 < lr < float("inf"):
        raise InputError(f"the shared rate {lr} must be a finite number above 0")
    return {
        f"{word} at {lr:g}": recipe.apply(Edit("optimizer", optimizer_part(word) | {"lr": lr})) for word in optimizers
    }


def at_tuned_rate(
    task: Task,
    recipe: Recipe,
    optimizers: Sequence[str],
    *,
    seed: int = 0,
    out: str | Path | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Recipe]:
    """Return the recipe once for each optimizer, each at the rate that is best for it on the validation split.

    The finder's pick is tried in whole runs, with a seed of their own, beside a third and three times of it, and on
    from there while the best of them is at an end: three to seven runs an optimizer. `out` keeps the rates found in
    `rates.jsonl`, so that the same call need not look for them again.
    """
    known = _Rates(Path(out) / "rates.jsonl" if out is not None else None)
    tuned = {}
    for word in optimizers:
        part = optimizer_part(word)
        started = recipe.apply(Edit("optimizer", part | {"lr": rate_prior(str(part["name"])).pick}))
        rate = known.get(word, started)
        if rate is None:
            found = find_lr(task, started, seed=seed)
            if say is not None:
                say(f"{word}: {found}")
            rate = _climb(task, started, found.pick, seed + FAR)
            known.put(word, started, rate)
        if say is not None:
            say(f"{word}: {rate:.2g} is the best of the rates tried in whole runs")
        tuned[f"{word} tuned ({rate:.2g})"] = started.apply(Edit("optimizer.lr", rate))
    return tuned


def _climb(task: Task, recipe: Recipe, pick: float, seed: int) -> float:
    """Return the best rate of whole runs at `pick` and its multiples by three, on while the best is at an end."""
    scores: dict[int, float] = {}
    powers = [-1, 0, 1]
    while powers and len(scores) < MOST:
        for power in powers:
            scores[power] = _score(task, recipe.apply(Edit("optimizer.lr", pick * 3.0**power)), seed)
        top = max(sorted(scores, key=abs), key=scores.__getitem__)
        powers = [power for power in (top - 1, top + 1) if power not in scores]
    return pick * 3.0**top


def _score(task: Task, recipe: Recipe, seed: int) -> float:
    """Return the validation metric of a whole run, signed so that more is better."""
    try:
        metric = train(task, recipe, seed=seed).metric
    except DivergedError:
        return -math.inf
    return (metric if task.metric.higher_is_better else -metric) if math.isfinite(metric) else -math.inf


class _Found(msgspec.Struct):
    optimizer: str
    recipe: dict[str, Any]
    rate: float


class _Rates:
    """The rates found so far, one line each in a file that only grows."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_bytes().splitlines(keepends=True) if path is not None and path.exists() else []
        # A crash tears at most the last line.
        self.found = [msgspec.json.decode(line, type=_Found) for line in lines if line.endswith(b"}\n")]

    def get(self, word: str, recipe: Recipe) -> float | None:
        rates = [one.rate for one in self.found if one.optimizer == word and one.recipe == recipe.as_dict()]
        return rates[-1] if rates else None

    def put(self, word: str, recipe: Recipe, rate: float) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(_Found(word, dict(recipe.as_dict()), rate)) + b"\n")
