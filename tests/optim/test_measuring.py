"""A measured step says how long gradient, update and weight are, and is otherwise the step that it would have been."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trivet import optim


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 300), nn.Tanh(), nn.Linear(300, 3)).to(dtype)
    model(torch.randn(16, 30, dtype=dtype)).square().mean().backward()
    return model


def norms(tensors: list[Tensor]) -> list[float]:
    return [tensor.detach().double().norm().item() for tensor in tensors]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("AdamW", {"weight_decay": 0.5, "backend": "cpu"}),
        ("AdamW", {"weight_decay": 0.5, "backend": "torch"}),
        ("AdamW", {"state_format": "8bit"}),
        ("SGD", {"momentum": 0.9}),
        ("LAMB", {}),
        ("Muon", {}),
    ],
)
def test_the_norms_are_those_of_gradient_change_and_weight(name: str, options: dict[str, Any]) -> None:
    model = network()
    optimizer = getattr(optim, name)(model.named_parameters(), lr=0.01, **options)
    for _ in range(2):
        before = [p.detach().clone() for p in model.parameters()]
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.measure_next_step()
        optimizer.step()
    changes = [p.detach() - q for p, q in zip(model.parameters(), before, strict=True)]
    names = [name for name, _ in model.named_parameters()]
    assert set(optimizer.measured) == set(names)
    for key, *expected in zip(names, norms(grads), norms(changes), norms(before), strict=True):
        # The change that is seen from outside is rounded to the parameter's last place, 6e-8 of it.
        assert tuple(optimizer.measured[key]) == pytest.approx(tuple(expected), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_measured_step_is_the_step_bit_for_bit(dtype: torch.dtype) -> None:
    model = network(dtype)
    twin = copy.deepcopy(model)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert p.grad is not None
        q.grad = p.grad.clone()
    plain, measured = optim.AdamW(model.parameters()), optim.AdamW(twin.parameters())
    for _ in range(3):
        measured.measure_next_step()
        plain.step()
        measured.step()
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


def test_only_the_step_that_was_asked_for_is_measured_and_numbers_stand_in_for_names() -> None:
    model = network()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    optimizer.step()
    assert optimizer.measured == {}
    optimizer.measure_next_step()
    optimizer.step()
    first = optimizer.measured
    assert list(first) == [0, 1, 2, 3]
    optimizer.step()
    assert optimizer.measured == first


def test_a_step_that_is_left_out_measures_nothing_and_the_request_stands() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = optim.SGD([weight], lr=0.1)
    optimizer.guard()
    optimizer.measure_next_step()
    weight.grad = torch.full((3,), torch.nan)
    optimizer.step()
    assert optimizer.measured == {}
    weight.grad = torch.ones(3)
    optimizer.step()
    assert optimizer.measured[0].ratio == pytest.approx(0.1)
    assert optimizer.measured[0].gradient == pytest.approx(3**0.5)


def test_tiny_and_huge_gradients_are_measured() -> None:
    weight = nn.Parameter(torch.ones(5000))
    optimizer = optim.SGD([weight], lr=0.0, backend="cpu")
    for size in (1e-30, 1e30):
        weight.grad = torch.full((5000,), size)
        optimizer.measure_next_step()
        optimizer.step()
        assert optimizer.measured[0].gradient == pytest.approx(size * 5000**0.5, rel=1e-6)
