"""Losses by the names that a recipe gives them."""

from __future__ import annotations

from torch import nn


def catalogue() -> dict[str, type[nn.Module]]:
    """Return the module class behind each functional name."""
    return {
        "binary_cross_entropy_with_logits": nn.BCEWithLogitsLoss,
        "cross_entropy": nn.CrossEntropyLoss,
        "huber_loss": nn.HuberLoss,
        "l1_loss": nn.L1Loss,
        "mse_loss": nn.MSELoss,
        "smooth_l1_loss": nn.SmoothL1Loss,
    }
