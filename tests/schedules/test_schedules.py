"""Schedules are what they show: previewed, executed and resumed alike, and equal to torch's where torch has them."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import numpy as np
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
        ("step(every=0.25, factor=0.5)", lambda o: LR.StepLR(o, 15, 0.5)),
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
        | st.builds(schedules.step, every=st.floats(0.05, 1))
        | st.builds(schedules.hold)
        | st.builds(schedules.decay, to=floors, shape=st.sampled_from(["cosine", "linear"]))
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
    start = optimizer()
    first = Scheduler(start, schedule, total_steps=steps)
    for _ in range(cut):
        start.step()
        first.step()
    fresh = optimizer()
    again = Scheduler(fresh, schedule, total_steps=steps)
    again.load_state_dict(first.state_dict())
    rates = []
    for _ in range(cut, steps):
        rates.append(fresh.param_groups[0]["lr"])
        fresh.step()
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
def test_every_member_is_documented_and_drawn_and_travels(name: str) -> None:
    make = schedules.catalogue()[name]
    assert make.__doc__
    assert ">>>" in make.__doc__
    schedule = make(0.3) if name == "warmup" else make()
    assert len(schedule.sparkline(20)) == 20
    assert parse(str(schedule)) == schedule
    assert hash(parse(str(schedule))) == hash(schedule)
    again = pickle.loads(pickle.dumps(schedule))
    assert [again(i / 7) for i in range(8)] == [schedule(i / 7) for i in range(8)]


def test_arrays_of_progress_give_arrays_of_factors() -> None:
    schedule = schedules.warmup(0.1) >> schedules.cosine(floor=np.float64(0.1))
    grid = np.linspace(0, 1, 12).reshape(3, 4)
    np.testing.assert_array_equal(schedule(grid).ravel(), [schedule(float(p)) for p in grid.ravel()])
    assert str(schedule) == "warmup(0.1) >> cosine(floor=0.1)"


@pytest.mark.app
def test_the_plot_spans_the_run_and_the_page_holds_safe_html() -> None:
    schedule = schedules.warmup(0.1) >> schedules.cosine()
    (line,) = schedule.plot(steps=50, lr=0.2).axes[0].lines
    assert len(line.get_xdata()) == 50
    assert 0.95 < max(line.get_xdata()) <= 1
    assert max(line.get_ydata()) == pytest.approx(0.2)
    assert "&gt;&gt;" in schedule._repr_html_()


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
        ('warmup("0 steps")', "above 0"),
        ('warmup("5 stesp")', "did you mean 'steps'"),
        ('warmup("many steps")', "no number"),
        ("decay(shape='cosin')", "did you mean 'cosine'"),
        ("reduce_on_plateau(factor=2.0)", "(0, 1)"),
        ("step(every=0.0)", "(0, 1]"),
        ("cosine(floor=2.0)", "[0, 1]"),
        ("exponential(floor=0.0)", "(0, 1]"),
        ("cosine(", "cannot be read"),
        ("__import__('os').system('true')", "names, calls"),
        ("cosine(floor=open('x'))", "plain numbers"),
        ("3 + 4", "names, calls"),
        ("cosine(floor='low')", "must be a number"),
        ("restarts(cycles=2.5)", "whole number"),
        ("(" * 30_000, "at most 20000 characters"),
        (" >> ".join(["warmup(0.0001)"] * 1000), "cannot be read"),
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
    opt.step()
    scheduler.step()
    assert opt.param_groups[0]["lr"] == 0.5
    assert opt.param_groups[1]["lr"] is rate
    assert math.isclose(float(rate), 0.05, rel_tol=1e-6)


def test_a_group_added_later_and_a_loaded_state_are_scheduled_from_their_own_rates() -> None:
    opt = optimizer(1.0)
    scheduler = Scheduler(opt, schedules.linear(), total_steps=4)
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.4})
    opt.step()
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.75, 0.3])
    state = opt.state_dict()
    opt.load_state_dict(state)  # replaces the groups
    opt.step()
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.5, 0.2])


def test_rates_of_zero_and_states_of_other_schedulers_are_refused() -> None:
    with pytest.raises(RecipeError, match="nothing to schedule"):
        Scheduler(optimizer(0.0), schedules.linear(), total_steps=4)
    with pytest.raises(RecipeError, match="another scheduler"):
        Scheduler(optimizer(), schedules.linear(), total_steps=4).load_state_dict({"last_epoch": 3})
    with pytest.raises(RecipeError, match="total_steps = 0"):
        Scheduler(optimizer(), schedules.linear(), total_steps=0)


def test_reading_a_schedule_needs_no_torch() -> None:
    code = "import sys; from trivet.schedules import parse; parse('cosine()'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_accumulated_and_skipped_steps_do_not_count() -> None:
    opt = optimizer()
    scheduler = Scheduler(opt, schedules.linear(), total_steps=4)
    for batch in range(12):
        if batch % 3 == 2 and batch != 5:  # accumulation of three; one step is skipped as by a GradScaler
            opt.step()
        scheduler.step()
    assert scheduler.state_dict() == {"step": 3}
    assert opt.param_groups[0]["lr"] == pytest.approx(0.8 * 0.25)


@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_that_skips_leaves_the_schedule_where_it_is(fused: bool) -> None:
    # A fused step is called even when it is skipped: the kernel itself reads the flag.
    weight = torch.nn.Parameter(torch.ones(1))
    opt = torch.optim.SGD([weight], lr=1.0, fused=fused)
    scheduler = Scheduler(opt, schedules.linear(), total_steps=4)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for value in (1.0, float("inf"), 1.0):
        opt.zero_grad()
        scaler.scale((weight * value).sum()).backward()
        scaler.step(opt)
        scaler.update()
        scheduler.step()
    assert scheduler.state_dict() == {"step": 2}


@given(world=st.integers(1, 8), accumulate=st.integers(1, 4), per_rank=st.integers(8, 40), cut=st.integers(0, 10))
def test_world_size_and_accumulation_change_the_number_of_steps_and_nothing_else(
    world: int, accumulate: int, per_rank: int, cut: int
) -> None:
    steps = max(1, per_rank // accumulate)
    schedule = schedules.warmup(0.1) >> schedules.cosine()
    expected = [0.8 * f for f in schedule.values(steps)]
    for _ in range(world):
        opt, rates = optimizer(), []
        scheduler = Scheduler(opt, schedule, total_steps=steps)
        for batch in range(steps * accumulate):
            if (batch + 1) % accumulate == 0:
                rates.append(opt.param_groups[0]["lr"])
                opt.step()
            scheduler.step()
            if batch == cut:  # a crash between batches: resumed from the integer
                state = scheduler.state_dict()
                scheduler = Scheduler(opt, schedule, total_steps=steps)
                scheduler.load_state_dict(state)
        assert rates == expected


def test_absolute_lengths_mean_what_they_say() -> None:
    text = 'warmup("10 steps") >> constant("2 epochs") >> cosine("200 tokens") >> hold()'
    schedule = parse(text)
    assert str(schedule) == text
    made = schedule.resolve(total_steps=100, steps_per_epoch=10, tokens_per_step=5)
    assert [phase.length for phase in made.phases] == [0.1, 0.2, 0.4, None]
    with pytest.raises(RecipeError, match="steps_per_epoch"):
        schedule.resolve(total_steps=100)
    with pytest.raises(RecipeError, match="longer than the run"):
        parse('warmup("101 steps") >> cosine()').resolve(total_steps=100)
    with pytest.raises(RecipeError, match="absolute length"):
        schedule(0.5)


@given(total=st.integers(4, 400), data=st.data())
def test_a_jump_happens_at_its_own_step_and_not_one_later(total: int, data: st.DataObject) -> None:
    # Ends of phases are sums of quotients, and progress is one quotient: rounding sets them apart by 1e-16.
    first = data.draw(st.integers(1, total - 3))
    second = data.draw(st.integers(1, total - first - 1))
    schedule = schedules.constant(f"{first} steps") >> schedules.linear(f"{second} steps", floor=0.5)
    schedule = (schedule >> schedules.restarts(cycles=1)).resolve(total_steps=total)
    assert schedule((first + second) / total) == 1.0
    assert 0.5 <= schedule((first + second - 1) / total) <= 1.0
    if total % 4 == 0:
        drops = schedules.constant(0.5) >> schedules.multi_step(at=[0.5], factor=0.1)
        assert [drops((3 * total // 4 + k) / total) for k in (-1, 0)] == [1.0, 0.1]


def test_hold_and_decay_go_on_from_where_the_phase_before_ended() -> None:
    schedule = parse("linear(0.5, floor=0.4) >> hold(0.25) >> decay(to=0.5, shape='linear')")
    assert [schedule(p) for p in (0.0, 0.5, 0.7, 0.75, 1.0)] == pytest.approx([1.0, 0.4, 0.4, 0.4, 0.2])


def test_repeat_runs_a_schedule_again() -> None:
    once = schedules.warmup(0.2) >> schedules.cosine()
    twice = schedules.repeat(once, 2)
    for p in (0.05, 0.1, 0.3, 0.45):
        assert twice(p) == pytest.approx(once(2 * p))
        assert twice(p + 0.5) == pytest.approx(once(2 * p))


def test_reduce_on_plateau_follows_torchs() -> None:
    values = [1.0, 0.9, 0.9, 0.9, 0.9, 0.8, 0.8, float("nan"), 0.8, 0.8, 0.8, 0.79999, 0.8, 0.8, 0.8, 0.1]
    ours, theirs = optimizer(), optimizer()
    mine = Scheduler(ours, schedules.reduce_on_plateau(factor=0.5, patience=2), total_steps=100)
    other = LR.ReduceLROnPlateau(theirs, factor=0.5, patience=2)
    for value in values:
        mine.report(value)
        other.step(value)
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"])
    again = Scheduler(optimizer(), schedules.reduce_on_plateau(factor=0.5, patience=2), total_steps=100)
    again.load_state_dict(mine.state_dict())
    assert again.get_last_lr() == mine.get_last_lr()


def test_a_plateau_without_a_metric_is_refused_before_half_of_the_run_is_lost() -> None:
    opt = optimizer()
    scheduler = Scheduler(opt, schedules.reduce_on_plateau(), total_steps=10)
    for _ in range(5):
        opt.step()
        scheduler.step()
    opt.step()
    with pytest.raises(RecipeError, match="has seen no metric"):
        scheduler.step()


def test_torchs_sequential_resumes_wrongly_and_ours_does_not() -> None:
    """torch 2.13: a SequentialLR made anew for a resume starts from the rate that the first scheduler left behind."""

    def sequential(opt: torch.optim.Optimizer) -> LR.SequentialLR:
        phases = [LR.LinearLR(opt, 0.1, 1.0, 5), LR.CosineAnnealingLR(opt, 15)]
        return LR.SequentialLR(opt, phases, [5])

    def resumed(make: object) -> list[list[float]]:
        runs = []
        for cut in (None, 8):
            opt = optimizer()
            scheduler = make(opt)  # type: ignore[operator]
            rates = []
            for step in range(20):
                if step == cut:
                    state, weights = scheduler.state_dict(), opt.state_dict()
                    opt = optimizer()
                    opt.load_state_dict(weights)
                    scheduler = make(opt)  # type: ignore[operator]
                    scheduler.load_state_dict(state)
                rates.append(float(opt.param_groups[0]["lr"]))
                opt.step()
                scheduler.step()
            runs.append(rates)
        return runs

    torchs, schedule = resumed(sequential), parse("warmup(0.25, start=0.1) >> cosine()")
    ours = resumed(lambda opt: Scheduler(opt, schedule, total_steps=20))
    assert torchs[0] != pytest.approx(torchs[1])
    assert ours[0] == ours[1]


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_torchs_nested_sequential_loses_a_step_and_ours_nests_freely() -> None:
    """torch 2.13 (pytorch#196243): the inner scheduler is stepped when the outer one is made."""

    def parts(opt: torch.optim.Optimizer) -> list[LR.LRScheduler]:
        return [LR.LinearLR(opt, 0.2, 1.0, 4), LR.ConstantLR(opt, 1.0)]

    flat = by_torch(lambda o: LR.SequentialLR(o, [*parts(o), LR.CosineAnnealingLR(o, 12)], [4, 8]), steps=20)
    nested = by_torch(
        lambda o: LR.SequentialLR(o, [LR.SequentialLR(o, parts(o), [4]), LR.CosineAnnealingLR(o, 12)], [8]), steps=20
    )
    assert flat != pytest.approx(nested)
    a, b, c = schedules.warmup(0.2, start=0.2), schedules.constant(0.2), schedules.cosine()
    assert executed((a >> b) >> c, 20) == executed(a >> (b >> c), 20) == pytest.approx(flat)


def test_torchs_cosine_climbs_past_its_end_and_ours_stays() -> None:
    theirs = by_torch(lambda o: LR.CosineAnnealingLR(o, 20), steps=41)
    assert theirs[40] == pytest.approx(0.8)
    assert schedules.cosine()(2.0) == 0.0


@pytest.mark.parametrize(
    ("optimizer_name", "ratio", "expected"), [("SGD", 4, 4.0), ("AdamW", 4, 2.0), ("Lion", 9, 3.0), ("Prodigy", 4, 1.0)]
)
def test_rates_follow_the_batch_size_by_the_optimizers_rule(optimizer_name: str, ratio: int, expected: float) -> None:
    from trivet.schedules.scaling import scaled_lr

    made = scaled_lr(0.1, batch_size=64 * ratio, base_batch_size=64, optimizer=optimizer_name)
    assert made.lr == pytest.approx(0.1 * expected)
    assert made.reason.endswith(".")
