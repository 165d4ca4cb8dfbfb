"""`xp` for Triton. All are `@triton.jit` functions: the interpreter does not patch aliases of `tl`'s own.

In float32 these are the polynomials of `cpu_float32.py`. The GPU's own instructions lose digits: `tl.exp` rounds
x log2(e) before it takes the power (60 ulp at -80), `tl.sqrt` takes subnormals for 0. What the interpreter shows
therefore holds on a GPU too, but for products that fuse with sums. In float64 they are libdevice's functions.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def abs(x):
    return tl.abs(x)


@triton.jit
def exp(x):
    if x.dtype == tl.float64:
        return tl.exp(x)
    else:
        power, n = _exp_parts(x)
        return tl.where(x != x, x, _scaled(power, n))


@triton.jit
def _exp_parts(x):
    """Return e in about [0.7, 1.4] and n with exp(x) = e 2**n; beyond the bounds that is infinity or 0 all the same."""
    bounded = tl.where(x < 89.0, x, 89.0)
    bounded = tl.where(bounded > -105.0, bounded, -105.0)
    # Adding and subtracting 1.5 * 2**23 rounds to the nearest integer.
    n = (bounded * 1.44269504088896341 + 12582912.0) - 12582912.0
    high = bounded - n * 0.693359375
    low = n * -2.12194440e-4
    r = high - low
    p = 8.3334519073e-3 + r * (1.3981999507e-3 + r * 1.9875691500e-4)
    tail = r * r * (0.5 + r * (1.6666665459e-1 + r * (4.1665795894e-2 + r * p)))
    # What rounding r and 1 + r lost is added back: 0.6 ulp instead of 1.
    whole = 1.0 + r
    return whole + (((1.0 - whole) + r) + (tail + ((high - r) - low))), n


@triton.jit
def _scaled(power, n):
    # Two factors, since 2**n alone overflows at 128 and underflows below -126.
    exponent = n.to(tl.int32)
    half = exponent >> 1
    return power * _power_of_two(half) * _power_of_two(exponent - half)


@triton.jit
def _power_of_two(n):
    return ((n + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _split(x):
    """Return k and m in [sqrt(1/2), sqrt(2)) with x = m 2**k, for finite x > 0."""
    small = x < 1.17549435e-38
    bits = tl.where(small, x * 8388608.0, x).to(tl.int32, bitcast=True) + (0x3F800000 - 0x3F3504F3)
    k = ((bits >> 23) - 127).to(tl.float32) - tl.where(small, 23.0, 0.0)
    return k, ((bits & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True)


@triton.jit
def log(x):
    if x.dtype == tl.float64:
        return tl.log(x)
    else:
        k, m = _split(x)
        e = m - 1.0
        s = tl.div_rn(e, 2.0 + e)
        z = s * s
        w = z * z
        r = z * (0.66666662693 + w * 0.28498786688) + w * (0.40000972152 + w * 0.24279078841)
        h = 0.5 * e * e
        y = k * 0.69313812256 - ((h - (s * (h + r) + k * 9.0580006145e-6)) - e)
        y = tl.where(x == float("inf"), x, y)
        y = tl.where(x == 0.0, float("-inf"), y)
        return tl.where((x < 0.0) | (x != x), float("nan"), y)


@triton.jit
def log1p(x):
    u = 1.0 + x
    lost = ((u - 1.0) - x) / u
    lost = tl.where((u > 0.0) & (u < float("inf")), lost, 0.0)
    return tl.where(u == 1.0, x, log(u) - lost)


@triton.jit
def maximum(x, y):
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(x, y):
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def pow(x, y):
    a = tl.abs(x)
    if x.dtype == tl.float64:
        p = tl.exp(y * tl.log(a))
    else:
        # y log(x) in float32 would cost up to 100 ulp: the logarithm and the product each keep what they round off.
        high, low = _log_pair(a)
        product = y * high
        lost = tl.fma(high, y + tl.zeros_like(high), -product) + y * low
        power, n = _exp_parts(product)
        # Beyond the range of exp there is nothing to correct, and what was lost may be inf - inf.
        lost = tl.where(tl.abs(product) < 105.0, lost, 0.0)
        p = tl.where(product != product, product, _scaled(power + power * lost, n))
    # Signs as in C: those of odd powers, of -0 too; no other power of a negative number is real.
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(0.5 * y) != 0.5 * y)
    p = tl.where(odd & _negative(x), -p, p)
    p = tl.where((x < 0.0) & (x > float("-inf")) & (whole == 0), float("nan"), p)
    one = (y == 0.0) | (x == 1.0) | ((x == -1.0) & ((y == float("inf")) | (y == float("-inf"))))
    return tl.where(one, 1.0, p)


@triton.jit
def _negative(x):
    if x.dtype == tl.float64:
        return x.to(tl.int64, bitcast=True) < 0
    else:
        return x.to(tl.int32, bitcast=True) < 0


@triton.jit
def _log_pair(x):
    """Return log(x) as a float32 and what it lacks, about 30 bits in all, for x >= 0."""
    k, m = _split(x)
    e = m - 1.0
    d = 2.0 + e
    s = tl.div_rn(e, d)
    # e - s d exactly: d itself rounded off e - (d - 2).
    rest = tl.div_rn(tl.fma(-s, d, e) - s * (e - (d - 2.0)), d)
    z = s * s
    cube = s * z * (0.66666666667 + z * (0.4 + z * (0.285714285714 + z * (0.222222222222 + z * 0.181818181818))))
    tail = cube + 2.0 * rest + k * 9.0580006145e-6
    # k 0.693138 has few enough bits to be exact; the larger of the two summands comes first.
    whole = k * 0.69313812256
    high = whole + 2.0 * s
    low = tl.where(tl.abs(whole) > tl.abs(2.0 * s), 2.0 * s - (high - whole), whole - (high - 2.0 * s)) + tail
    total = high + low
    finite = (x > 0.0) & (x < float("inf"))
    special = tl.where(x == 0.0, float("-inf"), x)  # infinity and NaN are their own logarithms
    return tl.where(finite, total, special), tl.where(finite, low - (total - high), 0.0)


@triton.jit
def sigmoid(x):
    e = exp(-tl.abs(x))
    whole = 1.0 + e
    y = tl.where(x >= 0.0, 1.0, e) / whole
    return y - y * ((e - (whole - 1.0)) * tl.where(x >= 0.0, y, 1.0 - y))


@triton.jit
def sign(x):
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, 0.0))


@triton.jit
def softplus(x):
    return tl.where(x > 0.0, x, 0.0) + log1p(exp(-tl.abs(x)))


@triton.jit
def sqrt(x):
    if x.dtype == tl.float64:
        return tl.sqrt(x)
    else:
        return tl.sqrt_rn(x)


@triton.jit
def tanh(x):
    a = tl.abs(x)
    if x.dtype == tl.float64:
        # Kahan's exp(y) - 1 = (u - 1) y / log(u), y = -2 a: what rounding u lost cancels.
        u = exp(-2.0 * a)
        t = tl.where(u == 1.0, -2.0 * a, (u - 1.0) * (-2.0 * a) / log(u))
        y = tl.where(a < 20.0, -t / (2.0 + t), tl.where(a == a, 1.0, a))
        return tl.where(x < 0.0, -y, y)
    else:
        z = x * x
        p = -5.37397155531e-2 + z * (2.06390887954e-2 + z * -5.70498872745e-3)
        small = x + x * z * (-3.33332819422e-1 + z * (1.33314422036e-1 + z * p))
        large = 1.0 - 2.0 / (exp(2.0 * a) + 1.0)
        return tl.where(a < 0.625, small, tl.where(x < 0.0, -large, large))


@triton.jit
def where(condition, x, y):
    return tl.where(condition, x, y)
