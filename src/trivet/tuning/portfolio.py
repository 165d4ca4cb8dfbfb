"""Recipes that together do well on many tasks: what to try first on a new one.

`portfolio.json` beside this file is learned from the stored trials of `benchmarks.regret` (`python -m benchmarks.regret
--portfolio` writes it anew): one recipe after another is taken, each the one that lowers the mean regret of the best so
far most, over all tasks (a greedy cover, as of TaskSet's list of optimizers, Metz et al. 2020). It says where it comes
from, and what it reaches on tasks that it was not learned from.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import msgspec

from trivet.recipes import Edit, Recipe
from trivet.recipes.recipe import Part
from trivet.tasks import KINDS, Task

__all__ = ["Member", "Portfolio", "portfolio"]

FILE = "portfolio.json"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe without its length: the loss by kind of task, and what is the same for all of them."""

    optimizer: Part
    schedule: str
    clip: dict[str, float] | None
    losses: dict[str, Part]

    def recipe(self, base: Recipe, task: Task) -> Recipe:
        """Return the member at a base recipe's length and batch size, with a loss that fits the task's kind."""
        loss = self.losses.get(task.kind) or dict(KINDS[task.kind].plain_loss(task.outputs))
        return base.apply(
            Edit("loss", loss),
            Edit("optimizer", self.optimizer),
            Edit("schedule", self.schedule),
            Edit("clip", self.clip),  # type: ignore[arg-type]
        )


class Portfolio(msgspec.Struct, frozen=True, kw_only=True):
    """The members, best first, and where they come from: which tasks, which trials, and how well they do."""

    provenance: dict[str, object]
    members: tuple[Member, ...]


@cache
def portfolio() -> Portfolio:
    """Return the portfolio that this version carries.

    >>> len(portfolio().members) >= 3
    True
    """
    return msgspec.json.decode(files("trivet.tuning").joinpath(FILE).read_bytes(), type=Portfolio)
