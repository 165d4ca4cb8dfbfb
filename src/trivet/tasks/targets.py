"""From a raw target column to numbers: which kind of task it makes, its classes, what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivet.errors import DataError
from trivet.tasks.kinds import kind_named

__all__ = ["Target", "read_target"]

FEW_CLASSES = 20
"""Integers with at most this many distinct values, each seen ten times on average, are taken as classes."""


@dataclass(frozen=True)
class Target:
    """A target column as numbers ``(rows,)``: its kind of task, and the classes' names by code."""

    kind: str
    values: Tensor
    classes: tuple[str, ...]
    note: str

    def encode(self, raw: object) -> Tensor:
        """Encode the target of more rows; raises DataError for a label that these rows lack."""
        values = _as_values(raw)
        if not self.classes:
            return torch.from_numpy(_finite(values))
        code = {name: at for at, name in enumerate(self.classes)}
        labels = [_label(value) for value in values.tolist()]
        unseen = sorted({label for label in labels if label not in code})
        if unseen:
            shown = ", ".join(map(repr, unseen[:5]))
            raise DataError(
                f"the test target has labels that no training row has: {shown}; training has {_some(self.classes)}"
            )
        return torch.tensor([code[label] for label in labels])


def read_target(raw: object, kind: str | None, *, name: str = "target", class_limit: int = FEW_CLASSES) -> Target:
    """Infer or check the kind of task, and encode the target.

    Text and booleans are classes; so are two distinct values of any type, and integers with at most
    ``class_limit`` distinct values that occur ten times on average. Everything else is regression. Raises
    DataError for what cannot be learned.
    """
    values = _as_values(raw)
    if len(values) == 0:
        raise DataError(f"the target {name!r} has no rows")
    if kind is not None:
        kind_named(kind)
    textual = values.dtype.kind in "OSU"
    numeric = values if textual else _finite(values, name)
    if textual and kind == "regression":
        raise DataError(_not_numbers(values, name))
    names, codes = _classes(values)
    if len(names) == 1:
        raise DataError(f"the target {name!r} is constant ({names[0]}); there is nothing to learn")
    chosen = kind or _infer(values, numeric, len(names), name, class_limit)
    if chosen == "regression":
        return Target(chosen, torch.from_numpy(numeric), (), _because(name, chosen, kind, len(names)))
    if chosen == "binary" and len(names) != 2:
        raise DataError(
            f"the target {name!r} has {len(names)} distinct values ({_some(names)}); a binary task needs two"
        )
    if len(names) > max(FEW_CLASSES, len(values) // 2):
        raise DataError(
            f"the target {name!r} has {len(names)} distinct values in {len(values)} rows, too many to be classes"
        )
    return Target(chosen, torch.from_numpy(codes), names, _because(name, chosen, kind, len(names)))


def _infer(values: NDArray[Any], numeric: NDArray[Any], distinct: int, name: str, class_limit: int) -> str:
    rows = len(values)
    if distinct == 2:
        return "binary"
    if values.dtype.kind in "OSU":
        if distinct > max(FEW_CLASSES, rows // 10):
            raise DataError(_not_numbers(values, name))
        return "multiclass"
    whole = bool((numeric == np.round(numeric)).all())
    return "multiclass" if whole and distinct <= class_limit and 10 * distinct <= rows else "regression"


def _because(name: str, chosen: str, given: str | None, distinct: int) -> str:
    how = "as asked" if given else "inferred"
    return f"target {name!r}: {chosen} ({how}; {distinct:,} distinct values)"


def _as_values(raw: object) -> NDArray[Any]:
    values = raw.detach().cpu().numpy() if isinstance(raw, Tensor) else np.asarray(raw)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"the target must have one value per row; its shape is {values.shape}")
    if values.dtype.kind not in "biufOSU":
        raise DataError(f"the target has type {values.dtype}; it must hold numbers, text or booleans")
    return values


def _finite(values: NDArray[Any], name: str = "target") -> NDArray[np.float64]:
    if values.dtype.kind in "OSU":
        raise DataError(_not_numbers(values, name))
    numbers = values.astype(np.float64)
    broken = np.flatnonzero(~np.isfinite(numbers))
    if len(broken):
        raise DataError(
            f"the target {name!r} has {len(broken)} NaN or infinite values, the first in row "
            f"{broken[0] + 1}; "
            "remove those rows first"
        )
    return numbers


def _label(value: object) -> str:
    """``1.0`` and ``1`` are the same class, as are ``True`` and ``"True"``."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _classes(values: NDArray[Any]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Names in sorted order (numbers by value) and each row's position among them."""
    sortable = values.astype(str) if values.dtype.kind in "OS" else values
    distinct, codes = np.unique(sortable, return_inverse=True)
    return tuple(_label(value) for value in distinct.tolist()), codes.astype(np.int64).reshape(-1)


def _not_numbers(values: NDArray[Any], name: str) -> str:
    def is_number(value: object) -> bool:
        try:
            float(str(value))
        except ValueError:
            return False
        return True

    text = [(row, value) for row, value in enumerate(values.tolist()) if not is_number(value)]
    row, value = text[0] if text else (0, values[0])
    return (
        f"the target {name!r} is not numeric: {len(text):,} of {len(values):,} values are text, the "
        f"first {str(value)[:40]!r} in row "
        f"{row + 1}; correct or remove those rows, or name another target column"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
