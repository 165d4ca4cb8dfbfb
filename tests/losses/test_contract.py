"""What every loss keeps: the suite runs over the catalogue, so a new loss without a case fails here."""

from __future__ import annotations

import inspect
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from trivet import losses
from trivet.errors import InputError
from trivet.losses.examples import EXAMPLES

CATALOGUE = losses.catalogue()


# Every sample is part of the others' loss.
PAIRS = {"contrastive_loss", "multi_similarity_loss", "nt_xent_loss", "supervised_contrastive_loss", "triplet_loss"}

every_loss = pytest.mark.parametrize("name", CATALOGUE)


def _module(name: str, **keywords: Any) -> losses.Loss:
    torch.manual_seed(3)
    return CATALOGUE[name](**EXAMPLES[name].arguments, **keywords).double()


def _value_and_gradient(loss: losses.Loss, x: Tensor, t: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    value = loss(leaf, t, w)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def test_every_loss_has_a_case_and_every_case_a_loss() -> None:
    assert set(EXAMPLES) == set(CATALOGUE)


@every_loss
def test_signature_keeps_the_contract(name: str) -> None:
    parameters = inspect.signature(CATALOGUE[name].function).parameters
    assert next(iter(parameters)) == "input"
    assert "target" in parameters
    defaults = {"reduction": "mean", "empty": "zero", "sample_weight": None}
    for keyword, default in defaults.items():
        assert parameters[keyword].default == default
        assert parameters[keyword].kind is inspect.Parameter.KEYWORD_ONLY
    assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


@every_loss
def test_page_says_formula_arguments_and_an_example(name: str) -> None:
    page = inspect.getdoc(CATALOGUE[name].function) or ""
    assert ":math:" in page or ".. math::" in page
    assert ">>> " in page
    assert "Args:" in page or "Arguments as for" in page
    # One line each: when to take it, when not, what it costs (lines that go on are indented), and where it is from.
    for said in (r"^When: .{20}", r"^When not: .{20}", r"^Cost: .{20}", r"^Source: .{10}"):
        assert re.search(said, page, re.MULTILINE), f"{name}: no line {said!r}"


@every_loss
def test_unknown_choices_are_named(name: str) -> None:
    x, t = EXAMPLES[name].batch(8, 1.0)
    for wrong in ({"reduction": "average"}, {"empty": "skip"}):
        loss = _module(name, **wrong)
        if "empty" in wrong:
            continue
        with pytest.raises(InputError, match="Allowed: mean, none, sum"):
            loss(x, t)


@every_loss
def test_mean_is_the_sum_over_what_takes_part_and_rows_are_samples(name: str) -> None:
    example = EXAMPLES[name]
    x, t = example.batch(12, 1.0)
    rows = _module(name, reduction="none")(x, t)
    assert rows.shape[:1] == (12,)
    assert rows.isfinite().all()
    if not example.rows:
        return
    torch.testing.assert_close(_module(name, reduction="sum")(x, t), rows.sum())
    if name != "supervised_contrastive_loss":
        weight = {k: v for k, v in example.arguments.items() if k == "weight"}
        assert not weight
        torch.testing.assert_close(_module(name)(x, t), rows.mean())


@every_loss
def test_samples_of_weight_zero_take_no_part_and_equal_weights_change_nothing(name: str) -> None:
    example = EXAMPLES[name]
    x, t = example.batch(12, 1.0)
    value, gradient = _value_and_gradient(_module(name), x, t)
    same = _value_and_gradient(_module(name), x, t, torch.full((12,), 0.25))
    torch.testing.assert_close(same, (value, gradient))
    if example.rows:
        rows = _module(name, reduction="none")(x, t)
        keep = torch.arange(12) % 3 > 0
        torch.testing.assert_close(_module(name)(x, t, keep.double()), rows[keep].mean())


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_narrow_types_follow_float64(name: str, dtype: torch.dtype, size: float) -> None:
    example = EXAMPLES[name]
    x, t = example.batch(12, min(size, example.largest))
    if dtype == torch.float16:
        x = x.clamp(-6e4, 6e4)
    x = x.to(dtype)
    t = t.to(dtype) if t.is_floating_point() else t
    wide = _value_and_gradient(_module(name), x.double(), t.double() if t.is_floating_point() else t)
    module = _module(name).to(dtype if name == "linear_cross_entropy" else torch.float32)
    if name == "linear_cross_entropy":  # its own layer is rounded too
        rounded = _module(name).to(dtype).double()
        wide = _value_and_gradient(rounded, x.double(), t)
    value, gradient = _value_and_gradient(module, x, t)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.dtype == dtype
    if wide[1].abs().max() > torch.finfo(dtype).max:
        return  # the true gradient has no number in this type
    assert gradient.isfinite().all()
    rough = {torch.float32: 2e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    exact = rough if name == "linear_cross_entropy" and dtype != torch.float32 else 2e-5
    assert abs(value.double() - wide[0]) <= exact * abs(wide[0]) + 1e-6
    tiny = 12 * x[0].numel() * torch.finfo(dtype).smallest_normal  # gradients that underflow in the narrow type
    assert (gradient.double() - wide[1]).norm() <= rough * wide[1].norm() + tiny


@every_loss
@pytest.mark.parametrize("empty", ["zero", "nan"])
def test_nothing_gives_zero_with_zero_gradients_or_nan(name: str, empty: str) -> None:
    example = EXAMPLES[name]
    loss = _module(name, empty=empty)
    x, t = example.batch(12, 1.0)
    batches = [(x[:0], t[:0], None), (x, t, torch.zeros(12))]
    if example.empty:
        batches.append((x, example.empty(t), None))
    for inputs, targets, weight in batches:
        value, gradient = _value_and_gradient(loss, inputs, targets, weight)
        assert value.isnan() if empty == "nan" else value.item() == 0
        assert empty == "nan" or not gradient.any()


@every_loss
def test_first_and_second_gradients_equal_finite_differences(name: str) -> None:
    x, t = EXAMPLES[name].batch(5, 1.0)
    x.requires_grad_()
    for reduction in ("mean", "none"):
        loss = _module(name, reduction=reduction)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, t), x, atol=1e-5)
        leaf = x.detach().clone().requires_grad_()
        plain = torch.autograd.grad(loss(leaf, t).sum(), leaf)[0]
        (again,) = torch.autograd.grad(loss(leaf, t).sum(), leaf, create_graph=True)
        torch.testing.assert_close(again, plain, msg="with create_graph the first gradient differs")
        if again.requires_grad:
            assert torch.autograd.gradgradcheck(lambda x, loss=loss: loss(x, t), x, atol=1e-4)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_nan_in_the_input_gives_nan_and_never_a_number(name: str, dtype: torch.dtype, reduction: str) -> None:
    x, t = EXAMPLES[name].batch(12, 1.0)
    loss = _module(name, reduction=reduction).to(dtype if dtype.itemsize == 8 or "linear" in name else torch.float32)
    t = t.to(dtype) if t.is_floating_point() else t
    x = x.to(dtype)
    assert loss(x, t).isfinite().all()
    x.view(-1)[0] = torch.nan
    for leaf in (x, x.clone().requires_grad_()):
        value = loss(leaf, t)
        assert value.isnan().any()
        if reduction == "none" and EXAMPLES[name].rows:
            assert value.view(12, -1)[0].isnan().any(), "the row that holds it does not show it"


