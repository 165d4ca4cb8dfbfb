"""A mean and its uncertainty: the kernel's value and both gradients are those of the formula, in any layout."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trivet.errors import BackendError
from trivet.losses import gaussian_nll_loss

SHAPES = [(7,), (70_000,), (3, 5), (2, 3, 40, 41), (1, 1), (0,)]


def _formula(both: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (both[:, 1] + (both[:, 0] - target) ** 2 / both[:, 1].exp())


def _gradients(value: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, leaves)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_planes_of_one_tensor_are_read_where_they_lie(
    shape: tuple[int, ...], dtype: torch.dtype, reduction: str
) -> None:
    both = torch.randn(shape[0], 2, *shape[1:], dtype=dtype).requires_grad_()
    target, upstream = torch.randn(shape, dtype=dtype), torch.rand(shape, dtype=dtype)
    found = gaussian_nll_loss(both, target, reduction=reduction, backend="cpu")
    rows = _formula(both.double(), target.double())
    expected = rows if reduction == "none" else rows.sum() / (rows.numel() if reduction == "mean" and len(rows) else 1)
    tight = {"rtol": 2e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(found.double(), expected, **tight)
    if reduction == "none":
        found, expected = (found * upstream).sum(), (expected * upstream).sum()
    (by,), (true,) = _gradients(3 * found, both), _gradients(3 * expected, both)
    torch.testing.assert_close(by, true, **tight)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_two_tensors_have_a_gradient_each_as_torchs_have(reduction: str) -> None:
    mean, var = torch.randn(999).requires_grad_(), (torch.rand(999) * 1.5 - 0.1).clamp_min(0).requires_grad_()
    target = torch.randn(999)
    found = gaussian_nll_loss(mean, target, var, full=True, reduction=reduction, backend="cpu")
    expected = F.gaussian_nll_loss(mean, target, var, full=True, reduction=reduction)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(_gradients(found.sum(), mean, var), _gradients(expected.sum(), mean, var))


def test_weights_masks_and_layouts_agree_with_the_plain_form() -> None:
    both = torch.randn(6, 50, 40, 2).movedim(-1, 1).requires_grad_()
    target, keep, weight = torch.randn(6, 50, 40), torch.rand(6, 50, 40) < 0.7, torch.rand(6)
    weight[2] = 0
    found, plain = (
        gaussian_nll_loss(both, target, mask=keep, sample_weight=weight, full=True, backend=backend)
        for backend in ("cpu", "torch")
    )
    each = weight[:, None, None] * keep
    true = (each * (_formula(both, target) + 0.5 * math.log(2 * math.pi))).sum() / each.sum()
    torch.testing.assert_close(found, true)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(_gradients(found, both), _gradients(true, both))
    with torch.no_grad():
        both[0, 0, 0, 0] = torch.nan
    keep[0, 0, 0] = False
    for backend in ("cpu", "torch"):
        assert gaussian_nll_loss(both, target, mask=keep, backend=backend).isfinite()


def test_targets_shared_variances_and_halves_take_the_plain_form() -> None:
    mean, target, var = torch.randn(8, 3), torch.randn(8, 3), torch.rand(3) + 0.5
    for given in ((mean, target, var), (mean.bfloat16(), target, var.bfloat16())):
        torch.testing.assert_close(
            gaussian_nll_loss(*given), F.gaussian_nll_loss(given[0].float(), target, given[2].float().expand(8, 3))
        )
        with pytest.raises(BackendError, match="second input of the first one's type and shape"):
            gaussian_nll_loss(*given, backend="cpu")
    leaf = target.clone().requires_grad_()
    (by_target,) = _gradients(gaussian_nll_loss(mean, leaf, var), leaf)
    (expected,) = _gradients(F.gaussian_nll_loss(mean, leaf, var.expand(8, 3)), leaf)
    torch.testing.assert_close(by_target, expected)


def test_a_second_backward_pass_gives_the_same_gradients() -> None:
    both, target = torch.randn(50, 2).requires_grad_(), torch.randn(50)
    value = gaussian_nll_loss(both, target)
    first = torch.autograd.grad(value, both, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(value, both)[0], first)
