"""A task from arrays in memory or in an ``.npz`` file: matrices of numbers, and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trivet.errors import DataError
from trivet.tasks.encoding import encoded_task
from trivet.tasks.masks import VOID, palette, relabelled
from trivet.tasks.metrics import Metric
from trivet.tasks.preprocessing import (
    ImagePreprocessing,
    MatrixPreprocessing,
    Numeric,
    Preprocessing,
    image_layout,
)
from trivet.tasks.sequences import SequencePreprocessing, sequences
from trivet.tasks.targets import FEW_CLASSES, Target, read_target
from trivet.tasks.task import ModelFactory, Task

__all__ = ["task_from_arrays"]

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
    lengths: object = None,
    lengths_test: object = None,
) -> Task:
    """Make a task from ``X``, numbers ``(rows, columns)`` or images, and ``y`` ``(rows,)``.

    Images are ``(rows, height, width)``, with channels last or first when there are any. Without ``X_test`` a
    test split of 20 % is drawn; validation is always drawn from ``X``. Everything is fitted on the training
    rows alone. ``features`` and ``classes`` are names for the columns and for the labels 0, 1, ... Targets
    ``(rows, labels)`` of 0 and 1 are labels that do not exclude each other; masks ``(rows, height, width)`` of images
    make a segmentation. With ``lengths`` ``(rows,)`` the inputs are padded sequences ``(rows, time, channels)``.
    ``kind="embedding"`` takes labels whose classes in ``y_test`` are others than those in ``y``.

    >>> task = task_from_arrays(np.random.default_rng(0).normal(size=(90, 4)), np.arange(90) % 3)
    >>> task.kind, task.outputs, len(task.train)
    ('multiclass', 3, 54)

    Raises DataError for NaN, infinite or non-numeric values, shapes that do not match, and targets that
    cannot be learned.
    """
    if (X_test is None) != (y_test is None):
        raise DataError("a test set needs both: give X_test and y_test, or neither")
    if lengths is not None:
        return _sequences_task(
            (X, lengths), y, None if X_test is None else (X_test, lengths_test), y_test,
            kind=kind, metric=metric, model=model, seed=seed, name=name, source=source, classes=classes,
            batch_size=batch_size, steps=steps, notes=notes,
        )  # fmt: skip
    raw, layout = _features(X, "X")
    target = _target(raw, y, kind, layout, classes)
    _same_length(raw, target.values, "X and y")
    raw_test, test_values = None, None
    if X_test is not None:
        raw_test, _ = _features(X_test, "X_test")
        if raw_test.shape[1:] != raw.shape[1:]:
            raise DataError(
                f"X_test has shape {raw_test.shape[1:]} per row, X has {raw.shape[1:]}; they must be the same"
            )
        test_values = _test_target(target, raw_test, y_test, y)
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


def _target(raw: Array, y: object, kind: str | None, layout: str | None, classes: Sequence[str]) -> Target:
    """The target of arrays: a column, several labels, the classes of an embedding, or masks."""
    values = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if kind == "embedding":
        distinct, codes = np.unique(values.reshape(len(values)), return_inverse=True)
        note = f"{len(distinct)} classes; validation holds classes that training lacks"
        return Target("embedding", torch.from_numpy(codes.astype(np.int64)), (), note)
    if values.ndim == 3 or kind == "segmentation":
        _fits_images(raw, values, layout)
        known = range(len(classes)) if classes else palette([int(v) for v in np.unique(values)])
        labels = relabelled(values, known, "training")
        names = tuple(map(str, classes)) or tuple(map(str, known))
        return Target("segmentation", torch.from_numpy(labels), names, f"masks: {len(names)} classes")
    return read_target(values, kind, class_limit=1000 if layout else FEW_CLASSES)


def _fits_images(raw: Array, masks: Array, layout: str | None) -> None:
    if layout is None or masks.ndim != 3 or masks.dtype.kind not in "biu":
        raise DataError(
            f"masks of shape {masks.shape} and type {masks.dtype} need images of the same height and width; a "
            "segmentation takes whole numbers (rows, height, width)"
        )
    height, width = raw.shape[2:] if layout == "CHW" else raw.shape[1:3]
    if masks.shape != (len(raw), height, width):
        raise DataError(
            f"the masks have shape {masks.shape}, the {len(raw)} images are {height} x {width}; they must be the same"
        )


def _test_target(target: Target, raw_test: Array, y_test: object, y: object) -> Tensor:
    values = y_test.detach().cpu().numpy() if isinstance(y_test, Tensor) else np.asarray(y_test)
    if target.kind == "embedding":
        return torch.from_numpy(np.unique(values.reshape(len(values)), return_inverse=True)[1].astype(np.int64))
    if target.kind == "segmentation":
        if values.shape[0] != len(raw_test) or values.ndim != 3:
            raise DataError(f"the test masks have shape {values.shape}; there are {len(raw_test)} test images")
        trained = np.unique(y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y))
        known = palette([int(v) for v in trained if v != VOID])
        return torch.from_numpy(relabelled(values, known, "test"))
    return target.encode(values)


def _sequences_task(
    pair: tuple[object, object],
    y: object,
    test: tuple[object, object] | None,
    y_test: object,
    *,
    kind: str | None,
    metric: str | Metric | Callable[[Tensor, Tensor], float] | None,
    model: ModelFactory | nn.Module | None,
    seed: int,
    name: str,
    source: str,
    classes: Sequence[str],
    batch_size: int | None,
    steps: int | None,
    notes: tuple[str, ...],
) -> Task:
    (steps_array, sizes), layout = sequences(*pair)
    target = read_target(y, kind)
    _same_length(steps_array, target.values, "X and y")
    raw_test, test_values = None, None
    if test is not None:
        raw_test, _ = sequences(*test, "X_test", layout=layout)
        test_values = target.encode(y_test)
        _same_length(raw_test[0], test_values, "X_test and y_test")

    def fit(rows: tuple[Array, Array]) -> tuple[Preprocessing, tuple[str, ...]]:
        shortest, longest = int(rows[1].min()), int(rows[1].max())
        note = f"sequences of {shortest} to {longest} steps, {rows[0].shape[2]} channels standardised"
        return SequencePreprocessing.fit(rows, layout), (note,)

    return encoded_task(
        target if not classes else _renamed(target, classes),
        lambda rows: (steps_array[rows], sizes[rows]),
        fit,
        raw_test,
        test_values,
        metric=metric, model=model, seed=seed, name=name, source=source, batch_size=batch_size, steps=steps,
        notes=notes,
    )  # fmt: skip


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
