"""Watching real loops: what is seen, what is said, and that a watched run is the same run."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import trivet
from trivet.doctor.guard import NonFiniteError
from trivet.errors import InputError
from trivet.record import read_record

torch.manual_seed(0)
X = torch.randn(256, 8)
Y = (X @ torch.randn(8, 3)).argmax(dim=1)


def mlp(*, depth: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(1)
    hidden = [part for _ in range(depth) for part in (nn.Linear(8, 8), act())]
    return nn.Sequential(*hidden, nn.Linear(8, 3))


def run(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int = 60,
    watched: bool = True,
    before_backward: Callable[[], None] | None = None,
    accumulate: int = 1,
    x: torch.Tensor = X,
    y: torch.Tensor = Y,
) -> trivet.Watch | None:
    criterion = nn.CrossEntropyLoss()
    w = trivet.watch(model, optimizer, loss=criterion, steps=steps) if watched else None
    draw = torch.Generator().manual_seed(0)
    for k in range(steps * accumulate):
        rows = torch.randint(0, len(x), (32,), generator=draw)
        loss = criterion(model(x[rows]), y[rows]) / accumulate
        if k % accumulate == 0 and before_backward is None:
            optimizer.zero_grad()
        loss.backward()
        if (k + 1) % accumulate == 0:
            optimizer.step()
        if w is not None:
            w.step(loss)
    return w


def test_a_watched_run_is_bit_for_bit_the_run_that_is_not_watched() -> None:
    ends = []
    for watched in (False, True):
        model = mlp(depth=2)
        run(model, torch.optim.AdamW(model.parameters(), lr=1e-2), watched=watched)
        ends.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*ends)


def test_a_healthy_run_has_no_findings_but_notes() -> None:
    model = mlp()
    w = run(model, torch.optim.AdamW(model.parameters(), lr=1e-2), steps=200)
    assert [f for f in w.findings if f.severity != "note"] == []


def test_probes_agree_with_norms_taken_by_hand() -> None:
    model, criterion = nn.Linear(4, 2), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    w = trivet.watch(model, optimizer, loss=criterion)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    loss = criterion(model(torch.ones(3, 4)), torch.full((3, 2), 0.5))
    loss.backward()
    grad = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    optimizer.step()
    w.step(loss)
    probe = w.record.probes[0]
    assert probe.grad[0] == pytest.approx(grad, rel=1e-4)
    assert probe.weight[0] == pytest.approx(before.norm().item(), rel=1e-4)
    assert probe.update[0] == pytest.approx(0.5 * grad / before.norm().item(), rel=1e-4)
    assert probe.numbers["descent"] == pytest.approx(1.0, abs=1e-4)
    assert probe.numbers["is_mse"] == 1.0


def test_gradients_that_are_not_cleared_are_found_and_accumulation_is_not() -> None:
    model = mlp()
    w = run(model, torch.optim.SGD(model.parameters(), lr=0.05), before_backward=lambda: None)
    assert w.findings[0].code == "TV224"
    model = mlp()
    w = run(model, torch.optim.SGD(model.parameters(), lr=0.05), accumulate=4)
    assert w.step_number == 60
    assert "TV224" not in [f.code for f in w.findings]


def test_parameters_without_an_optimizer_are_named() -> None:
    model = mlp(depth=2)
    w = run(model, torch.optim.SGD(model[2:].parameters(), lr=0.05))
    first = w.findings[0]
    assert (first.code, first.layer) == ("TV226", "0")
    model[0].requires_grad_(False)
    w = run(model, torch.optim.SGD(model[2:].parameters(), lr=0.05))
    assert "TV226" not in [f.code for f in w.findings]


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="none of the model's parameters"):
        trivet.watch(mlp(), torch.optim.SGD(mlp().parameters(), lr=0.1))


def test_sorted_data_and_climbing_are_found() -> None:
    order = Y.argsort()
    model, criterion = mlp(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = trivet.watch(model, optimizer, loss=criterion)
    for k in range(64):
        rows = order[(k * 16) % 256 :][:16]
        loss = criterion(model(X[rows]), Y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        w.step(loss)
    assert w.findings[0].code == "TV228"
    model = mlp()
    assert run(model, torch.optim.SGD(model.parameters(), lr=0.05, maximize=True)).findings[0].code == "TV229"


def test_vanishing_gradients_name_the_first_layer() -> None:
    model = mlp(depth=9, act=nn.Sigmoid)
    first = run(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=120).findings[0]
    assert (first.code, first.layer) == ("TV206", "0")


def test_a_nan_in_the_data_stops_before_the_step_and_names_the_sample() -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    w = trivet.watch(model, optimizer)
    x = X[:32].clone()
    x[5, 2] = math.nan
    before = [p.detach().clone() for p in model.parameters()]
    nn.functional.cross_entropy(model(x), Y[:32]).backward()
    with pytest.raises(NonFiniteError, match="sample 5 ") as caught:
        optimizer.step()
    assert (caught.value.sample, caught.value.tensor) == (5, "input")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    w.close()
    optimizer.step()  # without the watcher nothing stops it


def test_a_nan_that_a_layer_makes_is_traced_to_that_layer() -> None:
    class Root(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sqrt()

    model = nn.Sequential(nn.Linear(8, 8), Root(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trivet.watch(model, optimizer)
    model(X[:4]).sum().backward()
    with pytest.raises(NonFiniteError) as caught:
        optimizer.step()
    assert (caught.value.layer, caught.value.tensor) == ("1", "output")


def test_several_optimizers_make_one_step_and_a_step_left_out_is_none() -> None:
    model = mlp()
    one, other = torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.AdamW(model[2].parameters(), lr=0.1)
    w = trivet.watch(model, [one, other])
    for k in range(30):
        loss = nn.functional.cross_entropy(model(X), Y)
        model.zero_grad()
        loss.backward()
        if k % 3:  # a scaler leaves steps out
            one.step()
            other.step()
        w.step(loss)
    assert w.step_number == 20
    assert [f.code for f in w.findings if f.code.startswith("TV22")] == []


def test_shared_unused_lazy_and_frozen_parameters_are_no_trouble() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.unused, self.last = nn.LazyLinear(8), nn.Linear(5, 5), nn.Linear(8, 8)
            self.tied = nn.Linear(8, 8)
            self.tied.weight = self.last.weight
            self.frozen = nn.Linear(8, 3).requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.frozen(self.tied(self.last(self.first(x)).relu()))

    model = Odd()
    w = run(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    assert w.record.setting.frozen == ("frozen.weight", "frozen.bias")
    assert w.findings == [] or all(f.severity == "note" for f in w.findings)


def test_a_saved_record_is_read_back_with_its_probes(tmp_path) -> None:
    model = mlp()
    w = run(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    w.save(tmp_path / "record.jsonl")
    record = read_record(tmp_path / "record.jsonl")
    assert record.unreadable_lines == 0
    assert [p.step for p in record.probes] == [p.step for p in w.record.probes]
    assert record.setting == w.setting


def test_findings_are_said_while_the_run_goes_on() -> None:
    said: list[str] = []
    model, criterion = nn.Sequential(mlp(), nn.Softmax(dim=1)), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = trivet.watch(model, optimizer, loss=criterion, on_finding=lambda finding: said.append(finding.code))
    for _ in range(40):
        loss = criterion(model(X), Y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        w.step(loss)
    assert said == ["TV216"]


def test_a_gradient_that_breaks_behind_a_sound_forward_pass_is_named_and_ends() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trivet.watch(model, optimizer)
    loss = model(torch.ones(4, 2)).abs().sqrt().sum()  # the root of 0 is 0, its slope is not finite
    loss.backward()
    with pytest.raises(NonFiniteError, match="gradient of"):
        optimizer.step()
    assert not model.weight.any()
