"""The task's own metric: what a result is judged by, computed on raw model outputs.

Classification metrics take logits, regression metrics the model's numbers. Every metric is exact on ties, is
computed in float64, and is NaN where it is not defined (no rows, an output that is not a number, one class
alone for a ranking metric): a broken model never scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trivet.errors import InputError, nearest, unknown_name

__all__ = ["METRICS", "Metric", "bootstrap_difference", "bootstrap_interval", "metric_for"]

Scorer = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Metric:
    """A number for outputs against targets, and which direction is better.

    ``scale`` is ``(mean, std)`` of a standardised regression target: outputs and targets are put back into
    the user's units before the metric is computed. ``unit`` names them (``"target units"``, ``""`` for shares
    between 0 and 1).

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

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        """Return the metric as a float; NaN when an output is NaN or there are no rows.

        Raises InputError when outputs and targets differ in their number of rows.
        """
        if len(outputs) != len(targets):
            raise InputError(f"{self.name} needs one output per target: got {len(outputs)} and {len(targets)} rows")
        outputs, targets = outputs.detach().cpu(), targets.detach().cpu()
        if outputs.is_floating_point():
            outputs = outputs.double()
        if len(outputs) == 0 or bool(outputs.isnan().any()):
            return math.nan
        if self.scale is not None:
            mean, std = self.scale
            outputs, targets = outputs * std + mean, targets.double() * std + mean
        return float(self.function(outputs, targets))

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


def register(name: str, *kinds: str, higher_is_better: bool = True, unit: str = "") -> Callable[[Scorer], Scorer]:
    """Add a metric under ``name`` for these kinds of task."""

    def add(function: Scorer) -> Scorer:
        for kind in kinds:
            METRICS[name, kind] = Metric(name, function, higher_is_better, kinds, unit)
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
    targets = targets.detach().cpu()
    contenders = tuple(outputs.detach().cpu() for outputs in contenders)
    generator = torch.Generator().manual_seed(seed)
    scores: list[list[float]] = [[] for _ in contenders]
    for _ in range(resamples if len(targets) else 0):
        drawn = torch.randint(len(targets), (len(targets),), generator=generator)
        for outputs, values in zip(contenders, scores, strict=True):
            values.append(metric(outputs[drawn], targets[drawn]))
    return scores


