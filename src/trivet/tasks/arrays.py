"""A task from arrays in memory or in an ``.npz`` file: matrices of numbers, and images."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trivet.errors import DataError
from trivet.tasks.encoding import encoded_task
from trivet.tasks.metrics import Metric
from trivet.tasks.preprocessing import (
    ImagePreprocessing,
    MatrixPreprocessing,
    Numeric,
    Preprocessing,
    image_layout,
)
from trivet.tasks.targets import FEW_CLASSES, Target, read_target
from trivet.tasks.task import ModelFactory, Task

__all__ = ["open_npz", "read_inputs", "read_npz", "task_from_arrays"]

Array = NDArray[Any]


def task_from_arrays(
    X: object,
    y: object,
    X_test: object = None,
    y_test: object = None,
    *,
    kind: str | None = None,
    metric: str | Metric | Callable[[Tensor, Tensor], float] | None = None,
    model: ModelFactory | nn.Module | None = None,
    seed: int = 0,
    name: str = "arrays",
    source: str = "memory",
    features: Sequence[str] = (),
    classes: Sequence[str] = (),
    batch_size: int | None = None,
    steps: int | None = None,
    notes: tuple[str, ...] = (),
) -> Task:
    """Make a task from ``X``, numbers ``(rows, columns)`` or images, and ``y`` ``(rows,)``.

    Images are ``(rows, height, width)``, with channels last or first when there are any. Without ``X_test`` a
    test split of 20 % is drawn; validation is always drawn from ``X``. Everything is fitted on the training
    rows alone. ``features`` and ``classes`` are names for the columns and for the labels 0, 1, ...

    >>> task = task_from_arrays(np.random.default_rng(0).normal(size=(90, 4)), np.arange(90) % 3)
    >>> task.kind, task.outputs, len(task.train)
    ('multiclass', 3, 54)

    Raises DataError for NaN, infinite or non-numeric values, shapes that do not match, and targets that
    cannot be learned.
    """
    raw, layout = _features(X, "X")
    if (X_test is None) != (y_test is None):
        raise DataError("a test set needs both: give X_test and y_test, or neither")
    target = read_target(y, kind, class_limit=1000 if layout else FEW_CLASSES)
    _same_length(raw, target.values, "X and y")
    raw_test, test_values = None, None
    if X_test is not None:
        raw_test, _ = _features(X_test, "X_test")
        if raw_test.shape[1:] != raw.shape[1:]:
            raise DataError(
                f"X_test has shape {raw_test.shape[1:]} per row, X has {raw.shape[1:]}; they must be the same"
            )
        test_values = target.encode(y_test)
        _same_length(raw_test, test_values, "X_test and y_test")

    def fit(rows: Array) -> tuple[Preprocessing, tuple[str, ...]]:
        return _fit_images(rows, layout) if layout else _fit_matrix(rows, tuple(features))

    return encoded_task(
        target if not classes else _renamed(target, classes),
        lambda rows: raw[rows],
        fit,
        raw_test,
        test_values,
        metric=metric,
        model=model,
        seed=seed,
        name=name,
        source=source,
        batch_size=batch_size,
        steps=steps,
        notes=notes,
    )


WANTED = ("X_train", "y_train", "X_test", "y_test", "n_train", "n_test", "classes")
LARGEST = 8 * 2**30
"""Bytes that an array file may unfold to: a small file can hold arrays that no memory holds."""


def read_npz(path: Path, target: str | None = None) -> dict[str, Array]:
    """Read ``X_train, y_train[, X_test, y_test]``, perhaps lengths ``n_*`` and ``classes``; pickles are never loaded.

    With ``target`` the arrays ``TARGET_train`` and ``TARGET_test`` take the place of ``y_*``. Raises DataError when
    the file is damaged, holds objects, or lacks an array.
    """
    arrays = open_npz(path, (*WANTED, *((f"{target}_train", f"{target}_test") if target else ())))
    if target is not None:
        if f"{target}_train" not in arrays:
            raise DataError(f"{path.name} lacks {target}_train; it has {', '.join(_stored(path))}")
        for split in ("train", "test"):
            arrays.pop(f"y_{split}", None)
            if f"{target}_{split}" in arrays:
                arrays[f"y_{split}"] = arrays.pop(f"{target}_{split}")
    absent = [name for name in ("X_train", "y_train") if name not in arrays]
    if absent:
        names = _stored(path)
        raise DataError(f"{path.name} lacks {' and '.join(absent)}; it has {', '.join(names) or 'nothing'}")
    return arrays


def read_inputs(data: object) -> Array:
    """New inputs as one array: from memory, or ``X`` (else ``X_test``, ``X_train``, the only one) of an npz file."""
    if not isinstance(data, (str, Path)):
        return data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
    path = Path(data)
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r} to predict")
    if not path.name.endswith(".npz"):
        raise DataError(f"{path.name!r} is no .npz; the run was trained on arrays: save the new rows as X in a .npz")
    names = _stored(path)
    chosen = next((name for name in ("X", "X_test", "X_train") if name in names), names[0] if len(names) == 1 else None)
    if chosen is None:
        raise DataError(f"{path.name} has no X (the new rows); it has {', '.join(names) or 'nothing'}")
    return open_npz(path, (chosen,))[chosen]


def _stored(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def open_npz(path: Path, wanted: Sequence[str]) -> dict[str, Array]:
    """The arrays of these names that the file has; raises DataError for damage, objects, and unbounded sizes."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST:
            raise DataError(f"{path.name} unfolds to {size / 2**30:.1f} GB; at most {LARGEST // 2**30} GB are read")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in wanted}
    except DataError:
        raise
    except ValueError as error:
        if "pickle" in str(error):
            raise DataError(
                f"{path.name} holds pickled Python objects, which are never loaded: save plain "
                "numbers or text instead "
                "(for instance X.astype('float32'), y.astype(str))"
            ) from error
        raise DataError(f"{path.name} cannot be read as .npz: {error}") from error
    except (zipfile.BadZipFile, EOFError, KeyError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise DataError(f"{path.name} is damaged, cut short, or not an .npz file: {error}") from error


def _features(raw: object, what: str) -> tuple[Array, str | None]:
    values = raw.detach().cpu().numpy() if isinstance(raw, Tensor) else np.asarray(raw)
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"{what} has type {values.dtype}; it must hold numbers: put text columns in a .csv or .parquet table"
        )
    if len(values.shape) == 0 or len(values) == 0:
        raise DataError(f"{what} has no rows")
    values = values[:, None] if values.ndim == 1 else values
    if values.dtype.kind == "f":
        broken = int((~np.isfinite(values)).sum())
        if broken:
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise DataError(
                f"{what} has {broken} NaN or infinite values, the first in row {row + 1}; impute or remove them first"
            )
    if values.ndim == 2:
        return values, None
    layout = image_layout(values.shape, values.dtype)
    if layout is None:
        raise DataError(
            f"{what} has shape {values.shape}, neither a table (rows, columns) nor images (rows, "
            "height, width[, channels]): "
            "reshape it, or give Task(...) your own model and dataset"
        )
    return values, layout


