"""Region losses on their kernel: every layout, type and target against the plain form in float64."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trivet import losses
from trivet.errors import BackendError, DataError
from trivet.losses.regionwise import region_sums


def _images(shape: tuple[int, ...] = (2, 5, 23, 31), dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    logits = (2 * torch.randn(shape, generator=g)).to(dtype)
    target = torch.randint(max(2, shape[1]), (shape[0], *shape[2:]), generator=g)
    target.view(-1)[::5] = -100
    return logits, target


def _both(loss: Callable[..., Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = loss(leaf)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def _check(loss: Callable[..., Tensor], x: Tensor, value: float = 2e-6, gradient: float = 1e-4) -> None:
    ours = _both(lambda z: loss(z, backend="cpu"), x)
    true = _both(lambda z: loss(z, backend="torch"), x.double().contiguous())
    torch.testing.assert_close(ours[0].double(), true[0], rtol=value, atol=1e-6)
    size = true[1].abs().max().item()
    torch.testing.assert_close(ours[1].double(), true[1], rtol=gradient, atol=gradient * size)


@pytest.mark.parametrize("shape", [(2, 5, 23, 31), (3, 2, 7), (4, 3), (2, 1, 40), (1, 4, 200, 170)])
def test_every_shape_gives_the_plain_value_and_gradient(shape: tuple[int, ...]) -> None:
    x, t = _images(shape)
    _check(lambda z, **k: losses.dice_loss(z, t, reduction="none", **k), x)


@pytest.mark.parametrize("loss", [losses.jaccard_loss, losses.tversky_loss, losses.focal_tversky_loss])
def test_every_loss_gives_the_plain_value_and_gradient(loss: Callable[..., Tensor]) -> None:
    x, t = _images()
    _check(lambda z, **k: loss(z, t, **k), x)
    _check(lambda z, **k: loss(z, t, pooling="batch", classes="present", include_background=False, **k), x)


def test_squares_shares_and_masks() -> None:
    x, t = _images()
    shares = torch.rand(x.shape, generator=torch.Generator().manual_seed(4))
    mask = torch.rand(2, 23, 31, generator=torch.Generator().manual_seed(5)) > 0.3
    for keywords in ({"convention": "vnet"}, {"mask": mask}, {"mask": mask[:, None], "convention": "vnet"}):
        for target in (t, shares, shares > 0.5):
            _check(lambda z, t=target, w=keywords, **k: losses.dice_loss(z, t, **w, **k), x)
    _check(lambda z, **k: losses.dice_loss(z, shares, multilabel=True, mask=mask, **k), x)


def test_channels_last_and_strided_images_give_one_result() -> None:
    x, t = _images()
    last = x.to(memory_format=torch.channels_last)
    _check(lambda z, **k: losses.dice_loss(z, t, **k), last)
    assert _both(lambda z: losses.dice_loss(z, t, backend="cpu"), last)[1].is_contiguous(
        memory_format=torch.channels_last
    )
    _check(lambda z, **k: losses.dice_loss(z, t, **k), torch.stack([x, x], -1)[..., 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_gradient_once(dtype: torch.dtype) -> None:
    x, t = _images(dtype=dtype)
    ours = _both(lambda z: 1000 * losses.dice_loss(z, t, backend="cpu"), x)
    true = _both(lambda z: 1000 * losses.dice_loss(z, t, backend="torch"), x.double())
    assert ours[0].item() == pytest.approx(true[0].item(), rel=2e-6)
    assert ours[1].dtype == dtype
    half_step = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(ours[1].double(), true[1], rtol=half_step + 1e-4, atol=1e-6)


def test_a_position_that_is_ignored_may_hold_anything() -> None:
    x, t = _images()
    x.movedim(1, -1)[t == -100] = torch.nan
    value, gradient = _both(lambda z: losses.dice_loss(z, t, backend="cpu"), x)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.movedim(1, -1)[t == -100].abs().max() == 0


def test_nan_at_a_position_that_counts_is_seen() -> None:
    x, t = _images()
    x[0, 1, 0, 1] = torch.nan
    assert losses.dice_loss(x, t, backend="cpu").isnan()


def test_masked_classes_take_no_part() -> None:
    x, t = _images()
    x[:, 4] = -torch.inf
    value, gradient = _both(lambda z: losses.dice_loss(z, t.clamp_max(3), classes="present", backend="cpu"), x)
    expected = losses.dice_loss(x[:, :4].double(), t.clamp_max(3), classes="present", backend="torch")
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert gradient[:, 4].abs().max() == 0


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    x, t = _images((2, 3, 300, 300))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(region_sums(x, t, backend="cpu").shared)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])


def test_backward_twice_and_second_derivatives() -> None:
    x, t = _images((2, 3, 4, 5))
    leaf = x.double().requires_grad_()
    loss = losses.dice_loss(leaf, t)
    first, again = (torch.autograd.grad(loss, leaf, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(again, first)
    assert torch.autograd.gradcheck(lambda z: losses.dice_loss(z, t, backend="cpu"), leaf)
    assert torch.autograd.gradgradcheck(lambda z: losses.dice_loss(z, t, backend="cpu"), leaf)


def test_transforms_empty_images_copies_and_no_grad() -> None:
    x, t = _images((2, 3, 4, 5))
    plain = _both(lambda z: losses.dice_loss(z, t, backend="torch"), x)
    torch.testing.assert_close(torch.func.grad(lambda z: losses.dice_loss(z, t))(x), plain[1])
    loss = losses.DiceLoss()
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(again(x, t), plain[0])
    with torch.no_grad():
        torch.testing.assert_close(loss(x.clone().requires_grad_(), t), plain[0])
    empty = torch.zeros(0, 3, 4, requires_grad=True)
    value = losses.dice_loss(empty, torch.zeros(0, 4, dtype=torch.long), backend="cpu")
    value.backward()
    assert value.item() == 0


def test_labels_out_of_range_and_backends_that_cannot_are_refused() -> None:
    x, t = _images()
    for wrong in (5, -1):
        bad = t.clone()
        bad[0, 0, 0] = wrong
        with pytest.raises(DataError, match="allowed are 0 to 4"):
            losses.dice_loss(x, bad)
    with pytest.raises(DataError, match="allowed are 0 to 1"):
        losses.dice_loss(x[:, :1], t.clamp(0, 2))
    with pytest.raises(BackendError, match="triton"):
        losses.dice_loss(x, t, backend="triton")


@pytest.mark.slow
def test_the_loss_compiles_as_one_graph() -> None:
    x, t = _images((2, 3, 4, 5))
    torch._dynamo.reset()
    compiled = torch.compile(lambda z: losses.dice_loss(z, t), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(_both(compiled, x), _both(lambda z: losses.dice_loss(z, t, backend="torch"), x))
