"""Lovasz and boundary losses against the definitions, and the distance transform against all pairs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.losses.boundary import boundary_loss, signed_distance
from trivet.losses.lovasz import lovasz_hinge_loss, lovasz_loss


def _iou_loss(wrong: set[int], foreground: Tensor) -> float:
    """1 - IoU of the prediction that is wrong exactly at ``wrong``."""
    truth = {i for i, t in enumerate(foreground.tolist()) if t}
    predicted = truth ^ wrong
    union = truth | predicted
    return 1 - len(truth & predicted) / len(union) if union else 0.0


def _extension(errors: Tensor, foreground: Tensor) -> Tensor:
    """The Lovasz extension by its definition: a sum over nested sets of wrong pixels."""
    order = errors.argsort(descending=True).tolist()
    value = torch.zeros((), dtype=errors.dtype)
    for k, i in enumerate(order):
        step = _iou_loss(set(order[: k + 1]), foreground) - _iou_loss(set(order[:k]), foreground)
        value = value + errors[i] * step
    return value


def _lovasz(logits: Tensor, target: Tensor, classes: str = "present") -> Tensor:
    p, t = logits.softmax(1).transpose(0, 1).flatten(1), target.flatten()
    keep = t != -100
    terms = []
    for c in range(len(p)):
        foreground = t[keep] == c
        if classes == "all" or foreground.any():
            errors = torch.where(foreground, 1 - p[c][keep], p[c][keep])
            terms.append(_extension(errors, foreground))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("classes", ["present", "all"])
def test_lovasz_equals_its_definition_with_absent_classes_and_ignored_pixels(classes: str) -> None:
    logits = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    target = torch.randint(3, (2, 3, 5))  # class 3 does not occur
    target[0, 1] = -100
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value, expected = lovasz_loss(a, target, classes=classes), _lovasz(b, target, classes)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(value, a), torch.autograd.grad(expected, b))


def test_lovasz_of_hard_predictions_is_one_minus_the_mean_iou() -> None:
    # kornia sorts class numbers instead of per-class foreground: 0.45 for a worst case whose loss is 1.
    target = torch.randint(4, (1, 50))
    worst = (target + 1) % 4
    for predicted in (worst, torch.randint(4, (1, 50)), target):
        logits = torch.nn.functional.one_hot(predicted, 4).movedim(-1, 1) * 200.0
        present = target.unique()
        ious = [((predicted == c) & (target == c)).sum() / ((predicted == c) | (target == c)).sum() for c in present]
        assert lovasz_loss(logits, target).item() == pytest.approx(1 - sum(ious).item() / len(present))


def test_lovasz_per_image_averages_images_and_takes_weights() -> None:
    logits, target = torch.randn(3, 4, 7), torch.randint(4, (3, 7))
    each = torch.stack([lovasz_loss(logits[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(lovasz_loss(logits, target, pooling="image", reduction="none"), each)
    weight = torch.tensor([1.0, 0.0, 3.0])
    value = lovasz_loss(logits, target, pooling="image", sample_weight=weight)
    assert value.item() == pytest.approx((each @ weight / 4).item())
    with pytest.raises(DataError, match="pooling='image'"):
        lovasz_loss(logits, target, sample_weight=weight)


def test_lovasz_steps_keep_their_precision_on_a_million_pixels() -> None:
    # 1/U is 1e-6 here: as a difference of float32 numbers near 1 it would be off by several percent.
    logits = torch.randn(1, 2, 1_000_000, requires_grad=True)
    target = (torch.rand(1, 1_000_000) < 0.3).long()
    wide = logits.detach().double().requires_grad_()
    ours = torch.autograd.grad(lovasz_loss(logits, target), logits)[0]
    true = torch.autograd.grad(lovasz_loss(wide, target), wide)[0]
    assert (ours.double() - true).norm() < 1e-5 * true.norm()


def test_lovasz_hinge_equals_its_definition() -> None:
    logits, target = torch.randn(2, 9, dtype=torch.float64), torch.randint(2, (2, 9))
    mask = torch.rand(2, 9) > 0.3
    for pooling, images in (("batch", [slice(0, 2)]), ("image", [slice(0, 1), slice(1, 2)])):
        expected = []
        for i in images:
            z, t = logits[i][mask[i]], target[i][mask[i]]
            expected.append(_extension((1 - (2 * t - 1) * z).relu(), t > 0))
        value = lovasz_hinge_loss(logits, target, pooling=pooling, mask=mask)
        assert value.item() == pytest.approx((sum(expected) / len(expected)).item())


@pytest.mark.parametrize("empty", ["zero", "nan"])
def test_all_ignored_is_empty(empty: str) -> None:
    logits, target = torch.randn(2, 3, 4, 4, requires_grad=True), torch.full((2, 4, 4), -100)
    for value in (
        lovasz_loss(logits, target, empty=empty),
        boundary_loss(logits, target, empty=empty),
        lovasz_hinge_loss(logits, logits.detach(), mask=torch.zeros_like(logits), empty=empty),
    ):
        assert value.isnan() if empty == "nan" else value.item() == 0
        assert empty == "nan" or torch.autograd.grad(value, logits)[0].abs().max() == 0


@pytest.mark.parametrize("shape", [(17,), (9, 13), (5, 6, 7)])
def test_distances_equal_the_minimum_over_all_pairs(shape: tuple[int, ...]) -> None:
    mask = torch.rand(1, 1, *shape) < 0.1
    mask.view(-1)[3] = True
    points = torch.tensor(list(itertools.product(*map(range, shape)))).double()
    flat = mask.flatten()
    to_inside = torch.cdist(points, points[flat]).amin(1)
    to_outside = torch.cdist(points, points[~flat]).amin(1)
    expected = torch.where(flat, 1 - to_outside, to_inside).view(1, 1, *shape)
    torch.testing.assert_close(signed_distance(mask).double(), expected, atol=1e-5, rtol=0)


def test_a_region_that_is_empty_or_everything_has_no_boundary() -> None:
    mask = torch.stack([torch.zeros(4, 5), torch.ones(4, 5)])[None].bool()
    assert signed_distance(mask).abs().max() == 0


def test_boundary_loss_is_the_mean_of_probability_times_distance() -> None:
    logits, target = torch.randn(2, 3, 6, 7, dtype=torch.float64), torch.randint(3, (2, 6, 7))
    target[0, :2] = -100
    maps = signed_distance(torch.stack([target == c for c in range(3)], 1))
    kept = (target != -100)[:, None]
    inside = logits.softmax(1) * maps * kept
    each = inside[:, 1:].sum((1, 2, 3)) / kept.sum((1, 2, 3))
    torch.testing.assert_close(boundary_loss(logits, target, reduction="none"), each)
    every = boundary_loss(logits, target, include_background=True)
    assert every.item() == pytest.approx((inside.sum((1, 2, 3)) / kept.sum((1, 2, 3))).mean().item())
    whole = torch.randint(3, (2, 6, 7))
    ready = signed_distance(torch.stack([whole == c for c in range(3)], 1)).double()
    assert boundary_loss(logits, whole).item() == pytest.approx(boundary_loss(logits, ready).item())
