"""The Profile: everything the rules may look at, measured once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import torch

from trivet.facts.data import DataFacts, measure_data
from trivet.facts.model import ModelFacts, measure_model

if TYPE_CHECKING:
    from trivet.tasks import Task


class Profile(msgspec.Struct, frozen=True):
    """Facts on the data and on the model of a task; see `DataFacts` and `ModelFacts` for each field."""

    kind: str
    metric: str
    data: DataFacts
    model: ModelFacts

    def rows(self) -> list[tuple[str, str]]:
        """Return the facts as (name, value) pairs of text, in the order a person would ask for them."""
        pairs = [("kind", self.kind), ("metric", self.metric)]
        for part in (self.data, self.model):
            for name, value in msgspec.to_builtins(part).items():
                if value not in (None, [], {}, ""):
                    pairs.append((name.replace("_", " "), _text(value)))
        return pairs

    def __str__(self) -> str:
        pairs = self.rows()
        width = max(len(name) for name, _ in pairs)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in pairs)


def profile(task: Task, *, seed: int = 0) -> Profile:
    """Measure a task: its training split (at most 20,000 rows of it, and it says so) and a freshly made model.

    Nothing of the validation or test split is looked at, and torch's random state is left as it was.

    >>> import torch
    >>> from trivet.tasks import Task
    >>> task = Task.from_arrays(torch.randn(200, 4).numpy(), (torch.arange(200) % 2).numpy())
    >>> profile(task).data.rows >= 100
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Profile(
            kind=task.kind,
            metric=task.metric.name,
            data=measure_data(task, seed=seed),
            model=measure_model(task, seed=seed),
        )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        shown = ", ".join(_text(item) for item in value[:12])
        return shown + (f", ... ({len(value)} in all)" if len(value) > 12 else "")
    return f"{value:,}" if isinstance(value, int) else str(value)
