"""Row-wise losses on their kernel: every layout and type against float64 in torch, and life inside a training."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivet import losses
from trivet.errors import BackendError, DataError
from trivet.kernels import rows

SHAPES = {
    "short rows": (50, 7),
    "one class": (20, 1),
    "long rows": (9, 300),
    "rows of several blocks": (3, 9000),
    "pixels": (3, 7, 5, 11),
    "many classes apart": (2, 70, 3, 3),
}


def _batch(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(5)
    logits = (3 * torch.randn(shape, generator=g)).to(dtype)
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=g)
    labels.view(-1)[::4] = -100
    return logits, labels


def _both(loss: Callable[..., Tensor], x: Tensor, *others: object) -> tuple[Tensor, Tensor]:
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = loss(leaf, *others)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_gives_torchs_value_and_gradient(name: str) -> None:
    x, t = _batch(SHAPES[name])
    for reduction in ("mean", "none"):
        ours = _both(lambda z, r=reduction: losses.cross_entropy(z, t, reduction=r, backend="cpu"), x)
        true = _both(lambda z, r=reduction: F.cross_entropy(z, t, reduction=r), x.double())
        torch.testing.assert_close(ours[0].double(), true[0], rtol=2e-6, atol=1e-6)
        torch.testing.assert_close(ours[1].double(), true[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["short rows", "long rows", "pixels"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weights_smoothing_and_probabilities_are_torchs(name: str, smoothing: float) -> None:
    x, t = _batch(SHAPES[name])
    weight = torch.linspace(0.2, 2, x.shape[1])
    soft = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    for target in (t, soft):
        ours = _both(
            lambda z, t=target: losses.cross_entropy(z, t, weight=weight, label_smoothing=smoothing, backend="cpu"), x
        )
        wide = target.double() if target.is_floating_point() else target
        true = _both(
            lambda z, t=wide: F.cross_entropy(z, t, weight=weight.double(), label_smoothing=smoothing), x.double()
        )
        torch.testing.assert_close(ours[0].double(), true[0], rtol=2e-6, atol=1e-6)
        torch.testing.assert_close(ours[1].double(), true[1], rtol=1e-4, atol=2e-7)


@pytest.mark.parametrize("layout", ["channels last", "transposed", "every other"])
def test_layouts_in_memory_give_one_result(layout: str) -> None:
    x, t = _batch((3, 7, 4, 6))
    if layout == "channels last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    else:
        x = torch.stack([x, x], -1)[..., 0]
    ours = _both(lambda z: losses.softmax_focal_loss(z, t, backend="cpu"), x)
    plain = _both(lambda z: losses.softmax_focal_loss(z, t, backend="torch"), x.contiguous())
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-7)
    if layout == "channels last":
        assert ours[1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_once_with_the_loss_scale_inside(dtype: torch.dtype) -> None:
    x, t = _batch((64, 10), dtype)
    scale = 65536.0  # a gradient of 1e-9 has no number in float16, times the loss scale it has
    leaf = x.clone().requires_grad_()
    (1e-6 * scale * losses.cross_entropy(leaf, t, backend="cpu")).backward()
    true = 1e-6 * scale * _both(lambda z: F.cross_entropy(z, t), x.double())[1]
    assert leaf.grad is not None
    assert leaf.grad.dtype == dtype
    half_step = torch.finfo(dtype).eps / 2
    torch.testing.assert_close(leaf.grad.double(), true, rtol=1.01 * half_step, atol=3.1e-8)


def test_large_rows_are_shared_among_threads_and_large_gradients_scaled_in_place() -> None:
    for shape in ((4096, 10), (300, 200), (2, 5, 96, 96)):
        x, t = _batch(shape)
        ours = _both(lambda z, t=t: 3 * losses.cross_entropy(z, t, backend="cpu"), x)
        true = _both(lambda z, t=t: 3 * F.cross_entropy(z, t), x.double())
        torch.testing.assert_close(ours[0].double(), true[0], rtol=2e-6, atol=0)
        torch.testing.assert_close(ours[1].double(), true[1], rtol=1e-5, atol=1e-9)


def test_a_second_backward_pass_through_the_graph_gives_the_gradient_again() -> None:
    x, t = _batch((40, 10))
    x.requires_grad_()
    loss = losses.cross_entropy(x, t, backend="cpu")
    first, second, third = (torch.autograd.grad(2 * loss, x, retain_graph=True)[0].clone() for _ in range(3))
    torch.testing.assert_close(second, first)
    torch.testing.assert_close(third, first)


def test_the_logits_may_change_once_the_gradient_is_finished() -> None:
    x, t = _batch((40, 10))
    leaf = x.clone().requires_grad_()
    middle = leaf * 1.0
    loss = losses.cross_entropy(middle, t, backend="cpu")
    middle.data.zero_()
    torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], _both(F.cross_entropy, x, t)[1])


def test_rows_of_weight_zero_may_hold_anything() -> None:
    weight = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    for shape in ((6, 5), (6, 90)):
        x, t = _batch(shape)
        t = t.clamp_min(0)
        x[2] = torch.nan
        value, gradient = _both(lambda z, t=t: losses.cross_entropy(z, t, sample_weight=weight, backend="cpu"), x)
        keep = torch.arange(6) != 2
        assert value.item() == pytest.approx(F.cross_entropy(x[keep], t[keep]).item(), rel=1e-6)
        assert gradient[2].abs().max() == 0
        assert gradient.isfinite().all()


def test_nan_in_a_row_that_counts_is_seen() -> None:
    for shape in ((6, 5), (6, 90)):
        x, _ = _batch(shape)
        x[2, 1] = torch.nan
        assert losses.cross_entropy(x, torch.zeros(6, dtype=torch.long), backend="cpu").isnan()


def test_masked_classes_get_no_gradient_under_any_target() -> None:
    for classes in (9, 90):
        x, t = _batch((6, classes))
        t, soft = t.clamp(0, 2), torch.rand(6, classes)
        x[:, 5:] = -torch.inf
        soft[:, 5:] = 0
        for target, smoothing in ((t, 0.0), (t, 0.1), (soft, 0.1)):
            ours = _both(
                lambda z, t=target, s=smoothing: losses.cross_entropy(z, t, label_smoothing=s, backend="cpu"), x
            )
            plain = _both(
                lambda z, t=target, s=smoothing: losses.cross_entropy(z, t, label_smoothing=s, backend="torch"), x
            )
            torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-7)
            assert ours[1][:, 5:].abs().max() == 0


@pytest.mark.parametrize("shape", [(12, 9), (12, 90), (3, 9, 4, 4)])
def test_distillation_equals_torchs_kl(shape: tuple[int, ...]) -> None:
    x, _ = _batch(shape)
    teacher = torch.randn(shape)

    def plain(z: Tensor) -> Tensor:
        p, q = ((y.double() / 2).log_softmax(1).movedim(1, -1).reshape(-1, shape[1]) for y in (z, teacher))
        return 4 * F.kl_div(p, q, log_target=True, reduction="batchmean")

    ours = _both(lambda z: losses.kl_div_loss(z, teacher, temperature=2.0, backend="cpu"), x)
    true = _both(plain, x.double())
    torch.testing.assert_close(ours[0].double(), true[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(ours[1].double(), true[1], rtol=1e-4, atol=1e-7)


def test_labels_out_of_range_are_refused_before_any_memory_is_read() -> None:
    for wrong in (10, -1, 10**12):
        with pytest.raises(DataError, match="allowed are 0 to 9"):
            losses.cross_entropy(torch.randn(4, 10), torch.tensor([0, 1, 2, wrong]))


def test_a_named_backend_works_or_raises() -> None:
    x, t = _batch((6, 5))
    torch.testing.assert_close(
        losses.cross_entropy(x, t, backend="cpu"), losses.cross_entropy(x, t, backend="torch"), rtol=1e-6, atol=0
    )
    with pytest.raises(BackendError, match="want a gradient"):
        losses.cross_entropy(x, torch.rand(6, 5, requires_grad=True), backend="cpu")
    with pytest.raises(BackendError, match="triton"):
        losses.cross_entropy(x, t, backend="triton")


def test_what_wants_a_gradient_besides_the_logits_gets_it() -> None:
    x, _ = _batch((6, 5))
    soft = torch.rand(6, 5, requires_grad=True)
    true = torch.autograd.grad(F.cross_entropy(x, soft), soft)[0]
    torch.testing.assert_close(torch.autograd.grad(losses.cross_entropy(x, soft), soft)[0], true)


def test_no_grad_and_empty_batches() -> None:
    x, t = _batch((6, 5))
    with torch.no_grad():
        torch.testing.assert_close(losses.cross_entropy(x.requires_grad_(), t), F.cross_entropy(x, t))
    for shape in ((0, 5), (2, 5, 0)):
        empty = torch.zeros(shape, requires_grad=True)
        value = losses.cross_entropy(empty, torch.zeros(shape[:1] + shape[2:], dtype=torch.long), backend="cpu")
        value.backward()
        assert value.item() == 0
        assert empty.grad is not None


def test_transforms_and_forward_mode_take_the_plain_form() -> None:
    x, t = _batch((6, 5))
    per_sample = torch.func.vmap(torch.func.grad(lambda z, y: losses.cross_entropy(z[None], y[None])))(
        x, t.clamp_min(0)
    )
    rows_of = torch.stack(
        [_both(F.cross_entropy, z[None], y[None])[1][0] for z, y in zip(x, t.clamp_min(0), strict=True)]
    )
    torch.testing.assert_close(per_sample, rows_of)


def test_double_backward_equals_torchs() -> None:
    x, t = _batch((6, 5))
    found = []
    for loss in (losses.cross_entropy, F.cross_entropy):
        leaf = x.double().requires_grad_()
        (first,) = torch.autograd.grad(loss(leaf, t), leaf, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), leaf)[0])
    torch.testing.assert_close(found[0], found[1])


def test_several_python_threads_get_their_own_results() -> None:
    batches = [_batch((2048, 20 + k)) for k in range(4)]
    expected = [_both(F.cross_entropy, x.double(), t)[1] for x, t in batches]
    found: dict[int, Tensor] = {}

    def work(k: int) -> None:
        for _ in range(5):
            found[k] = _both(losses.cross_entropy, *batches[k])[1]

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for k, gradient in enumerate(expected):
        torch.testing.assert_close(found[k].double(), gradient, rtol=1e-5, atol=1e-8)


def _value_in_worker(loss: nn.Module, x: Tensor, t: Tensor) -> float:
    return float(loss(x, t))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_compute_the_same_value(method: str) -> None:
    x, t = _batch((4096, 10))
    loss = losses.CrossEntropyLoss()
    here = loss(x, t).item()
    with multiprocessing.get_context(method).Pool(1, torch.set_num_threads, (1,)) as pool:
        there = pool.apply_async(_value_in_worker, (loss, x, t)).get(timeout=120)
    assert there == pytest.approx(here, rel=1e-6)


def test_copies_and_pickles_compute_the_same() -> None:
    x, t = _batch((6, 5))
    loss = losses.CrossEntropyLoss(label_smoothing=0.1, weight=torch.rand(5))
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(_both(again, x, t), _both(loss, x, t))


@pytest.mark.slow
def test_a_compiled_model_and_loss_are_one_graph() -> None:
    torch._dynamo.reset()
    model, loss = nn.Linear(8, 5), losses.CrossEntropyLoss()
    x, t = torch.randn(6, 8), torch.arange(6) % 5
    step = torch.compile(lambda x, t: loss(model(x), t), backend="aot_eager", fullgraph=True)
    step(x, t).backward()
    found = model.weight.grad
    assert found is not None
    torch.testing.assert_close(found, torch.autograd.grad(F.cross_entropy(model(x), t), model.weight)[0])


def test_the_gradient_is_all_the_memory_that_a_step_takes() -> None:
    x, t = _batch((512, 400))
    x.requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        loss = losses.cross_entropy(x, t, backend="cpu")
    taken = sum(event.self_cpu_memory_usage for event in profile.key_averages() if event.self_cpu_memory_usage > 0)
    assert taken <= x.numel() * 4 + 2**20
    assert loss.requires_grad


def test_the_kernel_reads_rows_and_pixels_where_they_lie() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert rows.fits(x)
    assert rows.fits(x.to(memory_format=torch.channels_last))
    assert not rows.fits(x.transpose(2, 3))
    assert not rows.fits(torch.randn(4, 6)[:, ::2])


@pytest.mark.parametrize("classes", [48, 63, 64, 65, 127, 128, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_rest_of_a_row_is_computed_as_its_whole_vectors_are(classes: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows = 6
    logits = torch.randn(rows, classes).to(dtype)
    logits[1, -2] = -torch.inf
    logits[2, -1] = 80.0
    labels = torch.tensor([0, 1, classes - 1, classes - 1, 5, -100])
    soft, weight = torch.rand(rows, classes).softmax(1), torch.rand(classes)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2}[dtype]
    for target, smoothing, by_class in ((labels, 0.0, None), (labels, 0.1, weight), (soft, 0.0, weight)):
        ends = []
        for backend in ("torch", "cpu"):
            leaf = logits.clone().requires_grad_()
            value = losses.cross_entropy(
                leaf, target, weight=by_class, label_smoothing=smoothing, reduction="sum", backend=backend
            )
            value.backward()
            assert leaf.grad is not None
            ends.append((value.detach().double(), leaf.grad.double()))
        for reference, ours in zip(*ends, strict=True):
            torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)
