"""The Jensen-Shannon divergence on the GPU: `kernels/divergence.py` with a program for each tile of rows and classes.

A row that fits one tile is read once; a wider one three times: for both sums of exponentials, for the sums over ratios
to the mixture, and for the gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from trivet.kernels import gpu
from trivet.kernels.row_bodies_gpu import COMMON, DECAY
from trivet.kernels.rows_gpu import Factor, filled, layout

__all__ = ["run"]

LARGEST = 1 << 13  # numbers in a tile that is kept in registers: two of each are

BODY = """
@triton.jit
def fetch(z, t, at, p, live, classes, inner, by, APART: tl.constexpr, COLS: tl.constexpr):
    k = at + tl.arange(0, COLS)[None, :]
    inside = live[:, None] & (k < classes)
    place = place_of(p[:, None], k, classes, inner, APART)
    x = by * tl.load(z + place, inside, other=float("-inf")).to(tl.$COMPUTE)
    y = by * tl.load(t + place, inside, other=float("-inf")).to(tl.$COMPUTE)
    return inside, place, x, y


@triton.jit
def share(x, peak, total):
    return decay(x - peak[:, None]) / total[:, None]


@triton.jit
def log_ratio(share, mixture):
    # A class without a share has nothing to say; the mixture is 0 only where both shares are.
    return xp.log(tl.where(share > 0.0, share / tl.where(mixture > 0.0, mixture, 1.0), 1.0))


@triton.jit
def ratios(a, b, beta):
    mixture = beta * b + (1.0 - beta) * a
    return log_ratio(a, mixture), log_ratio(b, mixture)


@triton.jit
def divergence(
    z, t, g, row_weight, values, sums, upstream, parts, numbers, classes, inner, pieces,
    APART: tl.constexpr, WHOLE: tl.constexpr, PER_ROW: tl.constexpr, PARTS: tl.constexpr, ALIGN: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):
    # How far apart lines lie comes divided by ALIGN: so the compiler sees where several numbers can be read at once.
    if APART:
        inner = inner * ALIGN
    else:
        classes = classes * ALIGN
    program = tl.program_id(0)
    image = program // pieces
    first = (program % pieces).to(tl.int64) * ROWS
    p = tl.arange(0, ROWS)
    live = first + p < inner
    row = image.to(tl.int64) * inner + first + p
    start = start_of(image, first, classes, inner, APART)
    z += start
    t += start
    by, beta = tl.load(numbers + 2), tl.load(numbers + 3)
    counts = live
    rate = tl.full([ROWS], 1.0, tl.$COMPUTE)
    if row_weight is not None:
        rate = tl.load(row_weight + row, live, other=0.0)
        counts = live & (rate != 0.0)

    if WHOLE:
        inside, place, x, y = fetch(z, t, 0, p, live, classes, inner, by, APART, COLS)
        peak, above = largest(x), largest(y)
        ours, theirs = tl.sum(decay(x - peak[:, None]), 1), tl.sum(decay(y - above[:, None]), 1)
        a, b = share(x, peak, ours), share(y, above, theirs)
        left, right = ratios(a, b, beta)
        own, other = tl.sum(a * left, 1), tl.sum(b * right, 1)
    else:
        peak = tl.full([ROWS], $LOWEST, tl.$COMPUTE)
        above = tl.full([ROWS], $LOWEST, tl.$COMPUTE)
        ours = tl.zeros([ROWS], tl.$COMPUTE)
        theirs = tl.zeros([ROWS], tl.$COMPUTE)
        own = tl.zeros([ROWS], tl.$COMPUTE)
        other = tl.zeros([ROWS], tl.$COMPUTE)
        for at in range(0, classes, COLS):
            inside, place, x, y = fetch(z, t, at, p, live, classes, inner, by, APART, COLS)
            rise, higher = xp.maximum(peak, tl.max(x, 1)), xp.maximum(above, tl.max(y, 1))
            ours = ours * decay(peak - rise) + tl.sum(decay(x - rise[:, None]), 1)
            theirs = theirs * decay(above - higher) + tl.sum(decay(y - higher[:, None]), 1)
            peak, above = rise, higher
        for at in range(0, classes, COLS):
            inside, place, x, y = fetch(z, t, at, p, live, classes, inner, by, APART, COLS)
            a, b = share(x, peak, ours), share(y, above, theirs)
            left, right = ratios(a, b, beta)
            own += tl.sum(a * left, 1)
            other += tl.sum(b * right, 1)

    factor = tl.load(numbers)
    if parts is not None:
        divisor = tl.sum(tl.load(parts + tl.arange(0, PARTS)), 0)
        factor = tl.where(divisor == 0.0, tl.load(numbers + 1), factor / divisor)
    value = tl.where(counts, rate * (beta * other + (1.0 - beta) * own), 0.0)
    if values is not None:
        tl.store(values + row, value, live)
    tl.store(sums + program, factor * tl.sum(value, 0))
    if g is not None:
        up = factor * rate * (1.0 - beta) * by
        if upstream is not None:
            if PER_ROW:
                up = up * tl.load(upstream + row, live, other=0.0)
            else:
                up = up * tl.load(upstream)
        g += start
        if WHOLE:
            d = tl.where(counts[:, None], up[:, None] * a * (left - own[:, None]), 0.0)
            tl.store(g + place, d.to(g.dtype.element_ty), inside)
        else:
            for at in range(0, classes, COLS):
                inside, place, x, y = fetch(z, t, at, p, live, classes, inner, by, APART, COLS)
                a, b = share(x, peak, ours), share(y, above, theirs)
                left, right = ratios(a, b, beta)
                d = tl.where(counts[:, None], up[:, None] * a * (left - own[:, None]), 0.0)
                tl.store(g + place, d.to(g.dtype.element_ty), inside)
