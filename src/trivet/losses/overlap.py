"""Region losses: what two regions share against what they do not. Dice, Jaccard, Tversky, focal Tversky."""

from __future__ import annotations

import torch
from torch import Tensor

from trivet.errors import DataError, InputError
from trivet.losses.contract import Loss, check_choice, reduce
from trivet.losses.regionwise import Regions, region_sums

__all__ = [
    "DiceLoss",
    "FocalTverskyLoss",
    "JaccardLoss",
    "TverskyLoss",
    "dice_loss",
    "focal_tversky_loss",
    "jaccard_loss",
    "tversky_loss",
]


def _finish(
    values: Tensor,
    regions: Regions,
    *,
    classes: str,
    include_background: bool,
    weight: Tensor | None,
    reduction: str,
    empty: str,
    pooling: str,
    sample_weight: Tensor | None,
    monai: bool = False,
) -> Tensor:
    """Average over the classes that count (by class weight), then over images.

    MONAI's mean divides by the number of classes whatever they weigh, and its sum adds up the classes too.
    """
    check_choice("classes", classes, ("all", "present"))
    if sample_weight is not None and pooling != "image":
        raise DataError("sample_weight with pooling='batch'; weights of images need pooling='image'")
    counted = (regions.true > 0) if classes == "present" else (regions.pixels > 0)
    by_class = counted.to(values.dtype)
    if weight is not None:
        by_class = by_class * weight.to(values.dtype)
    if not include_background and values.shape[1] > 1:
        by_class = by_class * (torch.arange(values.shape[1], device=values.device) > 0)
    total = (by_class > 0).sum(1).to(values.dtype) if monai else by_class.sum(1)
    if monai and reduction == "sum":
        total = (total > 0).to(values.dtype)
    image = (torch.where(by_class > 0, values, 0) * by_class).sum(1) / torch.where(total == 0, 1, total)
    by_image = (total > 0).to(values.dtype)
    if sample_weight is not None:
        by_image = by_image * sample_weight.to(values.dtype)
    return reduce(image, by_image, reduction=reduction, empty=empty)


def _of_all_classes(regions: Regions, include_background: bool, weight: Tensor | None) -> Regions:
    if weight is not None:
        raise InputError("class weights with one ratio for all classes; give weight=None, or convention='paper'")
    first = 0 if include_background or regions.true.shape[1] == 1 else 1
    shared, predicted, true = (
        part[:, first:].sum(1, keepdim=True) for part in (regions.shared, regions.predicted, regions.true)
    )
    return Regions(shared, predicted, true, regions.pixels.amax(1, keepdim=True))


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """Return top / bottom, and 1 for nothing against nothing."""
    nothing = bottom <= 0  # not true of NaN, which must be seen
    return torch.where(nothing, 1, top / torch.where(nothing, 1, bottom))


def dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    smooth: float = 1e-5,
    convention: str = "paper",
    multilabel: bool = False,
    classes: str = "all",
    include_background: bool = True,
    pooling: str = "image",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    mask: Tensor | None = None,
    gather: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
    backend: str = "auto",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""One minus the soft Dice coefficient of each class: overlap matters, however small the region.

    .. math:: \ell_c = 1 - \frac{2 I + s}{P + T + s},
              \qquad I = \sum_i p_i t_i,\; P = \sum_i p_i,\; T = \sum_i t_i

    When: segmentation judged by Dice or F1, with small regions. Often best added to cross entropy, whose gradient
      is steadier.
    When not: calibrated probabilities are wanted; images without any foreground count most (``classes``, ``smooth``
      decide what they give).
    Cost: two passes over the logits; no memory but the gradient.

    Args:
        input: logits ``(batch, classes, ...)``; one class means sigmoid, more softmax.
        target: labels ``(batch, ...)``, or probabilities of input's shape.
        smooth: :math:`s`, added once to both; with 0, nothing predicted and nothing true is a perfect match.
        convention: ``"paper"``: as above. ``"vnet"``: squares in the denominator. ``"smp"``
            (segmentation-models-pytorch): batch pooled, :math:`s = 0`, a class absent from the target counts
            as 0 in the mean. ``"optax"``: the halved form, where :math:`s` counts twice. ``"kornia"``: one ratio
            for all classes of an image. ``"keras"``: one for the whole batch. ``"monai"``: as the paper, but
            ``"sum"`` adds up the classes too, and the mean does not divide by class weights.
        multilabel: classes do not exclude each other: sigmoid, and a target of input's shape.
        classes: ``"all"``, or ``"present"``: only classes that occur in the target.
        include_background: count class 0 (of several).
        pooling: ``"image"`` forms the ratio for each image, ``"batch"`` once over the batch.
        weight: class weights ``(classes,)``; the mean over classes divides by their sum.
        ignore_index: a label that takes no part.
        mask: True where a pixel takes part ``(batch, ...)`` or ``(batch, 1, ...)``.
        gather: sum the statistics over all processes; needs ``pooling="batch"``.
        reduction: ``"mean"`` and ``"sum"`` over images, ``"none"``: ``(images,)``, one with
            ``pooling="batch"``.
        empty: value when no pixel takes part, ``"zero"`` or ``"nan"``.
        backend: ``"auto"``, ``"torch"`` or ``"cpu"``; see :func:`cross_entropy`.
        sample_weight: weight of each image ``(batch,)``.

    >>> half = torch.zeros(1, 1, 4), torch.tensor([[1, 1, 0, 0]])
    >>> dice_loss(*half, smooth=0.0).item()  # 1 - 2 / (2 + 2)
    0.5

    Source: Milletari et al. 2016, "V-Net", section 3 (with squares); Sudre et al. 2017 (without).
    """
    check_choice("convention", convention, ("paper", "vnet", "smp", "optax", "kornia", "keras", "monai"))
    if convention in ("smp", "keras"):
        pooling, smooth = "batch", 0.0 if convention == "smp" else smooth
    regions = region_sums(
        input, target, multilabel=multilabel, pooling=pooling, ignore_index=ignore_index, mask=mask,
        gather=gather, squared=convention == "vnet", backend=backend,
    )  # fmt: skip
    if convention in ("kornia", "keras"):
        regions = _of_all_classes(regions, include_background, weight)
    smooth = 2 * smooth if convention == "optax" else smooth
    values = 1 - _ratio(2 * regions.shared + smooth, regions.predicted + regions.true + smooth)
    if convention == "smp":
        values = torch.where(regions.true > 0, values, 0)
    return _finish(
        values, regions, classes=classes, include_background=include_background, weight=weight,
        reduction=reduction, empty=empty, pooling=pooling, sample_weight=sample_weight, monai=convention == "monai",
    )  # fmt: skip


def jaccard_loss(
    input: Tensor,
    target: Tensor,
    *,
    smooth: float = 1e-5,
    convention: str = "paper",
    multilabel: bool = False,
    classes: str = "all",
    include_background: bool = True,
    pooling: str = "image",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    mask: Tensor | None = None,
    gather: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
    backend: str = "auto",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""One minus the soft intersection over union of each class.

    .. math:: \ell_c = 1 - \frac{I + s}{P + T - I + s},
              \qquad I = \sum_i p_i t_i,\; P = \sum_i p_i,\; T = \sum_i t_i

    Sums are float32 for half precision (segmentation-models-pytorch gives NaN in float16 at 512 x 512).

    When: segmentation judged by the intersection over union.
    When not: the start of training from scratch, alone: its gradient is small while nothing overlaps; add cross
      entropy.
    Cost: two passes over the logits; no memory but the gradient.

    Args:
        input: logits ``(batch, classes, ...)``; one class means sigmoid, more softmax.
        target: labels ``(batch, ...)``, or probabilities of input's shape.
        smooth: :math:`s`, added once to both; with 0, nothing predicted and nothing true is a perfect match.
        convention: ``"paper"``, or ``"smp"`` (segmentation-models-pytorch): batch pooled, :math:`s = 0`, a class
            absent from the target counts as 0 in the mean. ``"monai"`` (its ``DiceLoss(jaccard=True)``): half of
            :math:`s`, ``"sum"`` adds up the classes too, and the mean does not divide by class weights.
        multilabel: classes do not exclude each other: sigmoid, and a target of input's shape.
        classes: ``"all"``, or ``"present"``: only classes that occur in the target.
        include_background: count class 0 (of several).
        pooling: ``"image"`` forms the ratio for each image (MONAI), ``"batch"`` once over the batch (smp).
        weight: class weights ``(classes,)``; the mean over classes divides by their sum.
        ignore_index: a label that takes no part.
        mask: True where a pixel takes part ``(batch, ...)`` or ``(batch, 1, ...)``.
        gather: sum the statistics over all processes; needs ``pooling="batch"``.
        reduction: ``"mean"`` and ``"sum"`` over images, ``"none"``: ``(images,)``, one with
            ``pooling="batch"``.
        empty: value when no pixel takes part, ``"zero"`` or ``"nan"``.
        backend: ``"auto"``, ``"torch"`` or ``"cpu"``; see :func:`cross_entropy`.
        sample_weight: weight of each image ``(batch,)``.

    >>> half = torch.zeros(1, 1, 4), torch.tensor([[1, 1, 0, 0]])
    >>> round(jaccard_loss(*half, smooth=0.0).item(), 4)  # 1 - 1 / (2 + 2 - 1)
    0.6667

    Source: Rahman and Wang 2016, "Optimizing intersection-over-union in deep neural networks", eq. 3.
    """
    check_choice("convention", convention, ("paper", "smp", "monai"))
    if convention == "smp":
        pooling, smooth = "batch", 0.0
    elif convention == "monai":
        smooth = smooth / 2
    regions = region_sums(
        input,
        target,
        multilabel=multilabel,
        pooling=pooling,
        ignore_index=ignore_index,
        mask=mask,
        gather=gather,
        backend=backend,
    )
    union = regions.predicted + regions.true - regions.shared
    values = 1 - _ratio(regions.shared + smooth, union + smooth)
    if convention == "smp":
        values = torch.where(regions.true > 0, values, 0)
    return _finish(
        values, regions, classes=classes, include_background=include_background, weight=weight,
        reduction=reduction, empty=empty, pooling=pooling, sample_weight=sample_weight, monai=convention == "monai",
    )  # fmt: skip


