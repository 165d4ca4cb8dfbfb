"""Sequences of numbers with lengths: padded arrays, standardised per channel over the steps that count."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivet.errors import DataError
from trivet.tasks.preprocessing import Names, Preprocessing

__all__ = ["SequencePreprocessing", "sequences"]

Array = NDArray[Any]
Raw = tuple[Array, Array]
"""Steps ``(rows, time, channels)`` and lengths ``(rows,)``."""

SEGMENTS = 8
"""A linear baseline sees the means of this many equal parts of every sequence."""


def sequences(steps: object, lengths: object, what: str = "X", *, layout: str | None = None) -> tuple[Raw, str]:
    """Padded sequences as ``(rows, time, channels)`` with their lengths, and the layout that they were given in.

    ``(rows, time)`` has one channel. Of ``(rows, a, b)`` time is the axis that the lengths fit; the longer one where
    both do (``layout`` ``"NTC"`` or ``"NCT"`` decides instead). What lies past a length is not looked at. Raises
    DataError for lengths that are not whole, below 1, or longer than the array, and for broken numbers inside.
    """
    values, sizes = np.asarray(steps), np.asarray(lengths)
    if values.dtype.kind not in "biuf" or values.ndim not in (2, 3) or len(values) == 0:
        raise DataError(
            f"{what} has shape {values.shape} and type {values.dtype}; sequences are (rows, time, channels)"
        )
    if sizes.shape != (len(values),) or sizes.dtype.kind not in "iuf" or bool((sizes != np.round(sizes)).any()):
        raise DataError(
            f"the lengths of {what} must be {len(values)} whole numbers; they are {sizes.dtype} {sizes.shape}"
        )
    sizes = sizes.astype(np.int64)
    if values.ndim == 2:
        values, layout = values[:, :, None], "NTC"
    elif layout is None:
        longest, (_, first, second) = int(sizes.max()), values.shape
        layout = "NTC" if second < longest or (first >= longest and first >= second) else "NCT"
    values = values.transpose(0, 2, 1) if layout == "NCT" else values
    wrong = np.flatnonzero((sizes < 1) | (sizes > values.shape[1]))
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{len(wrong)} lengths of {what} do not fit, the first {sizes[row]} in row {row + 1}; the array has room "
            f"for 1 to {values.shape[1]} steps"
        )
    inside = np.arange(values.shape[1]) < sizes[:, None]
    values = np.where(inside[:, :, None], values.astype(np.float64), 0.0)
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        raise DataError(
            f"{what} has {len(broken)} NaN or infinite values, the first in row {broken[0][0] + 1}, step "
            f"{broken[0][1] + 1}; impute them, or shorten that row's length"
        )
    return (values, sizes), layout


class SequencePreprocessing(Preprocessing, frozen=True, tag="sequences"):
    """Steps and lengths to a float tensor ``(rows, time, channels)``, zero past the end, and int64 ``(rows,)``."""

    linear_view: ClassVar[str] = "segment means"

    layout: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, raw: Raw, layout: str) -> Self:
        """Measure every channel over the steps that count."""
        values, sizes = raw
        steps = values[np.arange(values.shape[1]) < sizes[:, None]]
        std = steps.std(axis=0)
        return cls(layout, tuple(steps.mean(axis=0).tolist()), tuple(np.where(std == 0, 1.0, std).tolist()))

    def read(self, data: Any) -> tuple[Raw, Names]:
        """``X`` and ``n`` (or ``X_test`` and ``n_test``) of an npz file, or the pair in memory."""
        if isinstance(data, (str, Path)):
            from trivet.tasks.npz import open_npz

            found = open_npz(Path(data), ("X", "n", "X_test", "n_test", "X_train", "n_train"))
            ends = [end for end in ("", "_test", "_train") if f"X{end}" in found and f"n{end}" in found]
            if not ends:
                raise DataError(
                    f"{Path(data).name} has no X with its lengths n; it has {', '.join(found) or 'neither'}"
                )
            data = found[f"X{ends[0]}"], found[f"n{ends[0]}"]
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise DataError("sequences to predict are a pair: the steps, and the lengths (rows,)")
        return sequences(*data, layout=self.layout)[0], {}

    def encode(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Standardise; raises DataError for another number of channels."""
        values, sizes = raw
        if values.shape[2] != len(self.mean):
            raise DataError(f"the sequences have {values.shape[2]} channels; the training data had {len(self.mean)}")
        inside = (np.arange(values.shape[1]) < sizes[:, None])[:, :, None]
        z = np.where(inside, (values - np.asarray(self.mean)) / np.asarray(self.std), 0.0)
        return torch.from_numpy(z.astype(np.float32)), torch.from_numpy(sizes)

    def matrix(self, inputs: Tensor | tuple[Tensor, ...]) -> Tensor:
        """The mean of every channel over each of eight equal parts of a sequence, and its length."""
        steps, lengths = inputs
        total = torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(dim=1)], dim=1).double()
        cuts = (lengths.double().unsqueeze(1) * torch.linspace(0, 1, SEGMENTS + 1, dtype=torch.float64)).round().long()
        # A sequence shorter than eight steps repeats a step instead of leaving a part empty.
        low = torch.minimum(cuts[:, :-1], lengths.unsqueeze(1) - 1)
        high = torch.maximum(cuts[:, 1:], low + 1)
        rows = torch.arange(len(steps)).unsqueeze(1)
        means = (total[rows, high] - total[rows, low]) / (high - low).unsqueeze(-1)
        return torch.cat([means.flatten(1), lengths.double().log().unsqueeze(1)], dim=1).float()
