"""Linear cross entropy against a linear layer followed by torch's cross entropy, in float64."""

from __future__ import annotations

import resource
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trivet.errors import DataError, InputError
from trivet.losses import language
from trivet.losses.language import LinearCrossEntropyLoss, linear_cross_entropy, next_token, z_loss

CLASSES, WIDTH, TOKENS = 37, 6, 50


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "BLOCK_ELEMENTS", 1)  # blocks of 16 rows


def _problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(4)
    hidden = torch.randn(TOKENS, WIDTH, generator=g, dtype=torch.float64).to(dtype)
    output = torch.randn(CLASSES, WIDTH, generator=g, dtype=torch.float64).to(dtype)
    bias = torch.randn(CLASSES, generator=g, dtype=torch.float64).to(dtype)
    target = torch.randint(CLASSES, (TOKENS,), generator=g)
    target[::7] = -100
    return hidden, output, bias, target, torch.rand(CLASSES, generator=g, dtype=torch.float64) + 0.1


def _plain(
    hidden: Tensor,
    output: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    logits = F.linear(hidden, output, linear_bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    loss = F.cross_entropy(logits, target, weight=weight, label_smoothing=label_smoothing, reduction=reduction)
    if not z_loss:
        return loss
    kept = target != -100
    by_class = torch.ones(CLASSES).double() if weight is None else weight
    rows = by_class[target.clamp_min(0)] * kept
    extra = z_loss * rows * torch.logsumexp(logits, 1) ** 2
    return loss + (extra if reduction == "none" else extra.sum() / (rows.sum() if reduction == "mean" else 1))


FORMS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"softcap": 3.0},
    {"z_loss": 0.01},
    {"weight": True},
    {"linear_bias": True},
    {"weight": True, "label_smoothing": 0.2, "softcap": 2.0, "z_loss": 0.1, "linear_bias": True},
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "+".join(form) or "plain")
def test_equals_linear_then_cross_entropy(form: dict[str, Any], reduction: str) -> None:
    hidden, output, bias, target, weight = _problem()
    form = {**form, "weight": weight if "weight" in form else None, "reduction": reduction}
    found = []
    for function in (linear_cross_entropy, _plain):
        operands = [hidden.clone(), output.clone(), bias.clone()]
        for operand in operands:
            operand.requires_grad_()
        if "linear_bias" in form:
            form["linear_bias"] = operands[2]
        else:
            operands.pop()
        value = function(operands[0], operands[1], target, **form)
        upstream = torch.linspace(0.5, 2, value.numel(), dtype=torch.float64).view(value.shape)
        first = torch.autograd.grad(value, operands, upstream, create_graph=True)
        again = torch.autograd.grad(sum((g * g.sin()).sum() for g in first), operands)
        plain_first = torch.autograd.grad(function(operands[0], operands[1], target, **form), operands, upstream)
        found.append((value, *first, *again, *plain_first))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "+".join(form) or "plain")
def test_bfloat16_value_and_gradient_follow_float64(form: dict[str, Any]) -> None:
    hidden, output, bias, target, weight = _problem(torch.bfloat16)
    form = {**form, "weight": weight if "weight" in form else None}
    narrow, wide = [hidden, output], [hidden.double(), output.double()]
    for operand in narrow + wide:
        operand.requires_grad_()
    other = {"linear_bias": bias} if "linear_bias" in form else {}
    value = linear_cross_entropy(*narrow, target, **{**form, **other})
    expected = _plain(*wide, target, **{**form, **{k: v.double() for k, v in other.items()}})
    # logits are rounded to 8 bits, as a bfloat16 linear layer does; the mean over 42 tokens is better than
    # one
    assert value.item() == pytest.approx(expected.item(), rel=4e-3)
    for ours, true in zip(torch.autograd.grad(value, narrow), torch.autograd.grad(expected, wide), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - true).norm() < 0.02 * true.norm()


def test_bfloat16_value_is_right_where_torchs_chunked_one_is_low() -> None:
    # torch 2.13 adds the chunks up in bfloat16 and gives 4 to 11 % less at this size.
    hidden, output = torch.randn(2048, 32).bfloat16(), (torch.randn(4096, 32) * 0.1).bfloat16()
    target = torch.randint(4096, (2048,))
    expected = F.cross_entropy(hidden.float() @ output.float().T, target).item()
    assert linear_cross_entropy(hidden, output, target).item() == pytest.approx(expected, rel=1e-3)


