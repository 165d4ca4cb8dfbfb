"""The boundary loss, and the exact distance transform that it needs."""

from __future__ import annotations

import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.losses.contract import Loss, check_choice, reduce, widen

__all__ = ["BoundaryLoss", "boundary_loss", "signed_distance"]


def _squared_distance(mask: Tensor) -> Tensor:
    """Return the squared euclidean distance of each point to the nearest True point, in pixels; inf without
    one.

    Separable (Felzenszwalb and Huttenlocher 2012): along each axis, ``min_k f(i + k) + k^2``. Offsets are
    tried from small to large and stop once k^2 exceeds every distance, so the cost follows the largest
    distance.
    """
    squared = torch.where(mask, 0.0, torch.inf)
    for axis in range(2, mask.ndim):
        length, best = mask.shape[axis], squared.clone()
        for k in range(1, length):
            if not best.numel() or k * k >= float(best.amax()):
                break
            near, far = squared.narrow(axis, 0, length - k), squared.narrow(axis, k, length - k)
            best.narrow(axis, 0, length - k).copy_(torch.minimum(best.narrow(axis, 0, length - k), far + k * k))
            best.narrow(axis, k, length - k).copy_(torch.minimum(best.narrow(axis, k, length - k), near + k * k))
        squared = best
    return squared


@torch.no_grad()
def signed_distance(mask: Tensor) -> Tensor:
    """Return the distance in pixels to the region: positive outside; inside, 0 on its rim and falling.

    A region that is empty or fills its image has no boundary: 0 everywhere.

    Args:
        mask: True inside ``(batch, classes, ...)``; distances run over the trailing axes.

    >>> signed_distance(torch.tensor([[[False, False, True, True, True, False]]]))
    tensor([[[ 2.,  1.,  0., -1.,  0.,  1.]]])
    """
    axes = tuple(range(2, mask.ndim))
    has_boundary = mask.any(axes, keepdim=True) & (~mask).any(axes, keepdim=True) if axes else mask & False
    outside = _squared_distance(mask).sqrt()
    inside = _squared_distance(~mask).sqrt()
    return torch.where(has_boundary, torch.where(mask, 1 - inside, outside), 0)


def boundary_loss(
    input: Tensor,
    target: Tensor,
    *,
    include_background: bool = False,
    convention: str = "paper",
    ignore_index: int = -100,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Probability mass far from the true boundary, measured in pixels; may be negative. Add it to a region
    loss.

    .. math:: \ell = \frac{1}{|\Omega|} \sum_{i \in \Omega} \sum_c p_{ic} \, \varphi_c(i)

    with :math:`\varphi_c` the signed distance to the boundary of class c (positive outside).

    When: a mistake far from the boundary is worse than one beside it, and for regions so small that overlap says
      little. Start from a small weight that grows along the run, as the paper does: ``DiceLoss() + schedule *
      BoundaryLoss()``.
    When not: alone: without a region loss its optimum is to predict everything inside or nothing.
    Cost: a distance transform for each image and class, once where there is no augmentation (see ``target``).

    Args:
        input: logits ``(batch, classes, ...)``; one class means sigmoid, more softmax.
        target: labels ``(batch, ...)``, or ready distances ``(batch, classes, ...)`` of a floating type from
            :func:`signed_distance`, worth computing once per image when there is no augmentation.
        include_background: count class 0 too (of several).
        convention: ``"paper"`` adds the classes up; ``"authors"``: their code averages over the classes counted.
        ignore_index: a label that takes no part.
        reduction: ``"mean"`` over images, ``"sum"``, ``"none"``: ``(batch,)``.
        empty: value when no pixel takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each image ``(batch,)``.

    >>> logits = torch.tensor([[[-30.0, -30.0, 30.0, 30.0]]])  # the region, two pixels wide, is found
    >>> boundary_loss(logits, torch.tensor([[0, 0, 1, 1]])).item()  # (0 + 0 + 0 - 1) / 4
    -0.25

    Source: Kervadec et al. 2019, "Boundary loss for highly unbalanced segmentation", eq. 7.
    """
    check_choice("convention", convention, ("paper", "authors"))
    count = input.shape[1]
    logits = widen(input)
    probability = logits.sigmoid() if count == 1 else logits.softmax(1)
    if target.is_floating_point():
        if target.shape != input.shape:
            raise DataError(f"distances of shape {tuple(target.shape)}; allowed is input's {tuple(input.shape)}")
        valid, distance = torch.ones_like(target[:, :1], dtype=torch.bool), target.to(logits.dtype)
    else:
        if input.shape[:1] + input.shape[2:] != target.shape:
            raise DataError(
                f"input {tuple(input.shape)} and target {tuple(target.shape)}; allowed are (batch, classes, "
                "...) and (batch, ...)"
            )
        valid = (target != ignore_index)[:, None]
        labels = torch.arange(count, device=target.device) + (count == 1)
        region = target[:, None] == labels.view(1, -1, *(1,) * (target.ndim - 1))
        distance = signed_distance(region).to(logits.dtype)
    first = 0 if include_background or count == 1 else 1
    moments = torch.where(valid, probability * distance, 0)[:, first:].flatten(1).sum(1)
    if convention == "authors":
        moments = moments / (count - first)
    pixels = valid.flatten(1).sum(1)
    weight = (pixels > 0).to(logits.dtype)
    if sample_weight is not None:
        weight = weight * sample_weight.to(logits.dtype)
    return reduce(moments / pixels.clamp_min(1), weight, reduction=reduction, empty=empty)


class BoundaryLoss(Loss, function=boundary_loss, kind="region"): ...
