"""Every function of every `xp`: the same names, the right digits, the same special values, and vector code."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from types import ModuleType

import mpmath
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trivet.kernels import cpu, xp
from trivet.kernels.xp import cpu_float32, cpu_float64, reference

UNARY = ("abs", "exp", "log", "log1p", "sigmoid", "sign", "softplus", "sqrt", "tanh")
BINARY = ("maximum", "minimum", "pow")
ULP = 2.0

LOOP = """
@kernel
def {name}({given}, out):
    for i in range(out.size):
        out[i] = xp.{name}({elements})
"""
# Where one of the polynomials changes its branch, overflows, or begins to give subnormal numbers.
EDGES = (88.72284, -87.33655, -103.97208, 1.17549435e-38, 0.70710678, 1.41421356, 1.0, 0.625, 2.0**-24, 5.96e-8, 17.0)


def _loops() -> str:
    unary = [LOOP.format(name=name, given="x", elements="x[i]") for name in UNARY]
    return "\n".join(unary + [LOOP.format(name=name, given="x, y", elements="x[i], y[i]") for name in BINARY])


@functools.cache
def _compiled(compute: str) -> ModuleType:
    return cpu.module(_loops(), compute)


def _apply(compute: str, name: str, *arguments: NDArray[np.floating]) -> NDArray[np.floating]:
    out = np.empty_like(arguments[0])
    getattr(_compiled(compute), name)(*arguments, out)
    return out


def _exact(name: str, *arguments: NDArray[np.floating]) -> NDArray[np.float64]:
    """NumPy's double precision, far finer than the 2 ulp of single precision that are asked for."""
    with np.errstate(all="ignore"):
        x = arguments[0].astype(np.float64)
        if name == "sigmoid":
            return np.where(x >= 0, 1 / (1 + np.exp(-x)), np.exp(x) / (1 + np.exp(x)))
        if name == "softplus":
            return np.logaddexp(0.0, x)
        if name == "sign":
            return np.nan_to_num(np.sign(x))  # torch.sign(nan) is 0
        return getattr(np, name)(x, *(y.astype(np.float64) for y in arguments[1:]))


