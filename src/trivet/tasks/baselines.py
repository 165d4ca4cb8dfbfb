"""What a result must beat: the best guess that ignores the input, and a linear model on the same input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trivet.tasks.kinds import Kind
from trivet.tasks.metrics import Metric
from trivet.tasks.splits import Input, Split

__all__ = ["Baseline", "fit_baselines"]


@dataclass(frozen=True)
class Baseline:
    """A baseline's name, its metric on the test split, and its raw outputs there ``(rows, outputs)``."""

    name: str
    value: float
    outputs: Tensor


def fit_baselines(kind: Kind, train: Split, val: Split, test: Split, outputs: int, metric: Metric) -> list[Baseline]:
    """Fit both on the training and validation rows, judge them on the test rows.

    The linear model is left out where the inputs are not tensors in memory or the kind has none.
    """
    targets = torch.cat([train.targets, val.targets])
    found = [kind.trivial(targets, len(test), outputs, metric)]
    known, unseen = [train.inputs, val.inputs], test.inputs
    if all(inputs is not None for inputs in (*known, unseen)):
        tables = _matrices([inputs for inputs in (*known, unseen) if inputs is not None])
        found.append(kind.simple(torch.cat(tables[:2]), targets, tables[2], outputs, metric))
    return [Baseline(entry[0], metric(entry[1], test.targets), entry[1]) for entry in found if entry is not None]


def _matrices(splits: list[Input]) -> list[Tensor]:
    """Every split as one float matrix: float parts flattened, integer parts one-hot."""
    columns: list[list[Tensor]] = [[] for _ in splits]
    for parts in zip(*(inputs if isinstance(inputs, tuple) else (inputs,) for inputs in splits), strict=True):
        if parts[0].is_floating_point():
            for column, part in zip(columns, parts, strict=True):
                column.append(part.flatten(1).float())
            continue
        for at in range(parts[0].flatten(1).shape[1]):
            codes = [part.flatten(1)[:, at].long() for part in parts]
            width = 1 + max(int(code.max()) for code in codes)
            for column, code in zip(columns, codes, strict=True):
                column.append(torch.nn.functional.one_hot(code, width).float())
    return [torch.cat(column, dim=1) for column in columns]
