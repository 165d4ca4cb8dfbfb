"""SGD against torch's, option by option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trivet.errors import InputError
from trivet.optim import SGD

OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1},
    {"maximize": True, "weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
    {"momentum": 0.5, "lr": torch.tensor(0.03)},
]


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_thirty_steps_equal_those_of_torch(
    follow: Callable[..., None], options: dict[str, Any], dtype: torch.dtype, backend: str
) -> None:
    follow(SGD, torch.optim.SGD, {"lr": 0.02, **options}, dtype, backend)


def test_the_first_velocity_is_the_whole_gradient_in_spite_of_dampening() -> None:
    w = torch.nn.Parameter(torch.zeros(2))
    w.grad = torch.tensor([1.0, -2.0])
    optimizer = SGD([w], lr=1.0, momentum=0.5, dampening=0.5)
    optimizer.step()
    assert w.tolist() == [-1.0, 2.0]
    optimizer.step()  # v = 0.5 v + 0.5 g = g
    assert w.tolist() == [-2.0, 4.0]


def test_momentum_that_is_switched_on_later_starts_from_nothing() -> None:
    mine, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    a, b = SGD([mine], lr=0.1), torch.optim.SGD([other], lr=0.1)
    for step in range(4):
        for optimizer, param in ((a, mine), (b, other)):
            optimizer.param_groups[0]["momentum"] = 0.0 if step < 2 else 0.9
            param.grad = torch.full((3,), float(step + 1))
            optimizer.step()
    torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"momentum": -0.1},
        {"weight_decay": -1e-3},
        {"nesterov": True},
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        {"differentiable": True},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        SGD([torch.nn.Parameter(torch.zeros(1))], **{"lr": 0.1, **options})
