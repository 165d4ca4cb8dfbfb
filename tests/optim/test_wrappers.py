"""SAM and Lookahead around other optimizers: copies, states, groups and schedules."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trivet import optim
from trivet.errors import InputError


def sam(base: torch.optim.Optimizer) -> torch.optim.Optimizer:
    return optim.SAM(base, rho=0.1)


def lookahead(base: torch.optim.Optimizer) -> torch.optim.Optimizer:
    return optim.Lookahead(base, k=3, alpha=0.5)


both = pytest.mark.parametrize("wrap", [sam, lookahead])
bases = pytest.mark.parametrize("base", [optim.AdamW, torch.optim.AdamW])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, begin: int, end: int) -> None:
    for step in range(begin, end):
        x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))

        def closure(x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1).double()


@both
@bases
def test_a_resumed_run_is_the_uninterrupted_one(wrap: Any, base: Any) -> None:
    whole = network()
    train(whole, wrap(base(whole.parameters(), lr=0.05)), 0, 10)
    model = network()
    first = wrap(base(model.parameters(), lr=0.05))
    train(model, first, 0, 5)
    second = wrap(base(model.parameters(), lr=0.05))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(model, second, 5, 10)
    assert all(map(torch.equal, whole.parameters(), model.parameters()))


@both
@bases
def test_copies_and_pickles_go_on_by_themselves(wrap: Any, base: Any) -> None:
    model = network()
    optimizer = wrap(base(model.parameters(), lr=0.05))
    train(model, optimizer, 0, 5)
    for other, again in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        train(other, again, 5, 10)
        twin, wrapped = copy.deepcopy((model, optimizer))
        train(twin, wrapped, 5, 10)
        assert all(map(torch.equal, other.parameters(), twin.parameters()))
        assert not torch.equal(other.weight, model.weight)


@both
def test_a_scheduler_on_the_wrapper_drives_the_base(wrap: Any) -> None:
    base = optim.SGD(network().parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(wrap(base), lambda step: 0.25)
    assert base.param_groups[0]["lr"] == scheduler.get_last_lr()[0] == 0.25


def test_sam_puts_the_weights_back_when_the_closure_fails() -> None:
    model = network()
    optimizer = optim.SAM(optim.SGD(model.parameters(), lr=0.1))
    before = model.weight.detach().clone()
    calls = []

    def closure() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        loss = model.weight.square().sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(closure)
    assert torch.equal(model.weight, before)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(InputError, match="closure"):
        optim.SAM(optim.SGD(network().parameters())).step()
    wrapper = optim.Lookahead(optim.SGD(network().parameters()))
    with pytest.raises(InputError, match="slow weights"):
        wrapper.load_state_dict(optim.SGD(network().parameters()).state_dict())
    with pytest.raises(InputError, match="alpha"):
        optim.Lookahead(optim.SGD(network().parameters()), alpha=0.0)
