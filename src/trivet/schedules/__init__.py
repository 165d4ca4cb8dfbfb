"""Learning-rate schedules: pure functions of progress in [0, 1], and how they join.

>>> rate = warmup(0.05) >> cosine(floor=0.01)
>>> rate(0.0), rate(0.05), round(rate(1.0), 4)
(0.0, 1.0, 0.01)
>>> parse(str(rate)) == rate
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trivet.schedules.phases import (
    catalogue,
    constant,
    cosine,
    decay,
    exponential,
    hold,
    inverse_sqrt,
    linear,
    multi_step,
    one_cycle,
    polynomial,
    reduce_on_plateau,
    repeat,
    restarts,
    step,
    warmup,
    wsd,
)
from trivet.schedules.preview import GroupRate, Preview, Span, group_rates, preview
from trivet.schedules.schedule import Phase, Plateau, Schedule
from trivet.schedules.text import parse

if TYPE_CHECKING:
    from trivet.schedules.scheduler import Scheduler

__all__ = [
    "GroupRate",
    "Phase",
    "Plateau",
    "Preview",
    "Schedule",
    "Scheduler",
    "Span",
    "catalogue",
    "constant",
    "cosine",
    "decay",
    "exponential",
    "group_rates",
    "hold",
    "inverse_sqrt",
    "linear",
    "multi_step",
    "one_cycle",
    "parse",
    "polynomial",
    "preview",
    "reduce_on_plateau",
    "repeat",
    "restarts",
    "step",
    "warmup",
    "wsd",
]


def __getattr__(name: str) -> object:
    # The adapter is the only member that needs torch; the rest is imported by programs that must start fast.
    if name == "Scheduler":
        from trivet.schedules.scheduler import Scheduler

        return Scheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
