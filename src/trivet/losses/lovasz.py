"""Lovasz losses: the intersection over union of hard decisions, made convex in the errors."""

from __future__ import annotations

import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.losses.contract import Loss, check_choice, reduce, widen

__all__ = ["LovaszHingeLoss", "LovaszLoss", "lovasz_hinge_loss", "lovasz_loss"]


def _jaccard_steps(foreground: Tensor, valid: Tensor) -> Tensor:
    """Return by how much 1 - IoU grows when one more of the sorted pixels is wrong.

    The difference of neighbours is written out, since subtracting two numbers near 1 leaves noise after a
    million pixels: 1/U where a foreground pixel is lost, I / (U (U - 1)) where a background pixel is added.
    """
    background = valid & ~foreground
    positives = foreground.sum(-1, keepdim=True)
    intersection = (positives - foreground.cumsum(-1)).double()
    union = (positives + background.cumsum(-1)).double()
    before = torch.where(union == 1, 1, union - 1)
    # Without any foreground the first wrong pixel costs everything: IoU falls from 1 (empty on empty) to 0.
    added = torch.where((positives == 0) & (union == 1), 1, intersection / (union.clamp_min(1) * before))
    steps = torch.where(foreground, 1 / union.clamp_min(1), added)
    return torch.where(valid, steps, 0)


def _extension(errors: Tensor, foreground: Tensor, valid: Tensor) -> Tensor:
    """Return the Lovasz extension of 1 - IoU at ``errors`` ``(..., pixels)``."""
    order = torch.where(valid, errors.detach(), -torch.inf).argsort(-1, descending=True)
    foreground, valid = foreground.gather(-1, order), valid.gather(-1, order)
    steps = _jaccard_steps(foreground & valid, valid).to(errors.dtype)
    return (torch.where(valid, errors.gather(-1, order), 0) * steps).sum(-1)


def _pixels(x: Tensor, axis: int = 1) -> Tensor:
    """Flatten the axes from ``axis`` on; a single value per sample is one pixel."""
    return x.flatten(axis) if x.ndim > axis else x.unsqueeze(-1)


def _pool(x: Tensor, pooling: str) -> Tensor:
    """Arrange ``(batch, classes, pixels)`` as ``(images or 1, classes, pixels)``."""
    check_choice("pooling", pooling, ("batch", "image"))
    return x if pooling == "image" else x.transpose(0, 1).flatten(1)[None]


def _reduce(
    values: Tensor,
    counted: Tensor,
    pooling: str,
    reduction: str,
    empty: str,
    sample_weight: Tensor | None,
) -> Tensor:
    """Average over the counted classes, then over images; ``none`` keeps one value per image (or one)."""
    if sample_weight is not None and pooling != "image":
        raise DataError(
            "sample_weight with pooling='batch'; weights of images need pooling='image', one value for each"
        )
    per_image = reduce_classes(values, counted)
    weight = counted.any(1).to(values.dtype)
    if sample_weight is not None:
        weight = weight * sample_weight.to(values.dtype)
    return reduce(per_image, weight, reduction=reduction, empty=empty)


def reduce_classes(values: Tensor, counted: Tensor) -> Tensor:
    """Return the mean over the counted classes ``(images, classes)``; 0 where none counts."""
    return torch.where(counted, values, 0).sum(1) / counted.sum(1).clamp_min(1)


