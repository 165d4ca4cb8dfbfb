r"""The Jensen-Shannon divergence of rows of logits from a teacher's: value and gradient while a row lies in the cache.

With p and q the softmax of both rows and :math:`m = \beta q + (1 - \beta) p`, both ratios to m are bounded by
:math:`1/(1 - \beta)` and :math:`1/\beta`, so probabilities do where other divergences need their logarithms: a class
whose probability underflows has no share in any sum.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from trivet.kernels import cpu

__all__ = ["fits", "run"]

WIDE_FROM = 48  # classes: below, vectors run along the rows of a tile and not along the classes of a row
TILE = 256  # rows

BODY = """
real, integer = {compute}, np.{integer}
MAGNITUDE = integer(np.iinfo(integer).max)
# Sums along one row are short enough to change their order, so that they become vectors.
summing = njit(fastmath={{"contract", "nsz", "arcp", "reassoc"}}, forceinline=True, error_model="numpy")


@rule_function
def ordered(bits):
    # The largest integer of the same order is a vector instruction; the largest float, which must mind NaN, is not.
    return integer(bits ^ integer(integer(bits >> {sign}) & MAGNITUDE))


@rule_function
def largest(row):
    bits = row.view(integer)
    top = ordered(bits[0])
    for k in range(row.size):
        other = ordered(bits[k])
        top = other if other > top else top
    return integer(ordered(top)).view(np.{compute})


@summing
def exponentials(row, peak):
    total = real(0.0)
    for k in range(row.size):
        e = xp.exp(row[k] - peak)
        row[k] = e
        total += e
    return total


@summing
def ratios(p, q, by_p, by_q, beta):
    # p becomes the student's probability, q the logarithm of its ratio to the mixture.
    ours, theirs = real(0.0), real(0.0)
    rest = real(1.0) - beta
    for k in range(p.size):
        a, b = p[k] * by_p, q[k] * by_q
        m = beta * b + rest * a
        inverse = real(1.0) / (m if m > real(0.0) else real(1.0))
        left = xp.log(a * inverse if a > real(0.0) else real(1.0))
        right = xp.log(b * inverse if b > real(0.0) else real(1.0))
        ours += a * left
        theirs += b * right
        p[k], q[k] = a, left
    return ours, theirs


@kernel
def some(z, t, u, g, v, classes, factor, beta, scale, begin, end):
    p, q = np.empty(classes, np.{compute}), np.empty(classes, np.{compute})
    b, s = real(beta), real(scale)
    total = 0.0
    for row in range(begin, end):
        weight = view_{compute}(u, end)[row] if u != 0 else real(1.0)
        if weight == real(0.0):
            if v != 0:
                view_{compute}(v, end)[row] = real(0.0)
            if g != 0:
                view_gradient = {view}(g + row * classes * {size}, classes)
                for k in range(classes):
                    view_gradient[k] = {store}(real(0.0))
            continue
        logits, teacher = {view}(z + row * classes * {size}, classes), {tview}(t + row * classes * {tsize}, classes)
        for k in range(classes):
            p[k] = s * {load}(logits[k])
            q[k] = s * {tload}(teacher[k])
        by_p = real(1.0) / exponentials(p, largest(p))
        by_q = real(1.0) / exponentials(q, largest(q))
        ours, theirs = ratios(p, q, by_p, by_q, b)
        value = b * theirs + (real(1.0) - b) * ours
        total += np.float64(weight) * np.float64(value)
        if v != 0:
            view_{compute}(v, end)[row] = weight * value
        if g != 0:
            out = {view}(g + row * classes * {size}, classes)
            times = real(factor) * weight * (real(1.0) - b) * s
            for k in range(classes):
                out[k] = {store}(times * p[k] * (q[k] - ours))
    return total


@rule_function
def bring(tile, top, address, row, count, classes, scale):
    # Few classes: a tile of rows lies class by class, so that vectors run along the rows.
    for r in range(count):
        z = {view}(address + (row + r) * classes * {size}, classes)
        for k in range(classes):
            tile[k, r] = scale * {load}(z[k])
    spread(tile, top, count)


@rule_function
def bring_teacher(tile, top, address, row, count, classes, scale):
    for r in range(count):
        z = {tview}(address + (row + r) * classes * {tsize}, classes)
        for k in range(classes):
            tile[k, r] = scale * {tload}(z[k])
    spread(tile, top, count)


@rule_function
def spread(tile, total, count):
    # The exponentials of a tile, and one over their sum.
    peak = tile[0].copy()
    total[:] = real(0.0)
    for k in range(1, tile.shape[0]):
        here = tile[k]
        for r in range(count):
            peak[r] = here[r] if here[r] > peak[r] else peak[r]
    for k in range(tile.shape[0]):
        here = tile[k]
        for r in range(count):
            e = xp.exp(here[r] - peak[r])
            here[r] = e
            total[r] += e
    for r in range(count):
        total[r] = real(1.0) / total[r]


