"""Softmax losses in one pass: value and gradient of each row while it lies in the cache.

A row rule is a scalar function of the log odds g against the true class, `rule(g, ...) -> (value, d value / d g)`. The
kernel finds g, asks the rule once for each row, and turns the exponentials that it had to compute anyway into the
gradient. With a second matrix (probabilities, or a teacher's logits) there is no rule: the value is an expectation.

Two forms, one arithmetic. `wide`: rows lie in one piece and have many classes; vectors run along the classes. `tiles`:
few classes, or classes that are far apart in memory `(batch, classes, ...)`; a tile of positions is brought into a
scratch array that fits the first cache, and vectors run along the positions.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trivet.kernels import cpu
from trivet.kernels.binding import Rule, parameters
from trivet.kernels.row_bodies import COMMON, DECAY, EVERY, SURVEY
from trivet.kernels.row_tiles import TILES
from trivet.kernels.row_wide import WIDE

__all__ = ["Census", "Form", "Rows", "census", "fits", "run"]

WIDE_FROM = 48  # classes: below three vectors of 16 a row spends its time in beginnings and ends
TILE = 1 << 13  # numbers in a tile: 32 KB of float32, two thirds of a first-level cache
LONGEST, VECTOR = 512, 16  # positions in a tile: at most, and a multiple of what one vector holds


class Form(NamedTuple):
    """What is computed for each row. All but the tensors and numbers decide which kernel is compiled.

    `matrix` says what the second matrix holds: nothing (labels), "shares" (probabilities) or "teacher" (logits).
    """

    rule: Rule
    numbers: tuple[float, ...] = ()
    matrix: str = ""
    smoothing: float = 0.0
    weight: Tensor | None = None
    offset: Tensor | None = None
    handicap: Tensor | None = None
    scale: float = 1.0


class Rows(NamedTuple):
    """What lies in memory: logits, labels `(rows,)` in int64 or a matrix, weights `(rows,)`.

    The matrix is laid out as the logits, in their type or in the one that is computed in.
    """

    logits: Tensor
    labels: Tensor | None
    matrix: Tensor | None
    row_weight: Tensor | None
    ignore_index: int


class Census(NamedTuple):
    """What the labels say before any logit is read."""

    weight: float
    lowest: int
    highest: int


def fits(logits: Tensor) -> bool:
    """Return whether these logits `(batch, classes, ...)` can be read where they lie."""
    return logits.is_contiguous() or (logits.dim() > 2 and logits.movedim(1, -1).is_contiguous())


def census(rows: Rows, weight: Tensor | None) -> Census:
    """Return the sum of the weights of all rows that take part, and the lowest and highest label."""
    labels = rows.labels
    assert labels is not None
    compute = _compute(rows.logits)
    kernel = _survey(compute)
    arguments = (
        labels.data_ptr(),
        _address(weight),
        _address(rows.row_weight),
        rows.logits.shape[1],
        rows.ignore_index,
    )
    count = labels.numel()
    workers = cpu.threads(count)
    if workers == 1:
        return Census(*cpu.call(kernel.some, *arguments, 0, count))
    bounds = _bounds(count, workers)
    parts = np.empty((workers, 3))
    cpu.call(kernel.every, *arguments, parts, bounds, workers=workers)
    return Census(float(parts[:, 0].sum()), int(parts[:, 1].min()), int(parts[:, 2].max()))


def run(
    form: Form,
    rows: Rows,
    *,
    gradient: Tensor | None = None,
    factor: float = 1.0,
    upstream: Tensor | None = None,
    values: Tensor | None = None,
) -> float:
    """Return the weighted sum of the rows' values; write the values and the gradient where there is room for them.

    The gradient, laid out as the logits, is that of `factor` times the sum, times `upstream` (a scalar, or one number
    for each row, in the type that is computed in).
    """
    logits = rows.logits
    classes = logits.shape[1]
    if not logits.numel():
        return 0.0
    count = logits.numel() // classes
    in_one_piece = logits.dim() == 2 or not logits.is_contiguous()
    inner = count if in_one_piece else count // logits.shape[0]
    in_one_piece = in_one_piece or inner == 1
    wide = in_one_piece and classes >= WIDE_FROM
    width = 1 if wide else max(VECTOR, min(LONGEST, TILE // classes // VECTOR * VECTOR))
    kernel = _kernel(
        form.rule,
        logits.dtype,
        logits.dtype if rows.matrix is None else rows.matrix.dtype,
        wide,
        in_one_piece,
        form.matrix,
        form.smoothing > 0,
        form.offset is not None or form.handicap is not None or form.scale != 1.0,
    )
    per_row = int(upstream is not None and upstream.dim() > 0)
    arguments = (
        logits.data_ptr(), _address(gradient), _address(rows.labels), _address(rows.matrix), _address(form.weight),
        _address(rows.row_weight), _address(form.offset), _address(form.handicap), _address(values),
        _address(upstream), per_row, classes, count if inner == 1 else inner, width, rows.ignore_index, factor,
        form.smoothing, form.scale, *form.numbers,
    )  # fmt: skip
    workers = cpu.threads(logits.numel())
    if workers == 1:
        return float(cpu.call(kernel.some, *arguments, 0, count))
    parts = np.zeros(workers)
    cpu.call(kernel.every, *arguments, parts, _bounds(count, workers), workers=workers)
    return float(parts.sum())


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


@functools.lru_cache(64)
def _bounds(count: int, workers: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return where each thread's rows begin, and the end: whole vectors for each."""
    inner = [round(count * part / workers / VECTOR) * VECTOR for part in range(1, workers)]
    return np.array([0, *inner, count], dtype=np.int64)


