r"""Softmax losses of one scalar per row: the log odds against the true class.

.. math:: g = \log \sum_{k \ne y} e^{z_k} - z_y, \qquad p_y = \sigma(-g)

so that :math:`-\log p_y = \mathrm{softplus}(g)` and :math:`\log(1 - p_y) = -\mathrm{softplus}(-g)`, both
without cancellation at any confidence. Cross entropy, focal, generalised and symmetric cross entropy are
functions of g alone (a rule each, with its derivative); logit adjustment and LDAM change z before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trivet.errors import DataError, InputError
from trivet.kernels.xp import reference as xp
from trivet.losses.contract import Loss, check_choice
from trivet.losses.rowwise import Form, row_loss

__all__ = [
    "GeneralizedCrossEntropyLoss",
    "LDAMLoss",
    "LogitAdjustedLoss",
    "SoftmaxFocalLoss",
    "SymmetricCrossEntropyLoss",
    "cross_entropy_rule",
    "generalized_cross_entropy_loss",
    "ldam_loss",
    "logit_adjusted_loss",
    "softmax_focal_loss",
    "symmetric_cross_entropy_loss",
]


def cross_entropy_rule(g):  # type: ignore[no-untyped-def]
    return xp.softplus(g), xp.sigmoid(g)


def _focal(g, gamma):  # type: ignore[no-untyped-def]
    fade, cost = xp.exp(-gamma * xp.softplus(-g)), xp.softplus(g)
    # Where g is infinite (the true class is masked) sigmoid(-g) is 0, and 0 times an infinite cost would be NaN.
    return fade * cost, fade * (xp.sigmoid(g) + gamma * xp.sigmoid(-g) * xp.minimum(cost, 1e30))


def _generalized(g, q):  # type: ignore[no-untyped-def]
    # 1 - exp(-y) as (1 + exp(-y)) tanh(y / 2) keeps its digits where y is small.
    y = q * xp.softplus(g)
    power = xp.exp(-y)
    return (1.0 + power) * xp.tanh(0.5 * y) / q, power * xp.sigmoid(g)


def _symmetric(g, alpha, reverse):  # type: ignore[no-untyped-def]
    wrong = xp.sigmoid(g)
    return alpha * xp.softplus(g) + reverse * wrong, wrong * (alpha + reverse * xp.sigmoid(-g))


def _required(counts: Tensor | None) -> Tensor:
    if counts is None:
        raise InputError("class counts are missing; give counts=..., or call loss.fit(counts) with those of training")
    return counts


def softmax_focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    convention: str = "torch",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    empty: str = "zero",
    backend: str = "auto",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Focal loss for one of C classes: cross entropy that fades for examples already right.

    .. math:: \ell = -w_y (1 - p_y)^\gamma \log p_y

    Finite for gamma in (0, 1) at any confidence, where torchvision's and MONAI's gradients are NaN;
    ``gamma=0`` is cross entropy (not so in segmentation-models-pytorch, whose multiclass form is
    one-vs-rest).

    When: one of C classes, most samples easy, and the hard ones should be heard.
    When not: calibrated probabilities are wanted, or labels are wrong: the hardest samples are then the wrong ones.
    Cost: one pass over the logits for value and gradient together; no memory but the gradient.

    Args:
        input: logits ``(batch, classes, ...)``.
        target: labels ``(batch, ...)``.
        gamma: the focus; 0 or more.
        convention: what the mean divides by. ``"torch"``: by the weights of the labels that take part. ``"keras"``:
            by the number of rows. ``"monai"`` (and kornia): by rows times classes; MONAI's ``"sum"`` adds up the
            means over the axes behind the second, ignored rows counted as 0.
        weight: class weights ``(classes,)``, the alpha of the paper. MONAI and kornia give 1 - alpha to class 0 and
            alpha to all others, Keras alpha to all.
        ignore_index: a label that takes no part.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``: ``(batch, ...)``.
        empty: value when every label is ignored, ``"zero"`` or ``"nan"``.
        backend: ``"auto"``, ``"torch"`` or ``"cpu"``; see :func:`cross_entropy`.
        sample_weight: weight of each sample ``(batch,)`` or row ``(batch, ...)``.

    >>> round(softmax_focal_loss(torch.zeros(1, 2), torch.tensor([0])).item(), 4)  # log(2) / 4
    0.1733

    Source: Lin et al. 2017, "Focal loss for dense object detection", eq. 4.
    """
    check_choice("convention", convention, ("torch", "keras", "monai"))
    return row_loss(
        Form(_focal, (gamma,), weight=weight),
        input, target, ignore_index=ignore_index, reduction=reduction, empty=empty, sample_weight=sample_weight,
        by_weight=convention == "torch", backend=backend,
        times=_monai_times(input, reduction) if convention == "monai" else 1.0,
    )  # fmt: skip


