"""The members: each a function of its parameters to a schedule of one phase.

p is progress within the phase, in [0, 1]; what is returned is a factor of the optimizer's own rate. The first argument
of each is the fraction of the run that the phase takes; left out, it takes the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from trivet.errors import RecipeError
from trivet.schedules.schedule import Phase, Schedule


def _one(
    name: str,
    length: float | None,
    shape: Callable[[float], float],
    parameters: dict[str, object],
    momentum: Callable[[float], float] | None = None,
) -> Schedule:
    return Schedule((Phase(name, length, tuple(parameters.items()), shape, momentum),))


def _fraction(name: str, key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise RecipeError(f"{name}: {key} = {value!r} must lie in [0, 1]")


def constant(length: float | None = None) -> Schedule:
    """The rate as it is: factor 1.

    >>> constant()(0.3)
    1.0
    """
    return _one("constant", length, lambda p: 1.0, {})


def warmup(length: float, *, start: float = 0.0) -> Schedule:
    """Rise linearly from `start` to 1: factor start + (1 - start) p. Source: Goyal et al. 2017, section 2.2.

    >>> (warmup(0.5) >> constant())(0.25)
    0.5
    """
    _fraction("warmup", "start", start)
    options: dict[str, object] = {} if start == 0 else {"start": start}
    return _one("warmup", length, lambda p: start + (1 - start) * p, options)


def linear(length: float | None = None, *, floor: float = 0.0) -> Schedule:
    """Fall linearly from 1 to `floor`: factor floor + (1 - floor)(1 - p).

    >>> linear(floor=0.5)(1.0)
    0.5
    """
    _fraction("linear", "floor", floor)
    return _one("linear", length, lambda p: floor + (1 - floor) * (1 - p), _floor(floor))


def cosine(length: float | None = None, *, floor: float = 0.0) -> Schedule:
    """Fall along half a cosine: floor + (1 - floor)(1 + cos pi p)/2. Source: Loshchilov & Hutter 2017, equation 5.

    torch's `CosineAnnealingLR` climbs again past its end; this one stays at its floor.

    >>> round(cosine()(0.5), 6)
    0.5
    """
    _fraction("cosine", "floor", floor)
    shape = lambda p: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * p))  # noqa: E731
    return _one("cosine", length, shape, _floor(floor))


def restarts(length: float | None = None, *, cycles: int = 3, floor: float = 0.0) -> Schedule:
    """`cycles` cosines of equal length, each from 1 to `floor`. Source: SGDR, Loshchilov & Hutter 2017.

    >>> restarts(cycles=2)(0.5)
    1.0
    """
    _fraction("restarts", "floor", floor)
    if cycles < 1:
        raise RecipeError(f"restarts: cycles = {cycles!r} must be 1 or more")

    def shape(p: float) -> float:
        within = (p * cycles) % 1.0 if p < 1 else 1.0
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * within))

    return _one("restarts", length, shape, {"cycles": cycles} | _floor(floor))


def polynomial(length: float | None = None, *, power: float = 2.0, floor: float = 0.0) -> Schedule:
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


def exponential(length: float | None = None, *, floor: float = 0.01) -> Schedule:
    """Fall by equal ratios from 1 to `floor`: floor^p.

    >>> round(exponential(floor=0.01)(0.5), 6)
    0.1
    """
    if not 0 < floor <= 1:
        raise RecipeError(f"exponential: floor = {floor!r} must lie in (0, 1]: equal ratios never reach 0")
    return _one("exponential", length, lambda p: floor**p, {"floor": floor})


def multi_step(length: float | None = None, *, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> Schedule:
    """Multiply by `factor` at each of the fractions `at`: factor^(number of them that are past).

    >>> multi_step(at=[0.5], factor=0.1)(0.5)
    0.1
    """
    points = tuple(float(x) for x in at)
    for x in points:
        _fraction("multi_step", "at", x)
    if not factor > 0:
        raise RecipeError(f"multi_step: factor = {factor!r} must be above 0")
    shape = lambda p: factor ** sum(p >= x for x in points)  # noqa: E731
    return _one("multi_step", length, shape, {"at": points, "factor": factor})


def inverse_sqrt(length: float | None = None, *, timescale: float = 0.05) -> Schedule:
    """Fall as 1/sqrt(1 + p / timescale), without an end to plan for. Source: Vaswani et al. 2017, equation 3.

    >>> inverse_sqrt(timescale=1.0)(0.0)
    1.0
    """
    if not timescale > 0:
        raise RecipeError(f"inverse_sqrt: timescale = {timescale!r} must be above 0")
    return _one("inverse_sqrt", length, lambda p: (1 + p / timescale) ** -0.5, {"timescale": timescale})


def one_cycle(length: float | None = None, *, peak: float = 0.3, start: float = 0.04, floor: float = 4e-6) -> Schedule:
    """Cosine up from `start` to 1 at `peak`, cosine down to `floor`; momentum goes 0.95, 0.85, 0.95 against it.

    Source: Smith & Topin 2018; the numbers are torch's `OneCycleLR` defaults.

    >>> one_cycle()(0.3)
    1.0
    """
    for key, value in (("peak", peak), ("start", start), ("floor", floor)):
        _fraction("one_cycle", key, value)
    if not 0 < peak < 1:
        raise RecipeError(f"one_cycle: peak = {peak!r} must lie inside (0, 1)")

    def between(a: float, b: float, c: float, p: float) -> float:
        if p < peak:
            return b + (a - b) * 0.5 * (1 + math.cos(math.pi * p / peak))
        return c + (b - c) * 0.5 * (1 + math.cos(math.pi * (p - peak) / (1 - peak)))

    return _one(
        "one_cycle",
        length,
        lambda p: between(start, 1.0, floor, p),
        {"peak": peak, "start": start, "floor": floor},
        momentum=lambda p: between(0.95, 0.85, 0.95, p),
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
        multi_step,
        inverse_sqrt,
        one_cycle,
        wsd,
    )
    return {member.__name__: member for member in members}
