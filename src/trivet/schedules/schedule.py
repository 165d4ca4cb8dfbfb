"""A schedule: phases that share the run between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trivet.errors import RecipeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Phase:
    """One piece of a schedule: a factor of the rate over its own progress p in [0, 1].

    `length` is the fraction of the run that it takes, `None` for the rest of the run. Two phases are equal when their
    texts are: name, length and parameters.
    """

    name: str
    length: float | None
    parameters: tuple[tuple[str, object], ...]
    factor: Callable[[float], float] = field(compare=False, repr=False)
    momentum: Callable[[float], float] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.length is not None and not 0 < self.length <= 1:
            raise RecipeError(f"{self.name}: the length {self.length!r} must be a fraction of the run, in (0, 1]")

    def __str__(self) -> str:
        words = [] if self.length is None else [f"{self.length:g}"]
        words += [f"{key}={list(v) if isinstance(v, tuple) else v}" for key, v in self.parameters]
        return f"{self.name}({', '.join(words)})"


@dataclass(frozen=True)
class Schedule:
    """A pure function of progress in [0, 1] to a factor of the base rate; `a >> b` puts b after a."""

    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        open_ended = [i for i, phase in enumerate(self.phases) if phase.length is None]
        if any(i < len(self.phases) - 1 for i in open_ended):
            name = self.phases[open_ended[0]].name
            raise RecipeError(f"{name}() takes the rest of the run, so nothing can follow it; give it a length")
        total = sum(phase.length or 0.0 for phase in self.phases)
        if total > 1 + 1e-9 or (open_ended and total > 1 - 1e-9):
            raise RecipeError(f"the phases of {self} take {total:g} of the run; shorten them to leave room within 1")

    def __rshift__(self, other: Schedule) -> Schedule:
        return Schedule(self.phases + other.phases)

    def __call__(self, progress: float) -> float:
        """Return the factor at progress; past the end the last value stays."""
        phase, p = self._at(progress)
        return phase.factor(p)

    def momentum(self, progress: float) -> float | None:
        """Return the momentum at progress, or None where the schedule leaves it alone."""
        phase, p = self._at(progress)
        return None if phase.momentum is None else phase.momentum(p)

    def _at(self, progress: float) -> tuple[Phase, float]:
        begin = 0.0
        for phase in self.phases[:-1]:
            length = phase.length or 0.0
            if progress < begin + length:
                return phase, max(0.0, (progress - begin) / length)
            begin += length
        last = self.phases[-1]
        length = 1 - begin if last.length is None else last.length
        return last, min(max(0.0, (progress - begin) / length), 1.0)

    def __str__(self) -> str:
        return " >> ".join(map(str, self.phases))

    def values(self, steps: int) -> list[float]:
        """Return the factor at each of `steps` steps: step k is driven at progress k / steps."""
        return [self(step / steps) for step in range(steps)]

    def sparkline(self, width: int = 40) -> str:
        """Draw the factor over the run as one line of block characters.

        >>> from trivet.schedules import linear
        >>> linear().sparkline(8)
        '█▇▆▅▄▃▂▁'
        """
        values = [self((i + 0.5) / width) for i in range(width)]
        low, high = min(values), max(values)
        if math.isclose(low, high):
            return BARS[-1] * width
        return "".join(BARS[round((v - low) / (high - low) * (len(BARS) - 1))] for v in values)

    def plot(self, *, steps: int = 200, lr: float = 1.0) -> Figure:
        """Draw the rate over the run."""
        from trivet.figures.curves import schedule

        return schedule([step / steps for step in range(steps + 1)], [lr * self(s / steps) for s in range(steps + 1)])
