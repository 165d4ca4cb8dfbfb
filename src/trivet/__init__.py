"""trivet chooses, proves, runs, watches and explains a training recipe: loss, optimizer, learning rate."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Every public name and the part that has it; imported at first use, so that `import trivet` costs next to nothing.
_HOMES = {
    "Advice": "recipes",
    "Curvature": "tuning",
    "Edit": "recipes",
    "Finding": "recipes",
    "LRRange": "tuning",
    "Profile": "facts",
    "Recipe": "recipes",
    "Run": "record",
    "Study": "tuning",
    "Task": "tasks",
    "Watch": "doctor",
    "compare": "tuning",
    "curvature": "tuning",
    "diagnose": "doctor",
    "export": "workflow",
    "find_lr": "tuning",
    "fit": "workflow",
    "initialize": "training",
    "lint": "advice",
    "profile": "facts",
    "read_task": "tasks",
    "recommend": "advice",
    "search": "tuning",
    "watch": "doctor",
}
_PARTS = ("errors", "figures", "losses", "optim", "recipes", "schedules", "tasks")

__all__ = [
    "Advice",
    "Curvature",
    "Edit",
    "Finding",
    "LRRange",
    "Profile",
    "Recipe",
    "Run",
    "Study",
    "Task",
    "Watch",
    "compare",
    "curvature",
    "diagnose",
    "export",
    "find_lr",
    "fit",
    "initialize",
    "lint",
    "profile",
    "read_task",
    "recommend",
    "search",
    "watch",
]

if TYPE_CHECKING:
    from trivet.advice.lint import lint
    from trivet.advice.recommend import recommend
    from trivet.doctor import Watch, diagnose, watch
    from trivet.facts.profile import Profile, profile
    from trivet.recipes import Advice, Edit, Finding, Recipe
    from trivet.record import Run
    from trivet.tasks import Task, read_task
    from trivet.training import initialize
    from trivet.tuning import Curvature, LRRange, Study, compare, curvature, find_lr, search
    from trivet.workflow import export, fit


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value: object = getattr(importlib.import_module(f"trivet.{_HOMES[name]}"), name)
    elif name in _PARTS:
        value = importlib.import_module(f"trivet.{name}")
    else:
        raise AttributeError(f"module 'trivet' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})
