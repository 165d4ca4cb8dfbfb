"""A preview is what the adapter executes, step by step and phase by phase, under everything that disturbs a run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet import schedules
from trivet.errors import RecipeError
from trivet.schedules import Scheduler, group_rates, parse, preview

TEXTS = (
    "warmup(0.05) >> cosine(floor=0.01)",
    'warmup("7 steps") >> constant("2 epochs") >> decay(to=0.1)',
    'constant("600 tokens") >> linear()',
    "one_cycle()",
    "wsd()",
    "warmup(0.1) >> step(every=0.25) ",
    "multi_step(at=[0.3, 0.6])",
    "repeated",
)


def schedule_of(text: str) -> schedules.Schedule:
    if text == "repeated":
        return schedules.repeat(schedules.warmup(0.2) >> schedules.inverse_sqrt(), 3)
    return parse(text)


def optimizer() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4, momentum=0.9)


@settings(deadline=None)  # the first example imports torch's optimizers
@given(
    text=st.sampled_from(TEXTS),
    steps=st.integers(30, 90),
    accumulate=st.integers(1, 3),
    world=st.integers(1, 4),
    skips=st.sets(st.integers(0, 120), max_size=6),
    crashes=st.sets(st.integers(0, 250), max_size=3),
)
def test_what_is_executed_is_what_was_previewed(
    text: str, steps: int, accumulate: int, world: int, skips: set[int], crashes: set[int]
) -> None:
    schedule = schedule_of(text)
    # A token is counted once, wherever it is processed: 30 per step in all, 30 / world on each of the ranks.
    units = {"steps_per_epoch": 10.0, "tokens_per_step": world * (30 / world)}
    shown = preview(schedule, steps=steps, lr=0.4, **units)
    for _ in range(world):
        opt, rates, momenta, batch, attempt = optimizer(), [], [], 0, 0
        scheduler = Scheduler(opt, schedule, total_steps=steps, **units)
        while len(rates) < steps:
            batch += 1
            if batch % accumulate == 0:
                attempt += 1
                if attempt not in skips:  # a GradScaler leaves out a step whose gradients overflowed
                    rates.append(opt.param_groups[0]["lr"])
                    momenta.append(opt.param_groups[0]["momentum"])
                    opt.step()
            scheduler.step()
            if batch in crashes:
                state, weights = scheduler.state_dict(), opt.state_dict()
                assert state == {"step": len(rates)}
                opt = optimizer()
                opt.load_state_dict(weights)
                scheduler = Scheduler(opt, schedule, total_steps=steps, **units)
                scheduler.load_state_dict(state)
        assert rates == list(shown.rates)
        assert shown.momentum is None or momenta == list(shown.momentum)


@pytest.mark.parametrize("text", TEXTS)
def test_the_phases_tile_the_run_and_their_numbers_are_those_of_its_steps(text: str) -> None:
    shown = preview(schedule_of(text), steps=77, lr=0.4, steps_per_epoch=10, tokens_per_step=30)
    assert [span.first for span in shown.phases] == [0, *(span.last + 1 for span in shown.phases[:-1])]
    assert shown.phases[-1].last == 76
    for span in shown.phases:
        own = shown.rates[span.first : span.last + 1]
        assert span.rates == (own[0], own[-1])
        assert (span.lowest, span.highest) == (min(own), max(own))
        assert span.phase in str(shown)


def test_one_cycle_shows_momentum_going_against_the_rate() -> None:
    (span,) = preview(schedules.one_cycle(), steps=100).phases
    assert span.momentum == pytest.approx((0.95, 0.85, 0.95), abs=1e-3)
    assert "momentum 0.95, 0.85 at its lowest, 0.95" in str(span)


def test_the_one_stateful_member_says_so() -> None:
    shown = preview(parse("warmup(0.5) >> reduce_on_plateau()"), steps=10)
    assert shown.stateful
    assert [span.stateful for span in shown.phases] == [False, True]
    assert "then lower by every plateau" in str(shown)
    assert not preview(parse("cosine()"), steps=10).stateful


def test_layers_with_their_own_rates_are_shown_with_them() -> None:
    layers = [torch.nn.Linear(4, 4) for _ in range(3)]
    groups = [
        {"params": layer.parameters(), "lr": 0.1 * 0.5**depth, "name": f"layer {depth}"}
        for depth, layer in enumerate(layers)
    ]
    made = torch.optim.AdamW(groups, weight_decay=0.01)
    Scheduler(made, schedules.warmup(0.5) >> schedules.cosine(), total_steps=10)  # the rates are 0 now
    rows = group_rates(made)
    assert [row.name for row in rows] == ["layer 0", "layer 1", "layer 2"]
    assert [row.lr for row in rows] == pytest.approx([0.1, 0.05, 0.025])
    assert [row.share for row in rows] == pytest.approx([1.0, 0.5, 0.25])
    assert {row.parameters for row in rows} == {20}
    assert "layer 2" in str(rows[2])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("warmup(0.1) >> cosine(0.2)", "take only 0.3 of the run"),
        ('constant("5 steps")', "take only 0.05 of the run"),
        ('warmup("200 steps") >> cosine()', "longer than the run"),
        ('warmup("2 epochs") >> cosine()', "steps_per_epoch"),
        ('warmup("2 tokens") >> cosine()', "tokens_per_step"),
    ],
)
def test_phases_that_do_not_add_up_to_the_run_are_refused_before_it(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        preview(parse(text), steps=100)
    with pytest.raises(RecipeError, match=words):
        Scheduler(optimizer(), parse(text), total_steps=100)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_not_above_zero_is_refused(lr: float) -> None:
    with pytest.raises(RecipeError, match="lr = "):
        preview(schedules.cosine(), steps=10, lr=lr)
