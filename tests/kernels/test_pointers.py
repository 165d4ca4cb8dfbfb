"""Finding many tensors at once: it must find what each tensor says itself, and refuse whatever looks different."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trivet import optim
from trivet.kernels import multi_tensor, pointers
from trivet.kernels.pointers import Likeness


class Named(Tensor):
    """A tensor of a class of its own."""


def _pair() -> list[Tensor]:
    return [torch.zeros(2, 3), torch.zeros(4)]


def test_addresses_that_are_looked_up_are_those_that_tensors_give() -> None:
    whole = torch.zeros(100)
    tensors = [whole, whole[7:20], torch.zeros(0), torch.zeros(3, 5).t(), nn.Parameter(torch.zeros(2)), torch.tensor(1)]
    found = np.empty(len(tensors), np.int64)
    Likeness.look_up(pointers.numbers_of(tensors), found)
    assert found.tolist() == [t.data_ptr() for t in tensors] == pointers.addresses(tensors).tolist()


def test_other_tensors_of_the_same_looks_are_alike() -> None:
    known = Likeness(_pair())
    assert known.of(_pair())
    assert known.of([torch.ones(2, 3), torch.ones(9)[5:]])


@pytest.mark.parametrize(
    "other",
    [
        None,
        torch.zeros(3, 2),
        torch.zeros(6),
        torch.zeros(3, 2).t(),
        torch.zeros(1, 3).expand(2, 3),
        torch.zeros(2, 3, dtype=torch.float64),
        torch.zeros(2, 3, dtype=torch.int32),
        torch.zeros(2, 3, device="meta"),
        torch.zeros(2, 3).to_sparse(),
        torch.zeros(2, 3).requires_grad_(),
        torch._neg_view(torch.zeros(2, 3)),
        torch.zeros(2, 3).as_subclass(Named),
        nn.Parameter(torch.zeros(2, 3), requires_grad=False),
    ],
    ids=str,
)
def test_a_tensor_that_looks_different_in_anything_is_not_alike(other: Tensor | None) -> None:
    first, second = _pair()
    known = Likeness([first, second])
    assert known.of([first, second])
    assert not known.of([other, second])


def test_one_tensor_in_two_places_is_not_alike() -> None:
    first, second = torch.zeros(3), torch.zeros(3)
    known = Likeness([first, second])
    assert not known.of([first, first])


def test_a_release_of_torch_that_was_not_tested_is_asked_tensor_by_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointers, "offered", lambda: False)
    assert not Likeness(_pair()).of(_pair())


# ---- in a table


def _table(*params: Tensor) -> multi_tensor.Table:
    return multi_tensor.Table(optim.sgd.plain, [list(params)])


def _numbers() -> Any:
    return np.array([[1.0], [0.0], [1.0]])  # rate, couple, sign


def test_a_table_recognises_fresh_gradients_and_takes_their_addresses() -> None:
    p, q = torch.zeros(3), torch.zeros(2)
    table = _table(p, q)
    first, second = [torch.ones(3), torch.ones(2)], [torch.full((3,), 5.0), torch.full((2,), 7.0)]
    assert not table.recognises(first), "nothing is known yet"
    table.run(first, _numbers())
    assert table.recognises(second)
    table.run(second, _numbers(), recognised=True)
    assert p.tolist() == [-6.0] * 3
    assert q.tolist() == [-8.0] * 2


def test_a_table_does_not_recognise_a_parameter_that_has_moved() -> None:
    p = torch.zeros(3)
    table = _table(p)
    table.run([torch.ones(3)], _numbers())
    assert table.recognises([torch.ones(3)])
    p.data = torch.zeros(3)
    assert not table.recognises([torch.ones(3)])


def test_parameters_that_are_not_contiguous_are_recognised_too() -> None:
    p = torch.zeros(2, 3).t()
    table = _table(p)
    table.run([torch.ones(2, 3).t()], _numbers())
    gradient = torch.arange(6.0).view(2, 3).t()
    assert table.recognises([gradient])
    table.run([gradient], _numbers(), recognised=True)
    assert torch.equal(p, -1 - gradient)


def test_gradients_that_were_laid_out_anew_are_not_recognised_as_they_are() -> None:
    p = torch.zeros(2, 3)
    table = _table(p)
    gradient = torch.arange(6.0).view(3, 2).t()
    table.run([gradient], _numbers())
    assert not table.recognises([gradient])
    assert torch.equal(p, -gradient)


def test_looks_are_not_remembered_for_ever_where_they_never_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(multi_tensor, "Likeness", lambda tensors: made.append(1))
    table = _table(torch.zeros(4))
    for _ in range(multi_tensor.TRIES + 5):
        table.run([torch.ones(4)], _numbers())
    assert len(made) == multi_tensor.TRIES


# ---- in an optimizer


def _changes(step: int, params: list[nn.Parameter]) -> None:
    """Change something that a step must notice."""
    p = params[0]
    if step == 2:
        p.data = p.data.clone()
    elif step == 3:
        p.grad = None
    elif step == 5:
        assert p.grad is not None
        p.grad = p.grad.t().contiguous().t()
    elif step == 6:
        p.grad = torch._neg_view(p.grad)
    elif step == 7:
        params[1].grad_dtype = None
        params[1].grad = torch.ones(5, dtype=torch.float64)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "NAdam", "Rprop"])
def test_what_changes_between_steps_is_noticed_where_all_else_is_recognised(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    start = [torch.randn(3, 4), torch.randn(5), torch.randn(70)]
    gradients = [[torch.randn_like(p) for p in start] for _ in range(13)]
    recognised = []
    original = multi_tensor.Table.recognises

    def spy(table: multi_tensor.Table, grads: Any) -> bool:
        recognised.append(original(table, grads))
        return recognised[-1]

    monkeypatch.setattr(multi_tensor.Table, "recognises", spy)
    ends = []
    for backend in ("torch", "auto"):
        params = [nn.Parameter(p.clone()) for p in start]
        optimizer = getattr(optim, name)(params, lr=0.1, backend=backend)
        for step, given in enumerate(copy.deepcopy(gradients)):
            for p, g in zip(params, given, strict=True):
                p.grad = g
            _changes(step, params)
            optimizer.step()
        ends.append([p.detach() for p in params])
    for ours, reference in zip(*ends, strict=True):
        torch.testing.assert_close(ours, reference)
    assert sum(recognised) == 5, "steps 1, 9, 10, 11 and 12, and nothing between"
