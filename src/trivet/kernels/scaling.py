"""Scaling a finished gradient in place by what comes from above, without asking how large that is.

A loss's kernel leaves its gradient as if the loss itself were the end of the graph. Mostly it is, and the gradient
from above is 1: the kernel sees that for itself and touches nothing.
"""

from __future__ import annotations

import functools

import numpy as np
from torch import Tensor

from trivet.kernels import cpu

__all__ = ["scale_rows"]

BODY = """
@kernel
def some(gradient, upstream, row_size, per_row, begin, end):
    g = {view}(gradient + begin * row_size * {itemsize}, (end - begin) * row_size)
    factor = {view}(upstream, 1 + (end - 1) * per_row)
    if per_row == 0:
        multiply(g, factor[0], 0, g.size)
    else:
        for row in range(end - begin):
            multiply(g, factor[begin + row], row * row_size, (row + 1) * row_size)


@rule_function
def multiply(g, by, begin, end):
    if by != {compute}(1.0):
        for i in range(begin, end):
            g[i] = by * g[i]


@threaded
def every(gradient, upstream, row_size, per_row, bounds):
    for part in prange(bounds.size - 1):
        some(gradient, upstream, row_size, per_row, bounds[part], bounds[part + 1])
"""


def scale_rows(gradient: Tensor, upstream: Tensor) -> Tensor:
    """Multiply a gradient in place by `upstream`: a scalar, or one number for each row (first axis).

    Both must be contiguous, on the CPU, and of the same type, float32 or float64; returns `gradient`.
    """
    per_row = int(upstream.ndim > 0)
    rows = len(gradient) if per_row else gradient.numel()
    if not gradient.numel():
        return gradient
    row_size = gradient.numel() // rows
    kernel = _kernel(str(gradient.dtype).removeprefix("torch."))
    arguments = (gradient.data_ptr(), upstream.data_ptr(), row_size, per_row)
    workers = cpu.threads(gradient.numel())
    if workers == 1:
        cpu.call(kernel.some, *arguments, 0, rows)
    else:
        bounds = np.linspace(0, rows, workers + 1).astype(np.int64)
        cpu.call(kernel.every, *arguments, bounds, workers=workers)
    return gradient


@functools.cache
def _kernel(compute: str):  # type: ignore[no-untyped-def]
    body = BODY.format(view=f"view_{compute}", compute=compute, itemsize=int(compute[-2:]) // 8)
    return cpu.module(body, compute)
