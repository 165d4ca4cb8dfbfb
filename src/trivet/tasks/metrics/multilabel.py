"""Metrics of several yes-or-no labels per row: logits ``(rows, labels)`` against 0 and 1 of the same shape.

A label that no row has, or every row, is left out of a mean where its value is not defined.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trivet.tasks.metrics.base import register
from trivet.tasks.metrics.classification import binary_auroc, steps_of_precision


def _f1_counts(outputs: Tensor, targets: Tensor) -> Tensor:
    """Hits, positives and predictions of every row and label, side by side: ``(rows, 3 labels)``."""
    decided, true = outputs > 0, targets > 0.5
    return torch.cat([decided & true, true, decided], dim=1).double()


def _f1_per_label(counts: Tensor) -> Tensor:
    hit, true, decided = counts.sum(dim=0).chunk(3)
    return 2 * hit / (true + decided)


def _pooled_macro_f1(counts: Tensor) -> float:
    return float(_f1_per_label(counts).nanmean())


def _pooled_micro_f1(counts: Tensor) -> float:
    hit, true, decided = (part.sum() for part in counts.sum(dim=0).chunk(3))
    return float(2 * hit / (true + decided))


@register("macro_f1", "multilabel", rows=_f1_counts, pooled=_pooled_macro_f1)
def multilabel_macro_f1(outputs: Tensor, targets: Tensor) -> float:
    """Mean F1 over the labels that are present or predicted; a label is predicted where its logit is above 0."""
    return _pooled_macro_f1(_f1_counts(outputs, targets))


@register("micro_f1", "multilabel", rows=_f1_counts, pooled=_pooled_micro_f1)
def multilabel_micro_f1(outputs: Tensor, targets: Tensor) -> float:
    """F1 of all decisions on all labels together."""
    return _pooled_micro_f1(_f1_counts(outputs, targets))


def _exact(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs > 0) == (targets > 0.5)).all(dim=1, keepdim=True).double()


def _pooled_mean(values: Tensor) -> float:
    return float(values.mean())


@register("exact_match", "multilabel", rows=_exact, pooled=_pooled_mean)
def exact_match(outputs: Tensor, targets: Tensor) -> float:
    """Share of the rows of which every label is decided correctly."""
    return _pooled_mean(_exact(outputs, targets))


@register("mean_average_precision", "multilabel")
def mean_average_precision(outputs: Tensor, targets: Tensor) -> float:
    """Mean over the labels of the average precision of their ranking of the rows."""
    columns = zip(outputs.T, (targets > 0.5).T, strict=True)
    return float(torch.tensor([steps_of_precision(*column) for column in columns], dtype=torch.float64).nanmean())


@register("auroc", "multilabel")
def multilabel_auroc(outputs: Tensor, targets: Tensor) -> float:
    """Mean over the labels of the area under the ROC curve."""
    columns = zip(outputs.T, (targets > 0.5).T, strict=True)
    return float(torch.tensor([binary_auroc(*column) for column in columns], dtype=torch.float64).nanmean())


@register("log_loss", "multilabel", higher_is_better=False, unit="nats")
def multilabel_log_loss(outputs: Tensor, targets: Tensor) -> float:
    """Mean negative log-likelihood of a label."""
    return float(torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype)))
