"""Losses on yes-or-no answers beside binary cross entropy: hinge, and the asymmetric loss for many labels."""

from __future__ import annotations

from torch import Tensor

from trivet.errors import InputError
from trivet.kernels.xp import reference as xp
from trivet.losses.binary import focused, mix
from trivet.losses.contract import Loss
from trivet.losses.pointwise import Backend, Evaluated, Rule, pointwise

__all__ = ["AsymmetricLoss", "HingeLoss", "asymmetric_loss", "hinge_loss"]


def _hinge(z: Tensor, t: Tensor, margin: float) -> Evaluated:
    side = 2 * t - 1
    short = margin - side * z
    return xp.maximum(short, 0), xp.where(short > 0, -side, 0)


def _squared_hinge(z: Tensor, t: Tensor, margin: float) -> Evaluated:
    side = 2 * t - 1
    short = xp.maximum(margin - side * z, 0)
    return short * short, -2 * side * short


def _asymmetric(z: Tensor, t: Tensor, gamma_neg: float, gamma_pos: float) -> Evaluated:
    yes, yes_slope = focused(z, gamma_pos)
    no, no_slope = focused(-z, gamma_neg)
    return mix(t, yes, no), mix(t, yes_slope, -no_slope)


def _asymmetric_clipped(z: Tensor, t: Tensor, gamma_neg: float, gamma_pos: float, clip: float) -> Evaluated:
    yes, yes_slope = focused(z, gamma_pos)
    p, q = xp.sigmoid(z), xp.sigmoid(-z)
    # A negative's probability is shifted down by clip, so that easy negatives have no loss at all.
    easy = p <= clip
    shifted = xp.where(easy, 1, p - clip)
    rest = xp.minimum(q + clip, 1)
    log_rest = xp.log(rest)
    focus = xp.exp(gamma_neg * xp.log(shifted))
    no = xp.where(easy, 0, -focus * log_rest)
    no_slope = focus * p * q * (1 / rest - gamma_neg * log_rest / shifted)
    return mix(t, yes, no), mix(t, yes_slope, xp.where(easy, 0, no_slope))


def _asymmetric_as_published(z: Tensor, t: Tensor, clip: float) -> Evaluated:
    # The paper's 4 and 1 are powers that need neither logarithm nor exponential of their own.
    p, q, cost = xp.sigmoid(z), xp.sigmoid(-z), xp.softplus(-z)
    easy = p <= clip
    shifted = xp.where(easy, 1, p - clip)
    rest = xp.minimum(q + clip, 1)
    log_rest = xp.log(rest)
    cube = shifted * shifted * shifted
    focus = cube * shifted
    no = xp.where(easy, 0, -focus * log_rest)
    no_slope = p * q * (focus / rest - 4 * log_rest * cube)
    return mix(t, q * cost, no), mix(t, -q * (p * cost + q), xp.where(easy, 0, no_slope))


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
    backend: Backend = "auto",
) -> Tensor:
    r"""Hinge loss of the support vector machine: nothing to gain beyond the margin.

    .. math:: \ell = [m - (2t - 1) z]_+ \quad \text{or its square}

    When: a decision is wanted and no probability; few support vectors near the boundary should decide.
    When not: probabilities or rankings are wanted: beyond the margin no answer teaches anything.
    Cost: one pass over input and target for value and gradient together; no memory but the gradient.

    Args:
        input: logits (scores) ``(batch, ...)``.
        target: 0 or 1, of the same shape.
        margin: :math:`m`.
        squared: square the distance to the margin, which makes the loss smooth there.
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` (over the weights of the elements that take part), ``"sum"`` or ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.
        backend: ``"auto"``, or the execution that must be used: ``"cpu"``, ``"triton"`` or ``"torch"``.

    >>> import torch
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
        backend=backend,
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
    backend: Backend = "auto",
) -> Tensor:
    r"""Focal loss with a stronger focus on negatives, for many labels of which few apply.

    .. math:: \ell = -t (1 - p)^{\gamma_+} \log p - (1 - t)\, p_m^{\gamma_-} \log(1 - p_m),
              \qquad p_m = [p - m]_+

    Computed from logits in log space: no probability is clipped at 1e-8, so a confidently wrong label keeps
    its gradient (timm's has none). With equal gammas and ``clip=0`` it is the focal loss without alpha.

    When: many labels of which few apply to a sample (tags), some of them missing: easy negatives cost nothing.
    When not: probabilities are wanted, or labels about as often 1 as 0: use binary cross entropy.
    Cost: one pass over input and target for value and gradient together; no memory but the gradient, about 6 times
      a squared error's time (exponentials).

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
        backend: ``"auto"``, or the execution that must be used: ``"cpu"``, ``"triton"`` or ``"torch"``.

    >>> import torch
    >>> asymmetric_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), reduction="none")
    tensor([0.3466, 0.0245])

    Source: Ridnik et al. 2021, "Asymmetric loss for multi-label classification", eq. 7.
    """
    if not 0 <= clip < 1 or gamma_neg < 0 or gamma_pos < 0:
        raise InputError(
            f"gamma_neg={gamma_neg}, gamma_pos={gamma_pos}, clip={clip}; allowed are gammas of 0 or more and "
            "a clip in [0, 1)"
        )
    rule: Rule = _asymmetric_clipped if clip else _asymmetric
    parameters: tuple[float, ...] = (gamma_neg, gamma_pos, clip) if clip else (gamma_neg, gamma_pos)
    if clip and (gamma_neg, gamma_pos) == (4, 1):
        rule, parameters = _asymmetric_as_published, (clip,)
    return pointwise(
        rule,
        input,
        target,
        parameters,
        mask=mask,
        reduction=reduction,
        empty=empty,
        sample_weight=sample_weight,
        backend=backend,
        targets="mixture",
    )


class HingeLoss(Loss, function=hinge_loss, kind="binary"): ...


class AsymmetricLoss(Loss, function=asymmetric_loss, kind="binary"): ...
