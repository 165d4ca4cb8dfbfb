"""The task's own metric: what a result is judged by, computed on raw model outputs.

Classification metrics take logits, regression metrics the model's numbers. Every metric is exact on ties, is
computed in float64 (sums over pixels and tokens are exact), and is NaN where it is not defined (no rows, an output
that is not a number, one class alone for a ranking metric): a broken model never scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trivet.errors import InputError, nearest, unknown_name

__all__ = ["METRICS", "Metric", "bootstrap_difference", "bootstrap_interval", "metric_for", "register"]

Scorer = Callable[[Tensor, Tensor], float]
RowScorer = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Metric:
    """A number for outputs against targets, and which direction is better.

    ``scale`` is ``(mean, std)`` of a standardised regression target: outputs and targets are put back into
    the user's units before the metric is computed. With ``log_outputs`` (counts) the outputs are logarithms, and
    only targets are multiplied by ``std``. ``unit`` names them (``"target units"``, ``""`` for shares
    between 0 and 1).

    A metric that is a function of one small vector per row (an image's overlap, a text's likelihood, a query's
    hits) names it: ``rows(outputs, targets)`` gives ``(rows, k)`` and ``pooled`` makes the number of them. The
    bootstrap then draws those vectors instead of computing the metric anew on every resample.

    >>> accuracy = metric_for("accuracy", "binary")
    >>> accuracy(torch.tensor([[2.0], [-1.0], [0.5], [-3.0]]), torch.tensor([1.0, 0.0, 0.0, 0.0]))
    0.75
    """

    name: str
    function: Scorer
    higher_is_better: bool = True
    kinds: tuple[str, ...] = ()
    unit: str = ""
    scale: tuple[float, float] | None = None
    log_outputs: bool = False
    rows: RowScorer | None = None
    pooled: Callable[[Tensor], float] | None = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the metric as a float; NaN when an output is NaN or there are no rows.

        Raises InputError when outputs and targets differ in their number of rows.
        """
        outputs, targets = self._prepared(outputs, targets)
        if len(outputs) == 0 or bool(outputs.isnan().any()):
            return math.nan
        return float(self.function(outputs, targets))

    def resampled(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], float]:
        """A function from drawn rows (indices) to the metric on them, prepared once for many draws."""
        outputs, targets = self._prepared(outputs, targets)
        if self.rows is None or self.pooled is None:
            plain = replace(self, scale=None)
            return lambda drawn: plain(outputs[drawn], targets[drawn])
        pooled = self.pooled
        if len(outputs) == 0 or bool(outputs.isnan().any()):
            return lambda drawn: math.nan
        values = self.rows(outputs, targets)
        return lambda drawn: float(pooled(values[drawn]))

    def _prepared(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if len(outputs) != len(targets):
            raise InputError(f"{self.name} needs one output per target: got {len(outputs)} and {len(targets)} rows")
        outputs, targets = outputs.detach().cpu(), targets.detach().cpu()
        # Maps of logits stay as they are: a double copy of a set of images or texts would be needless gigabytes.
        if outputs.is_floating_point() and self.rows is None:
            outputs = outputs.double()
        if self.scale is not None:
            mean, std = self.scale
            outputs = outputs + math.log(std) if self.log_outputs else outputs * std + mean
            targets = targets.double() * std + mean
        return outputs, targets

    def better(self, new: float, old: float) -> bool:
        """Whether ``new`` beats ``old``; NaN never beats anything, and everything else beats NaN."""
        if math.isnan(new) or math.isnan(old):
            return math.isnan(old) and not math.isnan(new)
        return new > old if self.higher_is_better else new < old

    def in_units(self, scale: tuple[float, float] | None) -> Metric:
        """The same metric for a target standardised by ``(mean, std)``."""
        return replace(self, scale=scale)


METRICS: dict[tuple[str, str], Metric] = {}
"""Every metric by ``(name, kind)``: the same name may be computed differently for another kind."""


def register(
    name: str,
    *kinds: str,
    higher_is_better: bool = True,
    unit: str = "",
    log_outputs: bool = False,
    rows: RowScorer | None = None,
    pooled: Callable[[Tensor], float] | None = None,
) -> Callable[[Scorer], Scorer]:
    """Add a metric under ``name`` for these kinds of task."""

    def add(function: Scorer) -> Scorer:
        for kind in kinds:
            METRICS[name, kind] = Metric(name, function, higher_is_better, kinds, unit, None, log_outputs, rows, pooled)
        return function

    return add


def metric_for(metric: str | Metric | Scorer, kind: str) -> Metric:
    """Find the metric of this name for this kind of task.

    A callable ``(outputs, targets) -> float`` is a metric too: higher is better.

    Raises InputError for an unknown name, or one of another kind, offering the nearest that fits.
    """
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return Metric(getattr(metric, "__name__", type(metric).__name__), metric, kinds=(kind,))
    allowed = [name for name, of_kind in METRICS if of_kind == kind]
    if (metric, kind) in METRICS:
        return METRICS[metric, kind]
    others = sorted({of_kind for name, of_kind in METRICS if name == metric})
    if others:
        raise InputError(
            f"metric {metric!r} is for {' and '.join(others)} tasks, this task is {kind}"
            f"{nearest(metric, allowed) or '.'} Allowed: {', '.join(sorted(allowed))}"
        )
    raise unknown_name(f"metric for {kind} tasks", metric, allowed)


def bootstrap_interval(
    metric: Metric,
    outputs: Tensor,
    targets: Tensor,
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a metric: rows drawn with replacement, ``resamples`` times.

    Resamples on which the metric is not defined (a class is missing) are left out; with none left, both ends
    are NaN. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    (scores,) = _resampled(metric, (outputs,), targets, seed, resamples)
    return _percentiles(scores, level)


def bootstrap_difference(
    metric: Metric,
    outputs: Tensor,
    others: Tensor,
    targets: Tensor,
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """The interval of how far ``outputs`` are ahead of ``others`` on the same rows, positive for better.

    Both are judged on the same resamples, so rows that are hard for both cancel: the interval is narrower than
    the two intervals side by side suggest.

    >>> metric, t = metric_for("rmse", "regression"), torch.arange(50.0)
    >>> bootstrap_difference(metric, t + 0.25, t + 1.0, t)
    (0.75, 0.75)
    """
    ours, theirs = _resampled(metric, (outputs, others), targets, seed, resamples)
    sign = 1.0 if metric.higher_is_better else -1.0
    return _percentiles([sign * (a - b) for a, b in zip(ours, theirs, strict=True)], level)


def _resampled(
    metric: Metric, contenders: tuple[Tensor, ...], targets: Tensor, seed: int, resamples: int
) -> list[list[float]]:
    """Each contender's metric on the same resamples of the rows."""
    generator = torch.Generator().manual_seed(seed)
    judges = [metric.resampled(outputs, targets) for outputs in contenders]
    scores: list[list[float]] = [[] for _ in contenders]
    for _ in range(resamples if len(targets) else 0):
        drawn = torch.randint(len(targets), (len(targets),), generator=generator)
        for judge, values in zip(judges, scores, strict=True):
            values.append(judge(drawn))
    return scores


def _percentiles(scores: list[float], level: float) -> tuple[float, float]:
    defined = torch.tensor([value for value in scores if not math.isnan(value)], dtype=torch.float64)
    if len(defined) == 0:
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = torch.quantile(defined, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
