"""The members: each a function of its parameters to a schedule of one phase.

p is progress within the phase, in [0, 1]; what is returned is a factor of the optimizer's own rate. The first argument
of each is the length of the phase: a fraction of the run, or absolute ("500 steps", "2 epochs", "1e6 tokens"); left
out, it takes the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from trivet.errors import RecipeError, unknown_name
from trivet.schedules.schedule import ROUNDING, Length, Phase, Plateau, Schedule, Shape


def _one(
    name: str,
    length: Length,
    shape: Shape,
    parameters: dict[str, object],
    momentum: Shape | None = None,
) -> Schedule:
    return Schedule((Phase(name, length, tuple(parameters.items()), shape, momentum),))


def _fraction(name: str, key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise RecipeError(f"{name}: {key} = {value!r} must lie in [0, 1]")


def constant(length: Length = None) -> Schedule:
    """The rate as it is: factor 1.

    >>> constant()(0.3)
    1.0
    """
    return _one("constant", length, lambda p: 1.0, {})


def warmup(length: float | str, *, start: float = 0.0) -> Schedule:
    """Rise linearly from `start` to 1: factor start + (1 - start) p. Source: Goyal et al. 2017, section 2.2.

    >>> (warmup(0.5) >> constant())(0.25)
    0.5
    """
    _fraction("warmup", "start", start)
    options: dict[str, object] = {} if start == 0 else {"start": start}
    return _one("warmup", length, lambda p: start + (1 - start) * p, options)


def linear(length: Length = None, *, floor: float = 0.0) -> Schedule:
    """Fall linearly from 1 to `floor`: factor floor + (1 - floor)(1 - p).

    >>> linear(floor=0.5)(1.0)
    0.5
    """
    _fraction("linear", "floor", floor)
    return _one("linear", length, lambda p: floor + (1 - floor) * (1 - p), _floor(floor))


def cosine(length: Length = None, *, floor: float = 0.0) -> Schedule:
    """Fall along half a cosine: floor + (1 - floor)(1 + cos pi p)/2. Source: Loshchilov & Hutter 2017, equation 5.

    torch's `CosineAnnealingLR` climbs again past its end; this one stays at its floor.

    >>> round(cosine()(0.5), 6)
    0.5
    """
    _fraction("cosine", "floor", floor)
    shape = lambda p: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * p))  # noqa: E731
    return _one("cosine", length, shape, _floor(floor))


def restarts(length: Length = None, *, cycles: int = 3, floor: float = 0.0) -> Schedule:
    """`cycles` cosines of equal length, each from 1 to `floor`. Source: SGDR, Loshchilov & Hutter 2017.

    >>> restarts(cycles=2)(0.5)
    1.0
    """
    _fraction("restarts", "floor", floor)
    if cycles < 1 or cycles != int(cycles):
        raise RecipeError(f"restarts: cycles = {cycles!r} must be a whole number, 1 or more")

    def shape(p: float) -> float:
        within = (p * cycles + ROUNDING) % 1.0 if p < 1 else 1.0
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * within))

    return _one("restarts", length, shape, {"cycles": cycles} | _floor(floor))


def polynomial(length: Length = None, *, power: float = 2.0, floor: float = 0.0) -> Schedule:
    """Fall as a power: floor + (1 - floor)(1 - p)^power.

    >>> polynomial(power=2.0)(0.5)
    0.25
    """
    _fraction("polynomial", "floor", floor)
    if not power > 0:
        raise RecipeError(f"polynomial: power = {power!r} must be above 0")
    return _one(
        "polynomial", length, lambda p: floor + (1 - floor) * (1 - p) ** power, {"power": power} | _floor(floor)
    )


def exponential(length: Length = None, *, floor: float = 0.01) -> Schedule:
    """Fall by equal ratios from 1 to `floor`: floor^p.

    >>> round(exponential(floor=0.01)(0.5), 6)
    0.1
    """
    if not 0 < floor <= 1:
        raise RecipeError(f"exponential: floor = {floor!r} must lie in (0, 1]: equal ratios never reach 0")
    return _one("exponential", length, lambda p: floor**p, {"floor": floor})


def multi_step(length: Length = None, *, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> Schedule:
    """Multiply by `factor` at each of the fractions `at`: factor^(number of them that are past).

    >>> multi_step(at=[0.5], factor=0.1)(0.5)
    0.1
    """
    points = tuple(float(x) for x in at)
    for x in points:
        _fraction("multi_step", "at", x)
    if not factor > 0:
        raise RecipeError(f"multi_step: factor = {factor!r} must be above 0")
    shape = lambda p: factor ** sum(p >= x - ROUNDING for x in points)  # noqa: E731
    return _one("multi_step", length, shape, {"at": points, "factor": factor})


def inverse_sqrt(length: Length = None, *, timescale: float = 0.05) -> Schedule:
    """Fall as 1/sqrt(1 + p / timescale), without an end to plan for. Source: Vaswani et al. 2017, equation 3.

    >>> inverse_sqrt(timescale=1.0)(0.0)
    1.0
    """
    if not timescale > 0:
        raise RecipeError(f"inverse_sqrt: timescale = {timescale!r} must be above 0")
    return _one("inverse_sqrt", length, lambda p: (1 + p / timescale) ** -0.5, {"timescale": timescale})


def one_cycle(length: Length = None, *, peak: float = 0.3, start: float = 0.04, floor: float = 4e-6) -> Schedule:
    """Cosine up from `start` to 1 at `peak`, cosine down to `floor`; momentum goes 0.95, 0.85, 0.95 against it.

    Source: Smith & Topin 2018; the numbers are torch's `OneCycleLR` defaults.

    >>> one_cycle()(0.3)
    1.0
    """
    for key, value in (("peak", peak), ("start", start), ("floor", floor)):
        _fraction("one_cycle", key, value)
    if not 0 < peak < 1:
        raise RecipeError(f"one_cycle: peak = {peak!r} must lie inside (0, 1)")

    def through(a: float, b: float, c: float) -> Shape:
        first, second = 0.5 * (a - b), 0.5 * (b - c)
        up, down = math.pi / peak, math.pi / (1 - peak)
        cos = math.cos
        return lambda p: b + first * (1 + cos(up * p)) if p < peak else c + second * (1 + cos(down * (p - peak)))

    return _one(
        "one_cycle",
        length,
        through(start, 1.0, floor),
        {"peak": peak, "start": start, "floor": floor},
        momentum=through(0.95, 0.85, 0.95),
    )


def wsd(*, warm: float = 0.05, decay: float = 0.2, floor: float = 0.0) -> Schedule:
    """Warm up, stay, decay along 1 - sqrt(p): warmup-stable-decay. Source: Hägele et al. 2024, section 3.

    >>> wsd()(0.5)
    1.0
    """
    _fraction("wsd", "floor", floor)
    if not (warm >= 0 and decay > 0 and warm + decay <= 1):
        raise RecipeError(f"wsd: warm = {warm!r} and decay = {decay!r} must be positive and fit into the run")

    def shape(p: float) -> float:
        if p < warm:
            return p / warm
        if p < 1 - decay:
            return 1.0
        return floor + (1 - floor) * (1 - math.sqrt((p - (1 - decay)) / decay))

    return _one("wsd", None, shape, {"warm": warm, "decay": decay} | _floor(floor))


def step(length: Length = None, *, every: float = 1 / 3, factor: float = 0.1) -> Schedule:
    """Multiply by `factor` after each `every` of the phase: factor^floor(p / every). torch's `StepLR`.

    >>> step(every=0.5, factor=0.1)(0.5)
    0.1
    """
    if not 0 < every <= 1:
        raise RecipeError(f"step: every = {every!r} must lie in (0, 1]")
    if not factor > 0:
        raise RecipeError(f"step: factor = {factor!r} must be above 0")
    # 0.3 / 0.1 is 2.9999999999999996.
    shape = lambda p: factor ** math.floor(p / every + 1e-9)  # noqa: E731
    return _one("step", length, shape, {"every": every, "factor": factor})


def hold(length: Length = None) -> Schedule:
    """Stay at the level where the phase before ended.

    >>> (linear(0.5, floor=0.2) >> hold())(0.9)
    0.2
    """
    return Schedule((Phase("hold", length, (), lambda p: 1.0, relative=True),))


def decay(length: Length = None, *, to: float = 0.0, shape: str = "cosine") -> Schedule:
    """Fall from the level where the phase before ended to `to` times it.

    `shape` is "cosine", "linear" or "exponential".

    >>> (constant(0.5) >> decay(to=0.5, shape="linear"))(0.75)
    0.75
    """
    members = {"cosine": cosine, "linear": linear, "exponential": exponential}
    if shape not in members:
        raise unknown_name("shape of decay", shape, members, error=RecipeError)
    factor = members[shape](floor=to).phases[0].factor
    return Schedule((Phase("decay", length, (("to", to), ("shape", shape)), factor, relative=True),))


def reduce_on_plateau(
    length: Length = None, *, factor: float = 0.1, patience: int = 10, threshold: float = 1e-4, floor: float = 0.0
) -> Schedule:
    """Multiply the rate by `factor` after `patience` reports without improvement: the one member with a state.

    It is no function of progress: its rate depends on what `Scheduler.report(metric)` is told, it cannot be previewed,
    and its state is part of the scheduler's. An improvement is a relative gain of more than `threshold`. torch's
    `ReduceLROnPlateau`.

    >>> str(reduce_on_plateau(patience=3))
    'reduce_on_plateau(factor=0.1, patience=3)'
    """
    if not 0 < factor < 1:
        raise RecipeError(f"reduce_on_plateau: factor = {factor!r} must lie inside (0, 1)")
    if patience < 0:
        raise RecipeError(f"reduce_on_plateau: patience = {patience!r} must be 0 or more")
    _fraction("reduce_on_plateau", "floor", floor)
    parameters: dict[str, object] = {"factor": factor, "patience": patience}
    parameters |= {"threshold": threshold} if threshold != 1e-4 else {}
    plateau = Plateau(factor, patience, threshold, floor)
    words = tuple((parameters | _floor(floor)).items())
    return Schedule((Phase("reduce_on_plateau", length, words, lambda p: 1.0, plateau=plateau),))


def repeat(schedule: Schedule, times: int) -> Schedule:
    """Run a schedule `times` times, each in an equal share of the run; fractions shrink with it.

    >>> str(repeat(warmup(0.2) >> cosine(0.8), 2))
    'warmup(0.1) >> cosine(0.4) >> warmup(0.1) >> cosine(0.4)'
    """
    if times < 1:
        raise RecipeError(f"repeat: times = {times!r} must be 1 or more")
    *phases, last = schedule.phases
    taken = sum(phase.length for phase in phases if isinstance(phase.length, float | int))
    if any(isinstance(phase.length, str) for phase in schedule.phases):
        raise RecipeError("repeat needs fractions of the run; resolve absolute lengths first")
    lengths = [*(phase.length for phase in phases), 1 - taken if last.length is None else last.length]
    once = tuple(
        dataclasses.replace(phase, length=float(f"{float(length) / times:.12g}"))  # type: ignore[arg-type]
        for phase, length in zip(schedule.phases, lengths, strict=True)
    )
    return Schedule(once * times)


def _floor(floor: float) -> dict[str, object]:
    return {} if floor == 0 else {"floor": floor}


def catalogue() -> dict[str, Callable[..., Schedule]]:
    """Return every member by name."""
    members: tuple[Callable[..., Schedule], ...] = (
        constant,
        warmup,
        linear,
        cosine,
        restarts,
        polynomial,
        exponential,
        step,
        multi_step,
        inverse_sqrt,
        one_cycle,
        wsd,
        hold,
        decay,
        reduce_on_plateau,
    )
    return {member.__name__: member for member in members}
