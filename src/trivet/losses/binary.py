"""Binary cross entropy and the focal loss, for one label or many that do not exclude each other."""

from __future__ import annotations

import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.kernels.xp import reference as xp
from trivet.losses.contract import Loss, check_choice
from trivet.losses.pointwise import Backend, Evaluated, pointwise

__all__ = [
    "BCEWithLogitsLoss",
    "FocalLoss",
    "binary_cross_entropy_with_logits",
    "focal_loss",
    "focused",
    "mix",
]


def focused(z: Tensor, gamma: float) -> Evaluated:
    r"""Return :math:`-(1 - p)^\gamma \log p` of :math:`p = \sigma(z)` and its derivative, in log space.

    With :math:`(1 - p)^\gamma = e^{-\gamma\,\mathrm{softplus}(z)}` neither has a pole, for any gamma >= 0.
    """
    fade, cost = xp.exp(-gamma * xp.softplus(z)), xp.softplus(-z)
    return fade * cost, -fade * (gamma * xp.sigmoid(z) * cost + xp.sigmoid(-z))


def focused_by_square(z: Tensor) -> Evaluated:
    """Return `focused` for a gamma of 2: the square of 1 - p needs no exponential of its own."""
    q, cost = xp.sigmoid(-z), xp.softplus(-z)
    fade = q * q
    return fade * cost, -fade * (2 * xp.sigmoid(z) * cost + q)


