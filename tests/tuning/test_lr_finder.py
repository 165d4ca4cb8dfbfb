"""The finder reads curves honestly, restores what it touched, and abstains when there is nothing to see."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from trivet.errors import InputError
from trivet.tuning import find_lr
from trivet.tuning.lr_finder import VOTES, LRRange, judge, vote

RATES = [1e-5 * 10 ** (i / 12) for i in range(60)]


def valley(bottom: float, edge: float, noise: float = 0.0, seed: int = 0) -> list[float]:
    """A loss that falls until `bottom` and explodes at `edge`."""
    rng = np.random.default_rng(seed)
    curve = []
    for rate in RATES:
        falling = 1 / (1 + (rate / (bottom / 8)) ** 1.5)
        rising = (rate / edge) ** 3
        curve.append(falling + rising + noise * rng.normal())
    return [min(v, 1e6) for v in curve]


def test_the_pick_lies_between_falling_and_breaking() -> None:
    found = judge(RATES, [valley(0.03, 0.2, 0.01, s) for s in range(3)], 0.01)
    assert not found.abstained
    assert found.low < found.pick < found.high < found.edge  # type: ignore[operator]
    assert 1e-3 < found.pick < 0.03
    assert found.confidence > 0.7


def test_a_curve_moved_by_a_decade_moves_the_pick_by_a_decade() -> None:
    picks = [judge(RATES, [valley(b, 8 * b)] * 3, b / 10).pick for b in (5e-3, 5e-2)]
    assert math.log10(picks[1] / picks[0]) == pytest.approx(1, abs=0.15)


def test_flat_curves_make_it_abstain_and_keep_the_rate() -> None:
    found = judge(RATES, [[1.0] * 60] * 3, 0.0123)
    assert found.abstained
    assert found.pick == 0.0123
    assert "did not fall" in found.reason
    assert "keeping" in str(found)


def test_sweeps_that_disagree_make_it_abstain() -> None:
    found = judge(RATES, [valley(1e-3, 1e-2), valley(1e-3, 1e-2), valley(0.3, 3.0)], 0.01)
    assert found.abstained
    assert "disagree" in found.reason


def test_a_curve_that_breaks_at_once_makes_it_abstain() -> None:
    found = judge(RATES, [[1.0, math.nan], [1.0, 2.0, math.inf], [1.0]], 0.01)
    assert found.abstained
    assert "not finite" in found.reason


def parts() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]], torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))
    x = torch.randn(256, 4)
    y = (x @ torch.tensor([1.0, -2.0, 3.0, 0.0])).unsqueeze(1)
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 256, 32)]
    return model, batches, torch.optim.AdamW(model.parameters(), lr=1e-3)


def test_nothing_that_was_handed_in_is_changed() -> None:
    model, batches, optimizer = parts()
    nn.functional.mse_loss(model(batches[0][0]), batches[0][1]).backward()
    optimizer.step()
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    random, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    model.eval()
    found = find_lr(model=model, data=batches, loss=nn.MSELoss(), optimizer=optimizer)
    assert not model.training
    assert not found.abstained
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key]), key
    assert str(optimizer.state_dict()) == str(state)
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), random)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]


def test_everything_is_restored_after_an_error_too() -> None:
    model, _, optimizer = parts()
    weights, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(InputError, match="no batches"):
        find_lr(model=model, data=[], loss=nn.MSELoss(), optimizer=optimizer)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_the_found_rate_trains_better_than_a_hundredth_of_it() -> None:
    model, batches, optimizer = parts()
    found = find_lr(model=model, data=batches, loss=nn.MSELoss(), optimizer=optimizer)

    def final_loss(lr: float) -> float:
        net = copy.deepcopy(model)
        opt = torch.optim.AdamW(net.parameters(), lr=lr)
        for _ in range(10):
            for x, y in batches:
                opt.zero_grad()
                loss = nn.functional.mse_loss(net(x), y)
                loss.backward()
                opt.step()
        return float(loss.detach())

    assert final_loss(found.pick) < 0.5 * final_loss(found.pick / 100)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.1), (1e-3, math.inf)])
def test_impossible_ranges_are_refused(low: float, high: float) -> None:
    model, batches, optimizer = parts()
    if low == 0.0:
        low = -0.0001
    with pytest.raises(InputError, match="0 < low < high"):
        find_lr(model=model, data=batches, loss=nn.MSELoss(), optimizer=optimizer, low=low, high=high)


def test_a_frozen_model_and_a_bad_first_loss_are_said_at_once() -> None:
    model, batches, optimizer = parts()
    bad = [(x * math.nan, y) for x, y in batches]
    with pytest.raises(InputError, match="not finite at the very first step"):
        find_lr(model=model, data=bad, loss=nn.MSELoss(), optimizer=optimizer)
    model.requires_grad_(False)
    with pytest.raises(InputError, match="no trainable parameters"):
        find_lr(model=model, data=batches, loss=nn.MSELoss(), optimizer=optimizer)


def test_missing_arguments_are_named() -> None:
    with pytest.raises(InputError, match="a task and a recipe, or all of model="):
        find_lr(model=nn.Linear(1, 1))


def ranged(**changes: object) -> LRRange:
    base = {"low": 1e-4, "high": 1.0, "pick": 1e-2, "confidence": 1.0, "abstained": False, "reason": "sweeps agree"}
    return LRRange(**(base | changes))  # type: ignore[arg-type]


def parabola(best: float) -> list[tuple[float, float]]:
    rates = [1e-2 * factor for factor in (0.1, 0.316, 1.0, 3.16, 10.0)]
    return [(rate, 1 + (math.log10(rate) - math.log10(best)) ** 2) for rate in rates]


def test_short_runs_move_the_pick_towards_where_they_were_best() -> None:
    low, high = vote(ranged(), parabola(3e-3), 1e-2), vote(ranged(), parabola(3e-2), 1e-2)
    assert low.pick < high.pick
    assert low.tried == tuple(parabola(3e-3))
    # Moving the short runs' optimum by a decade moves the pick by that vote's weight.
    assert math.log10(high.pick / low.pick) == pytest.approx(VOTES["short runs"], abs=0.06)


def test_votes_that_agree_raise_confidence_and_broken_runs_do_not_vote() -> None:
    agreed, torn = vote(ranged(), parabola(1.4e-2), 1e-2), vote(ranged(), parabola(1e-1), 1e-3)
    assert agreed.confidence > torn.confidence
    broken = [(rate, math.inf) for rate, _ in parabola(1.0)]
    assert vote(ranged(), broken, 1e-2).pick == 1e-2


def test_the_pick_stays_below_the_edge() -> None:
    assert vote(ranged(edge=1.2e-2), parabola(1e-1), 1e-1).pick <= 0.6e-2


@pytest.mark.app
def test_a_find_on_a_task_costs_at_most_half_a_run_and_says_so_first() -> None:
    import trivet

    task = trivet.read_task("sklearn:diabetes")
    recipe = trivet.recommend(task)
    said: list[str] = []
    before = torch.get_rng_state()
    found = find_lr(task, recipe, say=said.append)
    assert torch.equal(before, torch.get_rng_state())
    assert len(said) == 1
    assert "% of a normal run" in said[0]
    assert found.cost is not None
    assert found.cost <= 0.5
    assert len(found.tried) >= 3
    assert find_lr(task, recipe).pick == found.pick


@pytest.mark.app
def test_a_budget_in_seconds_ends_the_search_after_the_run_in_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    import trivet
    from trivet.tuning import lr_finder

    class Clock:
        """Every look at the clock finds it ten seconds later."""

        now = 0.0

        def perf_counter(self) -> float:
            self.now += 10.0
            return self.now

    monkeypatch.setattr(lr_finder, "time", Clock())
    task = trivet.read_task("sklearn:diabetes")
    recipe = trivet.recommend(task)
    assert len(find_lr(task, recipe, budget=5.0).losses) == 1
    assert len(find_lr(task, recipe, budget=1e6).losses) == 3
    assert len(find_lr(task, recipe, budget=45.0).tried) < len(find_lr(task, recipe, budget=1e6).tried)


def test_held_out_batches_validate_a_script_without_a_task() -> None:
    model, batches, optimizer = parts()
    found = find_lr(model=model, data=batches[:6], val=batches[6:], loss=nn.MSELoss(), optimizer=optimizer)
    assert len(found.tried) >= 3
    without = find_lr(model=model, data=batches[:6], loss=nn.MSELoss(), optimizer=optimizer)
    assert without.tried == ()
    assert without.confidence < found.confidence or without.confidence <= 0.5


def test_the_first_bad_tensor_is_named() -> None:
    model, batches, optimizer = parts()
    bad = [(x.clone(), y.clone()) for x, y in batches]
    for x, _ in bad:
        x[7, 2] = math.inf
    with pytest.raises(InputError, match="inputs of row 7"):
        find_lr(model=model, data=bad, loss=nn.MSELoss(), optimizer=optimizer)
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan  # type: ignore[index, union-attr]
    with pytest.raises(InputError, match=r"weights '0\.weight'"):
        find_lr(model=model, data=batches, loss=nn.MSELoss(), optimizer=optimizer)


def test_the_plot_shows_curves_interval_and_pick() -> None:
    model, batches, optimizer = parts()
    found = find_lr(model=model, data=batches, val=batches, loss=nn.MSELoss(), optimizer=optimizer)
    pytest.importorskip("matplotlib")
    axes = found.plot().axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert any(label.startswith("pick") for label in labels)
    assert any("short decayed runs" in label for label in labels)
    assert axes.get_xscale() == "log"
    assert found.advice.startswith("use")