"""


def run(
    logits: Tensor,
    teacher: Tensor,
    *,
    beta: float,
    scale: float,
    weight: Tensor | None = None,
    factor: Factor,
    upstream: Tensor | None = None,
    gradient: Tensor | None = None,
    values: Tensor | None = None,
) -> Tensor:
    """Return `factor` times the weighted sum of the rows' divergences; write values and gradient if there is room.

    Args:
        logits: `(batch, classes, ...)` without holes, classes second or last in memory; the gradient lies alike.
        teacher: laid out as the logits.
        beta: weight of the teacher in the mixture, inside (0, 1).
        scale: what both logits are multiplied by, the inverse temperature.
        weight: one for each row, in the type that is computed in.
        factor: multiplies sum and gradient.
        upstream: multiplies the gradient too: a number on the device, or one for each row.
        gradient: room for it.
        values: room for the rows' weighted values, in the type that is computed in.
    """
    compute = gpu.COMPUTE[logits.dtype]
    wide = getattr(torch, compute)
    if not logits.numel():
        nothing = 0.0 * (factor.times if factor.parts is None else factor.if_nothing)
        return torch.full((), nothing, dtype=wide, device=logits.device)
    tile = layout(logits, LARGEST)
    programs = logits.numel() // tile.classes // tile.inner * tile.pieces
    sums = torch.empty(programs, dtype=wide, device=logits.device)
    numbers = gpu.numbers(logits.device, wide, (factor.times, factor.if_nothing, scale, beta))
    gpu.launch(
        _kernel(compute).divergence, programs,
        logits, teacher, gradient, weight, values, sums, upstream, factor.parts, numbers, *tile.sizes, tile.pieces,
        like=logits, APART=tile.apart, WHOLE=tile.whole, PER_ROW=upstream is not None and upstream.dim() > 0,
        PARTS=1 if factor.parts is None else len(factor.parts), ALIGN=tile.align, ROWS=tile.rows, COLS=tile.cols,
        num_warps=tile.warps,
    )  # fmt: skip
    return sums.sum()


@functools.cache
def _kernel(compute: str) -> Any:
    return gpu.module(filled(DECAY[compute] + COMMON + BODY, compute))