def mix(t: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Return t yes + (1 - t) no, where 0 times infinity (a masked logit) is 0."""
    return xp.where(t == 0, 0, t * yes) + xp.where(t == 1, 0, (1 - t) * no)


def _cross_entropy(z: Tensor, t: Tensor, smoothing: float, positive: float | Tensor) -> Evaluated:
    t = t * (1 - smoothing) + 0.5 * smoothing
    value = mix(t, positive * xp.softplus(-z), xp.softplus(z))
    return value, mix(t, -positive * xp.sigmoid(-z), xp.sigmoid(z))


def _focal(z: Tensor, t: Tensor, gamma: float, alpha_yes: float, alpha_no: float) -> Evaluated:
    yes, yes_slope = focused(z, gamma)
    no, no_slope = focused(-z, gamma)
    return mix(t, alpha_yes * yes, alpha_no * no), mix(t, alpha_yes * yes_slope, -alpha_no * no_slope)


def _focal_by_square(z: Tensor, t: Tensor, alpha_yes: float, alpha_no: float) -> Evaluated:
    yes, yes_slope = focused_by_square(z)
    no, no_slope = focused_by_square(-z)
    return mix(t, alpha_yes * yes, alpha_no * no), mix(t, alpha_yes * yes_slope, -alpha_no * no_slope)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    *,
    pos_weight: Tensor | float = 1.0,
    label_smoothing: float = 0.0,
    convention: str = "keras",
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Cross entropy of yes-or-no answers: the log likelihood of a coin whose probability is predicted.

    .. math:: \ell = -w_+\, t \log p - (1 - t) \log(1 - p), \qquad p = \sigma(z)

    When: yes-or-no targets and labels that do not exclude each other, where probabilities are wanted. The default.
    When not: one of C classes that exclude each other (:func:`cross_entropy`). Rare positives alone are no reason
      against it: tune the decision threshold first.
    Cost: one pass over input and target for value and gradient together; no memory but the gradient, about 3 times
      a squared error's time (exponentials).

    Args:
        input: logits ``(batch, ...)``.
        target: 0 or 1, or probabilities, of the same shape.
        pos_weight: :math:`w_+`, a number or one for each label ``(labels,)``, broadcast against input.
        label_smoothing: :math:`\epsilon` moves targets to :math:`t (1 - \epsilon) + \epsilon / 2`.
        convention: what smoothing means. ``"keras"``: as above. ``"smp"`` (segmentation-models-pytorch):
            :math:`t (1 - 2 \epsilon) + \epsilon`. ``"timm"``: :math:`t (1 - \epsilon) + \epsilon / C` with the
            C labels of the last axis.
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` (over the weights of the elements that take part), ``"sum"`` or ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.
        backend: ``"auto"``, or the execution that must be used: ``"cpu"``, ``"triton"`` or ``"torch"``.

    >>> import torch
    >>> binary_cross_entropy_with_logits(torch.tensor([-1e4, 1e4]), torch.ones(2), reduction="none")
    tensor([10000.,     0.])

    Source: Cox 1958, "The regression analysis of binary sequences".
    """
    if not 0 <= label_smoothing <= 1:
        raise InputError(f"label_smoothing={label_smoothing}; allowed is a number in [0, 1]")
    check_choice("convention", convention, ("keras", "smp", "timm"))
    if convention == "smp":
        label_smoothing = 2 * label_smoothing
    elif convention == "timm" and label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / input.shape[-1]
        label_smoothing = 0.0
    return pointwise(
        _cross_entropy, input, target, (label_smoothing, pos_weight),
        mask=mask, reduction=reduction, empty=empty, sample_weight=sample_weight, backend=backend, targets="mixture",
    )  # fmt: skip


def focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    convention: str = "paper",
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Binary cross entropy that fades for answers already right, so that few hard ones are heard.

    .. math:: \ell = -\alpha\, t\, (1 - p)^\gamma \log p - (1 - \alpha)(1 - t)\, p^\gamma \log(1 - p)

    Computed from logits in log space: finite for gamma in (0, 1) at any logit, where torchvision's gradient
    is NaN, and with a gradient at confidently wrong ones, where Keras has none. For one of C classes:
    ``softmax_focal_loss``.

    When: dense detection and the like, where nearly all elements are easy negatives and their sum drowns the rest.
    When not: probabilities are wanted: they come out too close to one half. Not for mild imbalance, where plain
      cross entropy and a tuned threshold do as well.
    Cost: one pass over input and target for value and gradient together; no memory but the gradient, about 5 times
      a squared error's time (exponentials).

    Args:
        input: logits ``(batch, ...)``.
        target: 0 or 1, or probabilities, of the same shape.
        gamma: the focus; 0 or more, 0 is weighted binary cross entropy.
        alpha: weight of positives, 1 - alpha of negatives; None weighs neither.
        convention: ``"paper"`` and torchvision: alpha on positives. ``"keras"``: alpha multiplies both
            sides, as in Keras' categorical form. ``"retinanet"`` (the paper's training, Detectron, torchvision's
            detectors): the mean divides by the weight of the positives, at least 1. ``"monai"``: ``"sum"`` adds up
            the means over the axes behind the second, of the elements that take part.
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` over the weights of the elements that take part, ``"sum"`` or ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.
        backend: ``"auto"``, or the execution that must be used: ``"cpu"``, ``"triton"`` or ``"torch"``.

    >>> import torch
    >>> focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), reduction="none")  # log(2) / 4 times alpha
    tensor([0.0433, 0.1300])

    Source: Lin et al. 2017, "Focal loss for dense object detection", eq. 5.
    """
    check_choice("convention", convention, ("paper", "keras", "retinanet", "monai"))
    if gamma < 0:
        raise InputError(f"gamma={gamma}; allowed is 0 or more")
    yes = no = 1.0
    if alpha is not None:
        yes, no = alpha, (alpha if convention == "keras" else 1 - alpha)
    by_positives = convention == "retinanet" and reduction == "mean"
    by_map = convention == "monai" and reduction == "sum" and input.ndim > 2
    rule, numbers = (_focal_by_square, (yes, no)) if gamma == 2 else (_focal, (gamma, yes, no))
    result = pointwise(
        rule, input, target, numbers, mask=mask,
        reduction="sum" if by_positives else "none" if by_map else reduction, empty=empty,
        sample_weight=sample_weight, backend=backend, targets="mixture",
    )  # fmt: skip
    if by_positives:
        return _over_positives(result, target, mask, sample_weight, empty)
    return _sum_of_means(result, mask) if by_map else result


def _over_positives(
    total: Tensor, target: Tensor, mask: Tensor | None, sample_weight: Tensor | None, empty: str
) -> Tensor:
    """Return the sum over the weight of the positives, which counts as 1 where it is less."""
    kept = torch.ones_like(target, dtype=total.dtype) if mask is None else mask.expand_as(target).to(total.dtype)
    if sample_weight is not None:
        kept = kept * sample_weight.reshape(sample_weight.shape + (1,) * (target.ndim - sample_weight.ndim))
    positives = torch.where(target > 0, kept, 0).sum().clamp_min(1)
    nothing = torch.nan if empty == "nan" else 0.0
    return torch.where(kept.any(), total / positives, total * nothing)


def _sum_of_means(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return the sum over samples and channels of the means over space."""
    if mask is None:
        return values.flatten(2).mean(2).sum()
    kept = mask.expand_as(values).to(values.dtype).flatten(2)
    return (values.flatten(2).sum(2) / kept.sum(2).clamp_min(1)).sum()


class BCEWithLogitsLoss(Loss, function=binary_cross_entropy_with_logits, kind="binary"): ...


class FocalLoss(Loss, function=focal_loss, kind="binary"): ...
