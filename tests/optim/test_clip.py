"""Clipping, the guard around a step, averages of weights, and the plan of memory."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from trivet import optim
from trivet.errors import InputError


def params(dtype: torch.dtype = torch.float32, sizes: tuple[int, ...] = (5, 70_000, 1, 300)) -> list[nn.Parameter]:
    torch.manual_seed(0)
    made = [nn.Parameter(torch.randn(size, dtype=dtype)) for size in sizes]
    for p in made:
        p.grad = torch.randn_like(p)
    return made


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_norm_is_that_of_all_gradients_together(dtype: torch.dtype) -> None:
    made = params(dtype)
    exact = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in made))
    assert float(optim.total_norm(made)) == pytest.approx(exact, rel=1e-7)


def test_a_norm_does_not_overflow_where_its_square_would() -> None:
    w = nn.Parameter(torch.zeros(4))
    w.grad = torch.full((4,), 1e30)
    assert float(optim.total_norm([w])) == pytest.approx(2e30, rel=1e-6)
    assert torch.isinf(torch.nn.utils.get_total_norm([w.grad]))  # torch's, beside it


def test_clipping_by_norm_is_torchs() -> None:
    for limit in (0.5, 1e6):
        ours, theirs = params(), params()
        norm = optim.clip_norm_(ours, limit)
        expected = torch.nn.utils.clip_grad_norm_(theirs, limit)
        assert float(norm) == pytest.approx(float(expected), rel=1e-5)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Muon"])
def test_a_guarded_step_is_the_step_after_clipping(name: str) -> None:
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2)).double()
    two = copy.deepcopy(one)
    guarded, plain = (getattr(optim, name)(list(m.parameters()), lr=0.1) for m in (one, two))
    guarded.guard(max_norm=0.3)
    for step in range(4):
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            p.grad = torch.randn_like(p) * 10 ** (step - 2)
            q.grad = p.grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(two.parameters(), 0.3)
        guarded.step(), plain.step()
        assert guarded.gradient_norm == pytest.approx(float(norm), rel=1e-9)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5 if name == "Muon" else 1e-10, atol=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_without_a_finite_norm_changes_nothing_and_is_counted(bad: float) -> None:
    made = params()
    optimizer = optim.AdamW(made)
    optimizer.guard()
    optimizer.step()
    before = copy.deepcopy([[p.detach() for p in made], [dict(optimizer.state[p]) for p in made]])
    made[1].grad[12345] = bad
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert not math.isfinite(optimizer.gradient_norm)
    for p, old, state in zip(made, *before, strict=True):
        assert torch.equal(p, old)
        assert all(torch.equal(optimizer.state[p][key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("name", "keywords"), [("AdamW", {}), ("SGD", {"momentum": 0.9, "dampening": 0.5}), ("Lion", {})]
)
def test_a_decision_that_the_host_learns_later_is_the_same(
    name: str, keywords: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the update reads what was decided, the host at the next step. The first step is one left out."""
    found = []
    for deferred in (False, True):
        optimizer_class = getattr(optim, name)
        monkeypatch.setattr(optimizer_class, "_defers", lambda self, grads, deferred=deferred: deferred)
        torch.manual_seed(0)
        made = [nn.Parameter(torch.randn(7, dtype=torch.float64)), nn.Parameter(torch.randn(2, 3, dtype=torch.float64))]
        optimizer = optimizer_class(made, lr=0.1, backend="torch", **keywords)
        optimizer.guard(max_norm=0.5)
        for step in range(6):
            for p in made:
                p.grad = torch.randn_like(p) * 10 ** (step % 3 - 1)
            if step in (0, 3):
                made[1].grad[1, 2] = torch.nan if step else torch.inf
            optimizer.step()
            assert (optimizer.step_status is not None) == deferred
        assert optimizer.skipped_steps == 2
        found.append([optimizer.gradient_norm, *made, *(s for p in made for s in optimizer.state[p].values())])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    torch.testing.assert_close(found[0][1:], found[1][1:], rtol=1e-12, atol=0)


