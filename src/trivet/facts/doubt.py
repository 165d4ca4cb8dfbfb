"""Two doubts about data, measured by small models out of fold: wrong labels, and splits that are not alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROWS = 3000
NEIGHBOURS = 10
FOLDS = 5
# A linear model of more columns than this would cost seconds; columns are then drawn.
COLUMNS = 800


def label_noise(x: Tensor, labels: Tensor, classes: int, *, seed: int = 0) -> tuple[float, float] | None:
    """Estimate the share of wrong labels, and its standard error, from rows that two models contradict alike.

    A row counts when its ten nearest neighbours (itself left out) and a linear model that has not seen it agree on
    another class, the neighbours clearly: at most a fifth of them has the row's own label, and the share of the other
    class among them is at least 0.4 of the way from its share in the data to 1. What neighbours drawn at random would
    contradict is taken off. The estimate is low where classes are scattered or noise is heavy.

    `x` is `(rows, columns)`, `labels` int64 `(rows,)`; None for fewer than 100 rows.

    >>> x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    >>> share, error = label_noise(x, (x[:, 0] > 0).long(), 2)
    >>> share < 0.03
    True
    """
    x, chosen = _sample(x, seed)
    y = labels.long().flatten()[chosen]
    if len(y) < 100:
        return None
    distance = torch.cdist(x, x).fill_diagonal_(math.inf)
    nearest = y[distance.topk(NEIGHBOURS, largest=False).indices]
    linear = _out_of_fold(x, torch.nn.functional.one_hot(y, classes).float(), seed).argmax(dim=1)
    strangers = torch.randint(len(y), nearest.shape, generator=torch.Generator().manual_seed(seed))
    seen, by_chance = (_contradicted(y, near, linear, classes) for near in (nearest, y[strangers]))
    rate = max(0.0, seen - by_chance)
    return rate, math.sqrt(max(rate * (1 - rate), 1 / len(y)) / len(y))


def _contradicted(y: Tensor, near: Tensor, linear: Tensor, classes: int) -> float:
    """Return the share of rows whose neighbours' labels and linear prediction clearly name another class."""
    votes = torch.nn.functional.one_hot(near, classes).float().mean(dim=1)
    prior = torch.bincount(y, minlength=classes).float() / len(y)
    share, other = votes.max(dim=1)
    own = votes.gather(1, y[:, None]).flatten()
    clear = (share >= 0.4 + 0.6 * prior[other]) & (own <= 0.2) & (other != y)
    return float((clear & (linear == other)).float().mean())


def drift(one: Tensor, other: Tensor, *, seed: int = 0) -> tuple[float, float] | None:
    """Say how well a model tells rows of one split from rows of another: AUC, and its standard error by chance.

    The model is linear in each column and its square, and judged out of fold: 0.5 means alike. Source: classifier
    two-sample tests, Lopez-Paz and Oquab 2017; the error is that of the Mann-Whitney statistic.

    >>> x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    >>> auc, error = drift(x[:500], x[500:])
    >>> abs(auc - 0.5) < 4 * error
    True
    """
    (one, _), (other, _) = _sample(one, seed), _sample(other, seed)
    n, m = len(one), len(other)
    if min(n, m) < 30:
        return None
    x = torch.cat([one, other])
    wide = torch.cat([x, x.clamp(-5, 5).square()], dim=1)
    is_other = torch.cat([torch.zeros(n), torch.ones(m)])
    score = _out_of_fold(wide, is_other[:, None], seed).flatten()
    ranks = score.argsort().argsort().double() + 1
    auc = (float(ranks[is_other == 1].sum()) - m * (m + 1) / 2) / (n * m)
    return auc, math.sqrt((n + m + 1) / (12 * n * m))


def _sample(x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Draw rows and columns."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(x), generator=generator)[:ROWS]
    x = x.flatten(1)
    if x.shape[1] > COLUMNS:
        x = x[:, torch.randperm(x.shape[1], generator=generator)[:COLUMNS].sort().values]
    return x[chosen].float(), chosen


def _out_of_fold(x: Tensor, y: Tensor, seed: int) -> Tensor:
    """Predictions of a ridge regression for each row by a fit that has not seen it."""
    x = (x - x.mean(dim=0)) / x.std(dim=0).clamp_min(1e-6)
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    fold = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed + 1)) % FOLDS
    out = torch.empty_like(y)
    for at in range(FOLDS):
        seen = x[fold != at]
        gram = seen.T @ seen + 0.01 * len(seen) * torch.eye(x.shape[1])
        out[fold == at] = x[fold == at] @ torch.linalg.solve(gram, seen.T @ y[fold != at])
    return out
