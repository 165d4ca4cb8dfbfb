"""How the rate follows the batch size, and how long to warm up: rules with their reasons and sources."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trivet.errors import InputError

# A step of these is proportional to the gradient; all others in the catalogue divide it by its own size.
PROPORTIONAL = {"SGD", "LARS", "SGDScheduleFree"}
# These set their own rate, or take the sign of the step: the batch size does not enter.
INDEPENDENT = {"Prodigy", "Rprop", "Adadelta"}


@dataclass(frozen=True)
class Scaled:
    """A rate for another batch size: the rate, the rule's name, the reason and its source."""

    lr: float
    rule: str
    reason: str
    source: str


def scaled_lr(lr: float, *, batch_size: int, base_batch_size: int, optimizer: str) -> Scaled:
    """Carry a rate from one batch size to another: linear for SGD, by the square root for adaptive methods, or not.

    Raises `InputError` for rates and sizes that are not above 0.

    >>> scaled_lr(0.1, batch_size=512, base_batch_size=256, optimizer="SGD").lr
    0.2
    >>> scaled_lr(1e-3, batch_size=1024, base_batch_size=256, optimizer="AdamW").lr
    0.002
    """
    if not (lr > 0 and batch_size > 0 and base_batch_size > 0):
        raise InputError(f"lr = {lr}, batch_size = {batch_size}, base_batch_size = {base_batch_size} must be above 0")
    ratio = batch_size / base_batch_size
    if optimizer in INDEPENDENT:
        return Scaled(lr, "none", f"{optimizer} sets its own step length, so the batch size does not enter.", "")
    if optimizer in PROPORTIONAL:
        reason = "A mean over k times more samples allows k times larger steps, up to the critical batch size."
        return Scaled(lr * ratio, "linear", reason, "Goyal et al. 2017, section 2.1")
    reason = (
        "An adaptive step is the gradient over its own noise; k times more samples shrink that noise by the root of k."
    )
    return Scaled(lr * math.sqrt(ratio), "square root", reason, "Malladi et al. 2022, the square root scaling rule")


@dataclass(frozen=True)
class Warmup:
    """A warmup length: the fraction of the run, the reason and its source."""

    fraction: float
    reason: str
    source: str


def warmup_fraction(optimizer: str, *, pretrained: bool, attention: bool, post_norm: bool = False) -> Warmup:
    """Say how much of the run to warm up, by optimizer and architecture.

    >>> warmup_fraction("AdamW", pretrained=False, attention=True).fraction
    0.1
    """
    if optimizer == "RAdam":
        reason = "RAdam's rectification is a warmup of its own."
        return Warmup(0.0, reason, "Liu et al. 2020, section 4")
    if post_norm:
        reason = (
            "Normalisation after the residual makes early gradients large near the output; a long warmup is needed."
        )
        return Warmup(0.2, reason, "Xiong et al. 2020; AlgoPerf post-LN winners: 2 to 5 times the warmup")
    if pretrained:
        return Warmup(
            0.1, "Loaded weights and a fresh head: let the head settle first.", "Hugging Face and BERT recipes"
        )
    if attention:
        reason = "Attention is unstable at full rate before its second moments have settled."
        return Warmup(0.1, reason, "transformer recipes: 2 to 10 %")
    reason = "It lets momentum and second moments settle before full steps."
    return Warmup(0.05, reason, "Goyal et al. 2017; AlgoPerf winners: 2 to 5 %")
