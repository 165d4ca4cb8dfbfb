"""`xp` for Triton. All are `@triton.jit` functions: the interpreter does not patch aliases of `tl`'s own."""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def abs(x):
    return tl.abs(x)


@triton.jit
def exp(x):
    return tl.exp(x)


@triton.jit
def log(x):
    return tl.log(x)


@triton.jit
def log1p(x):
    u = 1.0 + x
    finite = (u > 0.0) & (u < float("inf"))
    y = tl.where(finite, tl.log(u) - ((u - 1.0) - x) / u, tl.log(u))
    return tl.where(u == 1.0, x, y)


@triton.jit
def maximum(x, y):
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(x, y):
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def pow(x, y):
    return tl.where(y == 0.0, 1.0, tl.exp2(y * tl.log2(x)))


@triton.jit
def sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x >= 0.0, 1.0, e) / (1.0 + e)


@triton.jit
def sign(x):
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, 0.0))


@triton.jit
def softplus(x):
    return tl.where(x > 0.0, x, 0.0) + log1p(tl.exp(-tl.abs(x)))


@triton.jit
def sqrt(x):
    return tl.sqrt(x)


@triton.jit
def tanh(x):
    a = tl.abs(x)
    z = x * x
    p = -5.37397155531e-2 + z * (2.06390887954e-2 + z * -5.70498872745e-3)
    small = x + x * z * (-3.33332819422e-1 + z * (1.33314422036e-1 + z * p))
    large = 1.0 - 2.0 / (tl.exp(2.0 * a) + 1.0)
    return tl.where(a < 0.625, small, tl.where(x < 0.0, -large, large))


@triton.jit
def where(condition, x, y):
    return tl.where(condition, x, y)
