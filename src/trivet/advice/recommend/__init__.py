"""Recommend a recipe from a profile: the plain recipe first, then one reasoned change after another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.advice.engine import run_rules
from trivet.advice.recommend import length, loss, optimizer, rate
from trivet.facts import Profile, profile
from trivet.recipes import Advice, Edit, Recipe
from trivet.tasks.kinds import KINDS

if TYPE_CHECKING:
    from trivet.tasks import Task

# In the order in which a person would decide: where to go, how to move, how far, for how long.
BEFORE_THE_RATE = (*loss.RULES, *optimizer.RULES, *length.RULES)
RULES = (*BEFORE_THE_RATE, *rate.RULES)


def recommend(task: Task, facts: Profile | None = None, *, seed: int = 0) -> Recipe:
    """Recommend a recipe for a task; the reasons are in `recipe.why`. `facts` saves measuring the task again.

    >>> import numpy as np
    >>> from trivet.tasks import Task
    >>> rng = np.random.default_rng(0)
    >>> task = Task.from_arrays(rng.normal(size=(300, 4)), rng.integers(0, 3, 300), kind="multiclass")
    >>> recommend(task).loss["name"]
    'cross_entropy'
    """
    facts = profile(task, seed=seed) if facts is None else facts
    plain = dict(KINDS[facts.kind].plain_loss(facts.data.outputs))
    start = Recipe(loss=plain, optimizer={"name": "AdamW", "lr": 1e-3})
    # The rate follows the length, so that what the user fixed on the task must be known before it is chosen.
    sized = _respect(run_rules(BEFORE_THE_RATE, facts, start, fold=_take), task)
    return run_rules(rate.RULES, facts, sized, fold=_take)


def _take(recipe: Recipe, advice: tuple[Advice, ...]) -> Recipe:
    return recipe.advise(*advice)


def _respect(recipe: Recipe, task: Task) -> Recipe:
    """Put what the user fixed on the task above every rule before it."""
    fixed: list[Advice] = []
    batch_size = task.batch_size or recipe.batch_size
    if task.batch_size is not None:
        fixed.append(Advice(Edit("batch_size", batch_size), "The task fixes the batch size.", confidence=1.0))
    if task.steps is not None:
        per_epoch = max(1, len(task.train) // batch_size)
        reason = "The task fixes the number of steps."
        fixed.append(Advice(Edit("epochs", task.steps / per_epoch), reason, {"steps": task.steps}, confidence=1.0))
    return recipe.advise(*fixed)
