"""What a search for the learning rate found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LRRange(msgspec.Struct, frozen=True, kw_only=True):
    """What a range test found.

    `low` to `high` is where the loss falls without breaking, `pick` the rate to use; `confidence` in [0, 1] is high
    when the sweeps agree. When `abstained` is true the pick is only the rate that was there before. `rates` and
    `losses` (one row per sweep, smoothed) are the curves; `edge` is the rate at which the loss broke, if it did;
    `tried` are the rates of the short runs with their held-out losses. `cost` is the share of a normal run's steps that
    the search took, and `advice` says in one line what to do next. `curvature` is the largest one at the fresh weights,
    where it was asked for, `limit` the rate above which it makes steps grow, `meaning` both in words.
    """

    low: float
    high: float
    pick: float
    confidence: float
    abstained: bool
    reason: str
    edge: float | None = None
    rates: tuple[float, ...] = ()
    losses: tuple[tuple[float, ...], ...] = ()
    tried: tuple[tuple[float, float], ...] = ()
    cost: float | None = None
    seconds: float = 0.0
    curvature: float | None = None
    limit: float | None = None
    meaning: str = ""

    def __str__(self) -> str:
        if self.abstained:
            return f"no rate found ({self.reason}); keeping {self.pick:.2g}"
        word = "good" if self.confidence >= 0.7 else "fair" if self.confidence >= 0.4 else "low"
        edge = f", breaks at {self.edge:.2g}" if self.edge is not None else ""
        return f"usable {self.low:.2g} to {self.high:.2g}{edge}; pick {self.pick:.2g} (confidence: {word})"

    @property
    def steepness(self) -> str:
        """The largest curvature beside the pick, in words; empty where it was not asked for."""
        if self.curvature is None:
            return ""
        text = f"largest curvature at the fresh weights {self.curvature:.3g}: {self.meaning}"
        if self.limit is None:
            return text
        beside = f"; the pick is {self.pick / self.limit:.2g} of that"
        if self.pick > self.limit:
            beside += ", so warm up: the first full steps would overshoot where the loss is steepest"
        return text + beside

    @property
    def advice(self) -> str:
        """One line on what to do next."""
        if self.abstained:
            return "train with the rate you have, watch the first steps, and search if it matters"
        if self.confidence >= 0.7:
            return f"use {self.pick:.2g} with warmup and decay; halving or doubling it should change little"
        return f"use {self.pick:.2g}, and compare {self.pick / 3:.1g} and {3 * self.pick:.1g} before a long run"

    def plot(self) -> Figure:
        """Draw the curves, the usable interval, the edge, the short runs and the pick."""
        from trivet.figures.curves import lr_range

        return lr_range(
            self.rates, self.losses, low=self.low, high=self.high, pick=self.pick, edge=self.edge, tried=self.tried
        )
