"""Metrics of numbers: ``(rows, k)`` against ``(rows, k)``, or ``(rows,)`` against ``(rows, 1)``."""

from __future__ import annotations

import math

from torch import Tensor

from trivet.errors import InputError
from trivet.tasks.metrics.base import register


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
