"""Metrics of counts: outputs are logarithms of rates ``(rows, k)``, targets counts of the same shape."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trivet.tasks.metrics.base import register


def _mean_deviance(log_rates: Tensor, counts: Tensor) -> Tensor:
    """``2 (t log(t / r) - t + r)``, with 0 log 0 = 0, on average."""
    log_rates, counts = log_rates.double(), counts.double().reshape(log_rates.shape)
    return 2 * (torch.xlogy(counts, counts) - counts * log_rates - counts + log_rates.exp()).mean()


@register("poisson_deviance", "counts", log_outputs=True, higher_is_better=False)
def poisson_deviance(outputs: Tensor, targets: Tensor) -> float:
    """Mean deviance of a Poisson distribution: twice what the log-likelihood falls short of the perfect one."""
    return float(_mean_deviance(outputs, targets))


@register("deviance_explained", "counts", log_outputs=True)
def deviance_explained(outputs: Tensor, targets: Tensor) -> float:
    """Share of the deviance of a constant rate that is explained, 1 at best; NaN when all counts are equal."""
    targets = targets.double().reshape(outputs.shape)
    constant = targets.mean(dim=0).clamp_min(1e-300).log().expand_as(targets)
    null = float(_mean_deviance(constant, targets))
    return 1 - float(_mean_deviance(outputs, targets)) / null if null > 1e-12 else math.nan


@register("mae", "counts", log_outputs=True, higher_is_better=False, unit="counts")
def count_mae(outputs: Tensor, targets: Tensor) -> float:
    """Mean absolute error of the expected count."""
    return float((outputs.double().exp() - targets.double().reshape(outputs.shape)).abs().mean())


@register("rmse", "counts", log_outputs=True, higher_is_better=False, unit="counts")
def count_rmse(outputs: Tensor, targets: Tensor) -> float:
    """Root mean squared error of the expected count."""
    return float((outputs.double().exp() - targets.double().reshape(outputs.shape)).square().mean().sqrt())
