"""Halves as a kernel reads and writes them, against torch's own conversions."""

from __future__ import annotations

import functools
from types import ModuleType

import numpy as np
import pytest
import torch

from trivet.kernels import cpu

BODY = """
@kernel
def widen(bits, out):
    for i in range(out.size):
        out[i] = widen_{half}(bits[i])


@kernel
def narrow(values, out):
    for i in range(out.size):
        out[i] = narrow_{half}(values[i])


@kernel
def double(address, size):
    values = view_{view}(address, size)
    for i in range(size):
        values[i] = values[i] + values[i]
"""


@functools.cache
def _compiled(half: str, view: str) -> ModuleType:
    return cpu.module(BODY.format(half=half, view=view), "float32")


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_every_half_is_widened_exactly_and_narrowed_back_to_itself(half: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = torch.from_numpy(bits.view(np.int16)).view(getattr(torch, half)).float().numpy()
    got, back = np.empty(1 << 16, dtype=np.float32), np.empty(1 << 16, dtype=np.uint16)
    _compiled(half, "float32").widen(bits, got)
    np.testing.assert_array_equal(got, wide)
    _compiled(half, "float32").narrow(got, back)
    numbers = ~np.isnan(wide)
    np.testing.assert_array_equal(back[numbers], bits[numbers])


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_narrowing_rounds_to_nearest_even_and_keeps_nan_and_infinity(half: str) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 1 << 18, dtype=np.uint64).astype(np.uint32)
    middle = (np.arange(1 << 16, dtype=np.uint32) << 16) + np.uint32(0x8000)  # between two bfloat16
    values = np.concatenate([bits, middle, middle - 1, middle + 1]).view(np.float32)
    steps = rng.integers(0, 2046, 1 << 16).astype(np.float32) / 1024  # between two float16, and 65520 is its infinity
    values = np.concatenate([values, steps, np.float32([65519.0, 65520.0, -65520.0, np.inf, -np.inf, np.nan])])
    out = np.empty(values.size, dtype=np.uint16)
    _compiled(half, "float32").narrow(values, out)
    got = torch.from_numpy(out.view(np.int16)).view(getattr(torch, half))
    wanted = torch.from_numpy(values).to(getattr(torch, half))
    assert torch.equal(got.isnan(), wanted.isnan())
    assert torch.equal(got[~got.isnan()], wanted[~got.isnan()])


@pytest.mark.parametrize("view", ["float32", "float64", "uint16", "int64"])
def test_an_address_is_viewed_as_what_lies_there(view: str) -> None:
    values = np.arange(8).astype(view)
    _compiled("float16", view).double(values[2:].ctypes.data, 3)
    np.testing.assert_array_equal(values, np.array([0, 1, 4, 6, 8, 5, 6, 7]).astype(view))
