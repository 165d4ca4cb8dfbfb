"""The Jensen-Shannon kernel: its value and gradient are those of the formula in every layout, type and reduction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trivet.errors import BackendError
from trivet.losses import jensen_shannon_loss


def _formula(z: Tensor, t: Tensor, beta: float, temperature: float) -> Tensor:
    p, q = (z.double() / temperature).softmax(1), (t.double() / temperature).softmax(1)
    m = beta * q + (1 - beta) * p
    return beta * torch.special.xlogy(q, q / m).sum(1) + (1 - beta) * torch.special.xlogy(p, p / m).sum(1)


LAYOUTS = [(5, 7), (300, 130), (4, 6, 9, 11), (1, 1), (2, 40_000), (900, 47)]


@pytest.mark.parametrize("shape", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_value_and_gradient_are_the_formulas(shape: tuple[int, ...], dtype: torch.dtype, reduction: str) -> None:
    student, teacher = (2 * torch.randn(shape).to(dtype) for _ in range(2))
    upstream = torch.rand(shape[:1] + shape[2:])
    leaf, wide = student.clone().requires_grad_(), student.double().requires_grad_()
    found = jensen_shannon_loss(leaf, teacher, beta=0.3, temperature=1.7, reduction=reduction, backend="cpu")
    expected = _formula(wide, teacher, 0.3, 1.7)
    expected = expected if reduction == "none" else expected.mean()
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=2e-7)
    if reduction == "none":
        found, expected = (found * upstream).sum(), (expected * upstream).sum()
    (by,), (true,) = torch.autograd.grad(2 * found, leaf), torch.autograd.grad(2 * expected, wide)
    assert by.dtype == dtype
    near = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 5e-3, torch.float16: 2e-3}[dtype]
    smallest = torch.finfo(dtype).smallest_normal * true.numel() ** 0.5
    assert (by.double() - true).norm() <= near * true.norm() + smallest + 1e-12


def test_weights_masks_channels_last_and_masked_classes_agree_with_the_plain_form() -> None:
    z, t = (torch.randn(4, 6, 9, 11).contiguous(memory_format=torch.channels_last) for _ in range(2))
    z[:, 2], t[:, 2] = -torch.inf, -torch.inf
    keep, weight = torch.rand(4, 9, 11) < 0.6, torch.tensor([1.0, 0.0, 2.0, 0.5])
    z[1, 0, 0, 0] = torch.nan  # a sample of weight 0
    results = []
    for backend in ("cpu", "torch"):
        leaf = z.clone().requires_grad_()
        value = jensen_shannon_loss(leaf, t, mask=keep, sample_weight=weight, backend=backend)
        results.append((value.detach(), torch.autograd.grad(value, leaf)[0][[0, 2, 3]]))
    assert results[0][0].isfinite()
    torch.testing.assert_close(results[0], results[1])


def test_extremes_are_bounded_by_the_entropy_of_the_mixture() -> None:
    apart = torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[-1e4, 0.0, 1e4]])
    leaf = apart[0].clone().requires_grad_()
    value = jensen_shannon_loss(leaf, apart[1], backend="cpu")
    assert value.item() == pytest.approx(0.6931472, rel=1e-6)
    assert torch.autograd.grad(value, leaf)[0].isfinite().all()


def test_the_ends_of_the_mixture_and_mixed_types_take_the_plain_form() -> None:
    z, t = torch.randn(5, 4), torch.randn(5, 4)
    for given, beta in (((z, t), 0.0), ((z, t), 1.0), ((z, t.double()), 0.5)):
        assert jensen_shannon_loss(*given, beta=beta).isfinite()
        with pytest.raises(BackendError, match="beta inside"):
            jensen_shannon_loss(*given, beta=beta, backend="cpu")


def test_a_graph_that_is_kept_gives_the_same_gradient_again() -> None:
    leaf, t = torch.randn(40, 30).requires_grad_(), torch.randn(40, 30)
    value = jensen_shannon_loss(leaf, t)
    first = torch.autograd.grad(value, leaf, retain_graph=True)[0].clone()
    assert torch.equal(torch.autograd.grad(value, leaf)[0], first)