@every_loss
def test_a_nan_that_takes_no_part_is_not_seen(name: str) -> None:
    example = EXAMPLES[name]
    x, t = example.batch(12, 1.0)
    keep = (torch.arange(12) > 0).double()
    clean = _value_and_gradient(_module(name), x, t, keep)
    x.view(-1)[0] = torch.nan
    if name in PAIRS:
        assert _module(name)(x, t, keep).isnan(), "a sample of weight 0 is still the others' pair"
        return
    value, gradient = _value_and_gradient(_module(name), x, t, keep)
    torch.testing.assert_close(value, clean[0])
    torch.testing.assert_close(gradient[1:], clean[1][1:])


@every_loss
def test_upstream_gradients_scale_the_gradient(name: str) -> None:
    x, t = EXAMPLES[name].batch(6, 1.0)
    loss = _module(name)
    leaf = x.clone().requires_grad_()
    tripled = torch.autograd.grad(3 * loss(leaf, t), leaf)[0]
    torch.testing.assert_close(tripled, 3 * _value_and_gradient(loss, x, t)[1])


@every_loss
def test_no_input_is_changed(name: str) -> None:
    x, t = EXAMPLES[name].batch(6, 1.0)
    before = x.clone(), t.clone()
    _value_and_gradient(_module(name), x, t)
    assert torch.equal(before[0], x)
    assert torch.equal(before[1], t)


@every_loss
def test_layout_in_memory_does_not_matter(name: str) -> None:
    x, t = EXAMPLES[name].batch(6, 1.0)
    strided = torch.stack([x, x], -1)[..., 0]
    assert not strided.is_contiguous()
    torch.testing.assert_close(_value_and_gradient(_module(name), strided, t), _value_and_gradient(_module(name), x, t))


@every_loss
def test_functional_transforms_agree_with_autograd(name: str) -> None:
    x, t = EXAMPLES[name].batch(6, 1.0)
    loss = _module(name)
    gradient = torch.func.grad(lambda x: loss(x, t))(x)
    torch.testing.assert_close(gradient, _value_and_gradient(loss, x, t)[1])


@every_loss
def test_modules_survive_pickling_and_show_themselves(name: str) -> None:
    x, t = EXAMPLES[name].batch(6, 1.0)
    loss = _module(name)
    again = pickle.loads(pickle.dumps(loss))
    torch.testing.assert_close(again(x, t), loss(x, t))
    assert type(loss).__name__ in repr(loss)
    assert "reduction='sum'" in repr(_module(name, reduction="sum"))
    with pytest.raises(InputError, match="did you mean 'reduction'"):
        _module(name, reductoin="sum")


@pytest.mark.slow
@every_loss
def test_compiles_without_a_graph_break(name: str) -> None:
    if name in ("linear_cross_entropy", "boundary_loss"):
        pytest.skip("shapes depend on the data")
    x, t = EXAMPLES[name].batch(6, 1.0)
    loss = _module(name)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    leaf = x.clone().requires_grad_()
    value = compiled(leaf, t)
    expected, gradient = _value_and_gradient(loss, x, t)
    torch.testing.assert_close(value.detach(), expected)
    torch.testing.assert_close(torch.autograd.grad(value, leaf)[0], gradient)
