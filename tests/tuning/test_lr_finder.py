"""The finder reads curves honestly, restores what it touched, and abstains when there is nothing to see."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from trivet.errors import InputError
from trivet.tuning import LRRange, find_lr
from trivet.tuning.lr_finder import HORIZON, settle
from trivet.tuning.range_test import judge

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
    with pytest.raises(InputError, match="or all of model="):
        find_lr(model=nn.Linear(1, 1))


def ranged(**changes: object) -> LRRange:
    base = {"low": 1e-4, "high": 1.0, "pick": 1e-2, "confidence": 1.0, "abstained": False, "reason": "sweeps agree"}
    return LRRange(**(base | changes))  # type: ignore[arg-type]


def parabola(best: float) -> list[tuple[float, float]]:
    rates = [1e-2 * factor for factor in (0.1, 0.316, 1.0, 3.16, 10.0)]
    return [(rate, 1 + (math.log10(rate) - math.log10(best)) ** 2) for rate in rates]


def test_the_pick_follows_the_short_runs_decade_for_decade() -> None:
    low, high = settle(ranged(), parabola(3.16e-3)), settle(ranged(), parabola(3.16e-2))
    assert low.tried == tuple(parabola(3.16e-3))
    assert low.pick == pytest.approx(3.16e-3 * 10**HORIZON, rel=0.1)
    assert math.log10(high.pick / low.pick) == pytest.approx(1, abs=0.03)


def test_of_rates_that_are_alike_the_centre_is_picked() -> None:
    flat = [(1e-3, 3.0), (3.16e-3, 1.02), (1e-2, 1.0), (3.16e-2, 1.01), (1e-1, 3.0)]
    found = settle(ranged(), flat)
    assert found.pick == pytest.approx(1e-2 * 10**HORIZON, rel=0.05)
    assert "alike from 0.0032 to 0.032" in found.reason


def test_a_best_at_the_end_of_what_was_tried_lowers_confidence() -> None:
    inside, outside = settle(ranged(), parabola(1e-2)), settle(ranged(), parabola(1e-1))
    assert inside.confidence > outside.confidence


def test_runs_that_broke_do_not_count_and_too_few_leave_the_pick_to_the_sweeps() -> None:
    half = [(rate, loss if rate < 2e-2 else math.inf) for rate, loss in parabola(3.16e-3)]
    assert settle(ranged(), half).pick == pytest.approx(settle(ranged(), parabola(3.16e-3)).pick, rel=0.05)
    broken = settle(ranged(), [(rate, math.inf) for rate, _ in parabola(1.0)])
    assert broken.pick == 1e-2
    assert broken.confidence == 0.5
    assert "only 0 short runs" in broken.reason


def test_losses_below_zero_are_compared_as_any_others() -> None:
    gaussian = [(rate, loss - 5) for rate, loss in parabola(3.16e-3)]
    assert settle(ranged(), gaussian).pick == pytest.approx(3.16e-3 * 10**HORIZON, rel=0.3)


def test_the_pick_stays_below_the_edge() -> None:
    assert settle(ranged(edge=1.2e-2), parabola(1e-1)).pick <= 0.6e-2


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


class Clock:
    """Every look at the clock finds it ten seconds later."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 10.0
        return self.now


@pytest.mark.parametrize(("budget", "sweeps", "tried"), [(5.0, 1, 0), (855.0, 1, 0), (1700.0, 2, 0), (4.5e3, 3, 2)])
def test_a_budget_in_seconds_holds_to_the_step(
    budget: float, sweeps: int, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trivet.tuning import lr_finder

    model, batches, optimizer = parts()
    clock = Clock()
    monkeypatch.setattr(lr_finder, "time", clock)
    found = find_lr(model=model, data=batches, val=batches, loss=nn.MSELoss(), optimizer=optimizer, budget=budget)
    assert (len(found.losses), len(found.tried)) == (sweeps, tried)
    assert clock.now <= budget + 80  # one look per step, a few between the parts, and one at each end
    if budget == 5.0:
        assert found.abstained
        assert "the budget ended at step 1 of 80" in found.reason


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


def test_a_script_that_says_how_long_it_will_run_pays_half_of_it_at_most() -> None:
    model, batches, optimizer = parts()
    said: list[str] = []
    found = find_lr(
        model=model, data=batches, val=batches, loss=nn.MSELoss(), optimizer=optimizer, steps=600, say=said.append
    )
    assert found.cost is not None
    assert 0.4 < found.cost <= 0.5
    assert "50% of a normal run" in said[0]
    with pytest.raises(InputError, match="steps = 0"):
        find_lr(model=model, data=batches, loss=nn.MSELoss(), optimizer=optimizer, steps=0)


def test_curvature_stands_beside_the_pick_and_is_part_of_the_cost() -> None:
    model, batches, _ = parts()
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    found = find_lr(
        model=model, data=batches, val=batches, loss=nn.MSELoss(), optimizer=sgd, steps=1000, curvature=True
    )
    assert found.curvature is not None
    assert found.limit == pytest.approx(2 * 1.9 / found.curvature)
    assert "of that" in found.steepness
    assert found.cost is not None
    assert found.cost <= 0.5
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3)
    adaptive = find_lr(model=model, data=batches, val=batches, loss=nn.MSELoss(), optimizer=adam, curvature=True)
    assert adaptive.limit is not None
    assert "preconditioned" in adaptive.steepness


def test_a_loaders_own_generator_is_put_back() -> None:
    model, batches, optimizer = parts()
    x, y = (torch.cat(column) for column in zip(*batches, strict=True))
    generator = torch.Generator().manual_seed(5)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=32, shuffle=True, generator=generator
    )
    before = generator.get_state()
    one = find_lr(model=model, data=loader, loss=nn.MSELoss(), optimizer=optimizer)
    assert torch.equal(generator.get_state(), before)
    assert find_lr(model=model, data=loader, loss=nn.MSELoss(), optimizer=optimizer).losses == one.losses


def test_wrong_data_gets_one_clear_line() -> None:
    model, batches, optimizer = parts()
    loss = nn.MSELoss()
    with pytest.raises(InputError, match="read only once"):
        find_lr(model=model, data=iter(batches), loss=loss, optimizer=optimizer)
    with pytest.raises(InputError, match="pair"):
        find_lr(model=model, data=[batches[0][0]], loss=loss, optimizer=optimizer)
    dataset = torch.utils.data.TensorDataset(*batches[0])
    too_small = torch.utils.data.DataLoader(dataset, batch_size=64, drop_last=True)
    with pytest.raises(InputError, match="at least one full batch"):
        find_lr(model=model, data=too_small, loss=loss, optimizer=optimizer)


class Stream(torch.utils.data.IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Rows without a length."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        _, batches, _ = parts()
        for x, y in batches:
            yield from zip(x, y, strict=True)


def test_a_loader_without_a_length_will_do() -> None:
    model, _, optimizer = parts()
    loader = torch.utils.data.DataLoader(Stream(), batch_size=32)
    found = find_lr(model=model, data=loader, loss=nn.MSELoss(), optimizer=optimizer)
    assert found.cost is None
    assert not found.abstained


def test_every_optimizer_has_its_own_range() -> None:
    from trivet import optim
    from trivet.advice.recommend.rate import PRIORS

    assert not set(optim.catalogue()) - set(PRIORS)
    for name, prior in PRIORS.items():
        assert 0 < prior.low < prior.pick < prior.high, name
        assert prior.source
