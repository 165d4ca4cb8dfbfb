"""How long a step and an evaluation take, seen on a few real ones."""

from __future__ import annotations

import itertools
import statistics

from trivet.record import Eval, Event, Step

__all__ = ["Pace"]


class Pace:
    """Times steps and evaluation apart: the first step pays for compilation, and an evaluation is no step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.evaluation = 0.0

    def handle(self, event: Event) -> None:
        if isinstance(event, Step):
            self.times.append(event.seconds)
        elif isinstance(event, Eval) and self.times:
            self.evaluation = event.seconds - self.times[-1]

    def step(self) -> float:
        """Return the seconds of an ordinary step: the mean without the slowest quarter."""
        lengths = sorted(later - earlier for earlier, later in itertools.pairwise([0.0, *self.times]))
        return max(1e-6, statistics.fmean(lengths[: max(1, 3 * len(lengths) // 4)]))
