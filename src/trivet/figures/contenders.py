"""Contenders side by side: every seed's metric with mean and interval, and how each got there."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trivet.figures.style import CYCLE, INK, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Sequence[tuple[int, float]]
DASHES = ("-", "--", "-.", ":")


def contenders(
    names: Sequence[str],
    scores: Sequence[Sequence[float]],
    intervals: Sequence[tuple[float, float]],
    curves: Sequence[Sequence[Curve]],
    *,
    metric: str,
    rates: Sequence[Mapping[float, float]] = (),
) -> Figure:
    """Draw the scores of each contender over seeds, and the median learning curve with its range.

    `rates` adds the mean metric of each contender at other rates than its own.
    """
    with style():
        columns = 3 if any(rates) else 2
        figure, (left, right, *third) = new_figure(5 * columns, 0.9 + max(2.4, 0.32 * len(names)), columns=columns)
        for at, (name, values, interval, lines) in enumerate(zip(names, scores, intervals, curves, strict=True)):
            color, dash = CYCLE[at % len(CYCLE)], DASHES[at // len(CYCLE) % len(DASHES)]
            finite = [value for value in values if math.isfinite(value)]
            left.plot(finite, [at] * len(finite), "o", color=color, markersize=4, alpha=0.5)
            if len(finite) == len(values) > 1:
                mean = statistics.fmean(values)
                left.errorbar(
                    mean, at, xerr=[[mean - interval[0]], [interval[1] - mean]], fmt="d", color=color, capsize=3
                )
            steps, middle, low, high = _band(lines)
            right.plot(steps, middle, color=color, linestyle=dash, label=name)
            right.fill_between(steps, low, high, color=color, alpha=0.12, linewidth=0)
            if third and rates[at]:
                tried = [(rate, value) for rate, value in sorted(rates[at].items()) if math.isfinite(value)]
                third[0].plot(*zip(*tried, strict=True), color=color, linestyle=dash, marker="o", markersize=4)
        left.set(title=f"{metric.replace('_', ' ')}: every seed, mean and 95 % interval", yticks=range(len(names)))
        left.set_yticklabels(names, color=INK)
        left.invert_yaxis()
        right.set(title="On the way: median and range over seeds", xlabel="step")
        right.legend()
        for axes in third:
            axes.set(title="At other rates (means; what diverged is left out)", xlabel="rate", xscale="log")
        return figure


def _band(curves: Sequence[Curve]) -> tuple[list[int], list[float], list[float], list[float]]:
    """Return the steps that all curves have, and median, lowest and highest value there."""
    tables = [dict(curve) for curve in curves if curve]
    steps = sorted(set.intersection(*map(set, tables))) if tables else []
    columns = [[table[step] for table in tables] for step in steps]
    return steps, [statistics.median(c) for c in columns], [min(c) for c in columns], [max(c) for c in columns]