def _tversky_index(regions: Regions, alpha: float, beta: float, smooth: float) -> Tensor:
    false_positive, false_negative = regions.predicted - regions.shared, regions.true - regions.shared
    return _ratio(regions.shared + smooth, regions.shared + alpha * false_positive + beta * false_negative + smooth)


def tversky_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 1e-5,
    convention: str = "paper",
    multilabel: bool = False,
    classes: str = "all",
    include_background: bool = True,
    pooling: str = "image",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    mask: Tensor | None = None,
    gather: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
    backend: str = "auto",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Overlap with a price for each kind of mistake: ``alpha`` for false positives, ``beta`` for false
    negatives.

    .. math:: \ell_c = 1 - \frac{I + s}{I + \alpha\,(P - I) + \beta\,(T - I) + s}

    1/2 and 1/2 is Dice, 1 and 1 is Jaccard; a larger ``beta`` finds more of a small region.

    When: missing a region and marking too much cost different amounts (lesions: ``beta`` above ``alpha``).
    When not: both cost the same: that is Dice, with one number less to choose.
    Cost: two passes over the logits; no memory but the gradient.

    Args:
        input: logits ``(batch, classes, ...)``; one class means sigmoid, more softmax.
        target: labels ``(batch, ...)``, or probabilities of input's shape.
        alpha: price of mass predicted outside the region.
        beta: price of mass missed inside (kornia's loss depends on the sum of the two alone).
        smooth: :math:`s`, added once to both.
        convention: ``"paper"``, or ``"smp"`` (segmentation-models-pytorch): batch pooled, :math:`s = 0`, a class
            absent from the target counts as 0 in the mean. ``"keras"``: one ratio for the whole batch, in which
            ``alpha`` prices what is missed and ``beta`` what is too much (seen in Keras 3.15, whose documentation
            says the opposite). ``"monai"``: ``"sum"`` adds up the classes too, the mean does not divide by weights.
        multilabel: classes do not exclude each other: sigmoid, and a target of input's shape.
        classes: ``"all"``, or ``"present"``: only classes that occur in the target.
        include_background: count class 0 (of several).
        pooling: ``"image"`` forms the ratio for each image, ``"batch"`` once over the batch.
        weight: class weights ``(classes,)``; the mean over classes divides by their sum.
        ignore_index: a label that takes no part.
        mask: True where a pixel takes part ``(batch, ...)`` or ``(batch, 1, ...)``.
        gather: sum the statistics over all processes; needs ``pooling="batch"``.
        reduction: ``"mean"`` and ``"sum"`` over images, ``"none"``: ``(images,)``, one with
            ``pooling="batch"``.
        empty: value when no pixel takes part, ``"zero"`` or ``"nan"``.
        backend: ``"auto"``, ``"torch"`` or ``"cpu"``; see :func:`cross_entropy`.
        sample_weight: weight of each image ``(batch,)``.

    >>> half = torch.zeros(1, 1, 4), torch.tensor([[1, 0, 0, 0]])
    >>> round(tversky_loss(*half, alpha=0.0, beta=1.0, smooth=0.0).item(), 4)  # half of the region is missed
    0.5

    Source: Salehi et al. 2017, "Tversky loss function for image segmentation", eq. 3.
    """
    check_choice("convention", convention, ("paper", "smp", "keras", "monai"))
    if convention in ("smp", "keras"):
        pooling, smooth = "batch", 0.0 if convention == "smp" else smooth
    regions = region_sums(
        input,
        target,
        multilabel=multilabel,
        pooling=pooling,
        ignore_index=ignore_index,
        mask=mask,
        gather=gather,
        backend=backend,
    )
    if convention == "keras":
        regions, alpha, beta = _of_all_classes(regions, include_background, weight), beta, alpha
    values = 1 - _tversky_index(regions, alpha, beta, smooth)
    if convention == "smp":
        values = torch.where(regions.true > 0, values, 0)
    return _finish(
        values, regions, classes=classes, include_background=include_background, weight=weight,
        reduction=reduction, empty=empty, pooling=pooling, sample_weight=sample_weight, monai=convention == "monai",
    )  # fmt: skip


def _power(missing: Tensor, power: float) -> Tensor:
    """Return missing ** power; one below 1 has an infinite slope at 0, where there is nothing left to gain."""
    nothing = missing <= 0
    return torch.where(nothing, 0, torch.where(nothing, 1, missing) ** power)


def focal_tversky_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    convention: str = "paper",
    smooth: float = 1e-5,
    multilabel: bool = False,
    classes: str = "all",
    include_background: bool = True,
    pooling: str = "image",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    mask: Tensor | None = None,
    gather: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
    backend: str = "auto",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Tversky loss bent so that classes already found well keep a gradient.

    .. math:: \ell_c = (1 - \mathrm{TI}_c)^{1/\gamma}

    When: small regions of which a part is always missed, once the large ones are found.
    When not: noisy outlines: classes that cannot be found better keep the largest gradient.
    Cost: two passes over the logits; no memory but the gradient.

    Arguments as for :func:`tversky_loss`; ``gamma`` is the focus, and with ``convention="smp"`` the power itself,
    taken of the mean over classes.

    >>> half = torch.zeros(1, 1, 4), torch.tensor([[1, 0, 0, 0]])
    >>> round(focal_tversky_loss(*half, alpha=0.0, beta=1.0, gamma=2.0, smooth=0.0).item(), 4)  # sqrt(1/2)
    0.7071

    Source: Abraham and Khan 2019, "A novel focal Tversky loss function", eq. 4.
    """
    check_choice("convention", convention, ("paper", "smp"))
    if convention == "smp":
        mean = tversky_loss(
            input, target, alpha=alpha, beta=beta, convention="smp", multilabel=multilabel, classes=classes,
            include_background=include_background, weight=weight, ignore_index=ignore_index, mask=mask, gather=gather,
            reduction=reduction, empty=empty, backend=backend, sample_weight=sample_weight,
        )  # fmt: skip
        return _power(mean, gamma)
    regions = region_sums(
        input,
        target,
        multilabel=multilabel,
        pooling=pooling,
        ignore_index=ignore_index,
        mask=mask,
        gather=gather,
        backend=backend,
    )
    values = _power(1 - _tversky_index(regions, alpha, beta, smooth), 1 / gamma)
    return _finish(
        values, regions, classes=classes, include_background=include_background, weight=weight,
        reduction=reduction, empty=empty, pooling=pooling, sample_weight=sample_weight,
    )  # fmt: skip


class DiceLoss(Loss, function=dice_loss, kind="region"): ...


class JaccardLoss(Loss, function=jaccard_loss, kind="region"): ...


class TverskyLoss(Loss, function=tversky_loss, kind="region"): ...


class FocalTverskyLoss(Loss, function=focal_tversky_loss, kind="region"): ...
