"""Defects found in other libraries, each as a test that ours does not have it. No other library is imported.

The numbers in the comments were seen in: torch 2.13.0, kornia 0.9rc1, segmentation-models-pytorch (smp) 0.5.1dev,
MONAI 1.5, pytorch-metric-learning (PML) 2.8.1, torchvision's focal_loss.py, timm aa4b585, Keras 3422977, Liger 0.8.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trivet import losses
from trivet.losses.embedding import softmax
from trivet.losses.examples import EXAMPLES

NARROW = (torch.bfloat16, torch.float16)


def _gradient(loss: Callable[..., Tensor], x: Tensor, *rest: Tensor, **keywords: object) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, *rest, **keywords), leaf)[0]


def test_kornia_lovasz_sorts_class_numbers_and_gives_less_than_one_for_the_worst_prediction() -> None:
    target = torch.arange(200).view(1, -1) % 4
    worst = 200.0 * F.one_hot((target + 1) % 4, 4).movedim(-1, 1)
    assert losses.lovasz_loss(worst, target).item() == pytest.approx(1.0)  # kornia: 0.45


def test_kornia_tversky_only_sees_the_sum_of_alpha_and_beta() -> None:
    too_much, target = torch.full((1, 1, 8), 4.0), torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0]])
    prices = [losses.tversky_loss(too_much, target, alpha=a, beta=1 - a, smooth=0.0).item() for a in (0.9, 0.1)]
    p = torch.sigmoid(torch.tensor(4.0)).item()
    expected = [1 - 2 * p / (2 * p + a * 6 * p + (1 - a) * 2 * (1 - p)) for a in (0.9, 0.1)]
    assert prices == pytest.approx(expected, rel=1e-5)  # 0.73 and 0.24; kornia gives one number for both


def test_keras_tversky_prices_the_other_mistake_than_its_documentation_says() -> None:
    # Keras 3.15 takes alpha for what is missed and calls it the price of false positives.
    too_much, target = torch.full((1, 1, 8), 4.0), torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0]])
    cheap, dear = (losses.tversky_loss(too_much, target, alpha=a, beta=1 - a).item() for a in (0.1, 0.9))
    assert cheap < 0.5 * dear, "alpha is the price of what is too much"
    theirs = losses.tversky_loss(too_much, target, alpha=0.1, beta=0.9, convention="keras").item()
    assert theirs == pytest.approx(dear)


def test_kornia_dice_and_tversky_of_an_ignored_batch_are_one() -> None:
    logits, nothing = torch.randn(2, 3, 6, 6), torch.full((2, 6, 6), -100)
    for loss in (losses.dice_loss, losses.tversky_loss):
        assert loss(logits, nothing).item() == 0
        assert not _gradient(loss, logits, nothing).any()


def test_smp_multiclass_focal_is_one_against_the_rest() -> None:
    logits, target = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 5
    plain = losses.softmax_focal_loss(logits, target, gamma=0.0)
    assert plain.item() == pytest.approx(F.cross_entropy(logits, target).item())
    moved = losses.softmax_focal_loss(logits + 5, target).item()  # smp: 0.46 becomes 4.04
    assert moved == pytest.approx(losses.softmax_focal_loss(logits, target).item())


@pytest.mark.parametrize("dtype", NARROW)
def test_smp_dice_is_nan_in_float16_at_512_by_512(dtype: torch.dtype) -> None:
    logits = torch.randn(1, 2, 512, 512).to(dtype)
    target = (torch.rand(1, 512, 512) < 0.3).long()
    value = losses.dice_loss(logits, target)
    assert value.item() == pytest.approx(losses.dice_loss(logits.double(), target).item(), rel=1e-5)
    assert _gradient(losses.dice_loss, logits, target).isfinite().all()


def test_smp_soft_cross_entropy_divides_by_ignored_pixels_too() -> None:
    logits, target = torch.randn(2, 3, 8), torch.randint(3, (2, 8))
    target[:, 2:] = -100
    expected = F.cross_entropy(logits[:, :, :2], target[:, :2], label_smoothing=0.1)
    assert losses.cross_entropy(logits, target, label_smoothing=0.1).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("size", [20.0, 100.0, 1e4])
def test_torchvision_and_monai_focal_of_gamma_below_one_have_nan_gradients(gamma: float, size: float) -> None:
    z = torch.tensor([size, -size, size, -size])
    t = torch.tensor([1.0, 1.0, 0.0, 0.0])
    by_logit = _gradient(losses.focal_loss, z, t, gamma=gamma, alpha=None, reduction="sum")
    torch.testing.assert_close(by_logit, torch.tensor([0.0, -1.0, 1.0, 0.0]), atol=0.05, rtol=0)
    rows = torch.stack([z, torch.zeros(4)], 1)
    by_row = _gradient(losses.softmax_focal_loss, rows, 1 - t.long(), gamma=gamma, reduction="sum")
    torch.testing.assert_close(by_row[:, 0], by_logit, atol=1e-6, rtol=0)


@pytest.mark.parametrize("temperature", [0.01, 0.07])
@pytest.mark.parametrize("dtype", [torch.float32, *NARROW])
def test_pml_nt_xent_loses_its_gradient_at_a_wide_gap(temperature: float, dtype: torch.dtype) -> None:
    # One positive at cosine -0.1 and one negative at cosine 1: the gap is 1.1. PML at T = 0.01: 87.3, gradient 0.
    positive = torch.tensor([[-0.1, math.sqrt(0.99), 0.0]], dtype=dtype)
    anchor = torch.tensor([[1.0, 0.0, 0.0]], dtype=dtype)
    keys = torch.cat([positive, anchor])
    value = losses.info_nce_loss(anchor, keys, temperature=temperature)
    assert value.item() == pytest.approx(1.1 / temperature, rel=5e-3)
    pull = _gradient(lambda p: losses.info_nce_loss(anchor, torch.cat([p, anchor]), temperature=temperature), positive)
    true = _gradient(
        lambda p: losses.info_nce_loss(anchor.double(), torch.cat([p, anchor.double()]), temperature=temperature),
        positive.double(),
    )
    assert pull.abs().max() > 1  # PML: 0 in float32, -0.04 for -14.3 in float16
    assert (pull.double() - true).norm() <= 1e-2 * true.norm()


def test_pml_nt_xent_stores_pairs_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    def seen(*shape: object, **keywords: object) -> Tensor:
        nonlocal largest
        made = empty(*shape, **keywords)
        largest = max(largest, made.numel())
        return made

    empty = Tensor.new_empty
    monkeypatch.setattr(Tensor, "new_empty", seen)
    x = torch.randn(2048, 8, requires_grad=True)
    torch.autograd.grad(losses.nt_xent_loss(x, x.detach()), x)
    assert 0 < largest <= 2**20, "a block of the similarity matrix is never larger"


def test_keras_and_timm_clip_probabilities_and_lose_the_gradient_of_confident_mistakes() -> None:
    z, t = torch.tensor([-40.0, 40.0]), torch.tensor([1.0, 0.0])
    expected = torch.tensor([-1.0, 1.0])
    for loss, keywords in (
        (losses.focal_loss, {"alpha": None}),
        (losses.asymmetric_loss, {"clip": 0.0}),
        (losses.binary_cross_entropy_with_logits, {}),
    ):
        torch.testing.assert_close(_gradient(loss, z, t, reduction="sum", **keywords), expected)


def test_torch_is_nan_when_every_label_is_ignored() -> None:
    logits, nothing = torch.randn(4, 3), torch.full((4,), -100)
    assert F.cross_entropy(logits, nothing).isnan()  # pytorch 70348
    for name, example in EXAMPLES.items():
        if example.empty is None:
            continue
        torch.manual_seed(0)
        x, t = example.batch(8, 1.0)
        loss = losses.catalogue()[name](**example.arguments).double()
        assert loss(x, example.empty(t)).item() == 0
        assert not _gradient(loss, x, example.empty(t)).any()


def test_torch_soft_targets_and_divergence_of_a_masked_class_are_nan() -> None:
    logits, target = torch.tensor([[1.0, 2.0, -torch.inf]]), torch.tensor([[0.4, 0.6, 0.0]])
    assert F.cross_entropy(logits, target).isnan()
    for loss, given in (
        (losses.cross_entropy, target),
        (losses.kl_div_loss, torch.tensor([[0.0, 1.0, -torch.inf]])),
        (losses.jensen_shannon_loss, torch.tensor([[0.0, 1.0, -torch.inf]])),
    ):
        expected = loss(logits[:, :2], given[:, :2])
        assert loss(logits, given).item() == pytest.approx(expected.item(), rel=1e-6)
        gradient = _gradient(loss, logits, given)
        assert gradient.isfinite().all()
        assert gradient[0, 2] == 0


def test_torch_smoothing_of_a_masked_class_is_infinite() -> None:
    logits, target = torch.tensor([[1.0, 2.0, -torch.inf]]), torch.tensor([0])
    assert F.cross_entropy(logits, target, label_smoothing=0.1).isinf()
    assert losses.cross_entropy(logits, target, label_smoothing=0.1).isfinite()


def test_torch_divides_weighted_labels_by_their_weights_and_weighted_probabilities_by_rows() -> None:
    logits, label, weight = torch.randn(6, 3), torch.tensor([2, 2, 2, 2, 2, 0]), torch.tensor([1.0, 1.0, 4.0])
    hard = losses.cross_entropy(logits, label, weight=weight, convention="keras")
    soft = losses.cross_entropy(logits, F.one_hot(label, 3).float(), weight=weight)
    assert hard.item() == pytest.approx(soft.item())  # one answer under one convention
    assert soft.item() == pytest.approx(3.5 * losses.cross_entropy(logits, label, weight=weight).item())


def test_torch_chunked_linear_cross_entropy_is_low_in_bfloat16_and_cannot_be_differentiated_twice() -> None:
    hidden, output = torch.randn(512, 16).bfloat16(), (0.2 * torch.randn(1024, 16)).bfloat16()
    target = torch.randint(1024, (512,))
    true = F.cross_entropy(hidden.double() @ output.double().T, target).item()
    assert losses.linear_cross_entropy(hidden, output, target).item() == pytest.approx(true, rel=1e-3)
    small, layer = torch.randn(5, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    leaf = small.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: losses.linear_cross_entropy(x, layer, target[:5] % 4), leaf)


@pytest.mark.parametrize("form", [{"label_smoothing": 0.1}, {"z_loss": 0.1}, {"weight": torch.rand(7).double()}])
def test_liger_rows_without_reduction_had_wrong_gradients(form: dict[str, object]) -> None:
    hidden, output = torch.randn(9, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    target, upstream = torch.randint(7, (9,)), torch.rand(9, dtype=torch.float64)

    def weighed(x: Tensor) -> Tensor:
        return losses.linear_cross_entropy(x, output, target, reduction="none", **form) @ upstream  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(weighed, hidden.requires_grad_())


def test_arcface_of_an_embedding_on_its_prototype_has_a_finite_gradient() -> None:
    # cos(arccos(x) + m) has an infinite slope at x = 1 (PML 209).
    prototypes = torch.eye(3)
    for size in (1.0, 1e-20, 1e20):
        gradient = _gradient(losses.arcface_loss, size * torch.eye(3), torch.arange(3), prototypes=prototypes)
        assert gradient.isfinite().all()
    assert softmax.arcface_loss(torch.zeros(2, 3), torch.arange(2), prototypes=prototypes).isfinite()


def test_distances_of_near_duplicates_do_not_cancel() -> None:
    # Squared norms less twice the product, the usual form, gives 0 or NaN for these in float32.
    x = 1000 + torch.tensor([[0.0, 0.0], [0.0, 3e-3], [5.0, 5.0]])
    value = losses.contrastive_loss(x, torch.tensor([0, 0, 1]), reduction="none", margin=0.0)
    gap = (x[1, 1] - x[0, 1]).double().item()
    assert value[:2].double().mean().item() == pytest.approx(0.5 * gap**2 / 2, rel=1e-6)
    assert _gradient(losses.triplet_loss, torch.zeros(4, 3), torch.tensor([0, 0, 1, 1])).isfinite().all()