@rule_function
def mix(p, q, by_p, by_q, ours, value, count, beta):
    rest = real(1.0) - beta
    ours[:], value[:] = real(0.0), real(0.0)
    for k in range(p.shape[0]):
        left_of, right_of = p[k], q[k]
        for r in range(count):
            a, b = left_of[r] * by_p[r], right_of[r] * by_q[r]
            m = beta * b + rest * a
            inverse = real(1.0) / (m if m > real(0.0) else real(1.0))
            left = xp.log(a * inverse if a > real(0.0) else real(1.0))
            right = xp.log(b * inverse if b > real(0.0) else real(1.0))
            ours[r] += a * left
            value[r] += beta * (b * right) + rest * (a * left)
            left_of[r], right_of[r] = a, left


@kernel
def tiles(z, t, u, g, v, classes, factor, beta, scale, begin, end):
    width = {tile}
    p, q = np.zeros((classes, width), np.{compute}), np.zeros((classes, width), np.{compute})
    columns = np.zeros((5, width), np.{compute})
    by_p, by_q, ours, value, weight = columns[0], columns[1], columns[2], columns[3], columns[4]
    b, s, total = real(beta), real(scale), 0.0
    times = real(factor) * (real(1.0) - b) * s
    for row in range(begin, end, width):
        count = min(width, end - row)
        weight[:] = real(1.0)
        if u != 0:
            weight[:count] = view_{compute}(u, end)[row:row + count]
        bring(p, by_p, z, row, count, classes, s)
        bring_teacher(q, by_q, t, row, count, classes, s)
        mix(p, q, by_p, by_q, ours, value, count, b)
        for r in range(count):
            counts = weight[r] != real(0.0)
            value[r] = weight[r] * value[r] if counts else real(0.0)
            total += np.float64(value[r])
        if v != 0:
            view_{compute}(v, end)[row:row + count] = value[:count]
        if g != 0:
            for k in range(classes):
                a, left = p[k], q[k]
                for r in range(count):
                    d = times * weight[r] * a[r] * (left[r] - ours[r])
                    a[r] = d if weight[r] != real(0.0) else real(0.0)
            for r in range(count):
                out = {view}(g + (row + r) * classes * {size}, classes)
                for k in range(classes):
                    out[k] = {store}(p[k, r])
    return total


@threaded
def every_tile(z, t, u, g, v, classes, factor, beta, scale, parts, bounds):
    for part in prange(len(parts)):
        parts[part] = tiles(z, t, u, g, v, classes, factor, beta, scale, bounds[part], bounds[part + 1])


@threaded
def every(z, t, u, g, v, classes, factor, beta, scale, parts, bounds):
    for part in prange(len(parts)):
        parts[part] = some(z, t, u, g, v, classes, factor, beta, scale, bounds[part], bounds[part + 1])
"""


def fits(logits: Tensor, teacher: Tensor) -> bool:
    """Return whether the kernel reads these: `(rows, classes)` in types that it knows, computed in one of them."""
    known = logits.dtype in cpu.STORAGE and teacher.dtype in cpu.STORAGE and logits.shape[-1] > 0
    return known and cpu.STORAGE[logits.dtype].compute == cpu.STORAGE[teacher.dtype].compute


def run(
    logits: Tensor,
    teacher: Tensor,
    *,
    beta: float,
    scale: float,
    weight: Tensor | None = None,
    factor: float = 1.0,
    gradient: Tensor | None = None,
    values: Tensor | None = None,
) -> float:
    """Return the weighted sum of the rows' divergences; write weighted values and the gradient where there is room.

    Args:
        logits: `(rows, classes)` in one piece; the gradient, of `factor` times the sum, is laid out as they are.
        teacher: of the same shape, in one piece.
        beta: weight of the teacher in the mixture, inside (0, 1).
        scale: what both logits are multiplied by, the inverse temperature.
        weight: `(rows,)` in the type that is computed in; a row of weight 0 is not read.
        factor: multiplies the gradient.
        gradient: room for it, of the logits' type.
        values: room for the rows' values, in the type that is computed in.
    """
    rows, classes = logits.shape
    kernel = _kernel(logits.dtype, teacher.dtype)
    address = [0 if part is None else part.data_ptr() for part in (logits, teacher, weight, gradient, values)]
    call = (*address, classes, factor, beta, scale)
    workers = cpu.threads(logits.numel())
    few = classes < WIDE_FROM
    if workers == 1:
        return float(cpu.call(kernel.tiles if few else kernel.some, *call, 0, rows))
    parts, bounds = np.zeros(workers), np.linspace(0, rows, workers + 1).astype(np.int64)
    cpu.call(kernel.every_tile if few else kernel.every, *call, parts, bounds, workers=workers)
    return float(parts.sum())


@functools.cache
def _kernel(logits: torch.dtype, teacher: torch.dtype):  # type: ignore[no-untyped-def]
    own, other = cpu.STORAGE[logits], cpu.STORAGE[teacher]
    compute = own.compute
    body = BODY.format(
        compute=compute, integer=compute.replace("float", "int"), sign=31 if compute == "float32" else 63,
        tile=TILE, view=own.view, load=own.load, store=own.store, size=logits.itemsize,
        tview=other.view, tload=other.load, tsize=teacher.itemsize,
    )  # fmt: skip
    return cpu.module(body, compute)
