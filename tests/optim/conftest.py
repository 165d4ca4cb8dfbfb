"""Thirty steps beside torch: the sequence that every optimizer which torch also has is held to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter

Follow = Callable[..., None]

# Float64: only the order of operations differs. Float32: each of 30 steps of about 1e-2 rounds some ten times.
TOLERANCE = {torch.float64: (1e-11, 1e-13), torch.float32: (1e-5, 1e-6)}


def parameters(dtype: torch.dtype) -> list[Parameter]:
    """A vector, a scalar, an empty one, a picture stored channels last, a transposed matrix, one that comes late."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    picture = random(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    return [Parameter(t) for t in (random(301), random(), random(0, 3), picture, random(6, 5).t(), random(9))]


def give_gradients(params: list[Parameter], step: int) -> None:
    """Give every parameter the gradient of this step: the second skips every third, the last one begins at step 5."""
    generator = torch.Generator().manual_seed(100 + step)
    for index, param in enumerate(params):
        grad = torch.randn(param.shape, generator=generator, dtype=torch.float64).to(param.dtype)
        absent = (index == 1 and step % 3 == 2) or (index == 5 and step < 5)
        param.grad = None if absent else grad


@pytest.fixture
def follow() -> Follow:
    def run(ours: Any, theirs: Any, options: dict[str, Any], dtype: torch.dtype, backend: str) -> None:
        mine = parameters(dtype)
        other = copy.deepcopy(mine)
        for param, same in zip(mine, other, strict=True):
            assert param.stride() == same.stride()
        a, b = ours(mine, backend=backend, **options), theirs(other, **options)
        for step in range(30):
            give_gradients(mine, step)
            give_gradients(other, step)
            a.step()
            b.step()
        rtol, atol = TOLERANCE[dtype]
        for param, same in zip(mine, other, strict=True):
            torch.testing.assert_close(param, same, rtol=rtol, atol=atol)
            assert a.state[param].keys() == b.state[same].keys()
            for name, value in a.state[param].items():
                torch.testing.assert_close(value, b.state[same][name], rtol=rtol, atol=atol)

    return run
