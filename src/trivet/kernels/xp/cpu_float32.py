"""`xp` in single precision for Numba: no calls, no tables, no branches on data, so that LLVM vectorises the loop.

Accuracy is at most 2 ulp over the whole range of every function, subnormal results included; infinities, NaN and
signed zeros give what C gives. `tests/kernels/test_xp.py` compares with float64 over the whole range.

Sources: exp, tanh after Cephes (Moshier); log after FreeBSD's `e_logf.c`; log1p by Kahan's correction.
"""

from __future__ import annotations

import numpy as np
from numba import njit

f = np.float32
i = np.int32

INFINITY = f(np.inf)
NAN = f(np.nan)
ZERO, HALF, ONE, TWO = f(0.0), f(0.5), f(1.0), f(2.0)

# Adding and subtracting 1.5 * 2**23 rounds to the nearest integer.
ROUND = f(12582912.0)
LOG2_E = f(1.44269504088896341)
LN2_HIGH, LN2_LOW = f(0.693359375), f(-2.12194440e-4)
E2, E3, E4, E5, E6, E7 = (
    f(0.5),
    f(1.6666665459e-1),
    f(4.1665795894e-2),
    f(8.3334519073e-3),
    f(1.3981999507e-3),
    f(1.9875691500e-4),
)
EXP_OVERFLOW, EXP_UNDERFLOW = f(88.72284), f(-103.97208)

SQRT_HALF_BITS = i(0x3F3504F3)
ONE_BITS = i(0x3F800000)
MANTISSA = i(0x007FFFFF)
BIAS, SHIFT, HALF_SHIFT = i(127), i(23), i(1)
SMALLEST_NORMAL = f(1.17549435e-38)
TWO_23, TWENTY_THREE = f(8388608.0), f(23.0)
L2_HIGH, L2_LOW = f(6.9313812256e-1), f(9.0580006145e-6)
L1, L2, L3, L4 = f(0.66666662693), f(0.40000972152), f(0.28498786688), f(0.24279078841)

T1, T2, T3, T4, T5 = (
    f(-3.33332819422e-1),
    f(1.33314422036e-1),
    f(-5.37397155531e-2),
    f(2.06390887954e-2),
    f(-5.70498872745e-3),
)
TANH_SMALL = f(0.625)

# No reassociation here: it would delete the corrections. No nnan, no ninf: special values count.
EXACT = {"contract", "nsz"}
rule_function = njit(fastmath=EXACT, forceinline=True, error_model="numpy")


@rule_function
def abs(x):  # type: ignore[no-untyped-def]
    return -x if x < ZERO else x + ZERO


@rule_function
def exp(x):  # type: ignore[no-untyped-def]
    bounded = x if x < EXP_OVERFLOW else EXP_OVERFLOW
    bounded = bounded if bounded > EXP_UNDERFLOW else EXP_UNDERFLOW
    n = (bounded * LOG2_E + ROUND) - ROUND
    high = bounded - n * LN2_HIGH
    low = n * LN2_LOW
    r = high - low
    tail = r * r * (E2 + r * (E3 + r * (E4 + r * (E5 + r * (E6 + r * E7)))))
    # What rounding r and 1 + r lost is added back: 0.6 ulp instead of 1.
    whole = ONE + r
    power = whole + (((ONE - whole) + r) + (tail + ((high - r) - low)))
    # Two factors, since 2**n alone overflows at 128 and underflows below -126.
    half = i(i(n) >> HALF_SHIFT)
    first = i((half + BIAS) << SHIFT).view(np.float32)
    second = i((i(n) - half + BIAS) << SHIFT).view(np.float32)
    y = power * first * second
    y = INFINITY if x > EXP_OVERFLOW else y
    y = ZERO if x < EXP_UNDERFLOW else y
    return x if x != x else y


@rule_function
def log(x):  # type: ignore[no-untyped-def]
    small = x < SMALLEST_NORMAL
    normal = f(x * (TWO_23 if small else ONE))
    bits = i(normal.view(np.int32) + (ONE_BITS - SQRT_HALF_BITS))
    extra = TWENTY_THREE if small else ZERO
    k = f(i((bits >> SHIFT) - BIAS)) - extra
    m = i((bits & MANTISSA) + SQRT_HALF_BITS).view(np.float32)
    e = m - ONE
    s = e / (TWO + e)
    z = s * s
    w = z * z
    r = z * (L1 + w * L3) + w * (L2 + w * L4)
    h = HALF * e * e
    y = k * L2_HIGH - ((h - (s * (h + r) + k * L2_LOW)) - e)
    y = INFINITY if x == INFINITY else y
    y = -INFINITY if x == ZERO else y
    return NAN if (x < ZERO or x != x) else y


@rule_function
def log1p(x):  # type: ignore[no-untyped-def]
    u = ONE + x
    y = log(u)
    lost = ((u - ONE) - x) / u
    lost = lost if u > ZERO else ZERO
    lost = lost if u < INFINITY else ZERO
    y = y - lost
    return x if u == ONE else y


@rule_function
def maximum(x, y):  # type: ignore[no-untyped-def]
    larger = x if x > y else y
    return x if x != x else larger


@rule_function
def minimum(x, y):  # type: ignore[no-untyped-def]
    smaller = x if x < y else y
    return x if x != x else smaller


@rule_function
def pow(x, y):  # type: ignore[no-untyped-def]
    # Single precision of y log(x) would cost up to 100 ulp; in double it costs half of one.
    return f(np.float64(x) ** np.float64(y))


@rule_function
def sigmoid(x):  # type: ignore[no-untyped-def]
    e = exp(-abs(x))
    whole = ONE + e
    lost = e - (whole - ONE)
    y = (ONE if x >= ZERO else e) / whole
    inverse = y if x >= ZERO else ONE - y
    return y - y * (lost * inverse)


@rule_function
def sign(x):  # type: ignore[no-untyped-def]
    y = ONE if x > ZERO else ZERO
    return -ONE if x < ZERO else y


@rule_function
def softplus(x):  # type: ignore[no-untyped-def]
    positive = x if x > ZERO else ZERO
    return positive + log1p(exp(-abs(x)))


@rule_function
def sqrt(x):  # type: ignore[no-untyped-def]
    return np.sqrt(x)


@rule_function
def tanh(x):  # type: ignore[no-untyped-def]
    a = abs(x)
    z = x * x
    small = x + x * z * (T1 + z * (T2 + z * (T3 + z * (T4 + z * T5))))
    large = ONE - TWO / (exp(TWO * a) + ONE)
    large = -large if x < ZERO else large
    return small if a < TANH_SMALL else large


@rule_function
def where(condition, x, y):  # type: ignore[no-untyped-def]
    return x if condition else y
