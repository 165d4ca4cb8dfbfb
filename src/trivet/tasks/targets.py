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

__all__ = ["Target", "read_columns", "read_target"]

FEW_CLASSES = 20
"""Integers with at most this many distinct values, each seen ten times on average, are taken as classes."""


@dataclass(frozen=True)
class Target:
    """A target as numbers ``(rows,)`` or ``(rows, columns)``: its kind of task, and the classes' names by code."""

    kind: str
    values: Tensor
    classes: tuple[str, ...]
    note: str

    def encode(self, raw: object) -> Tensor:
        """Encode the target of more rows; raises DataError for a label that these rows lack."""
        if self.kind == "multilabel" or (len(_shape(raw)) == 2 and _shape(raw)[1] > 1):
            return torch.from_numpy(_as_columns(raw, self.classes))
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
    ``class_limit`` distinct values that occur ten times on average. Everything else is regression. Several columns
    ``(rows, columns)`` of 0 and 1 are labels that do not exclude each other. Raises DataError for what cannot be
    learned.
    """
    shape = _shape(raw)
    if len(shape) == 2 and shape[1] > 1:
        return read_columns(raw, kind, tuple(f"{name}_{at}" for at in range(shape[1])))
    values = _as_values(raw)
    if len(values) == 0:
        raise DataError(f"the target {name!r} has no rows")
    if kind is not None:
        kind_named(kind)
    textual = values.dtype.kind in "OSU"
    numeric = values if textual else _finite(values, name)
    if textual and kind in ("regression", "counts"):
        raise DataError(_not_numbers(values, name))
    names, codes = _classes(values)
    if len(names) == 1:
        raise DataError(f"the target {name!r} is constant ({names[0]}); there is nothing to learn")
    chosen = kind or _infer(values, numeric, len(names), name, class_limit)
    if chosen in ("regression", "counts"):
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


def read_columns(raw: object, kind: str | None, names: Sequence[str]) -> Target:
    """Several target columns ``(rows, columns)``: multilabel when each holds 0 and 1, or counts when that is asked."""
    if kind not in (None, "multilabel", "counts"):
        raise DataError(f"several target columns make a multilabel or counts task, not {kind}; name one column")
    values = _as_columns(raw, names)
    if kind == "counts":
        return Target("counts", torch.from_numpy(values), (), f"{len(names)} targets: counts (as asked)")
    for name, column in zip(names, values.T, strict=True):
        strange = column[(column != 0) & (column != 1)]
        if len(strange):
            raise DataError(
                f"the target {name!r} has the value {strange[0]:g}; several target columns must each be 0 or 1 "
                "(multilabel): name one column, or one that holds classes"
            )
    share = values.mean(axis=0)
    dull = [name for name, mean in zip(names, share, strict=True) if mean in (0, 1)]
    if dull:
        raise DataError(f"the target {dull[0]!r} is the same in every row; leave it out of the target")
    note = ", ".join(f"{name} {mean:.1%}" for name, mean in list(zip(names, share, strict=True))[:12])
    return Target("multilabel", torch.from_numpy(values), tuple(names), f"{len(names)} labels (share of rows): {note}")


def _shape(raw: object) -> tuple[int, ...]:
    return tuple(raw.shape) if isinstance(raw, Tensor) else np.asarray(raw).shape


def _as_columns(raw: object, names: Sequence[str]) -> NDArray[np.float64]:
    """Numbers ``(rows, columns)``; raises DataError naming the column that holds text or is not finite."""
    values = raw.detach().cpu().numpy() if isinstance(raw, Tensor) else np.asarray(raw)
    if values.ndim != 2 or (names and values.shape[1] != len(names)):
        raise DataError(f"the target has shape {values.shape}; it must be (rows, {len(names) or 'columns'})")
    if values.dtype.kind in "biuf":
        return np.stack([_finite(values[:, at], _named(names, at)) for at in range(values.shape[1])], axis=1)
    columns = [[_yes_or_no(value) for value in values[:, at].tolist()] for at in range(values.shape[1])]
    return np.stack([_finite(np.asarray(column), _named(names, at)) for at, column in enumerate(columns)], axis=1)


def _named(names: Sequence[str], at: int) -> str:
    return names[at] if at < len(names) else str(at)


def _yes_or_no(value: object) -> object:
    """``True``, ``"true"`` and ``"yes"`` are 1, their opposites 0; numbers in text are numbers."""
    text = str(value).strip().lower()
    if text in ("true", "yes"):
        return 1.0
    if text in ("false", "no"):
        return 0.0
    try:
        return float(text)
    except ValueError:
        return value


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
