"""Softmax losses on the GPU: `kernels/rows.py` with a program for each tile of rows and classes.

A row that fits one tile is read once, for value and gradient; a wider one in two passes, of which the first moves its
sums along as it finds a higher peak. Programs leave the sums of their rows, and each reads what the mean divides by,
so that the host waits for nothing and every sum is added in the same order always.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trivet.kernels import gpu
from trivet.kernels.binding import Rule, parameters
from trivet.kernels.row_bodies_gpu import CENSUS, COMMON, DECAY, LOWEST, ROWS
from trivet.kernels.rows import Form, Rows

__all__ = ["Factor", "Tile", "filled", "layout", "run", "weights"]

ELEMENTS = 1 << 12  # numbers in a tile of short rows: 32 for each of 128 threads
LARGEST = 1 << 14  # numbers in the largest tile that is kept in registers: 32 for each of 512 threads
NEIGHBOURS = 32  # positions of a tile where classes lie apart: a warp reads 64 bytes of half precision, or 128
BLOCK = 1024  # labels that a program of the census reads at a time
PROGRAMS = 256  # of the census at most: every program of the loss adds up what they left


class Factor(NamedTuple):
    """What the sum of rows is multiplied by: `times`, over the sum of `parts` (`if_nothing` where that is 0)."""

    times: float
    if_nothing: float = 1.0
    parts: Tensor | None = None


class Tile(NamedTuple):
    """How a tensor `(images, classes, positions)` is cut: tiles per image, and whether one holds all classes."""

    classes: int
    inner: int
    pieces: int
    apart: bool
    whole: bool
    align: int
    rows: int
    cols: int
    warps: int

    @property
    def sizes(self) -> tuple[int, int]:
        """Classes and positions as the kernels take them: the distance of neighbouring lines divided by `align`."""
        return (
            self.classes if self.apart else self.classes // self.align,
            self.inner // self.align if self.apart else self.inner,
        )


def layout(logits: Tensor, largest: int = LARGEST, by_image: bool = False) -> Tile:
    """Return how logits `(batch, classes, ...)` that lie without holes, classes second or last, are cut.

    Rows of several images that lie in one piece count as one image, unless tiles must not hold more than one.
    """
    classes = logits.shape[1]
    count = logits.numel() // classes
    inner = count // logits.shape[0]
    apart = logits.dim() > 2 and logits.is_contiguous() and inner > 1
    inner = inner if apart or by_image else count
    cols = _power(classes)
    rows = min(max(ELEMENTS // cols, NEIGHBOURS if apart else 1), 1024, _power(inner))
    whole = rows * cols <= largest
    if not whole:
        rows, cols = (min(64, rows), 64) if apart else (1, largest // 2)
    stride = inner if apart else classes
    warps = min(max(rows * cols // 1024, 4), 16)
    return Tile(classes, inner, -(-inner // rows), apart, whole, min(stride & -stride, 16), rows, cols, warps)


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()


def weights(rows: Rows, weight: Tensor | None) -> Tensor:
    """Return parts whose sum is the weight of all rows that take part; a label that is no class makes it NaN."""
    count = rows.logits.numel() // rows.logits.shape[1]
    programs = min(PROGRAMS, _power(-(-count // BLOCK)))
    compute = gpu.COMPUTE[rows.logits.dtype]
    parts = torch.empty(programs, dtype=getattr(torch, compute), device=rows.logits.device)
    gpu.launch(
        gpu.module(filled(CENSUS, compute)).census, programs,
        rows.labels, weight, rows.row_weight, parts, rows.ignore_index, rows.logits.shape[1], count,
        like=rows.logits, BLOCK=BLOCK,
    )  # fmt: skip
    return parts


def run(
    form: Form,
    rows: Rows,
    *,
    gradient: Tensor | None = None,
    factor: Factor,
    upstream: Tensor | None = None,
    values: Tensor | None = None,
) -> Tensor:
    """Return `factor` times the weighted sum of the rows' values; write values and gradient where there is room.

    Arguments as in `kernels/rows.py`. A label that is no class gives NaN: to refuse it, the host would have to wait.
    """
    logits = rows.logits
    classes, wide = logits.shape[1], getattr(torch, gpu.COMPUTE[logits.dtype])
    if not logits.numel():
        nothing = 0.0 * (factor.times if factor.parts is None else factor.if_nothing)
        return torch.full((), nothing, dtype=wide, device=logits.device)
    tile = layout(logits)
    programs = logits.numel() // classes // tile.inner * tile.pieces
    sums = torch.empty(programs, dtype=wide, device=logits.device)
    numbers = (factor.times, factor.if_nothing, form.scale, 1 - form.smoothing, form.smoothing / classes)
    gpu.launch(
        _kernel(form.rule, gpu.COMPUTE[logits.dtype]).rows, programs,
        logits, gradient, rows.labels, rows.matrix, form.weight, rows.row_weight, form.offset, form.handicap, values,
        sums, upstream, factor.parts, gpu.numbers(logits.device, wide, numbers + form.numbers),
        rows.ignore_index, *tile.sizes, tile.pieces,
        like=logits, APART=tile.apart, WHOLE=tile.whole, MATRIX=form.matrix, SMOOTHED=form.smoothing > 0,
        PER_ROW=upstream is not None and upstream.dim() > 0, PARTS=1 if factor.parts is None else len(factor.parts),
        ALIGN=tile.align, ROWS=tile.rows, COLS=tile.cols, num_warps=tile.warps,
    )  # fmt: skip
    return sums.sum()


@functools.cache
def _kernel(rule: Rule, compute: str) -> Any:
    numbers = "".join(f", tl.load(numbers + {5 + k})" for k in range(len(parameters(rule)) - 1))
    body = ROWS.replace("$RULE", rule.__name__).replace("$NUMBERS", numbers)
    return gpu.compiled(rule, filled(DECAY[compute] + COMMON + body, compute))


@functools.cache
def filled(body: str, compute: str) -> str:
    """Return a kernel's source for the type that is computed in."""
    return body.replace("$COMPUTE", compute).replace("$LOWEST", LOWEST[compute])