def test_a_deferred_step_asks_nothing_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tensors on `meta` nothing can be asked: there is no memory."""
    monkeypatch.setattr(optim.AdamW, "_defers", lambda self, grads: True)
    w = nn.Parameter(torch.ones(5, device="meta"))
    optimizer = optim.AdamW([w], backend="torch")
    optimizer.guard(max_norm=1.0)
    w.grad = torch.ones_like(w)
    optimizer.step()
    assert optimizer.step_status is not None
    assert optimizer.step_status.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):  # this is what would wait
        optimizer.step()


def test_a_guard_stays_when_a_state_is_loaded_or_copied() -> None:
    made = params()
    optimizer = optim.AdamW(made)
    optimizer.guard(max_norm=0.5)
    optimizer.step()
    copied = copy.deepcopy(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    for one in (optimizer, copied):
        one.param_groups[0]["params"][1].grad = torch.full_like(made[1], torch.nan)
        one.step()
        assert one.skipped_steps == 1


def test_adaptive_clipping_bounds_each_row_by_its_own_weights() -> None:
    """Against the paper's formula, row by row (Brock et al. 2021, equation 3)."""
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(6, 3, 2, 2, dtype=torch.float64))
    w.grad = torch.randn_like(w)
    expected = []
    for row, grad in zip(w.detach(), w.grad, strict=True):
        most = 0.1 * max(float(row.norm()), 1e-3)
        expected.append(grad * most / grad.norm() if float(grad.norm()) > most else grad)
    optim.clip_adaptive_([w], 0.1)
    torch.testing.assert_close(w.grad, torch.stack(expected), rtol=1e-12, atol=0)


def test_limits_that_bound_nothing_are_refused() -> None:
    for call in (optim.clip_norm_, optim.clip_value_, optim.clip_adaptive_):
        with pytest.raises(InputError, match="above 0"):
            call(params(), 0.0)
    with pytest.raises(InputError, match="max_norm"):
        optim.SGD(params()).guard(max_norm=-1.0)


def test_an_exponential_average_follows_its_formula_and_leaves_the_model_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    ema = optim.EMA(model, decay=0.7, warmup=False)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(5):
        for p in model.parameters():
            p.data.add_(torch.randn_like(p))
        model(torch.randn(4, 3, dtype=torch.float64))
        ema.update()
        for name, value in model.state_dict().items():
            whole = not value.is_floating_point()
            expected[name] = value.clone() if whole else 0.7 * expected[name] + 0.3 * value
    live = copy.deepcopy(model.state_dict())
    with ema.applied():
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-14)
    assert all(torch.equal(live[name], value) for name, value in model.state_dict().items())


def test_averages_are_torchs() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    ours = optim.SWA(model)
    theirs = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(6):
        for p in model.parameters():
            p.data.add_(torch.randn_like(p))
        ours.update()
        theirs.update_parameters(model)
    saved = copy.deepcopy(ours.state_dict())
    again = optim.SWA(nn.Linear(4, 2))
    again.load_state_dict(saved)
    again.apply()
    for a, b in zip(again.model.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(InputError, match="another model"):
        again.load_state_dict({"updates": 1, "weights": {"x": torch.ones(1)}})


@pytest.mark.parametrize("name", sorted(optim.catalogue()))
def test_the_plan_of_memory_is_what_a_step_takes(name: str) -> None:
    model = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 9), nn.LayerNorm(9), nn.Linear(9, 3, bias=False))
    model[2].requires_grad_(False)
    cls = optim.catalogue()[name]
    plan = optim.memory_plan(model, cls)
    optimizer = cls(model if name == "Muon" else [p for p in model.parameters() if p.requires_grad])
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizer.step()
    taken = sum(v.nbytes for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    assert sum(plan.states.values()) == taken
    assert plan.parameters == sum(p.nbytes for p in model.parameters())
    assert plan.gradients == plan.parameters - sum(p.nbytes for p in model[2].parameters())
    assert plan.total == plan.parameters + plan.gradients + taken
    assert optim.memory_plan(model, optimizer) == plan
