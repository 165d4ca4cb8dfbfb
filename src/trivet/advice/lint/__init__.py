"""Lint: mistakes of a recipe, a model and its data that can be seen before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trivet.advice.engine import run_rules

# A new family of rules is one file here, and one name in this line; a rule's code decides its place.
from trivet.advice.lint import data, loss, optimizer, rate, start
from trivet.advice.lint.base import RULES, Setup, page
from trivet.advice.lint.setup import of_recipe, of_script
from trivet.errors import InputError
from trivet.recipes import Finding

if TYPE_CHECKING:
    from trivet.facts import Profile
    from trivet.recipes import Recipe
    from trivet.tasks import Task

__all__ = ["RULES", "Setup", "data", "inspect", "lint", "loss", "optimizer", "page", "rate", "start"]

SEVERITY = {"error": 0, "warning": 1, "note": 2}
# A finding that explains another one: the second is its consequence and is not said.
CONSEQUENCES = {
    "TV101": {"TV140", "TV107"},
    "TV112": {"TV140", "TV151", "TV143", "TV142", "TV141"},
    "TV107": {"TV140"},
    "TV109": {"TV140"},
    "TV106": {"TV140", "TV151"},
    "TV113": {"TV143", "TV142"},
    "TV132": {"TV133"},
    "TV125": {"TV145", "TV140"},
    "TV141": {"TV146"},
    "TV142": {"TV146", "TV143"},
    "TV144": {"TV141", "TV147", "TV143"},
    "TV145": {"TV147"},
}

# What a recipe that initialises the model on data makes good before its first step.
REINITIALISED = {"TV141", "TV142", "TV143", "TV144", "TV145", "TV146", "TV147"}


def lint(
    recipe: Recipe | None = None,
    task: Task | None = None,
    *,
    model: nn.Module | None = None,
    loss: nn.Module | Callable[..., Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: object = None,
    batch: tuple[Tensor | tuple[Tensor, ...], Tensor] | None = None,
    steps: int | None = None,
    pretrained: bool | None = None,
    memory: int | None = None,
    profile: Profile | None = None,
    seed: int = 0,
) -> list[Finding]:
    """Return what is wrong with a recipe on a task, or with a script's own objects, before anything is trained.

    Arguments
    ---------
    recipe, task : a recipe and the task that it is for; `profile` saves measuring the task again.
    model, loss, optimizer, scheduler, batch : a script's own, of torch or of trivet, any of them left out; `batch` is
        `(inputs, targets)` as the loop has it. Copies are run: weights, gradients and random states stay.
    steps : calls of `scheduler.step()` in the run. pretrained : whether the weights were loaded; guessed when left out.
    memory : bytes that training may use; the accelerator's, or the machine's, when left out.

    Findings come with errors first; each has a code (`trivet show TV105` explains it), its evidence in numbers and a
    fix, an `Edit` where a recipe can be edited. Raises `InputError` when neither form is given.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))
    >>> batch = torch.randn(64, 4), torch.arange(64) % 3
    >>> [finding.code for finding in lint(model=net, loss=nn.CrossEntropyLoss(), batch=batch)]
    ['TV105']
    """
    script = any(part is not None for part in (model, loss, optimizer, scheduler, batch))
    if (recipe is None) != (task is None) or (recipe is None and not script) or (recipe is not None and script):
        raise InputError(
            "lint takes a recipe and a task, or a script's own model=, loss=, optimizer=, scheduler=, batch="
        )
    if recipe is not None and task is not None:
        return inspect(of_recipe(recipe, task, profile, seed, memory))
    return inspect(
        of_script(
            model, loss, optimizer, scheduler, batch, steps=steps, pretrained=pretrained, seed=seed, memory=memory
        )
    )


def inspect(setup: Setup) -> list[Finding]:
    """Run every rule over what was gathered; findings that another one explains are left out, errors come first."""
    checks = [lambda facts, said, check=known.check: check(facts) for _, known in sorted(RULES.items())]
    findings: tuple[Finding, ...] = run_rules(checks, setup, (), fold=lambda said, finding: (*said, finding))
    explained: set[str] = set().union(*(CONSEQUENCES.get(f.code, set()) for f in findings if f.severity != "note"))
    if setup.recipe is not None and setup.recipe.initialize == "data":
        explained |= REINITIALISED
    kept = [finding for finding in findings if finding.code not in explained]
    return sorted(kept, key=lambda finding: (SEVERITY[finding.severity], finding.code))
