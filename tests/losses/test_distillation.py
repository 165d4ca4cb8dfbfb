"""Distillation losses against torch's kl_div and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trivet.errors import DataError
from trivet.losses.distillation import feature_matching_loss, jensen_shannon_loss, kl_div_loss


def _logits() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 5, 3, dtype=torch.float64), torch.randn(6, 5, 3, dtype=torch.float64)


def _torch_kl(student: Tensor, teacher: Tensor, t: float, reduction: str) -> Tensor:
    p, q = ((z / t).movedim(1, -1).reshape(-1, 5).log_softmax(1) for z in (student, teacher))
    return F.kl_div(p, q, reduction=reduction, log_target=True)


def test_kl_conventions_are_torchs_numbers() -> None:
    student, teacher = _logits()
    t = 3.0
    batchmean = _torch_kl(student, teacher, t, "batchmean").item()
    assert kl_div_loss(student, teacher, temperature=t).item() == pytest.approx(t * t * batchmean)
    assert kl_div_loss(student, teacher, temperature=t, convention="liger").item() == pytest.approx(batchmean)
    mean = _torch_kl(student, teacher, t, "mean").item()
    assert kl_div_loss(student, teacher, temperature=t, convention="torch").item() == pytest.approx(mean)
    total = _torch_kl(student, teacher, t, "sum").item()
    value = kl_div_loss(student, teacher, temperature=t, convention="torch", reduction="sum")
    assert value.item() == pytest.approx(total)


def test_masked_classes_take_no_part_where_torch_gives_nan() -> None:
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    for logits in (student, teacher):
        logits[:, 4:] = -torch.inf
    student.requires_grad_()
    assert F.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True).isnan()
    for loss in (kl_div_loss, jensen_shannon_loss):
        value = loss(student, teacher)
        expected = loss(student[:, :4], teacher[:, :4])
        assert value.item() == pytest.approx(expected.item())
        gradient = torch.autograd.grad(value, student)[0]
        assert gradient.isfinite().all()
        assert gradient[:, 4:].abs().max() == 0


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jensen_shannon_equals_the_definition(beta: float) -> None:
    student, teacher = _logits()
    p, q = student.softmax(1), teacher.softmax(1)
    m = beta * q + (1 - beta) * p
    expected = beta * (q * (q / m).log()).sum(1) + (1 - beta) * (p * (p / m).log()).sum(1)
    value = jensen_shannon_loss(student, teacher, beta=beta, reduction="none")
    torch.testing.assert_close(value, expected)
    assert torch.autograd.gradcheck(lambda s: jensen_shannon_loss(s, teacher, beta=beta), student.requires_grad_())
    assert torch.autograd.gradgradcheck(
        lambda s: jensen_shannon_loss(s, teacher[:1, :, :1], beta=beta), student[:1, :, :1]
    )


def test_jensen_shannon_is_symmetric_bounded_and_ends_in_kl() -> None:
    a, b = _logits()
    assert jensen_shannon_loss(a, b).item() == pytest.approx(jensen_shannon_loss(b, a).item())
    assert jensen_shannon_loss(1e4 * a.float(), -1e4 * a.float()).item() <= math.log(2) + 1e-6
    assert jensen_shannon_loss(a, b, beta=0).item() == pytest.approx(kl_div_loss(a, b).item())
    assert jensen_shannon_loss(a, b, beta=1).item() == pytest.approx(kl_div_loss(b, a).item())
    near = jensen_shannon_loss(a, b, beta=1e-6).item() / 1e-6
    assert near == pytest.approx(kl_div_loss(a, b).item(), rel=1e-4)


def test_rows_masks_and_weights() -> None:
    a, b = _logits()
    mask = torch.rand(6, 3) > 0.4
    rows = kl_div_loss(a, b, reduction="none")
    assert rows.shape == (6, 3)
    assert kl_div_loss(a, b, mask=mask).item() == pytest.approx(rows[mask].mean().item())
    weight = torch.rand(6).double()
    expected = (rows * weight[:, None]).sum() / (3 * weight.sum())
    assert kl_div_loss(a, b, sample_weight=weight).item() == pytest.approx(expected.item())
    assert kl_div_loss(a, b, mask=mask & False).item() == 0
    assert kl_div_loss(a, b, mask=mask & False, empty="nan").isnan()


def test_features_match_layer_by_layer() -> None:
    x = [torch.randn(4, 3, 5), torch.randn(4, 7)]
    y = [torch.randn(4, 3, 5), torch.randn(4, 7)]
    each = [F.mse_loss(a, b) for a, b in zip(x, y, strict=True)]
    assert feature_matching_loss(x, y).item() == pytest.approx(sum(each).item() / 2)
    absolute = feature_matching_loss(x[0], y[0], distance="absolute")
    assert absolute.item() == pytest.approx(F.l1_loss(x[0], y[0]).item())
    cosine = feature_matching_loss(x[0], y[0], distance="cosine", reduction="none")
    torch.testing.assert_close(cosine, 1 - F.cosine_similarity(x[0].flatten(1), y[0].flatten(1)))
    maps = [F.normalize(z.pow(2).mean(1).flatten(1)) for z in (x[0], y[0])]
    attention = feature_matching_loss(x[0], y[0], distance="attention", reduction="none")
    torch.testing.assert_close(attention, (maps[0] - maps[1]).pow(2).sum(1))
    wider = torch.randn(4, 8, 5)
    assert feature_matching_loss(x[0], wider, distance="attention").isfinite()
    with pytest.raises(DataError, match="project the student's"):
        feature_matching_loss(x[0], wider)
