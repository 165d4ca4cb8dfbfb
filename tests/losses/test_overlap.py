"""Region losses against the ratio of sums written out, and identities between them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from trivet.errors import DataError, InputError
from trivet.losses import dice_loss, focal_tversky_loss, jaccard_loss, tversky_loss


def _images(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(7)
    logits = 2 * torch.randn(3, 4, 5, 6, generator=g, dtype=torch.float64)
    target = torch.randint(4, (3, 5, 6), generator=g)
    target[0, :2] = -100
    return logits.to(dtype), target


def _plain(logits: Tensor, target: Tensor, alpha: float, beta: float, smooth: float, power: float) -> Tensor:
    p, images = logits.softmax(1), []
    for i in range(len(p)):
        keep = target[i] != -100
        rows = []
        for c in range(p.shape[1]):
            q, t = p[i, c][keep], (target[i][keep] == c).double()
            shared = (q * t).sum()
            wrong, missed = (q * (1 - t)).sum(), ((1 - q) * t).sum()
            rows.append((1 - (shared + smooth) / (shared + alpha * wrong + beta * missed + smooth)) ** power)
        images.append(torch.stack(rows).mean())
    return torch.stack(images)


@pytest.mark.parametrize(
    ("loss", "keywords", "plain"),
    [
        (jaccard_loss, {}, (1, 1, 1e-5, 1)),
        (tversky_loss, {"alpha": 0.2, "beta": 0.8, "smooth": 1.0}, (0.2, 0.8, 1.0, 1)),
        (focal_tversky_loss, {}, (0.3, 0.7, 1e-5, 0.75)),
        (focal_tversky_loss, {"gamma": 0.5}, (0.3, 0.7, 1e-5, 2.0)),
    ],
)
def test_two_gradients_equal_the_plain_formula(loss, keywords, plain) -> None:  # type: ignore[no-untyped-def]
    logits, target = _images()
    found = []
    for function in (
        lambda z: loss(z, target, reduction="none", **keywords),
        lambda z: _plain(z, target, *plain),
    ):
        leaf = logits.clone().requires_grad_()
        value = function(leaf)
        (first,) = torch.autograd.grad(value.sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        found.append((value, first, second))
    torch.testing.assert_close(found[0], found[1])
    weight = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    mean = loss(logits, target, sample_weight=weight, **keywords)
    assert mean.item() == pytest.approx((found[1][0] @ weight / 3).item())


def test_half_and_half_is_dice_and_one_and_one_is_jaccard() -> None:
    logits, target = _images()
    torch.testing.assert_close(tversky_loss(logits, target, alpha=1.0, beta=1.0), jaccard_loss(logits, target))
    p = torch.where((target != -100)[:, None], logits.softmax(1), 0)
    t = torch.stack([target == c for c in range(4)], 1).double()
    dice = 1 - 2 * (p * t).sum((2, 3)) / (p.sum((2, 3)) + t.sum((2, 3)))
    torch.testing.assert_close(tversky_loss(logits, target, smooth=0.0), dice.mean())
    jaccard = jaccard_loss(logits, target, smooth=0.0, reduction="none")
    each = (2 * dice / (1 + dice)).mean(1)
    torch.testing.assert_close(jaccard, each)


def test_dice_conventions() -> None:
    logits, target = _images()
    target = target.clamp_max(2)  # class 3 is absent
    p, kept = logits.softmax(1), (target != -100)[:, None]
    p = torch.where(kept, p, 0)
    t = torch.stack([target == c for c in range(4)], 1).double()
    shared, predicted, true = ((x).sum((0, 2, 3)) for x in (p * t, p, t))
    smp = torch.where(true > 0, 1 - 2 * shared / (predicted + true), 0).mean()
    torch.testing.assert_close(dice_loss(logits, target, convention="smp"), smp)
    image = [x.sum((2, 3)) for x in (p * t, p, t, p * p)]
    vnet = 1 - (2 * image[0] + 1) / (image[3] + image[2] + 1)
    torch.testing.assert_close(dice_loss(logits, target, smooth=1.0, convention="vnet"), vnet.mean())
    optax = 1 - (image[0] + 1) / (0.5 * image[1] + 0.5 * image[2] + 1)
    torch.testing.assert_close(dice_loss(logits, target, smooth=1.0, convention="optax"), optax.mean())


def test_prices_of_the_two_mistakes_are_told_apart_unlike_kornias() -> None:
    logits, target = _images()
    assert tversky_loss(logits, target, alpha=0.9, beta=0.1) != tversky_loss(logits, target, alpha=0.1, beta=0.9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_at_512_by_512_is_right_where_smp_gives_nan(dtype: torch.dtype) -> None:
    logits = torch.randn(1, 2, 512, 512).to(dtype).requires_grad_()
    target = torch.randint(2, (1, 512, 512))
    value = tversky_loss(logits, target)
    wide = tversky_loss(logits.detach().double(), target)
    assert value.item() == pytest.approx(wide.item(), rel=1e-5)
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


def test_one_class_is_a_sigmoid_and_takes_three_forms_of_target() -> None:
    logits, mask = torch.randn(2, 1, 4, 4), torch.randint(2, (2, 4, 4))
    expected = jaccard_loss(logits, mask)
    torch.testing.assert_close(jaccard_loss(logits, mask[:, None]), expected)
    torch.testing.assert_close(jaccard_loss(logits, mask[:, None].float()), expected)
    p, t = logits[:, 0].sigmoid(), mask.float()
    shared = (p * t).sum((1, 2))
    union = p.sum((1, 2)) + t.sum((1, 2)) - shared
    assert expected.item() == pytest.approx((1 - shared / union).mean().item(), rel=1e-4)


def test_several_labels_at_once_use_sigmoids() -> None:
    logits, target = torch.randn(2, 3, 8), torch.randint(2, (2, 3, 8)).float()
    expected = torch.stack([jaccard_loss(logits[:, c : c + 1], target[:, c : c + 1]) for c in range(3)]).mean()
    torch.testing.assert_close(jaccard_loss(logits, target, multilabel=True), expected)


def test_classes_that_count() -> None:
    logits, target = torch.randn(1, 4, 9), torch.tensor([[0, 0, 0, 1, 1, 1, 1, 0, 0]])
    each = torch.stack([
        jaccard_loss(logits, target, weight=torch.eye(4)[c], reduction="none") for c in range(4)
    ])[:, 0]  # fmt: skip
    torch.testing.assert_close(jaccard_loss(logits, target), each.mean())
    torch.testing.assert_close(jaccard_loss(logits, target, classes="present"), each[:2].mean())
    torch.testing.assert_close(jaccard_loss(logits, target, include_background=False), each[1:].mean())
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(jaccard_loss(logits, target, weight=weight), each @ weight / 10)


def test_nothing_against_nothing_is_a_perfect_match() -> None:
    logits = torch.full((1, 1, 4), -1e4, requires_grad=True)
    for smooth in (0.0, 1.0):
        value = jaccard_loss(logits, torch.zeros(1, 4).long(), smooth=smooth)
        assert value.item() == 0
        assert torch.autograd.grad(value, logits)[0].isfinite().all()


@pytest.mark.parametrize("loss", [dice_loss, jaccard_loss, tversky_loss, focal_tversky_loss])
def test_all_ignored_is_zero_where_kornia_says_one(loss) -> None:  # type: ignore[no-untyped-def]
    logits = torch.randn(2, 3, 4, requires_grad=True)
    for value in (
        loss(logits, torch.full((2, 4), -100)),
        loss(logits, torch.zeros(2, 4).long(), mask=torch.zeros(2, 4)),
    ):
        assert value.item() == 0
        assert torch.autograd.grad(value, logits)[0].abs().max() == 0
    assert loss(logits, torch.full((2, 4), -100), empty="nan").isnan()


def test_perfect_prediction_has_no_loss_and_a_finite_gradient() -> None:
    target = torch.randint(3, (2, 20))
    logits = (torch.nn.functional.one_hot(target, 3).movedim(-1, 1) * 1e4).requires_grad_()
    value = focal_tversky_loss(logits, target, smooth=0.0, classes="present")
    assert value.item() == 0
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


def test_arguments_that_contradict_each_other_are_refused() -> None:
    logits, target = _images()
    with pytest.raises(InputError, match="pooling='batch'"):
        jaccard_loss(logits, target, gather=True)
    with pytest.raises(DataError, match="pooling='image'"):
        jaccard_loss(logits, target, pooling="batch", sample_weight=torch.ones(3))
    with pytest.raises(DataError, match="allowed are 0 to 3"):
        jaccard_loss(logits, target.clamp_min(0) + 2)


def _one_process(rank: int, world: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", world), rank=rank, world_size=world)
    logits, target = _images()
    rows = slice(0, 1) if rank == 0 else slice(1, 3)
    model = torch.eye(4, dtype=torch.float64).requires_grad_()
    mixed = torch.einsum("cd,ndhw->nchw", model, logits[rows])
    value = tversky_loss(mixed, target[rows], pooling="batch", gather=True)
    (gradient,) = torch.autograd.grad(value, model)
    dist.all_reduce(gradient)
    if rank == 0:
        torch.save((value.detach(), gradient / world), f"{folder}/result.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_statistics_summed_over_processes_give_a_single_process_gradient(tmp_path: Path) -> None:
    mp.spawn(_one_process, (2, str(tmp_path)), nprocs=2)
    value, gradient = torch.load(tmp_path / "result.pt")
    logits, target = _images()
    model = torch.eye(4, dtype=torch.float64).requires_grad_()
    mixed = torch.einsum("cd,ndhw->nchw", model, logits)
    expected = tversky_loss(mixed, target, pooling="batch")
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, model)[0])
