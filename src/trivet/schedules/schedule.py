"""A schedule: phases that share the run between them."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, overload

from trivet.errors import RecipeError, nearest

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

BARS = "▁▂▃▄▅▆▇█"
# A fraction of the run, or an absolute length such as "500 steps", "2 epochs" or "1e6 tokens"; None: the rest.
Length: TypeAlias = float | str | None
# From progress within a phase to a factor of the rate, or to a momentum.
Shape: TypeAlias = Callable[[float], float]
UNITS = ("steps", "epochs", "tokens")
# Progress is a quotient of integers: k/n may fall short of a join by rounding, which must not move a jump by one step.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Phase:
    """One piece of a schedule: a factor of the rate over its own progress p in [0, 1].

    Two phases are equal when their texts are: name, length and parameters. A `relative` phase multiplies the level at
    which the phase before it ended. `plateau` marks the one phase whose factor depends on what is reported to it.
    """

    name: str
    length: Length
    parameters: tuple[tuple[str, object], ...]
    factor: Shape = field(compare=False, repr=False)
    momentum: Shape | None = field(default=None, compare=False, repr=False)
    relative: bool = False
    plateau: Plateau | None = None

    def __post_init__(self) -> None:
        if isinstance(self.length, str):
            number, unit = read_length(self.length)
            if not number > 0:
                raise RecipeError(f"{self.name}: the length {self.length!r} must be above 0 {unit}")
        elif self.length is not None and not 0 < self.length <= 1:
            raise RecipeError(
                f"{self.name}: the length {self.length!r} must be a fraction of the run, in (0, 1], "
                'or absolute: "500 steps", "2 epochs", "1e6 tokens"'
            )

    def __str__(self) -> str:
        words = [] if self.length is None else [_literal(self.length).replace("'", '"')]
        words += [f"{key}={_literal(value)}" for key, value in self.parameters]
        return f"{self.name}({', '.join(words)})"


@dataclass(frozen=True)
class Plateau:
    """How `reduce_on_plateau` reacts: multiply by `factor` after `patience` reports without `threshold` of gain."""

    factor: float
    patience: int
    threshold: float
    floor: float


@dataclass(frozen=True)
class Schedule:
    """A pure function of progress in [0, 1] to a factor of the base rate; `a >> b` puts b after a."""

    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        open_ended = [phase for phase in self.phases[:-1] if phase.length is None]
        if open_ended:
            name = open_ended[0].name
            raise RecipeError(f"{name}() takes the rest of the run, so nothing can follow it; give it a length")
        total = sum(phase.length for phase in self.phases if isinstance(phase.length, float | int))
        if total > 1 + 1e-9 or (self.phases[-1].length is None and total > 1 - 1e-9):
            raise RecipeError(f"the phases of {self} take {total:g} of the run; shorten them to leave room within 1")

    def __rshift__(self, other: Schedule) -> Schedule:
        return Schedule(self.phases + other.phases)

    def __reduce__(self) -> tuple[Callable[[str], Schedule], tuple[str]]:
        from trivet.schedules.text import parse

        return parse, (str(self),)  # the shapes are closures, which do not pickle; the text says all

    @overload
    def __call__(self, progress: float) -> float: ...

    @overload
    def __call__(self, progress: NDArray[np.float64]) -> NDArray[np.float64]: ...

    def __call__(self, progress: float | NDArray[np.float64]) -> float | NDArray[np.float64]:
        """Return the factor at progress, a number or an array; past the end the last value stays."""
        if type(progress) is not float and not isinstance(progress, float | int):
            import numpy as np

            return np.array([self(float(each)) for each in progress.flat]).reshape(progress.shape)
        return self.pair(progress)[0]

    def momentum(self, progress: float) -> float | None:
        """Return the momentum at progress, or None where the schedule leaves it alone."""
        return self.pair(progress)[1]

    def pair(self, progress: float) -> tuple[float, float | None]:
        """Return factor and momentum at progress."""
        for begin, end, length, level, factor, momentum in self._table:
            if progress < end:
                p = (progress - begin) / length
                if not 0.0 <= p <= 1.0:
                    p = 0.0 if p < 0.0 else 1.0
                return level * factor(p), None if momentum is None else momentum(p)
        raise RecipeError(f"progress = {progress!r} is not a number in [0, 1]")

    def phase_at(self, progress: float) -> int:
        """Return the number of the phase that decides at progress."""
        return next(index for index, row in enumerate(self._table) if progress < row[1])

    @property
    def plateau(self) -> Plateau | None:
        """How the schedule reacts to reported metrics, or None for a pure function of progress."""
        return next((phase.plateau for phase in self.phases if phase.plateau is not None), None)

    @cached_property
    def _table(self) -> tuple[tuple[float, float, float, float, Shape, Shape | None], ...]:
        """Begin, end, length, level, factor and momentum of every phase; the last one has no end."""
        rows: list[tuple[float, float, float, float, Shape, Shape | None]] = []
        begin, level = 0.0, 1.0
        for index, phase in enumerate(self.phases):
            length = max(1 - begin, 1e-12) if phase.length is None else self._fraction(phase)
            level = level if phase.relative else 1.0
            end = math.inf if index == len(self.phases) - 1 else begin + length - ROUNDING
            rows.append((begin, end, length, level, phase.factor, phase.momentum))
            begin, level = begin + length, level * phase.factor(1.0)
        return tuple(rows)

    def _fraction(self, phase: Phase) -> float:
        if isinstance(phase.length, str):
            raise RecipeError(
                f"{phase} has an absolute length; resolve the schedule for a run: resolve(total_steps=...)"
            )
        assert phase.length is not None
        return phase.length

    def resolve(
        self, *, total_steps: int, steps_per_epoch: float | None = None, tokens_per_step: float | None = None
    ) -> Schedule:
        """Turn absolute lengths into fractions of a run of `total_steps` optimizer steps.

        Raises `RecipeError` when a unit cannot be converted, a phase is longer than the run, or the phases end before
        it does.

        >>> from trivet.schedules import cosine, warmup
        >>> str((warmup("50 steps") >> cosine()).resolve(total_steps=1000))
        'warmup(0.05) >> cosine()'
        """
        if not total_steps >= 1:
            raise RecipeError(f"total_steps = {total_steps} must be 1 or more")
        per_unit = {"steps": 1.0, "epochs": steps_per_epoch, "tokens": tokens_per_step and 1 / tokens_per_step}
        phases = []
        for phase in self.phases:
            if isinstance(phase.length, str):
                number, unit = read_length(phase.length)
                steps = per_unit[unit]
                if steps is None:
                    words = {"epochs": "steps_per_epoch", "tokens": "tokens_per_step"}[unit]
                    raise RecipeError(f"{phase} counts {unit}; resolving it needs {words}=")
                fraction = number * steps / total_steps
                if fraction > 1:
                    raise RecipeError(
                        f"{phase} is longer than the run ({number * steps:g} of {total_steps} steps); "
                        "shorten it or train longer"
                    )
                phase = dataclasses.replace(phase, length=fraction)
            phases.append(phase)
        taken = sum(phase.length for phase in phases if isinstance(phase.length, float | int))
        if phases[-1].length is not None and taken < 1 - 1e-9:
            raise RecipeError(
                f"the phases of {self} take only {taken:g} of the run; "
                "leave out the last one's length, or add >> hold()"
            )
        return Schedule(tuple(phases))

    def __str__(self) -> str:
        return " >> ".join(map(str, self.phases))

    def values(self, steps: int) -> list[float]:
        """Return the factor at each of `steps` steps: step k is driven at progress k / steps."""
        return [self(step / steps) for step in range(steps)]

    def sparkline(self, width: int = 40) -> str:
        """Draw the factor over the run as one line of block characters; absolute lengths as of a 1000-step run.

        >>> from trivet.schedules import linear
        >>> linear().sparkline(8)
        '█▇▆▅▄▃▂▁'
        """
        shown = self._drawable()
        values = [shown((i + 0.5) / width) for i in range(width)]
        low, high = min(values), max(values)
        if math.isclose(low, high):
            return BARS[-1] * width
        return "".join(BARS[round((v - low) / (high - low) * (len(BARS) - 1))] for v in values)

    def plot(
        self,
        *,
        steps: int = 1000,
        lr: float = 1.0,
        steps_per_epoch: float | None = None,
        tokens_per_step: float | None = None,
    ) -> Figure:
        """Draw the rate over a run of `steps` steps; phases counted in epochs or tokens need those two."""
        from trivet.schedules.preview import preview

        return preview(
            self, steps=steps, lr=lr, steps_per_epoch=steps_per_epoch, tokens_per_step=tokens_per_step
        ).plot()

    def _repr_html_(self) -> str:
        shown = self._drawable()
        points = " ".join(f"{3 * i},{62 - 60 * shown(i / 100):.1f}" for i in range(101))
        line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="2"/>'
        return (
            f'<code>{html.escape(str(self))}</code><br><svg width="300" height="64" viewBox="0 0 300 64">{line}</svg>'
        )

    def _drawable(self) -> Schedule:
        try:
            return self.resolve(total_steps=1000, steps_per_epoch=100, tokens_per_step=1000)
        except RecipeError:
            parts = [dataclasses.replace(p, length=0.1) if isinstance(p.length, str) else p for p in self.phases]
            return Schedule(tuple(parts))


def _literal(value: object) -> str:
    plain = value.item() if hasattr(value, "item") else value  # NumPy writes its numbers as calls
    return repr(list(plain) if isinstance(plain, tuple) else plain)


def read_length(text: str) -> tuple[float, str]:
    """Read an absolute length.

    >>> read_length("500 steps"), read_length("1.5 epochs")
    ((500.0, 'steps'), (1.5, 'epochs'))
    """
    number, _, unit = text.strip().partition(" ")
    unit = unit.strip()
    unit = unit if unit.endswith("s") else unit + "s"
    try:
        value = float(number)
    except ValueError:
        raise RecipeError(f'length {text!r} has no number; write for instance "500 steps"') from None
    if unit not in UNITS:
        raise RecipeError(f"length {text!r}: unknown unit{nearest(unit, UNITS) or '.'} Allowed: {', '.join(UNITS)}")
    return value, unit
