"""Schedules are what they show: previewed, executed and resumed alike, and equal to torch's where torch has them."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trivet import schedules
from trivet.errors import RecipeError
from trivet.schedules import Schedule, Scheduler, parse

STEPS = 60


def optimizer(lr: float = 0.8) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


def executed(schedule: Schedule, steps: int = STEPS, lr: float = 0.8) -> list[float]:
    opt = optimizer(lr)
    scheduler = Scheduler(opt, schedule, total_steps=steps)
    rates = []
    for _ in range(steps):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return rates


def by_torch(make: object, steps: int = STEPS, lr: float = 0.8) -> list[float]:
    opt = optimizer(lr)
    scheduler = make(opt)  # type: ignore[operator]
    rates = []
    for _ in range(steps):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        scheduler.step()
    return rates


LR = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("text", "make"),
    [
        ("cosine()", lambda o: LR.CosineAnnealingLR(o, STEPS)),
        ("cosine(floor=0.25)", lambda o: LR.CosineAnnealingLR(o, STEPS, eta_min=0.2)),
        ("linear(floor=0.1)", lambda o: LR.LinearLR(o, 1.0, 0.1, STEPS)),
        ("polynomial(power=3.0)", lambda o: LR.PolynomialLR(o, STEPS, 3.0)),
        ("exponential(floor=0.05)", lambda o: LR.ExponentialLR(o, 0.05 ** (1 / STEPS))),
        ("multi_step(at=[0.5, 0.75])", lambda o: LR.MultiStepLR(o, [30, 45])),
        ("constant()", lambda o: LR.ConstantLR(o, 1.0)),
        ("restarts(cycles=3)", lambda o: LR.CosineAnnealingWarmRestarts(o, 20)),
        ("warmup(0.5, start=0.1) >> constant()", lambda o: LR.LinearLR(o, 0.1, 1.0, 30)),
    ],
)
def test_equal_to_torch_where_torch_has_it(text: str, make: object) -> None:
    # torch computes most of these recursively, so rounding adds up over the steps.
    assert executed(parse(text)) == pytest.approx(by_torch(make), rel=1e-9, abs=1e-12)


def test_one_cycle_is_torchs_with_momentum_one_step_apart_in_length() -> None:
    # torch's last step is at its end; ours ends one step later, when the run is over.
    ours, theirs = optimizer(), optimizer()
    mine = Scheduler(ours, schedules.one_cycle(), total_steps=STEPS)
    other = LR.OneCycleLR(theirs, 0.8, total_steps=STEPS + 1, pct_start=(0.3 * STEPS + 1) / (STEPS + 1))
    for _ in range(STEPS):
        for key in ("lr", "momentum"):
            assert ours.param_groups[0][key] == pytest.approx(theirs.param_groups[0][key], rel=1e-6)
        ours.step(), theirs.step()
        mine.step(), other.step()


def lengths() -> st.SearchStrategy[float]:
    return st.floats(0.01, 0.45).map(lambda x: round(x, 4))


def built() -> st.SearchStrategy[Schedule]:
    floors = st.floats(0, 1)
    heads = st.builds(schedules.warmup, lengths()) | st.builds(schedules.constant, lengths())
    tails = (
        st.builds(schedules.cosine, floor=floors)
        | st.builds(schedules.linear, floor=floors)
        | st.builds(schedules.polynomial, power=st.floats(0.1, 5), floor=floors)
        | st.builds(schedules.inverse_sqrt, timescale=st.floats(0.01, 2))
        | st.builds(schedules.restarts, cycles=st.integers(1, 6), floor=floors)
        | st.builds(schedules.one_cycle)
        | st.builds(schedules.wsd)
    )
    joined = st.lists(heads, max_size=2).flatmap(lambda h: tails.map(lambda t: [*h, t]))

    def join(parts: list[Schedule]) -> Schedule:
        whole = parts[0]
        for part in parts[1:]:
            whole = whole >> part
        return whole

    return joined.map(join)


@given(schedule=built(), steps=st.integers(1, 200), data=st.data())
def test_executed_equals_previewed_from_any_resume_point(schedule: Schedule, steps: int, data: st.DataObject) -> None:
    preview = [0.8 * factor for factor in schedule.values(steps)]
    assert executed(schedule, steps) == preview
    cut = data.draw(st.integers(0, steps))
    first = Scheduler(optimizer(), schedule, total_steps=steps)
    for _ in range(cut):
        first.step()
    fresh = optimizer()
    again = Scheduler(fresh, schedule, total_steps=steps)
    again.load_state_dict(first.state_dict())
    rates = []
    for _ in range(cut, steps):
        rates.append(fresh.param_groups[0]["lr"])
        again.step()
    assert rates == preview[cut:]
    assert first.state_dict() == {"step": cut}


@given(schedule=built())
def test_the_text_form_reads_back(schedule: Schedule) -> None:
    assert parse(str(schedule)) == parse(str(parse(str(schedule))))
    for i in range(21):
        assert parse(str(schedule))(i / 20) == pytest.approx(schedule(i / 20), rel=1e-3, abs=1e-4)


@given(schedule=built(), progress=st.floats(-0.5, 1.5))
def test_factors_stay_between_zero_and_one_and_stop_at_the_end(schedule: Schedule, progress: float) -> None:
    assert -1e-12 <= schedule(progress) <= 1 + 1e-12
    assert schedule(1.7) == schedule(1.0)


@pytest.mark.parametrize("name", sorted(schedules.catalogue()))
def test_every_member_is_documented_and_drawn(name: str) -> None:
    make = schedules.catalogue()[name]
    assert make.__doc__
    assert ">>>" in make.__doc__
    schedule = make(0.3) if name == "warmup" else make()
    assert len(schedule.sparkline(20)) == 20
    assert parse(str(schedule)) == schedule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cosin()", "did you mean 'cosine'"),
        ("cosine(flor=0.1)", "did you mean 'floor'"),
        ("warmup(1.5) >> cosine()", "fraction of the run"),
        ("warmup(0)", "fraction of the run"),
        ("warmup(0.6) >> constant(0.5) >> cosine()", "take 1.1 of the run"),
        ("warmup(1.0) >> cosine()", "leave room"),
        ("cosine() >> linear()", "nothing can follow"),
        ("warmup()", "warmup"),
        ("cosine(floor=2.0)", "[0, 1]"),
        ("exponential(floor=0.0)", "(0, 1]"),
        ("cosine(", "cannot be read"),
        ("__import__('os').system('true')", "names, calls"),
        ("cosine(floor=open('x'))", "plain numbers"),
        ("3 + 4", "names, calls"),
    ],
)
def test_wrong_schedules_get_one_clear_line(text: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_groups_keep_their_own_base_rates_and_tensor_rates_are_filled_in_place() -> None:
    a, b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    rate = torch.tensor(0.1)
    opt = torch.optim.AdamW([{"params": [a], "lr": 1.0}, {"params": [b], "lr": rate}], foreach=False, capturable=False)
    scheduler = Scheduler(opt, schedules.linear(), total_steps=2)
    scheduler.step()
    assert opt.param_groups[0]["lr"] == 0.5
    assert opt.param_groups[1]["lr"] is rate
    assert math.isclose(float(rate), 0.05, rel_tol=1e-6)


def test_reading_a_schedule_needs_no_torch() -> None:
    code = "import sys; from trivet.schedules import parse; parse('cosine()'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