def lovasz_loss(
    input: Tensor,
    target: Tensor,
    *,
    classes: str = "present",
    pooling: str = "batch",
    ignore_index: int = -100,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Lovasz-softmax: a surrogate of the mean intersection over union of the classes.

    For each class, with errors :math:`m_i = 1 - p_i` on its pixels and :math:`p_i` elsewhere, sorted falling:

    .. math:: \ell_c = \sum_i m_{(i)} \, \bigl(\Delta_J(\{1..i\}) - \Delta_J(\{1..i-1\})\bigr),
              \qquad \Delta_J = 1 - \mathrm{IoU}

    When: the metric is the mean IoU; best after a start with cross entropy (fine tuning), whose gradient is
      steadier.
    When not: training from scratch with it alone; calibrated probabilities are wanted.
    Cost: one sort of all pixels for each class; memory: about twenty copies of the logits.

    Args:
        input: logits ``(batch, classes, ...)``.
        target: labels ``(batch, ...)``.
        classes: ``"present"`` averages the classes that occur in the target (paper), ``"all"`` every class.
        pooling: ``"batch"`` sorts the pixels of the batch together (paper), ``"image"`` each image alone.
        ignore_index: a label that takes no part.
        reduction: ``"mean"`` and ``"sum"`` over images (one with ``pooling="batch"``), ``"none"``:
            ``(images,)``.
        empty: value when no class counts, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each image ``(batch,)``, with ``pooling="image"``.

    >>> logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])  # two pixels, both right
    >>> round(lovasz_loss(logits, torch.tensor([[0, 1]])).item(), 4)
    0.0

    Source: Berman et al. 2018, "The Lovasz-softmax loss", eq. 9 to 11.
    """
    check_choice("classes", classes, ("present", "all"))
    if input.ndim < 2 or input.shape[:1] + input.shape[2:] != target.shape:
        raise DataError(
            f"input {tuple(input.shape)} and target {tuple(target.shape)}; allowed are (batch, classes, ...) "
            "and (batch, ...)"
        )
    count = input.shape[1]
    valid = _pixels(target != ignore_index)[:, None].expand(-1, count, -1)
    labels = _pixels(target)[:, None]
    foreground = labels == torch.arange(count, device=target.device)[None, :, None]
    probability = _pixels(widen(input).softmax(1), 2)
    errors = torch.where(foreground, 1 - probability, probability)
    errors, foreground, valid = (_pool(part, pooling) for part in (errors, foreground, valid))
    values = _extension(errors, foreground, valid)
    counted = (foreground & valid).any(-1) if classes == "present" else valid.any(-1)
    return _reduce(values, counted, pooling, reduction, empty, sample_weight)


def lovasz_hinge_loss(
    input: Tensor,
    target: Tensor,
    *,
    pooling: str = "batch",
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Lovasz hinge: a convex surrogate of the intersection over union of one foreground class.

    The extension of :func:`lovasz_loss` at the hinge errors :math:`[1 - (2 t_i - 1) z_i]_+`.

    When: one region is searched and judged by its IoU.
    When not: probabilities are wanted: beyond the margin nothing moves.
    Cost: one sort of all pixels; memory: about twenty copies of the logits.

    Args:
        input: logits ``(batch, ...)``.
        target: 0 or 1 ``(batch, ...)``.
        pooling: ``"batch"`` sorts the pixels of the batch together, ``"image"`` each image alone.
        mask: True where a pixel takes part ``(batch, ...)``.
        reduction: ``"mean"`` and ``"sum"`` over images (one with ``pooling="batch"``), ``"none"``:
            ``(images,)``.
        empty: value when no pixel takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each image ``(batch,)``, with ``pooling="image"``.

    >>> lovasz_hinge_loss(torch.tensor([[2.0, -0.5]]), torch.tensor([[1, 0]])).item()
    0.25

    Source: Berman et al. 2018, "The Lovasz-softmax loss", eq. 7; Yu and Blaschko 2015.
    """
    if input.shape != target.shape:
        raise DataError(f"input {tuple(input.shape)} and target {tuple(target.shape)}; allowed are equal shapes")
    foreground = _pixels(target)[:, None] > 0
    errors = (1 - (2 * foreground.float() - 1) * widen(input).reshape(foreground.shape)).relu()
    valid = torch.ones_like(foreground) if mask is None else mask.reshape(foreground.shape).bool()
    errors, foreground, valid = (_pool(part, pooling) for part in (errors, foreground, valid))
    values = _extension(errors, foreground, valid)
    return _reduce(values, valid.any(-1), pooling, reduction, empty, sample_weight)


class LovaszLoss(Loss, function=lovasz_loss, kind="region"): ...


class LovaszHingeLoss(Loss, function=lovasz_hinge_loss, kind="binary"): ...