def _monai_times(input: Tensor, reduction: str) -> float:
    if reduction == "mean":
        return 1 / input.shape[1]
    return 1 / max(1, input[0, 0].numel()) if reduction == "sum" and len(input) else 1.0


def logit_adjusted_loss(
    input: Tensor,
    target: Tensor,
    *,
    counts: Tensor | None = None,
    tau: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    empty: str = "zero",
    backend: str = "auto",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Cross entropy of logits shifted by the log class frequencies: rare classes get larger margins.

    .. math:: \ell = -\log \frac{\pi_y^\tau e^{z_y}}{\sum_k \pi_k^\tau e^{z_k}}

    Consistent for the balanced error. Predict from the logits as they are.

    When: long-tailed classes, judged by the mean over classes (balanced accuracy).
    When not: plain accuracy on data as frequent as the training set's is the metric: there cross entropy is right.
    Cost: one pass over the logits for value and gradient together; no memory but the gradient.

    Args:
        input: logits ``(batch, classes, ...)``.
        target: labels ``(batch, ...)``.
        counts: how often each class occurs in the training set ``(classes,)``; see ``class_counts``.
        tau: 1 is the theory's.
        weight: class weights ``(classes,)``.
        ignore_index: a label that takes no part.
        reduction: ``"mean"`` (over the weights of the labels that take part), ``"sum"``, ``"none"``:
            ``(batch, ...)``.
        empty: value when every label is ignored, ``"zero"`` or ``"nan"``.
        backend: ``"auto"``, ``"torch"`` or ``"cpu"``; see :func:`cross_entropy`.
        sample_weight: weight of each sample ``(batch,)`` or row ``(batch, ...)``.

    >>> value = logit_adjusted_loss(torch.zeros(1, 2), torch.tensor([1]), counts=torch.tensor([90, 10]))
    >>> round(value.item(), 4)  # -log 0.1
    2.3026

    Source: Menon et al. 2021, "Long-tail learning via logit adjustment", eq. 10.
    """
    counts = _required(counts)
    # A class never seen has prior 0: its logit of -inf takes it out of every sum, and its own rows cost
    # infinity.
    shift = tau * torch.log(counts.to(torch.float64) / counts.sum())
    return row_loss(
        Form(cross_entropy_rule, weight=weight, offset=shift),
        input, target, ignore_index=ignore_index, reduction=reduction, empty=empty, sample_weight=sample_weight,
        backend=backend,
    )  # fmt: skip


def ldam_loss(
    input: Tensor,
    target: Tensor,
    *,
    counts: Tensor | None = None,
    max_margin: float = 0.5,
    scale: float = 30.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    empty: str = "zero",
    backend: str = "auto",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Label-distribution-aware margin: the true logit is handicapped, the more the rarer its class.

    .. math:: \ell = -\log \frac{e^{s (z_y - \Delta_y)}}{e^{s (z_y - \Delta_y)} + \sum_{k \ne y} e^{s z_k}},
              \qquad \Delta_j = \Delta_{\max} (\min_k n_k / n_j)^{1/4}

    Meant for the logits of a normalised layer (cosines), whose size the margin is compared with.

    When: long-tailed classes and a last layer of cosines. The authors train with it plainly first and add class
      weights late.
    When not: a last layer without normalisation: 30 times a plain logit saturates, and the margin of 0.5 says
      nothing.
    Cost: one pass over the logits for value and gradient together; no memory but the gradient.

    Args:
        input: logits ``(batch, classes, ...)``.
        target: labels ``(batch, ...)``.
        counts: how often each class occurs in the training set ``(classes,)``; see ``class_counts``.
        max_margin: :math:`\Delta` of the rarest class.
        scale: :math:`s`.
        weight: class weights ``(classes,)``.
        ignore_index: a label that takes no part.
        reduction: ``"mean"`` (over the weights of the labels that take part), ``"sum"``, ``"none"``:
            ``(batch, ...)``.
        empty: value when every label is ignored, ``"zero"`` or ``"nan"``.
        backend: ``"auto"``, ``"torch"`` or ``"cpu"``; see :func:`cross_entropy`.
        sample_weight: weight of each sample ``(batch,)`` or row ``(batch, ...)``.

    >>> value = ldam_loss(torch.zeros(1, 2), torch.tensor([1]), counts=torch.tensor([160, 10]), scale=1.0)
    >>> round(value.item(), 4)  # log(1 + exp(0.5))
    0.9741

    Source: Cao et al. 2019, "Learning imbalanced datasets with label-distribution-aware margin loss", eq. 13.
    """
    counts = _required(counts)
    rarity = counts.to(torch.float64).clamp_min(1) ** -0.25
    margins = max_margin * rarity / rarity.max()
    return row_loss(
        Form(cross_entropy_rule, weight=weight, handicap=margins, scale=scale),
        input, target, ignore_index=ignore_index, reduction=reduction, empty=empty, sample_weight=sample_weight,
        backend=backend,
    )  # fmt: skip


def generalized_cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    *,
    q: float = 0.7,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    empty: str = "zero",
    backend: str = "auto",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Between cross entropy and mean absolute error: a wrong label cannot cost more than 1/q.

    .. math:: \ell = \frac{1 - p_y^q}{q}

    ``q -> 0`` is cross entropy, ``q=1`` is :math:`1 - p_y`, which noise in the labels does not bias.

    When: labels of which a share is wrong (crowds, rules, web data).
    When not: clean labels, or hundreds of classes: training begins slowly, since a sample that is far off has
      little gradient.
    Cost: one pass over the logits for value and gradient together; no memory but the gradient.

    Args:
        input: logits ``(batch, classes, ...)``.
        target: labels ``(batch, ...)``.
        q: in (0, 1]; 0.7 in the paper (Keras 0.5).
        weight: class weights ``(classes,)``.
        ignore_index: a label that takes no part.
        reduction: ``"mean"`` (over the weights of the labels that take part), ``"sum"``, ``"none"``:
            ``(batch, ...)``.
        empty: value when every label is ignored, ``"zero"`` or ``"nan"``.
        backend: ``"auto"``, ``"torch"`` or ``"cpu"``; see :func:`cross_entropy`.
        sample_weight: weight of each sample ``(batch,)`` or row ``(batch, ...)``.

    >>> generalized_cross_entropy_loss(torch.zeros(1, 2), torch.tensor([0]), q=1.0).item()
    0.5

    Source: Zhang and Sabuncu 2018, "Generalized cross entropy loss", eq. 6.
    """
    if not 0 < q <= 1:
        raise DataError(f"q={q}; allowed is a number in (0, 1]; for q -> 0 take cross_entropy")
    return row_loss(
        Form(_generalized, (q,), weight=weight),
        input, target, ignore_index=ignore_index, reduction=reduction, empty=empty, sample_weight=sample_weight,
        backend=backend,
    )  # fmt: skip


def symmetric_cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    empty: str = "zero",
    backend: str = "auto",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Cross entropy plus its reverse, which labels cannot drive far when they are wrong.

    .. math:: \ell = -\alpha \log p_y - \beta A (1 - p_y), \qquad A = \log 0 := -4

    When: wrong labels, with somewhat faster learning than generalised cross entropy; two weights to tune.
    When not: clean labels; probabilities are wanted.
    Cost: one pass over the logits for value and gradient together; no memory but the gradient.

    Args:
        input: logits ``(batch, classes, ...)``.
        target: labels ``(batch, ...)``.
        alpha: weight of the cross entropy; 0.1 on CIFAR-10, 6 on CIFAR-100 in the paper.
        beta: weight of the reverse cross entropy.
        log_zero: :math:`A`, what the logarithm of a label's 0 is taken to be.
        weight: class weights ``(classes,)``.
        ignore_index: a label that takes no part.
        reduction: ``"mean"`` (over the weights of the labels that take part), ``"sum"``, ``"none"``:
            ``(batch, ...)``.
        empty: value when every label is ignored, ``"zero"`` or ``"nan"``.
        backend: ``"auto"``, ``"torch"`` or ``"cpu"``; see :func:`cross_entropy`.
        sample_weight: weight of each sample ``(batch,)`` or row ``(batch, ...)``.

    >>> value = symmetric_cross_entropy_loss(torch.zeros(1, 2), torch.tensor([0]))
    >>> round(value.item(), 4)  # 0.1 log 2 + 4 / 2
    2.0693

    Source: Wang et al. 2019, "Symmetric cross entropy for robust learning with noisy labels", eq. 5 to 7.
    """
    return row_loss(
        Form(_symmetric, (alpha, -beta * log_zero), weight=weight),
        input, target, ignore_index=ignore_index, reduction=reduction, empty=empty, sample_weight=sample_weight,
        backend=backend,
    )  # fmt: skip


class SoftmaxFocalLoss(Loss, function=softmax_focal_loss, kind="multiclass"): ...


class LogitAdjustedLoss(Loss, function=logit_adjusted_loss, kind="multiclass"): ...


class LDAMLoss(Loss, function=ldam_loss, kind="multiclass"): ...


class GeneralizedCrossEntropyLoss(Loss, function=generalized_cross_entropy_loss, kind="multiclass"): ...


class SymmetricCrossEntropyLoss(Loss, function=symmetric_cross_entropy_loss, kind="multiclass"): ...
