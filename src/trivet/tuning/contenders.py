"""Contenders that differ in their optimizer alone: at one shared rate, or each at a rate found for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trivet.advice.recommend.rate import rate_prior
from trivet.errors import InputError, unknown_name
from trivet.recipes import Edit, Recipe, optimizer_names
from trivet.recipes.recipe import Part
from trivet.tuning.lr_finder import find_lr

if TYPE_CHECKING:
    from trivet.tasks import Task

__all__ = ["at_shared_rate", "at_tuned_rate", "optimizer_part"]

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
    say: Callable[[str], None] | None = None,
) -> dict[str, Recipe]:
    """Return the recipe once for each optimizer, each at the rate that the finder picks for it."""
    tuned = {}
    for word in optimizers:
        part = optimizer_part(word)
        started = recipe.apply(Edit("optimizer", part | {"lr": rate_prior(str(part["name"])).pick}))
        found = find_lr(task, started, seed=seed)
        if say is not None:
            say(f"{word}: {found}")
        tuned[f"{word} tuned ({found.pick:.2g})"] = started.apply(Edit("optimizer.lr", found.pick))
    return tuned