def _percentiles(scores: list[float], level: float) -> tuple[float, float]:
    defined = torch.tensor([value for value in scores if not math.isnan(value)], dtype=torch.float64)
    if len(defined) == 0:
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = torch.quantile(defined, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


# Regression: (rows, k) against (rows, k), or (rows,) against (rows, 1).


def _errors(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.numel() != targets.numel():
        raise InputError(f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}")
    return outputs.double().flatten() - targets.double().flatten()


@register("rmse", "regression", higher_is_better=False, unit="target units")
def rmse(outputs: Tensor, targets: Tensor) -> float:
    """Root mean squared error."""
    return float(_errors(outputs, targets).square().mean().sqrt())


@register("mae", "regression", higher_is_better=False, unit="target units")
def mae(outputs: Tensor, targets: Tensor) -> float:
    """Mean absolute error."""
    return float(_errors(outputs, targets).abs().mean())


@register("r2", "regression")
def r2(outputs: Tensor, targets: Tensor) -> float:
    """Coefficient of determination, ``1 - sum e^2 / sum (t - mean t)^2``; NaN for a constant target."""
    targets = targets.double().flatten()
    total = (targets - targets.mean()).square().sum()
    if total == 0:
        return math.nan
    return float(1 - _errors(outputs, targets).square().sum() / total)


# Classification by a decision. Binary: class 1 where the logit is above 0. Multiclass: the first largest
# logit.


def _decided(outputs: Tensor) -> Tensor:
    if outputs.ndim == 1 or outputs.shape[1] == 1:
        return (outputs.flatten() > 0).long()
    return outputs.argmax(dim=1)


def _labels(targets: Tensor) -> Tensor:
    return targets.flatten().long()


@register("accuracy", "binary", "multiclass")
def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of rows decided correctly."""
    return float((_decided(outputs) == _labels(targets)).double().mean())


@register("balanced_accuracy", "binary", "multiclass")
def balanced_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Mean over the classes present of the share of their rows decided correctly."""
    labels = _labels(targets)
    correct = (_decided(outputs) == labels).double()
    counts = torch.bincount(labels)
    recalled = torch.bincount(labels, weights=correct)
    return float((recalled[counts > 0] / counts[counts > 0]).mean())


def _f1_per_class(outputs: Tensor, targets: Tensor) -> Tensor:
    """F1 of every class; NaN for one that is neither present nor predicted."""
    decided, labels = _decided(outputs), _labels(targets)
    classes = int(max(decided.max(), labels.max(), torch.tensor(1))) + 1
    hit = torch.bincount(labels[decided == labels], minlength=classes).double()
    return 2 * hit / (torch.bincount(labels, minlength=classes) + torch.bincount(decided, minlength=classes))


@register("f1", "binary")
def f1(outputs: Tensor, targets: Tensor) -> float:
    """F1 of class 1, ``2 tp / (2 tp + fp + fn)``; 0 when class 1 is neither present nor predicted."""
    value = float(_f1_per_class(outputs, targets)[1])
    return 0.0 if math.isnan(value) else value


@register("macro_f1", "binary", "multiclass")
def macro_f1(outputs: Tensor, targets: Tensor) -> float:
    """Mean F1 over the classes that are present or predicted."""
    return float(_f1_per_class(outputs, targets).nanmean())


# Ranking: no threshold is involved. Tied scores count as what they are: half a win, one step of the curve.


def _binary_auroc(scores: Tensor, positive: Tensor) -> float:
    """P(score of a positive > score of a negative) + P(tie) / 2, from mean ranks (Mann and Whitney 1947)."""
    wins, losses = int(positive.sum()), int((~positive).sum())
    if wins == 0 or losses == 0:
        return math.nan
    _, group, size = torch.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = size.cumsum(0).double() - (size.double() - 1) / 2
    return float((mean_rank[group][positive].sum() - wins * (wins + 1) / 2) / (wins * losses))


@register("auroc", "binary")
def auroc(outputs: Tensor, targets: Tensor) -> float:
    """Area under the ROC curve of the logit."""
    return _binary_auroc(outputs.flatten(), _labels(targets) == 1)


@register("auroc", "multiclass")
def macro_auroc(outputs: Tensor, targets: Tensor) -> float:
    """Mean over the classes of the area under the ROC curve of that class's probability against the rest."""
    labels, probabilities = _labels(targets), outputs.softmax(dim=1)
    return _mean(_binary_auroc(probabilities[:, c], labels == c) for c in range(outputs.shape[1]))


@register("average_precision", "binary")
def average_precision(outputs: Tensor, targets: Tensor) -> float:
    """Area under the precision-recall steps, ``sum_k (R_k - R_(k-1)) P_k``; NaN without a positive row."""
    positive = _labels(targets) == 1
    if not positive.any():
        return math.nan
    scores, order = outputs.flatten().sort(descending=True)
    hits = positive[order].double().cumsum(0)
    last_of_tie = torch.cat([scores[1:] != scores[:-1], torch.tensor([True])])
    hits, retrieved = hits[last_of_tie], (torch.nonzero(last_of_tie).flatten() + 1).double()
    recall_gain = torch.diff(hits, prepend=hits.new_zeros(1)) / hits[-1]
    return float((recall_gain * hits / retrieved).sum())


@register("log_loss", "binary", higher_is_better=False, unit="nats")
def binary_log_loss(outputs: Tensor, targets: Tensor) -> float:
    """Mean negative log-likelihood of the labels."""
    return float(torch.nn.functional.binary_cross_entropy_with_logits(outputs.flatten(), targets.double().flatten()))


@register("log_loss", "multiclass", higher_is_better=False, unit="nats")
def log_loss(outputs: Tensor, targets: Tensor) -> float:
    """Mean negative log-likelihood of the labels."""
    return float(torch.nn.functional.cross_entropy(outputs, _labels(targets)))
