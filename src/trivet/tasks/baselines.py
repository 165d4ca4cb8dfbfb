"""What a result must beat: the best guess that ignores the input, and a model that is fitted in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trivet.tasks.kinds import Kind, Known, flat_matrix
from trivet.tasks.metrics import Metric
from trivet.tasks.splits import Input, Split

if TYPE_CHECKING:
    from trivet.tasks.preprocessing import Preprocessing

__all__ = ["Baseline", "fit_baselines"]


@dataclass(frozen=True)
class Baseline:
    """A baseline's name, its metric on the test split, and its raw outputs there, shaped as the model's."""

    name: str
    value: float
    outputs: Tensor


def fit_baselines(
    kind: Kind,
    train: Split,
    val: Split,
    test: Split,
    outputs: int,
    metric: Metric,
    preprocessing: Preprocessing | None = None,
) -> list[Baseline]:
    """Fit both on the training and validation rows, judge them on the test rows.

    The simple model is left out where the inputs are not tensors in memory or the kind has none.
    """
    targets = torch.cat([train.targets, val.targets])
    parts = [train.inputs, val.inputs, test.inputs]
    in_memory = [inputs for inputs in parts if inputs is not None]
    if len(in_memory) < 3:
        # A guess that ignores the input needs only the number of rows.
        in_memory = [torch.zeros(len(split), 1) for split in (train, val, test)]
    inputs, unseen = _joined(*in_memory[:2]), in_memory[2]
    matrix, words = _view(preprocessing, inputs, unseen)
    known = Known(inputs, targets, unseen, outputs, metric, matrix, words)
    found = [kind.trivial(known)]
    if all(part is not None for part in parts):
        found.append(kind.simple(known))
    return [Baseline(entry[0], metric(entry[1], test.targets), entry[1]) for entry in found if entry is not None]


def _view(preprocessing: Preprocessing | None, inputs: Input, unseen: Input) -> tuple[Callable[[Input], Any], str]:
    """What a linear model sees: the preprocessing's own view where it has one, else everything as a flat matrix."""
    if preprocessing is not None and preprocessing.linear_view:
        return preprocessing.matrix, preprocessing.linear_view
    codes = tuple(
        1 + max(int(one.max()), int(other.max()))
        for both in zip(_parts(inputs), _parts(unseen), strict=True)
        if not both[0].is_floating_point()
        for one, other in zip(*(part.reshape(len(part), -1).T for part in both), strict=True)
    )
    return lambda given: flat_matrix(given, codes), ""


def _parts(inputs: Input) -> tuple[Tensor, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _joined(one: Input, other: Input) -> Input:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return torch.cat([_parts(one)[0], _parts(other)[0]])
    return tuple(torch.cat(parts) for parts in zip(one, other, strict=True))