def test_a_graph_that_is_kept_gives_the_same_gradient_again_whatever_became_of_the_first() -> None:
    hidden, output, _, target, _ = _problem()
    hidden.requires_grad_(), output.requires_grad_()
    value = linear_cross_entropy(hidden, output, target)
    first = torch.autograd.grad(3 * value, (hidden, output), retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()
    again = torch.autograd.grad(3 * value, (hidden, output))
    torch.testing.assert_close(list(again), kept)


def test_all_ignored_is_zero_with_zero_gradients_where_torch_is_nan() -> None:
    hidden, output = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    target = torch.full((4,), -100)
    value = linear_cross_entropy(hidden, output, target)
    assert value.item() == 0
    assert all(g.abs().max() == 0 for g in torch.autograd.grad(value, (hidden, output)))
    assert linear_cross_entropy(hidden, output, target, empty="nan").isnan()


def test_extreme_logits_have_finite_values_and_gradients() -> None:
    hidden, output = torch.eye(2, requires_grad=True), torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    value = linear_cross_entropy(hidden, output, torch.tensor([0, 0]), reduction="none")
    assert value.tolist() == [0.0, 20000.0]
    assert torch.autograd.grad(value.sum(), hidden)[0].isfinite().all()


def test_leading_dimensions_and_sample_weights_are_kept() -> None:
    hidden, output, _, target, _ = _problem()
    weight = torch.rand(5, 10)
    rows = linear_cross_entropy(hidden.view(5, 10, -1), output, target.view(5, 10), reduction="none")
    assert rows.shape == (5, 10)
    mean = linear_cross_entropy(hidden.view(5, 10, -1), output, target.view(5, 10), sample_weight=weight)
    kept = target.view(5, 10) != -100
    assert mean.item() == pytest.approx(((rows * weight).sum() / weight[kept].sum()).item())


def test_the_logits_are_never_stored() -> None:
    """Peak memory of 4096 x 16384 stays far below the 256 MiB that the logits alone would take."""
    language.BLOCK_ELEMENTS = 2**22
    hidden = torch.randn(4096, 8, requires_grad=True)
    output = torch.randn(16384, 8, requires_grad=True)
    target = torch.randint(16384, (4096,))
    linear_cross_entropy(hidden[:256], output, target[:256]).backward()  # allocator and threads warm
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    linear_cross_entropy(hidden, output, target).backward()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 100e6


def test_module_owns_or_shares_its_output_layer() -> None:
    embedding = torch.nn.Embedding(11, 4)
    loss = LinearCrossEntropyLoss(4, 11, softcap=30.0)
    loss.linear_weight = embedding.weight
    hidden, target = next_token(torch.randn(2, 6, 4), torch.randint(11, (2, 6)))
    value = loss(hidden, target)
    assert value.item() == pytest.approx(linear_cross_entropy(hidden, embedding.weight, target, softcap=30.0).item())
    value.backward()
    assert embedding.weight.grad is not None


def test_next_token_masks_padding() -> None:
    _, target = next_token(torch.zeros(1, 4, 2), torch.tensor([[3, 4, 5, 0]]), mask=torch.tensor([[1, 1, 1, 0]]))
    assert target.tolist() == [[4, 5, -100]]


def test_z_loss_is_the_squared_log_partition() -> None:
    logits = torch.randn(3, 5, 2, dtype=torch.float64)
    target = torch.tensor([[0, 1], [-100, 2], [1, -100]])
    rows = logits.exp().sum(1).log() ** 2
    assert z_loss(logits, target).item() == pytest.approx(rows[target != -100].mean().item())
    assert z_loss(logits).item() == pytest.approx(rows.mean().item())


def test_a_label_out_of_range_is_named() -> None:
    with pytest.raises(DataError, match="labels from 0 to 9; allowed are 0 to 4"):
        linear_cross_entropy(torch.randn(2, 3), torch.randn(5, 3), torch.tensor([0, 9]))
    with pytest.raises(DataError, match="integer labels"):
        linear_cross_entropy(torch.randn(2, 3), torch.randn(5, 3), torch.rand(2))


def test_numbers_that_make_no_sense_are_refused() -> None:
    given = torch.randn(2, 3), torch.randn(5, 3), torch.tensor([0, 4])
    with pytest.raises(DataError, match=r"class weights of shape \(6,\); allowed is \(5,\)"):
        linear_cross_entropy(*given, weight=torch.ones(6))
    with pytest.raises(InputError, match=r"label_smoothing=1.5"):
        linear_cross_entropy(*given, label_smoothing=1.5)
    with pytest.raises(InputError, match="softcap=0"):
        linear_cross_entropy(*given, softcap=0.0)
