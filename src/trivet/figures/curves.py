"""Curves of a run: loss, metric, rate and gradient norm over steps; a range test over rates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trivet.figures.style import BLUE, GREEN, INK, ORANGE, PURPLE, RED, SKY, new_figure, number, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def training(
    steps: Sequence[int],
    losses: Sequence[float],
    rates: Sequence[float],
    norms: Sequence[float | None],
    *,
    eval_steps: Sequence[int],
    metrics: Sequence[float],
    eval_losses: Sequence[float],
    metric: str,
    best_step: int | None = None,
) -> Figure:
    """Draw loss (training and validation), metric, and rate with gradient norm, over optimizer steps."""
    with style():
        figure, (left, middle, right) = new_figure(10, 2.9, columns=3)
        _loss(left, steps, losses, eval_steps, eval_losses)
        _metric(middle, eval_steps, metrics, metric, best_step)
        _rate(right, steps, rates, norms)
        return figure


def _loss(axes: Axes, steps: Sequence[int], losses: Sequence[float], at: Sequence[int], val: Sequence[float]) -> None:
    axes.plot(steps, losses, color=BLUE, alpha=0.3, linewidth=0.8)
    axes.plot(steps, _running_mean(losses), color=BLUE, label="training")
    axes.plot(at, val, color=ORANGE, linestyle="--", label="validation")
    positive = [v for v in (*losses, *val) if v > 0]
    if len(positive) == len(losses) + len(val) and positive and max(positive) > 20 * min(positive):
        axes.set_yscale("log")
    axes.set(title="Loss", xlabel="step")
    axes.legend()


def _metric(axes: Axes, at: Sequence[int], metrics: Sequence[float], name: str, best_step: int | None) -> None:
    axes.plot(at, metrics, color=GREEN, marker="." if len(at) < 40 else None)
    if best_step is not None and best_step in at:
        best = metrics[list(at).index(best_step)]
        axes.plot([best_step], [best], marker="o", markersize=7, color=GREEN, markerfacecolor="none")
        axes.annotate(
            number(best),
            (best_step, best),
            textcoords="offset points",
            xytext=(0, -14),
            ha="center",
            fontsize=8,
        )
    axes.set(title=f"Validation {name.replace('_', ' ')}", xlabel="step")


def _rate(axes: Axes, steps: Sequence[int], rates: Sequence[float], norms: Sequence[float | None]) -> None:
    axes.plot(steps, rates, color=PURPLE, label="rate")
    axes.set(title="Learning rate and gradient norm", xlabel="step", ylim=(0, None))
    axes.tick_params(axis="y", colors=PURPLE)
    known = [(s, n) for s, n in zip(steps, norms, strict=True) if n is not None and math.isfinite(n)]
    if known:
        other = axes.twinx()
        other.plot(*zip(*known, strict=True), color=SKY, alpha=0.7, linewidth=0.8, linestyle="-")
        other.set_yscale("log")
        other.grid(visible=False)
        other.tick_params(axis="y", colors=SKY)
        other.spines["right"].set_visible(True)


def lr_range(
    rates: Sequence[float],
    losses: Sequence[Sequence[float]],
    *,
    low: float,
    high: float,
    pick: float,
    edge: float | None = None,
    tried: Sequence[tuple[float, float]] = (),
) -> Figure:
    """Draw a range test: sweeps thin, their median thick, the usable interval, the edge, short runs and the pick."""
    with style():
        figure, (axes,) = new_figure(8.4, 2.9)
        for curve in losses:
            axes.plot(rates[: len(curve)], curve, color=BLUE, alpha=0.35, linewidth=0.9)
        length = min((len(curve) for curve in losses), default=0)
        middle = [statistics.median(curve[i] for curve in losses) for i in range(length)]
        axes.plot(rates[:length], middle, color=BLUE, label="loss (median of sweeps)")
        if len(losses) > 1:
            columns = [[curve[i] for curve in losses] for i in range(length)]
            axes.fill_between(
                rates[:length], list(map(min, columns)), list(map(max, columns)), color=BLUE, alpha=0.12, linewidth=0
            )
        axes.axvspan(low, high, color=GREEN, alpha=0.12, label=f"usable {low:.1e} to {high:.1e}")
        axes.axvline(pick, color=GREEN, label=f"pick {pick:.1e}")
        if edge is not None:
            axes.axvline(edge, color=RED, linestyle=":", label=f"breaks at {edge:.1e}")
        finite = [(rate, loss) for rate, loss in tried if math.isfinite(loss)]
        if finite:
            axes.plot(*zip(*finite, strict=True), "o", color=ORANGE, label="short decayed runs, held-out loss")
        if middle:
            bottom = min(*middle, *(loss for _, loss in finite))
            span = max(middle[0] - bottom, 1e-12)
            axes.set_ylim(bottom - 0.1 * span, middle[0] + 0.5 * span)
        axes.set_xscale("log")
        axes.set(title="Range test", xlabel="learning rate", ylabel="loss")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return figure


def schedule(progress: Sequence[float], rates: Sequence[float]) -> Figure:
    """Draw the rate over the run."""
    with style():
        figure, (axes,) = new_figure(6.4, 2.4)
        axes.plot(progress, rates, color=PURPLE)
        axes.fill_between(progress, rates, color=PURPLE, alpha=0.1)
        axes.set(title="Learning rate", xlabel="progress of the run", xlim=(0, 1), ylim=(0, None))
        return figure


def bars(names: Sequence[str], values: Sequence[float], *, interval: tuple[float, float] | None, label: str) -> Figure:
    """Draw a metric for several contenders as points on one line each; the first has an interval."""
    with style():
        figure, (axes,) = new_figure(6.4, 0.55 + 0.34 * len(names))
        rows = list(range(len(names)))[::-1]
        axes.scatter(values, rows, color=[GREEN, *[INK] * (len(names) - 1)], zorder=3)
        if interval is not None:
            axes.plot(interval, [rows[0]] * 2, color=GREEN, linewidth=3, alpha=0.5, solid_capstyle="round")
        for value, row in zip(values, rows, strict=True):
            axes.annotate(
                number(value),
                (value, row),
                textcoords="offset points",
                xytext=(0, 6),
                ha="center",
                fontsize=8,
            )
        axes.set_yticks(rows, names)
        axes.set_ylim(-0.6, len(names) - 0.2)
        axes.set(xlabel=label)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
        return figure


def _running_mean(values: Sequence[float], decay: float = 0.95) -> list[float]:
    average, smooth = 0.0, []
    for i, value in enumerate(values, 1):
        average = decay * average + (1 - decay) * value
        smooth.append(average / (1 - decay**i))
    return smooth
