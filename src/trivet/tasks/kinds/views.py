"""What linear baselines see of inputs, and how predictions are named: shared by the kinds."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivet.errors import require
from trivet.tasks.kinds.base import Inputs, Known

__all__ = ["flat_matrix", "logistic_regression", "named", "names_of", "numbered", "numpy_matrix", "rows_of"]

ONE_HOT = 256
"""Integer columns with at most this many codes are one-hot in a linear model's matrix; longer ones are numbers."""


def rows_of(inputs: Inputs) -> int:
    """How many rows there are."""
    return len(inputs[0] if isinstance(inputs, tuple) else inputs)


def flat_matrix(inputs: Inputs, codes: tuple[int, ...] = ()) -> Tensor:
    """Inputs as one float matrix: float parts flattened, integer columns one-hot by ``codes`` (how many each has)."""
    columns: list[Tensor] = []
    at = 0
    for part in inputs if isinstance(inputs, tuple) else (inputs,):
        if part.is_floating_point():
            columns.append(part.flatten(1).float())
            continue
        for column in part.reshape(len(part), -1).long().T:
            width = codes[at] if at < len(codes) else 0
            at += 1
            one_hot = 0 < width <= ONE_HOT
            columns.append(
                torch.nn.functional.one_hot(column.clamp(0, width - 1), width).float()
                if one_hot
                else column.unsqueeze(1).float()
            )
    return torch.cat(columns, dim=1)


def numpy_matrix(matrix: Any) -> Any:
    """A matrix as scikit-learn takes it: a NumPy array, or a SciPy sparse matrix as it is."""
    return matrix.double().numpy() if isinstance(matrix, Tensor) else matrix


def logistic_regression(known: Known, labels: Tensor, weight: str | None) -> Tensor:
    """Logits of a logistic regression on the unseen rows: ``(rows,)`` for two classes, else ``(rows, classes)``."""
    linear_model = require("sklearn.linear_model", "app")
    inputs, unseen = known.matrix(known.inputs), known.matrix(known.unseen)
    size = inputs.numel() if isinstance(inputs, Tensor) else inputs.nnz
    # Sparse counts are normalised to length 1 and want a weaker penalty.
    strength, iterations = (1.0 if isinstance(inputs, Tensor) else 10.0), (1000 if size < 4_000_000 else 60)
    model = linear_model.LogisticRegression(C=strength, max_iter=iterations, class_weight=weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(_single(inputs), labels.numpy())
        return torch.from_numpy(model.decision_function(_single(unseen))).double()


def _single(matrix: Any) -> Any:
    return matrix.float().numpy() if isinstance(matrix, Tensor) else matrix


def named(what: str, known: Known) -> str:
    """A baseline's name with what it sees: ``"TF-IDF + logistic regression"``."""
    return f"{known.words} + {what}" if known.words else what


def names_of(classes: tuple[str, ...], chosen: Tensor) -> NDArray[Any]:
    """The names of these classes."""
    names: NDArray[Any] = np.asarray(classes, dtype=object)[chosen.numpy()]
    return names


def numbered(name: str, values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The columns of ``(rows, k)``: one under the name itself, several numbered from 0."""
    if values.shape[1] == 1:
        return {name: values[:, 0]}
    return {f"{name}_{at}": values[:, at] for at in range(values.shape[1])}
