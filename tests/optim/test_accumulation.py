"""Gradients of unequal batches add up to those of all samples together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trivet import losses, optim
from trivet.errors import InputError


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_unequal_numbers_of_tokens_give_the_gradient_of_all_tokens() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 7).double()
    x, target = torch.randn(30, 5, dtype=torch.float64), torch.randint(7, (30,))
    target[:18] = -100  # the first batch has 2 tokens that count, the second 10
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    losses.cross_entropy(model(x), target).backward()
    expected = gradients(model)
    optimizer.zero_grad()
    accumulation = optim.Accumulation(optimizer)
    for part, labels in ((x[:20], target[:20]), (x[20:], target[20:])):
        accumulation.backward(losses.cross_entropy(model(part), labels), (labels != -100).sum())
    loss = accumulation.finish()
    assert loss == pytest.approx(losses.cross_entropy(model(x), target).item(), rel=1e-12)
    for found, wanted in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_an_empty_batch_takes_no_part_even_where_its_mean_is_nan() -> None:
    weight = nn.Parameter(torch.ones(3))
    accumulation = optim.Accumulation(torch.optim.SGD([weight]))
    accumulation.backward((weight * torch.empty(0, 3)).mean(), 0)
    accumulation.backward(weight.sum(), 4)
    assert accumulation.finish() == 3.0
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones(3))


def test_a_finished_accumulation_begins_anew() -> None:
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight])
    accumulation = optim.Accumulation(optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        accumulation.backward(2 * weight, 3)
        accumulation.backward(8 * weight, 1)
        assert accumulation.finish() == pytest.approx(3.5)
        assert weight.grad is not None
        assert weight.grad.item() == pytest.approx(3.5)


def test_full_batch_descent_makes_the_steps_of_one_whole_batch() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(37, 4, dtype=torch.float64), torch.randn(37, 1, dtype=torch.float64)
    one, many = nn.Linear(4, 1).double(), nn.Linear(4, 1).double()
    many.load_state_dict(one.state_dict())
    a, b = optim.AdamW(one.parameters(), lr=0.1), optim.AdamW(many.parameters(), lr=0.1)
    for _ in range(10):
        a.zero_grad()
        nn.functional.mse_loss(one(x), y).backward()
        a.step()
        rows = torch.arange(37).split(10)
        optim.full_batch(b, rows, lambda r: (nn.functional.mse_loss(many(x[r]), y[r]), len(r)))
    torch.testing.assert_close(one.weight, many.weight, rtol=1e-10, atol=1e-12)


def test_a_negative_weight_is_refused() -> None:
    weight = nn.Parameter(torch.ones(()))
    with pytest.raises(InputError, match="divided by"):
        optim.Accumulation(torch.optim.SGD([weight])).backward(weight * 1, -1)