def _check(values: NDArray[np.float32], exact: NDArray[np.float64]) -> None:
    """Assert at most `ULP` units in the last place; NaN where NaN is due, infinity where the result rounds to it."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(values[~finite], rounded[~finite])
    size = np.maximum(np.abs(exact[finite]), 2.0**-126)  # below it the spacing stays that of 2**-126
    errors = np.abs(values[finite].astype(np.float64) - exact[finite]) / 2.0 ** (np.floor(np.log2(size)) - 23)
    assert errors.max(initial=0.0) <= ULP


def _every_exponent(mantissas: int) -> NDArray[np.float32]:
    """Numbers of either sign and every exponent (zero, subnormal, infinite and NaN among them), and the edges."""
    rng = np.random.default_rng(0)
    head = np.arange(1 << 9, dtype=np.uint32)[:, None] << np.uint32(23)
    tail = rng.integers(0, 1 << 23, (1 << 9, mantissas), dtype=np.uint32)
    tail[:, :2] = 0, (1 << 23) - 1
    edges = np.array(EDGES, dtype=np.float32).view(np.uint32)
    near = (edges[:, None] + np.arange(-64, 64)).astype(np.uint32).view(np.float32).ravel()
    return np.concatenate([(head | tail).view(np.float32).ravel(), near, -near])


def _specials(dtype: str) -> NDArray[np.floating]:
    of = np.finfo(dtype)
    above = [0.0, of.smallest_subnormal, of.tiny, of.eps, 0.5, 1.0, 1.5, 2.0, 3.0, 1e30, of.max, np.inf]
    return np.array([*above, *(-x for x in above), np.nan], dtype=dtype)


@pytest.mark.parametrize("name", ["reference", "cpu_float32", "cpu_float64", "gpu"])
def test_every_namespace_has_exactly_the_closed_list_of_names(name: str) -> None:
    if name == "gpu":
        pytest.importorskip("triton")
    module = importlib.import_module(f"trivet.kernels.xp.{name}")
    own = {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
    assert sorted(own) == sorted(xp.NAMES) == sorted((*UNARY, *BINARY, "where"))
    for key, function in own.items():
        plain = getattr(function, "py_func", getattr(function, "fn", function))
        assert [*inspect.signature(plain).parameters] == [*inspect.signature(getattr(reference, key)).parameters]


@pytest.mark.parametrize("name", UNARY)
def test_single_precision_is_within_two_ulp_over_the_whole_range(name: str) -> None:
    x = _every_exponent(2048)
    _check(_apply("float32", name, x), _exact(name, x))


@pytest.mark.parametrize("name", BINARY)
def test_single_precision_of_two_arguments_is_within_two_ulp_for_any_bits(name: str) -> None:
    x, y = np.random.default_rng(1).permuted(np.stack([_every_exponent(512)] * 2), axis=1)
    _check(_apply("float32", name, x, y), _exact(name, x, y))


def test_pow_is_within_two_ulp_where_its_result_is_finite() -> None:
    rng = np.random.default_rng(2)
    x = np.abs(_every_exponent(1024))
    x = x[(x > 0) & (x < np.inf) & (x != 1)]
    y = (rng.uniform(-151, 129, x.size) / np.log2(x.astype(np.float64))).astype(np.float32)
    _check(_apply("float32", "pow", x, y), _exact("pow", x, y))
    whole = rng.integers(-40, 41, x.size).astype(np.float32)
    _check(_apply("float32", "pow", -x, whole), _exact("pow", -x, whole))


@pytest.mark.parametrize("compute", ["float32", "float64"])
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_special_values_agree_with_the_reference(name: str, compute: str) -> None:
    x = _specials(compute)
    arguments = [a.ravel() for a in np.meshgrid(x, x)] if name in BINARY else [x]
    got = _apply(compute, name, *arguments)
    wanted = getattr(reference, name)(*map(torch.from_numpy, arguments)).numpy()
    # torch rounds some subnormal results to zero, which the kernels do not.
    np.testing.assert_allclose(got, wanted, rtol=4 * np.finfo(compute).eps, atol=np.finfo(compute).tiny)


def test_nan_passes_through_all_but_the_sign_and_the_power_zero() -> None:
    nan, one = np.array([np.nan], dtype=np.float32), np.array([1.0], dtype=np.float32)
    for name in UNARY:
        assert np.isnan(_apply("float32", name, nan)).all() == (name != "sign")
    for name in ("maximum", "minimum"):
        assert np.isnan(_apply("float32", name, nan, one)).all()
        assert np.isnan(_apply("float32", name, one, nan)).all()
    assert np.isnan(_apply("float32", "pow", nan, one)).all()
    assert _apply("float32", "sign", nan) == 0
    assert _apply("float32", "pow", nan, 0 * one) == _apply("float32", "pow", one, nan) == 1


@pytest.mark.parametrize("module", [cpu_float32, cpu_float64])
def test_where_ignores_the_side_that_is_not_taken(module: ModuleType) -> None:
    assert module.where(True, 1.0, np.nan) == module.where(False, np.nan, 1.0) == 1.0


def _by_mpmath(name: str, x: float, y: float) -> object:
    functions = {
        "log1p": mpmath.log1p,
        "softplus": lambda a: mpmath.log1p(mpmath.exp(a)),
        "sigmoid": lambda a: 1 / (1 + mpmath.exp(-a)),
        "exp": mpmath.exp,
        "log": mpmath.log,
        "sqrt": mpmath.sqrt,
        "tanh": mpmath.tanh,
    }
    return mpmath.power(x, y) if name == "pow" else functions[name](mpmath.mpf(x))


@pytest.mark.parametrize("name", ["exp", "log", "log1p", "pow", "sigmoid", "softplus", "sqrt", "tanh"])
def test_double_precision_is_within_three_ulp_of_fifty_digits(name: str) -> None:
    # 3, not 2: softplus and sigmoid round three times, and nothing is fitted here.
    rng = np.random.default_rng(3)
    x = rng.choice([-1.0, 1.0], 300) * 10 ** rng.uniform(-12, 2.4, 300)
    y = rng.uniform(-3, 3, 300)
    if name in ("log", "sqrt", "pow"):
        x = np.abs(x)
    if name == "log1p":
        x = np.maximum(x, -1 + 1e-9)
    got = _apply("float64", name, *((x, y) if name == "pow" else (x,)))
    with mpmath.workdps(400):  # log1p(exp(-250)) needs digits of its own
        errors = [
            float(abs(mpmath.mpf(g) - (e := _by_mpmath(name, a, b))) / np.spacing(abs(float(e))))
            for g, a, b in zip(got.tolist(), x.tolist(), y.tolist(), strict=True)
        ]
    assert max(errors) <= 3


def test_every_function_of_single_precision_becomes_vector_code_without_calls() -> None:
    from numba import njit

    # Machine code from the cache cannot be inspected, so the loops are compiled once more.
    for name in (*UNARY, *BINARY):
        fresh = njit(fastmath=ast.literal_eval(cpu.FLAGS), error_model="numpy")(
            getattr(_compiled("float32"), name).py_func
        )
        array = np.ones(1, dtype=np.float32)
        fresh(*[array] * (3 if name in BINARY else 2))
        ((_, code),) = fresh.inspect_llvm().items()
        assert "vector.body" in code, name
        body = code.partition("vector.body:")[2].partition("middle.block")[0]
        calls = [line for line in body.splitlines() if "call" in line and "@llvm." not in line]
        assert not calls, (name, calls)
