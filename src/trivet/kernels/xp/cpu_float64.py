"""`xp` in double precision for Numba: the C library's functions, exact rather than fast."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

rule_function = njit(fastmath={"contract", "nsz"}, error_model="numpy")


@rule_function
def abs(x):  # type: ignore[no-untyped-def]
    return math.fabs(x)


@rule_function
def exp(x):  # type: ignore[no-untyped-def]
    return math.exp(x)


@rule_function
def log(x):  # type: ignore[no-untyped-def]
    return np.log(x)


@rule_function
def log1p(x):  # type: ignore[no-untyped-def]
    return np.log1p(x)


@rule_function
def maximum(x, y):  # type: ignore[no-untyped-def]
    return np.maximum(x, y)


@rule_function
def minimum(x, y):  # type: ignore[no-untyped-def]
    return np.minimum(x, y)


@rule_function
def pow(x, y):  # type: ignore[no-untyped-def]
    return np.power(x, y)


@rule_function
def sigmoid(x):  # type: ignore[no-untyped-def]
    e = math.exp(-math.fabs(x))
    return (1.0 if x >= 0.0 else e) / (1.0 + e)


@rule_function
def sign(x):  # type: ignore[no-untyped-def]
    y = 1.0 if x > 0.0 else 0.0
    return -1.0 if x < 0.0 else y


@rule_function
def softplus(x):  # type: ignore[no-untyped-def]
    return (x if x > 0.0 else 0.0) + math.log1p(math.exp(-math.fabs(x)))


@rule_function
def sqrt(x):  # type: ignore[no-untyped-def]
    return np.sqrt(x)


@rule_function
def tanh(x):  # type: ignore[no-untyped-def]
    return math.tanh(x)


@rule_function
def where(condition, x, y):  # type: ignore[no-untyped-def]
    return x if condition else y
