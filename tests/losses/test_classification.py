"""Classification and regression losses against torch, closed forms and named defects of other libraries."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from trivet import losses
from trivet.errors import DataError, InputError

Function = Callable[[Tensor, Tensor], Tensor]
SOFT = torch.rand(40, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64).softmax(1)
COUNTS = torch.tensor([500, 30, 7, 90, 2])


def _log_p(z: Tensor, t: Tensor) -> Tensor:
    return z.log_softmax(1).gather(1, t[:, None])[:, 0]


def _ldam(z: Tensor, t: Tensor) -> Tensor:
    margin = 0.5 * (COUNTS.min() / COUNTS.double()) ** 0.25
    return F.cross_entropy(30 * (z - F.one_hot(t, 5).double() * margin), t)


LABELS: dict[str, tuple[Function, Function]] = {
    "cross entropy": (losses.cross_entropy, F.cross_entropy),
    "cross entropy smoothed": (
        partial(losses.cross_entropy, label_smoothing=0.1),
        partial(F.cross_entropy, label_smoothing=0.1),
    ),
    "cross entropy weighted and smoothed": (
        partial(losses.cross_entropy, label_smoothing=0.1, weight=torch.arange(1.0, 6.0)),
        partial(F.cross_entropy, label_smoothing=0.1, weight=torch.arange(1.0, 6.0, dtype=torch.float64)),
    ),
    "cross entropy of probabilities": (
        lambda z, t: losses.cross_entropy(z, SOFT, weight=torch.arange(1.0, 6.0), label_smoothing=0.1),
        lambda z, t: F.cross_entropy(z, SOFT, weight=torch.arange(1.0, 6.0, dtype=torch.float64), label_smoothing=0.1),
    ),
    "focal of softmax": (
        losses.softmax_focal_loss,
        lambda z, t: -((1 - _log_p(z, t).exp()) ** 2 * _log_p(z, t)).mean(),
    ),
    "focal 0.5": (
        partial(losses.softmax_focal_loss, gamma=0.5),
        lambda z, t: -((1 - _log_p(z, t).exp()) ** 0.5 * _log_p(z, t)).mean(),
    ),
    "focal 0 is cross entropy": (partial(losses.softmax_focal_loss, gamma=0.0), F.cross_entropy),
    "logit adjusted": (
        partial(losses.logit_adjusted_loss, counts=COUNTS),
        lambda z, t: F.cross_entropy(z + (COUNTS.double() / COUNTS.sum()).log(), t),
    ),
    "ldam": (partial(losses.ldam_loss, counts=COUNTS), _ldam),
    "generalized": (
        losses.generalized_cross_entropy_loss,
        lambda z, t: ((1 - _log_p(z, t).exp() ** 0.7) / 0.7).mean(),
    ),
    "symmetric": (
        losses.symmetric_cross_entropy_loss,
        lambda z, t: (-0.1 * _log_p(z, t) + 4 * (1 - _log_p(z, t).exp())).mean(),
    ),
    "class weights are torch's": (
        partial(losses.softmax_focal_loss, gamma=0.0, weight=torch.arange(1.0, 6.0)),
        partial(F.cross_entropy, weight=torch.arange(1.0, 6.0, dtype=torch.float64)),
    ),
}


def _bce(z: Tensor, t: Tensor, gamma_pos: float, gamma_neg: float, m: float, yes: float = 1, no: float = 1) -> Tensor:
    p = z.sigmoid()
    shifted = (p - m).clamp_min(0)
    return (-yes * t * (1 - p) ** gamma_pos * p.log() - no * (1 - t) * shifted**gamma_neg * (1 - shifted).log()).mean()


YES_NO: dict[str, tuple[Function, Function]] = {
    "asymmetric": (losses.asymmetric_loss, partial(_bce, gamma_pos=1, gamma_neg=4, m=0.05)),
    "asymmetric without clip": (
        partial(losses.asymmetric_loss, clip=0.0, gamma_neg=2.0, gamma_pos=2.0),
        partial(_bce, gamma_pos=2, gamma_neg=2, m=0.0),
    ),
    "asymmetric of gamma 0 is bce": (
        partial(losses.asymmetric_loss, clip=0.0, gamma_neg=0.0, gamma_pos=0.0),
        F.binary_cross_entropy_with_logits,
    ),
    "bce": (losses.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits),
    "bce with weighted positives": (
        partial(losses.binary_cross_entropy_with_logits, pos_weight=3.0),
        partial(F.binary_cross_entropy_with_logits, pos_weight=torch.tensor(3.0, dtype=torch.float64)),
    ),
    "bce smoothed": (
        partial(losses.binary_cross_entropy_with_logits, label_smoothing=0.2),
        lambda z, t: F.binary_cross_entropy_with_logits(z, 0.8 * t + 0.1),
    ),
    "focal": (
        losses.focal_loss,
        lambda z, t: 0.25 * _bce(z, t, 2, 2, 0, no=0) + 0.75 * _bce(z, t, 2, 2, 0, yes=0),
    ),
    "hinge": (losses.hinge_loss, lambda z, t: (1 - (2 * t - 1) * z).clamp_min(0).mean()),
    "squared hinge": (
        partial(losses.hinge_loss, squared=True),
        lambda z, t: (1 - (2 * t - 1) * z).clamp_min(0).square().mean(),
    ),
}
REGRESSION: dict[str, tuple[Function, Function]] = {
    "mse": (losses.mse_loss, F.mse_loss),
    "huber": (partial(losses.huber_loss, delta=1.3), partial(F.huber_loss, delta=1.3)),
    "l1": (losses.l1_loss, F.l1_loss),
    "smooth l1": (partial(losses.smooth_l1_loss, beta=0.7), partial(F.smooth_l1_loss, beta=0.7)),
    "smooth l1 of 0": (partial(losses.smooth_l1_loss, beta=0.0), F.l1_loss),
    "log cosh": (losses.log_cosh_loss, lambda x, t: torch.log(torch.cosh(x - t)).mean()),
    "quantile": (
        partial(losses.quantile_loss, quantile=0.9),
        lambda x, t: torch.where(t > x, 0.9 * (t - x), 0.1 * (x - t)).mean(),
    ),
    "poisson": (
        lambda x, t: losses.poisson_nll_loss(x, t.abs(), full=True),
        lambda x, t: F.poisson_nll_loss(x, t.abs(), full=True),
    ),
    "poisson of rates": (
        lambda x, t: losses.poisson_nll_loss(x.abs(), t.abs(), log_input=False),
        lambda x, t: F.poisson_nll_loss(x.abs(), t.abs(), log_input=False),
    ),
    "gaussian": (
        lambda x, t: losses.gaussian_nll_loss(x, t, x.sin().square(), full=True),
        lambda x, t: F.gaussian_nll_loss(x, t, x.sin().square(), full=True),
    ),
    "gaussian of log variance": (
        lambda x, t: losses.gaussian_nll_loss(torch.stack([x, t * x], 1), t),
        lambda x, t: F.gaussian_nll_loss(x, t, (t * x).exp(), eps=1e-30),
    ),
}
ALL = {
    **{name: ("labels", *case) for name, case in LABELS.items()},
    **{name: ("yes or no", *case) for name, case in YES_NO.items()},
    **{name: ("values", *case) for name, case in REGRESSION.items()},
}


def _batch(kind: str, rows: int = 40, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(11)
    if kind == "labels":
        logits = scale * torch.randn(rows, 5, generator=g, dtype=torch.float64)
        return logits, torch.randint(5, (rows,), generator=g)
    x = scale * torch.randn(rows, generator=g, dtype=torch.float64)
    if kind == "yes or no":
        return x, torch.randint(2, (rows,), generator=g).double()
    return x, x + 2 * torch.randn(rows, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("name", ALL)
def test_value_and_two_gradients_equal_the_plain_formula(name: str) -> None:
    kind, ours, plain = ALL[name]
    x, t = _batch(kind)
    found = []
    for function in (ours, plain):
        leaf = x.clone().requires_grad_()
        value = function(leaf, t)
        (ordinary,) = torch.autograd.grad(value, leaf, retain_graph=True)
        (first,) = torch.autograd.grad(value, leaf, create_graph=True)
        second = torch.zeros_like(x)
        if first.requires_grad:
            grad = torch.autograd.grad(
                (first * torch.linspace(1, 2, x.numel()).view(x.shape)).sum(), leaf, allow_unused=True
            )
            second = second if grad[0] is None else grad[0]
        found.append((value.detach(), ordinary, first.detach(), second))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [n for n in ALL if "poisson" not in n and "gaussian" not in n])
@pytest.mark.parametrize("size", [1e-4, 1.0, 30.0, 1e4])
def test_float32_follows_float64_at_every_size_of_logits(name: str, size: float) -> None:
    kind, ours, _ = ALL[name]
    x, t = _batch(kind, scale=size)
    x32 = x.float()
    t = t.float().to(t.dtype) if t.is_floating_point() else t
    found = []
    for leaf in (x32.clone(), x32.double()):
        leaf.requires_grad_()
        value = ours(leaf, t.to(leaf.dtype) if t.is_floating_point() else t)
        found.append((value.detach().double(), torch.autograd.grad(value, leaf)[0].double()))
    (value, gradient), (true, wanted) = found
    assert value.isfinite()
    assert abs(value - true) <= 1e-5 * abs(true) + 1e-12
    assert (gradient - wanted).norm() <= 1e-4 * wanted.norm() + 1e-12


@pytest.mark.parametrize("gamma", [0.3, 0.5, 1.0, 2.0])
def test_focal_gradient_is_finite_at_saturated_logits_where_torchvision_and_monai_give_nan(
    gamma: float,
) -> None:
    for size in (20.0, 200.0, 1e4):
        z = torch.tensor([[size, 0.0, 0.0], [-size, 0.0, 0.0]], requires_grad=True)
        value = losses.softmax_focal_loss(z, torch.tensor([0, 0]), gamma=gamma)
        assert torch.autograd.grad(value, z)[0].isfinite().all()
        y = torch.tensor([size, -size, size, -size], requires_grad=True)
        value = losses.asymmetric_loss(y, torch.tensor([1.0, 1.0, 0.0, 0.0]), gamma_neg=gamma, gamma_pos=gamma)
        assert torch.autograd.grad(value, y)[0].isfinite().all()


def test_a_confidently_wrong_label_keeps_its_gradient_where_keras_and_timm_have_none() -> None:
    z = torch.tensor([-50.0, 50.0], requires_grad=True)
    value = losses.asymmetric_loss(z, torch.tensor([1.0, 0.0]), clip=0.0, reduction="sum")
    torch.testing.assert_close(torch.autograd.grad(value, z)[0], torch.tensor([-1.0, 1.0]))


def test_adding_a_constant_to_all_logits_changes_nothing_unlike_smps_multiclass_focal() -> None:
    z, t = _batch("labels")
    for loss in (losses.softmax_focal_loss, losses.generalized_cross_entropy_loss):
        assert loss(z + 5, t).item() == pytest.approx(loss(z, t).item(), rel=1e-12)


def test_masked_classes_of_minus_infinity_take_no_part() -> None:
    z = torch.randn(6, 5)
    z[:, 3:] = -torch.inf
    t = torch.randint(3, (6,))
    for name in ("softmax_focal_loss", "generalized_cross_entropy_loss", "symmetric_cross_entropy_loss"):
        function = getattr(losses, name)
        leaf = z.clone().requires_grad_()
        value = function(leaf, t)
        assert value.item() == pytest.approx(function(z[:, :3], t).item(), rel=1e-6)
        gradient = torch.autograd.grad(value, leaf)[0]
        assert gradient.isfinite().all()
        assert gradient[:, 3:].abs().max() == 0
    alone = torch.tensor([[0.0, -torch.inf]], requires_grad=True)
    value = losses.softmax_focal_loss(alone, torch.tensor([0]))
    assert value.item() == 0
    assert torch.autograd.grad(value, alone)[0].abs().max() == 0


def test_pixels_and_ignored_labels_count_as_in_torchs_cross_entropy() -> None:
    z, t = torch.randn(2, 5, 4, 6), torch.randint(5, (2, 4, 6))
    t[0, :2] = -100
    weight = torch.rand(5) + 0.1
    ours = partial(losses.softmax_focal_loss, gamma=0.0, weight=weight)
    for reduction in ("mean", "sum", "none"):
        expected = F.cross_entropy(z, t, weight=weight, reduction=reduction)
        torch.testing.assert_close(ours(z, t, reduction=reduction), expected)
        torch.testing.assert_close(losses.cross_entropy(z, t, weight=weight, reduction=reduction), expected)
    assert ours(z, torch.full_like(t, -100)).item() == 0
    assert ours(z, torch.full_like(t, -100), empty="nan").isnan()


def test_masked_logits_with_probabilities_are_finite_where_torch_gives_nan() -> None:
    z = torch.tensor([[1.0, 2.0, -torch.inf]], requires_grad=True)
    t = torch.tensor([[0.4, 0.6, 0.0]])
    assert F.cross_entropy(z, t).isnan()
    value = losses.cross_entropy(z, t)
    assert value.item() == pytest.approx(F.cross_entropy(z[:, :2], t[:, :2]).item())
    assert torch.autograd.grad(value, z)[0].isfinite().all()
    y = torch.tensor([-torch.inf, torch.inf], requires_grad=True)
    value = losses.binary_cross_entropy_with_logits(y, torch.tensor([0.0, 1.0]))
    assert value.item() == 0
    assert torch.autograd.grad(value, y)[0].abs().max() == 0


def test_conventions_that_frameworks_disagree_on() -> None:
    z, t = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 4])
    weight = torch.arange(1.0, 6.0)
    rows = F.cross_entropy(z, t, weight=weight, reduction="none")
    keras = losses.cross_entropy(z, t, weight=weight, convention="keras")
    assert keras.item() == pytest.approx(rows.mean().item())
    x, y = torch.randn(6), torch.randn(6)
    optax = losses.mse_loss(x, y, convention="optax")
    assert optax.item() == pytest.approx(0.5 * F.mse_loss(x, y).item())
    huber = losses.huber_loss(x, y, delta=0.3)
    assert huber.item() == pytest.approx(0.3 * losses.smooth_l1_loss(x, y, beta=0.3).item(), rel=1e-5)
    answers = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    both = losses.focal_loss(x, answers, alpha=0.25, convention="keras")
    assert both.item() == pytest.approx(0.25 * losses.focal_loss(x, answers, alpha=None).item())


def test_rare_classes_get_the_margins_of_the_paper() -> None:
    zero = torch.zeros(5, 5)
    rows = losses.ldam_loss(zero, torch.arange(5), counts=COUNTS, scale=1.0, reduction="none")
    margins = torch.log((rows.exp() - 1) / 4)
    torch.testing.assert_close(margins, 0.5 * (2 / COUNTS.float()) ** 0.25, rtol=1e-4, atol=1e-5)


def test_log_cosh_of_a_small_error_is_half_its_square() -> None:
    # a - log 2 + log1p(exp(-2a)), the usual form, gives 0 or 6e-8 here.
    e = torch.tensor([1e-3, 1e-4, 1e-6])
    value = losses.log_cosh_loss(e, torch.zeros(3), reduction="none")
    torch.testing.assert_close(value, 0.5 * e * e, rtol=1e-5, atol=0)


def test_the_best_constant_is_the_quantile_the_median_and_the_log_of_the_mean() -> None:
    data = torch.distributions.Gamma(2.0, 1.0).sample((4001,)).double()
    for loss, expected in (
        (partial(losses.quantile_loss, quantile=0.9), data.quantile(0.9)),
        (losses.l1_loss, data.median()),
        (losses.poisson_nll_loss, data.mean().log()),
    ):
        grid = torch.linspace(float(expected) - 0.5, float(expected) + 0.5, 201, dtype=torch.float64)
        values = torch.stack([loss(c.expand_as(data), data) for c in grid])
        assert abs(grid[values.argmin()] - expected) < 0.01


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(DataError, match="squeeze"):
        losses.l1_loss(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(DataError, match="integer labels"):
        losses.softmax_focal_loss(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(DataError, match="allowed are 0 to 2"):
        losses.softmax_focal_loss(torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]))
    for build in (partial(losses.quantile_loss, quantile=1.5), partial(losses.smooth_l1_loss, beta=-1.0)):
        with pytest.raises(InputError, match="allowed"):
            build(torch.zeros(2), torch.zeros(2))


finite = st.floats(-50, 50, allow_nan=False, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=3, max_size=3), st.integers(0, 2), st.floats(-100, 100), st.floats(0.0, 4.0))
def test_softmax_losses_do_not_see_a_shift(z: list[float], label: int, shift: float, gamma: float) -> None:
    logits, target = torch.tensor([z], dtype=torch.float64), torch.tensor([label])
    for loss in (
        partial(losses.softmax_focal_loss, gamma=gamma),
        losses.generalized_cross_entropy_loss,
        losses.symmetric_cross_entropy_loss,
        partial(losses.logit_adjusted_loss, counts=torch.tensor([5, 3, 1])),
    ):
        a, b = loss(logits, target).item(), loss(logits + shift, target).item()
        assert a == pytest.approx(b, rel=1e-6, abs=1e-9)
        assert a >= 0


@settings(max_examples=60, deadline=None)
@given(finite, finite, finite, st.floats(0.01, 0.99))
def test_regression_losses_are_convex_and_symmetric(a: float, b: float, t: float, w: float) -> None:
    target = torch.tensor([t], dtype=torch.float64)
    for loss in (
        losses.l1_loss,
        losses.smooth_l1_loss,
        losses.log_cosh_loss,
        partial(losses.quantile_loss, quantile=0.3),
        losses.hinge_loss,
    ):
        x, y = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
        label = target if loss is not losses.hinge_loss else (target > 0).double()
        middle = loss(w * x + (1 - w) * y, label).item()
        assert middle <= w * loss(x, label).item() + (1 - w) * loss(y, label).item() + 1e-9
        if loss in (losses.l1_loss, losses.smooth_l1_loss, losses.log_cosh_loss):
            assert loss(x, target).item() == pytest.approx(loss(target, x).item())


@settings(max_examples=40, deadline=None)
@given(finite, finite)
def test_smooth_l1_lies_between_the_absolute_error_and_its_limits(a: float, b: float) -> None:
    x, t = torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64)
    e = abs(a - b)
    assert losses.smooth_l1_loss(x, t, beta=1e-9).item() == pytest.approx(e, abs=1e-8)
    wide = 1e6
    assert wide * losses.smooth_l1_loss(x, t, beta=wide).item() == pytest.approx(0.5 * e * e, rel=1e-9, abs=1e-30)
    assert losses.log_cosh_loss(x, t).item() <= e + 1e-12
    assert losses.log_cosh_loss(x, t).item() >= e - math.log(2) - 1e-12
