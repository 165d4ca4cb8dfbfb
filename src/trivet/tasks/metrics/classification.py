"""Metrics of classes: of a decision, of a ranking, of probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trivet.tasks.metrics.base import register


def _mean(values: list[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


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


def binary_auroc(scores: Tensor, positive: Tensor) -> float:
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
    return binary_auroc(outputs.flatten(), _labels(targets) == 1)


@register("auroc", "multiclass")
def macro_auroc(outputs: Tensor, targets: Tensor) -> float:
    """Mean over the classes of the area under the ROC curve of that class's probability against the rest."""
    labels, probabilities = _labels(targets), outputs.softmax(dim=1)
    return _mean([binary_auroc(probabilities[:, c], labels == c) for c in range(outputs.shape[1])])


def steps_of_precision(scores: Tensor, positive: Tensor) -> float:
    """Area under the precision-recall steps, ``sum_k (R_k - R_(k-1)) P_k``; NaN without a positive row."""
    if not positive.any():
        return math.nan
    scores, order = scores.sort(descending=True)
    hits = positive[order].double().cumsum(0)
    last_of_tie = torch.cat([scores[1:] != scores[:-1], torch.tensor([True])])
    hits, retrieved = hits[last_of_tie], (torch.nonzero(last_of_tie).flatten() + 1).double()
    recall_gain = torch.diff(hits, prepend=hits.new_zeros(1)) / hits[-1]
    return float((recall_gain * hits / retrieved).sum())


@register("average_precision", "binary")
def average_precision(outputs: Tensor, targets: Tensor) -> float:
    """Area under the precision-recall steps of the logit; NaN without a positive row."""
    return steps_of_precision(outputs.flatten(), _labels(targets) == 1)


@register("log_loss", "binary", higher_is_better=False, unit="nats")
def binary_log_loss(outputs: Tensor, targets: Tensor) -> float:
    """Mean negative log-likelihood of the labels."""
    return float(torch.nn.functional.binary_cross_entropy_with_logits(outputs.flatten(), targets.double().flatten()))


@register("log_loss", "multiclass", higher_is_better=False, unit="nats")
def log_loss(outputs: Tensor, targets: Tensor) -> float:
    """Mean negative log-likelihood of the labels."""
    return float(torch.nn.functional.cross_entropy(outputs, _labels(targets)))
