"""Metrics of embeddings: each row in turn is a query, all other rows are what it searches, by cosine.

``(rows, features)`` against labels ``(rows,)``. A query whose class has no other row takes no part. The bootstrap
draws queries; what they search stays the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trivet.tasks.metrics.base import register


def _hits_by_rank(outputs: Tensor, labels: Tensor, ranks: int) -> Tensor:
    """Whether each of the nearest ``ranks`` rows of every query has its class ``(rows, ranks)``."""
    unit = torch.nn.functional.normalize(outputs.float(), dim=1)
    found = []
    for begin in range(0, len(unit), 512):
        similar = unit[begin : begin + 512] @ unit.T
        own = torch.arange(begin, min(begin + 512, len(unit)))
        similar[torch.arange(len(own)), own] = -torch.inf
        nearest = similar.topk(min(ranks, len(unit) - 1), dim=1).indices
        found.append(labels[nearest] == labels[own].unsqueeze(1))
    return torch.cat(found)


def _others(labels: Tensor) -> Tensor:
    """How many other rows have the class of each row."""
    _, code, count = torch.unique(labels, return_inverse=True, return_counts=True)
    others: Tensor = count[code] - 1
    return others


def _recalled(outputs: Tensor, targets: Tensor) -> Tensor:
    first = _hits_by_rank(outputs, targets, 1)[:, 0].double()
    return torch.where(_others(targets) > 0, first, torch.nan).unsqueeze(1)


def _precise(outputs: Tensor, targets: Tensor) -> Tensor:
    others = _others(targets)
    deepest = int(others.max())
    if deepest == 0:
        return torch.full((len(targets), 1), torch.nan, dtype=torch.float64)
    hits = _hits_by_rank(outputs, targets, deepest).double()
    rank = torch.arange(1, hits.shape[1] + 1)
    counted = hits * (rank <= others.unsqueeze(1))
    value = (counted * counted.cumsum(dim=1) / rank).sum(dim=1) / others
    return torch.where(others > 0, value, torch.nan).unsqueeze(1)


def _pooled_queries(values: Tensor) -> float:
    return float(values.nanmean())


@register("recall_at_1", "embedding", rows=_recalled, pooled=_pooled_queries)
def recall_at_1(outputs: Tensor, targets: Tensor) -> float:
    """Share of the queries whose nearest other row has their class."""
    return _pooled_queries(_recalled(outputs, targets))


@register("map_at_r", "embedding", rows=_precise, pooled=_pooled_queries)
def map_at_r(outputs: Tensor, targets: Tensor) -> float:
    """Mean average precision at R, the number of other rows of the query's class (Musgrave et al. 2020, eq. 7)."""
    return _pooled_queries(_precise(outputs, targets))
