"""Laws that hold at every batch: shifts, symmetry, convexity, limits, and losses that are special cases of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trivet import losses
from trivet.losses.examples import EXAMPLES

CATALOGUE = losses.catalogue()
number = st.floats(-20, 20, allow_nan=False, width=32)
seeds = st.integers(0, 10_000)
few = settings(max_examples=25, deadline=None)


def _named(names: Sequence[str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return pytest.mark.parametrize("name", names)


def _module(name: str, **keywords: object) -> losses.Loss:
    torch.manual_seed(3)
    return CATALOGUE[name](**{**EXAMPLES[name].arguments, **keywords}).double()


def _batch(name: str, seed: int, rows: int = 9) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return EXAMPLES[name].batch(rows, 2.0)


SOFTMAX = (
    "cross_entropy",
    "softmax_focal_loss",
    "generalized_cross_entropy_loss",
    "symmetric_cross_entropy_loss",
    "logit_adjusted_loss",
    "ldam_loss",
    "kl_div_loss",
    "jensen_shannon_loss",
    "dice_loss",
    "jaccard_loss",
    "tversky_loss",
    "focal_tversky_loss",
    "lovasz_loss",
    "boundary_loss",
)


@_named(SOFTMAX)
@few
@given(seeds, st.floats(-300, 300))
def test_softmax_losses_do_not_see_a_shift_of_all_logits_of_a_row(name: str, seed: int, shift: float) -> None:
    x, t = _batch(name, seed)
    by_row = shift * torch.linspace(-1, 1, len(x), dtype=torch.float64).view(-1, *(1,) * (x.ndim - 1))
    loss = _module(name)
    assert loss(x + by_row, t).item() == pytest.approx(loss(x, t).item(), rel=1e-7, abs=1e-10)


@_named(SOFTMAX)
@few
@given(seeds)
def test_the_gradient_of_a_softmax_loss_sums_to_zero_over_the_classes(name: str, seed: int) -> None:
    x, t = _batch(name, seed)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(_module(name)(x, t), x)
    scale = gradient.abs().sum(1).max().item()
    assert gradient.sum(1).abs().max().item() <= 1e-9 * (1 + scale)


SYMMETRIC = ("mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "log_cosh_loss", "cosine_embedding_loss")


@_named((*SYMMETRIC, "jensen_shannon_loss", "feature_matching_loss", "nt_xent_loss"))
@few
@given(seeds)
def test_prediction_and_target_may_change_places(name: str, seed: int) -> None:
    x, t = _batch(name, seed)
    loss = _module(name)
    assert loss(x, t).item() == pytest.approx(loss(t, x).item(), rel=1e-9)


@_named(tuple(CATALOGUE))
@few
@given(seeds)
def test_the_order_of_the_batch_does_not_matter(name: str, seed: int) -> None:
    x, t = _batch(name, seed)
    order = torch.randperm(len(x))
    loss = _module(name)
    assert loss(x[order], t[order]).item() == pytest.approx(loss(x, t).item(), rel=1e-8, abs=1e-10)


CONVEX = (
    "mse_loss",
    "l1_loss",
    "huber_loss",
    "smooth_l1_loss",
    "log_cosh_loss",
    "quantile_loss",
    "poisson_nll_loss",
    "binary_cross_entropy_with_logits",
    "hinge_loss",
    "cross_entropy",
    "logit_adjusted_loss",
    "ldam_loss",
    "kl_div_loss",
    "lovasz_hinge_loss",
)


@_named(CONVEX)
@few
@given(seeds, st.floats(0.05, 0.95))
def test_convex_losses_lie_below_their_chords(name: str, seed: int, part: float) -> None:
    x, t = _batch(name, seed)
    y, _ = _batch(name, seed + 1)
    loss = _module(name)
    middle, ends = loss(part * x + (1 - part) * y, t), part * loss(x, t) + (1 - part) * loss(y, t)
    assert middle.item() <= ends.item() + 1e-9 * (1 + abs(ends.item()))


@_named(("generalized_cross_entropy_loss", "symmetric_cross_entropy_loss"))
def test_losses_that_bound_a_wrong_label_cannot_be_convex(name: str) -> None:
    z = torch.tensor([[-12.0, 0.0], [0.0, 0.0], [-6.0, 0.0]], dtype=torch.float64)
    far, near, middle = _module(name, reduction="none")(z, torch.zeros(3, dtype=torch.long))
    assert middle > (far + near) / 2
    assert name not in CONVEX


EMBEDDING = ("nt_xent_loss", "info_nce_loss", "supervised_contrastive_loss", "multi_similarity_loss", "arcface_loss")


@_named((*EMBEDDING, "cosface_loss", "cosine_embedding_loss"))
@few
@given(seeds, st.floats(1e-3, 1e3))
def test_angular_losses_do_not_see_the_length_of_an_embedding(name: str, seed: int, length: float) -> None:
    x, t = _batch(name, seed)
    loss = _module(name)
    assert loss(length * x, t).item() == pytest.approx(loss(x, t).item(), rel=1e-8, abs=1e-12)


@_named((*EMBEDDING[:1], "supervised_contrastive_loss", "multi_similarity_loss", "triplet_loss", "contrastive_loss"))
@few
@given(seeds)
def test_a_rotation_of_the_space_changes_no_embedding_loss(name: str, seed: int) -> None:
    x, t = _batch(name, seed)
    turn = torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], dtype=torch.float64)).Q
    turned = t @ turn if t.is_floating_point() else t
    loss = _module(name)
    assert loss(x @ turn, turned).item() == pytest.approx(loss(x, t).item(), rel=1e-8, abs=1e-10)


@few
@given(number, number)
def test_hubers_limits_are_half_the_square_and_delta_times_the_absolute_error(a: float, b: float) -> None:
    x, t = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    wide = losses.huber_loss(x, t, delta=1e3).item()
    assert wide == pytest.approx(0.5 * losses.mse_loss(x, t).item(), rel=1e-12)
    narrow = losses.huber_loss(x, t, delta=1e-6).item() / 1e-6
    assert narrow == pytest.approx(losses.l1_loss(x, t).item(), abs=1e-6)
    assert losses.huber_loss(x, t, delta=0.7).item() == pytest.approx(
        0.7 * losses.smooth_l1_loss(x, t, beta=0.7).item(), rel=1e-12, abs=1e-15
    )


@few
@given(number, number, st.floats(0.05, 0.95))
def test_the_pinball_of_both_sides_adds_up_to_the_absolute_error(a: float, b: float, tau: float) -> None:
    x, t = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    both = losses.quantile_loss(x, t, quantile=tau) + losses.quantile_loss(x, t, quantile=1 - tau)
    assert both.item() == pytest.approx(losses.l1_loss(x, t).item(), rel=1e-12)


CASES_OF_CROSS_ENTROPY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "softmax focal, gamma 0": partial(losses.softmax_focal_loss, gamma=0.0),
    "logit adjusted, equal counts": partial(losses.logit_adjusted_loss, counts=torch.ones(4)),
    "logit adjusted, tau 0": partial(losses.logit_adjusted_loss, counts=torch.tensor([5, 3, 2, 1]), tau=0.0),
    "ldam without margin": partial(losses.ldam_loss, counts=torch.ones(4), max_margin=0.0, scale=1.0),
    "symmetric, beta 0": partial(losses.symmetric_cross_entropy_loss, alpha=1.0, beta=0.0),
    "one-hot targets": lambda z, t: losses.cross_entropy(z, torch.nn.functional.one_hot(t, 4).double()),
    "a sure teacher": lambda z, t: losses.kl_div_loss(z, 1e4 * torch.nn.functional.one_hot(t, 4).double()),
    "an output layer of ones": lambda z, t: losses.linear_cross_entropy(z, torch.eye(4, dtype=torch.float64), t),
}


@_named(tuple(CASES_OF_CROSS_ENTROPY))
@few
@given(seeds)
def test_cross_entropy_is_a_special_case(name: str, seed: int) -> None:
    x, t = _batch("cross_entropy", seed)
    ours, plain = [], []
    for function, found in ((CASES_OF_CROSS_ENTROPY[name], ours), (losses.cross_entropy, plain)):
        leaf = x.clone().requires_grad_()
        value = function(leaf, t)
        found.extend((value.detach(), torch.autograd.grad(value, leaf)[0]))
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-11)


@few
@given(seeds)
def test_generalized_cross_entropy_runs_from_cross_entropy_to_the_absolute_error(seed: int) -> None:
    x, t = _batch("cross_entropy", seed)
    nearly = losses.generalized_cross_entropy_loss(x, t, q=1e-7).item()
    assert nearly == pytest.approx(losses.cross_entropy(x, t).item(), rel=1e-5)
    missed = 1 - x.softmax(1).gather(1, t[:, None])
    assert losses.generalized_cross_entropy_loss(x, t, q=1.0).item() == pytest.approx(missed.mean().item())


@few
@given(seeds)
def test_binary_losses_of_gamma_0_are_binary_cross_entropy(seed: int) -> None:
    x, t = _batch("focal_loss", seed)
    expected = losses.binary_cross_entropy_with_logits(x, t).item()
    assert losses.focal_loss(x, t, gamma=0.0, alpha=None).item() == pytest.approx(expected)
    assert losses.asymmetric_loss(x, t, gamma_neg=0.0, gamma_pos=0.0, clip=0.0).item() == pytest.approx(expected)


@few
@given(seeds, st.floats(0.0, 5.0))
def test_binary_cross_entropy_is_that_of_two_classes(seed: int, gamma: float) -> None:
    x, t = _batch("focal_loss", seed)
    two, label = torch.stack([torch.zeros_like(x), x], 1), t.long()
    one = losses.focal_loss(x, t, gamma=gamma, alpha=None).item()
    assert one == pytest.approx(losses.softmax_focal_loss(two, label, gamma=gamma).item(), rel=1e-9)


@few
@given(seeds)
def test_tversky_of_halves_is_dice_and_of_ones_is_jaccard(seed: int) -> None:
    x, t = _batch("dice_loss", seed)
    # s counts once in Tversky and once beside 2 I in Dice: 2 s there.
    assert losses.tversky_loss(x, t, alpha=0.5, beta=0.5, smooth=0.5).item() == pytest.approx(
        losses.dice_loss(x, t, smooth=1.0).item(), rel=1e-12
    )
    assert losses.tversky_loss(x, t, alpha=1.0, beta=1.0).item() == pytest.approx(
        losses.jaccard_loss(x, t).item(), rel=1e-12
    )
    assert losses.focal_tversky_loss(x, t, gamma=1.0).item() == pytest.approx(
        losses.tversky_loss(x, t, alpha=0.3, beta=0.7).item(), rel=1e-12
    )


@few
@given(seeds)
def test_dice_and_jaccard_of_one_region_are_one_another(seed: int) -> None:
    x, t = _batch("lovasz_hinge_loss", seed)
    dice = losses.dice_loss(x[:, None], t.long(), smooth=0.0, reduction="none")
    jaccard = losses.jaccard_loss(x[:, None], t.long(), smooth=0.0, reduction="none")
    torch.testing.assert_close(jaccard, 2 * dice / (1 + dice))


@few
@given(seeds, st.floats(0.05, 1.0))
def test_sup_con_with_one_positive_is_nt_xent(seed: int, temperature: float) -> None:
    a, b = _batch("nt_xent_loss", seed)
    labels = torch.arange(len(a)).repeat(2)
    expected = losses.nt_xent_loss(a, b, temperature=temperature).item()
    for denominator in ("all", "negatives"):
        found = losses.supervised_contrastive_loss(
            torch.cat([a, b]), labels, temperature=temperature, denominator=denominator
        )
        assert found.item() == pytest.approx(expected, rel=1e-9)


@few
@given(seeds, st.floats(1.0, 64.0))
def test_margin_losses_without_margin_are_one_another(seed: int, scale: float) -> None:
    x, t = _batch("arcface_loss", seed)
    prototypes = torch.randn(3, 6, dtype=torch.float64)
    arc = losses.arcface_loss(x, t, prototypes=prototypes, scale=scale, margin=0.0)
    cosine = losses.cosface_loss(x, t, prototypes=prototypes, scale=scale, margin=0.0)
    unit = torch.nn.functional.normalize
    plain = losses.cross_entropy(scale * unit(x) @ unit(prototypes).T, t)
    assert arc.item() == pytest.approx(plain.item(), rel=1e-9)
    assert cosine.item() == pytest.approx(plain.item(), rel=1e-9)


@few
@given(seeds, st.floats(0.05, 0.95))
def test_jensen_shannon_is_bounded_by_the_entropy_of_its_mixture(seed: int, beta: float) -> None:
    x, t = _batch("jensen_shannon_loss", seed)
    value = losses.jensen_shannon_loss(10 * x, 10 * t, beta=beta).item()
    assert 0 <= value <= -beta * math.log(beta) - (1 - beta) * math.log(1 - beta) + 1e-12


@few
@given(seeds)
def test_jensen_shannon_tends_to_both_divergences(seed: int) -> None:
    x, t = _batch("jensen_shannon_loss", seed)
    forward = losses.jensen_shannon_loss(x, t, beta=1e-9).item() / 1e-9
    assert forward == pytest.approx(losses.kl_div_loss(x, t).item(), rel=1e-5)
    assert losses.jensen_shannon_loss(x, t, beta=0.0).item() == pytest.approx(losses.kl_div_loss(x, t).item())
    assert losses.jensen_shannon_loss(x, t, beta=1.0).item() == pytest.approx(losses.kl_div_loss(t, x).item())


@few
@given(seeds)
def test_gaussian_likelihood_of_unit_variance_is_half_the_square(seed: int) -> None:
    x, t = _batch("mse_loss", seed)
    both = torch.stack([x, torch.zeros_like(x)], 1)
    assert losses.gaussian_nll_loss(both, t).item() == pytest.approx(0.5 * losses.mse_loss(x, t).item())


@few
@given(seeds)
def test_lovasz_hinge_of_one_pixel_is_the_hinge(seed: int) -> None:
    x, t = _batch("hinge_loss", seed)
    each = losses.lovasz_hinge_loss(x[:, None], t[:, None], pooling="image").item()
    assert each == pytest.approx(losses.hinge_loss(x, t).item())
