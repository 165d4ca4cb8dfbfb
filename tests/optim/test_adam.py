"""Adam and AdamW against torch's, option by option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trivet.errors import InputError
from trivet.optim import Adam, AdamW

OPTIONS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.1},
    {"betas": (0.5, 0.9), "eps": 1e-3},
    {"amsgrad": True},
    {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
    {"lr": torch.tensor(0.03)},
    {"betas": (torch.tensor(0.8), torch.tensor(0.95)), "lr": torch.tensor(0.01), "foreach": False},
]


def _double(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_double, value))
    return value.double() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("ours", [Adam, AdamW])
def test_thirty_steps_equal_those_of_torch(
    follow: Callable[..., None], ours: Any, options: dict[str, Any], dtype: torch.dtype, backend: str
) -> None:
    if dtype == torch.float64:  # torch computes in the type of a tensor that it is given
        options = {name: _double(value) for name, value in options.items()}
    follow(ours, getattr(torch.optim, ours.__name__), {"lr": 0.02, **options}, dtype, backend)


def test_decoupled_decay_can_be_asked_of_adam(follow: Callable[..., None]) -> None:
    options = {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True}
    follow(Adam, torch.optim.Adam, options, torch.float64, "cpu")


def test_bias_is_corrected_by_each_tensors_own_count_in_double_precision() -> None:
    # 1 - 0.999 ** t at t = 1 is 1e-3; in single precision it would be off by 3e-5 of itself, 250 times an ulp.
    early, late = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))
    optimizer = AdamW([early, late], lr=1.0, betas=(0.9, 0.999), eps=0.0, weight_decay=0.0)
    for step in range(1, 6):
        early.grad = torch.full((4,), 0.3)
        late.grad = torch.full((4,), 0.3) if step == 5 else None
        optimizer.step()
    # With a constant gradient every corrected step is exactly 1, whatever the count.
    torch.testing.assert_close(early, torch.full((4,), -5.0), rtol=1e-6, atol=0)
    torch.testing.assert_close(late, torch.full((4,), -1.0), rtol=3e-7, atol=0)
    assert optimizer.state[early]["step"] == 5
    assert optimizer.state[late]["step"] == 1


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"eps": -1e-8},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"weight_decay": -1.0},
        {"capturable": True},
        {"differentiable": True},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        AdamW([torch.nn.Parameter(torch.zeros(1))], **options)