def _compute(logits: Tensor) -> str:
    return cpu.STORAGE[logits.dtype].compute


@functools.cache
def _survey(compute: str):  # type: ignore[no-untyped-def]
    return cpu.module(SURVEY.replace("COMPUTE", compute), compute)


@functools.cache
def _kernel(  # type: ignore[no-untyped-def]
    rule: Rule,
    dtype: torch.dtype,
    matrix_dtype: torch.dtype,
    wide: bool,
    in_one_piece: bool,
    matrix: str,
    smoothed: bool,
    adjusted: bool,
):
    storage, second = cpu.STORAGE[dtype], cpu.STORAGE[matrix_dtype]
    numbers = parameters(rule)[1:]
    constants = {
        "IN_ONE_PIECE": in_one_piece,
        "MATRIX": bool(matrix),
        "TEACHER": matrix == "teacher",
        "SMOOTHED": smoothed,
        "ADJUSTED": adjusted,
    }
    names = {
        "DECAY": DECAY[storage.compute].strip(),
        "SIZE": str(dtype.itemsize),
        "KEPT": "scratch" if dtype.itemsize < 4 else "g if g.size else scratch",
        "AGAIN": "kept" if dtype.itemsize < 4 else "g",
        "LAST": "np.empty(EVEN, g_rows.dtype)" if dtype.itemsize < 4 else "last_kept",
        "COMPUTE": storage.compute,
        "INTEGER": storage.compute.replace("float", "int"),
        "SIGN": {"float32": "31", "float64": "63"}[storage.compute],
        "VIEW": storage.view,
        "LOAD": storage.load,
        "STORE": storage.store,
        "TSIZE": str(matrix_dtype.itemsize),
        "TVIEW": second.view,
        "TLOAD": second.load,
        "TSTORE": second.store,
        "RULE": rule.__name__,
        "NUMBERS": "".join(f", {name}" for name in numbers),
        "CASTED": "".join(f", {storage.compute}({name})" for name in numbers),
    }
    body = COMMON + (WIDE if wide else TILES) + EVERY
    for name, text in names.items():
        body = body.replace(f"${name}", text)
    lines = "".join(f"{name} = {value}\n" for name, value in constants.items())
    return cpu.compiled(rule, lines + body, storage.compute)
