"""Metrics of regions: logits ``(images, classes, height, width)`` against labels ``(images, height, width)``.

One class is the foreground of a yes-or-no mask, whose labels may also be ``(images, 1, height, width)``. Pixels are
pooled over all images before a ratio is formed, so that an image without an object asks for nothing; the bootstrap
draws whole images. A label below 0 takes no part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trivet.tasks.metrics.base import register


def _overlaps(outputs: Tensor, targets: Tensor) -> Tensor:
    """Shared, true and predicted pixels of every image and class, side by side: ``(images, 3 classes)``."""
    binary = outputs.shape[1] == 1
    decided = (outputs[:, 0] > 0).long() if binary else outputs.argmax(dim=1)
    labels = targets.reshape(decided.shape).long()
    counted, counts = labels >= 0, []
    for label in (1,) if binary else range(outputs.shape[1]):
        true, found = labels == label, (decided == label) & counted
        counts.append(torch.stack([(part).flatten(1).sum(dim=1) for part in (true & found, true, found)]))
    return torch.stack(counts, dim=1).permute(2, 0, 1).flatten(1).double()


def _per_class(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shared, true, found = counts.sum(dim=0).chunk(3)
    return shared, true, found


def _pooled_iou(counts: Tensor) -> float:
    shared, true, found = _per_class(counts)
    return float((shared / (true + found - shared)).nanmean())


def _pooled_dice(counts: Tensor) -> float:
    shared, true, found = _per_class(counts)
    return float((2 * shared / (true + found)).nanmean())


@register("iou", "segmentation", rows=_overlaps, pooled=_pooled_iou)
def iou(outputs: Tensor, targets: Tensor) -> float:
    """Intersection over union (Jaccard), the mean over the classes that are present or found; one class: of it."""
    return _pooled_iou(_overlaps(outputs, targets))


@register("dice", "segmentation", rows=_overlaps, pooled=_pooled_dice)
def dice(outputs: Tensor, targets: Tensor) -> float:
    """Twice the shared pixels over the pixels of both, the mean over classes as for the intersection over union."""
    return _pooled_dice(_overlaps(outputs, targets))


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Correct and counted pixels of every image ``(images, 2)``."""
    decided = (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(dim=1)
    labels = targets.reshape(decided.shape).long()
    correct, counted = (decided == labels) & (labels >= 0), labels >= 0
    return torch.stack([correct.flatten(1).sum(dim=1), counted.flatten(1).sum(dim=1)], dim=1).double()


def _pooled_share(counts: Tensor) -> float:
    return float(counts[:, 0].sum() / counts[:, 1].sum())


@register("pixel_accuracy", "segmentation", rows=_right, pooled=_pooled_share)
def pixel_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of the pixels decided correctly: high for an empty mask when the foreground is small."""
    return _pooled_share(_right(outputs, targets))
