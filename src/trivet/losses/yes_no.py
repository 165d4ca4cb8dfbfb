"""Losses on yes-or-no answers beside binary cross entropy: hinge, and the asymmetric loss for many labels."""

from __future__ import annotations

import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.losses.binary import focused, mix
from trivet.losses.contract import Loss
from trivet.losses.pointwise import pointwise

__all__ = ["AsymmetricLoss", "HingeLoss", "asymmetric_loss", "hinge_loss"]


def _hinge(z: Tensor, t: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    side = 2 * t - 1
    short = (margin - side * z).relu()
    return short, torch.where(short > 0, -side, 0)


def _squared_hinge(z: Tensor, t: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    side = 2 * t - 1
    short = (margin - side * z).relu()
    return short * short, -2 * side * short


def _asymmetric(z: Tensor, t: Tensor, gamma_neg: float, gamma_pos: float, clip: float) -> tuple[Tensor, Tensor]:
    positive = focused(z, gamma_pos)
    if clip == 0:
        mirrored = focused(-z, gamma_neg)
        return mix(t, positive, (mirrored[0], -mirrored[1]))
    p, q = torch.sigmoid(z), torch.sigmoid(-z)
    # A negative's probability is shifted down by clip, so that easy negatives have no loss at all.
    shifted = (p - clip).relu()
    counts = shifted > 0
    shifted = torch.where(counts, shifted, 1)
    log_rest = torch.log((q + clip).clamp_max(1))
    focus = torch.where(counts, shifted**gamma_neg, 0)
    negative = torch.where(counts, -focus * log_rest, 0)
    slope = focus * p * q * (1 / (q + clip) - gamma_neg * log_rest / shifted)
    return mix(t, positive, (negative, torch.where(counts, slope, 0)))


def hinge_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    squared: bool = False,
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Hinge loss of the support vector machine: nothing to gain beyond the margin.

    .. math:: \ell = [m - (2t - 1) z]_+ \quad \text{or its square}

    Args:
        input: logits (scores) ``(batch, ...)``.
        target: 0 or 1, of the same shape.
        margin: :math:`m`.
        squared: square the distance to the margin, which makes the loss smooth there.
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` (over the weights of the elements that take part), ``"sum"`` or ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.

    >>> hinge_loss(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]), reduction="none")
    tensor([0.5000, 1.5000])

    Source: Cortes and Vapnik 1995, "Support-vector networks".
    """
    rule = _squared_hinge if squared else _hinge
    return pointwise(
        rule,
        input,
        target,
        (margin,),
        mask=mask,
        reduction=reduction,
        empty=empty,
        sample_weight=sample_weight,
    )


def asymmetric_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Focal loss with a stronger focus on negatives, for many labels of which few apply.

    .. math:: \ell = -t (1 - p)^{\gamma_+} \log p - (1 - t)\, p_m^{\gamma_-} \log(1 - p_m),
              \qquad p_m = [p - m]_+

    Computed from logits in log space: no probability is clipped at 1e-8, so a confidently wrong label keeps
    its gradient (timm's has none). With equal gammas and ``clip=0`` it is the focal loss without alpha.

    Args:
        input: logits ``(batch, ...)``.
        target: 0 or 1, or probabilities, of the same shape.
        gamma_neg: focus on hard negatives.
        gamma_pos: focus on hard positives.
        clip: :math:`m`, the probability below which a negative costs nothing.
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` (over the weights of the elements that take part), ``"sum"`` (the authors'
            code), ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.

    >>> asymmetric_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), reduction="none")
    tensor([0.3466, 0.0245])

    Source: Ridnik et al. 2021, "Asymmetric loss for multi-label classification", eq. 7.
    """
    if not 0 <= clip < 1 or gamma_neg < 0 or gamma_pos < 0:
        raise InputError(
            f"gamma_neg={gamma_neg}, gamma_pos={gamma_pos}, clip={clip}; allowed are gammas of 0 or more and "
            "a clip in [0, 1)"
        )
    parameters = (gamma_neg, gamma_pos, clip)
    return pointwise(
        _asymmetric,
        input,
        target,
        parameters,
        mask=mask,
        reduction=reduction,
        empty=empty,
        sample_weight=sample_weight,
    )


class HingeLoss(Loss, function=hinge_loss): ...


class AsymmetricLoss(Loss, function=asymmetric_loss): ...