def _same_length(inputs: Array, targets: Tensor, what: str) -> None:
    if len(inputs) != len(targets):
        raise DataError(f"{what} have {len(inputs)} and {len(targets)} rows; they must be as many")


def _renamed(target: Target, classes: Sequence[str]) -> Target:
    if target.kind == "multilabel" and len(classes) == len(target.classes):
        note = target.note
        for old, new in zip(target.classes, classes, strict=True):
            note = note.replace(f"{old} ", f"{new} ", 1)
        return Target(target.kind, target.values, tuple(map(str, classes)), note)
    if not target.classes or target.classes != tuple(str(label) for label in range(len(classes))):
        return target
    return Target(target.kind, target.values, tuple(map(str, classes)), target.note)


def _fit_images(rows: Array, layout: str) -> tuple[Preprocessing, tuple[str, ...]]:
    fitted = ImagePreprocessing.fit(rows, layout)
    channels, height, width = fitted.shape
    return fitted, (f"images: {height} x {width}, {channels} channel{'s' * (channels > 1)}, standardised per channel",)


def _fit_matrix(rows: Array, names: tuple[str, ...]) -> tuple[Preprocessing, tuple[str, ...]]:
    values = rows.astype(np.float64)
    width = values.shape[1]
    names = names or tuple(f"x{at}" for at in range(width))
    kept = tuple(int(at) for at in np.flatnonzero(values.max(axis=0) > values.min(axis=0)))
    if not kept:
        raise DataError("every column of X is constant; there is nothing to learn from")
    notes = [f"{len(kept)} numeric columns: median removed, scaled by the quartile distance, extremes softly clipped"]
    if len(kept) < width:
        dropped = [names[at] for at in range(width) if at not in set(kept)]
        notes.append(f"{len(dropped)} constant columns dropped: {', '.join(dropped[:8])}{', ...' * (len(dropped) > 8)}")
    columns = tuple(Numeric.fit(names[at], values[:, at]) for at in kept)
    return MatrixPreprocessing(columns, kept, width), tuple(notes)
