"""Losses on the pointwise kernel: equal to torch's operations in every mode, and at home in autograd."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivet import losses
from trivet.errors import BackendError, DataError, InputError
from trivet.kernels import buffers
from trivet.kernels import pointwise as kernel
from trivet.losses import pointwise as glue

LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": losses.mse_loss,
    "huber": losses.huber_loss,
    "l1": losses.l1_loss,
    "smooth_l1": partial(losses.smooth_l1_loss, beta=0.5),
    "log_cosh": losses.log_cosh_loss,
    "quantile": partial(losses.quantile_loss, quantile=0.9),
    "bce": losses.binary_cross_entropy_with_logits,
    "bce smoothed, weighted": partial(
        losses.binary_cross_entropy_with_logits, label_smoothing=0.1, pos_weight=torch.tensor([0.5, 2.0, 3.0])
    ),
    "focal": partial(losses.focal_loss, gamma=0.5),
    "asymmetric": losses.asymmetric_loss,
    "asymmetric, unclipped": partial(losses.asymmetric_loss, clip=0.0),
    "hinge": losses.hinge_loss,
    "squared hinge": partial(losses.hinge_loss, squared=True),
    "poisson": partial(losses.poisson_nll_loss, full=True),
    "poisson rate": partial(losses.poisson_nll_loss, log_input=False, eps=1e-3),
}
DIFFERENCES = ("mse", "huber", "l1", "smooth_l1", "log_cosh", "quantile")
MIXTURES = ("bce", "bce smoothed, weighted", "focal", "asymmetric")

every_loss = pytest.mark.parametrize("name", LOSSES)


def _batch(name: str, rows: int = 50, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    x, t = torch.randn(rows, 3, dtype=dtype), torch.rand(rows, 3, dtype=dtype)
    if name not in DIFFERENCES:
        t[::2] = t[::2].round()
    if name == "poisson rate":
        x = x.abs() + 0.1
    return x, 3 * t if name.startswith("poisson") else t


def _both(function: Callable[..., Tensor], x: Tensor, t: Tensor, **keywords: Any) -> tuple[Tensor, Tensor]:
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = function(leaf, t, **keywords)
    upstream = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).reshape(value.shape) if value.ndim else None
    return value.detach(), torch.autograd.grad(value, leaf, upstream)[0]


@every_loss
def test_kernel_equals_torchs_operations_in_every_mode(name: str) -> None:
    loss = LOSSES[name]
    x, t = _batch(name, rows=701)  # 2103 elements: two whole blocks and a part of one
    mask = torch.rand(701, 3) > 0.3
    rows, elements = torch.rand(701), torch.rand(701, 3)
    rows[::5] = 0
    modes: list[dict[str, Any]] = [{}, {"reduction": "none", "sample_weight": elements, "mask": mask}]
    if name in ("mse", "bce smoothed, weighted"):  # each mode is a kernel of its own: two losses try all of them
        weights = ({}, {"mask": mask}, {"sample_weight": rows}, {"sample_weight": elements, "mask": mask})
        modes = [{"reduction": how, **weight} for how in ("mean", "sum", "none") for weight in weights]
    for keywords in modes:
        got = _both(loss, x, t, backend="cpu", **keywords)
        expected = _both(loss, x.double(), t.double(), backend="torch", **keywords)
        # Both sides of a sum round in single precision: 2103 elements of relative error 2**-22 at most.
        torch.testing.assert_close(got[0].double(), expected[0], rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(got[1].double(), expected[1], rtol=2e-5, atol=1e-6)


@every_loss
def test_double_precision_is_kept(name: str) -> None:
    x, t = _batch(name, dtype=torch.float64)
    got, expected = (_both(LOSSES[name], x, t, backend=backend) for backend in ("cpu", "torch"))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["mse", "huber", "bce", "focal", "asymmetric"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_half_precision_is_rounded_once(name: str, dtype: torch.dtype, reduction: str) -> None:
    x, t = _batch(name)
    x, t = x.to(dtype), t.to(dtype)
    got, expected = (_both(LOSSES[name], x, t, backend=backend, reduction=reduction) for backend in ("cpu", "torch"))
    assert got[1].dtype == dtype
    # The plain form rounds once too; in single precision before that they may differ by some ulp.
    torch.testing.assert_close(got[0], expected[0], rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(got[1], expected[1], rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny)


def test_small_slopes_of_float16_survive_when_the_loss_is_scaled() -> None:
    x = torch.full((1 << 16,), 1e-3, dtype=torch.float16, requires_grad=True)
    (2.0**16 * losses.mse_loss(x, torch.zeros_like(x), backend="cpu")).backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 2e-3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric", "squared hinge"])
def test_logits_of_ten_thousand_and_infinity_give_no_nan(name: str) -> None:
    x = torch.tensor([-1e4, 1e4, -1e4, 1e4, -90.0, 90.0, -1.0, 1.0])
    t = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    got = _both(LOSSES[name], x, t, backend="cpu", reduction="none")
    expected = _both(LOSSES[name], x.double(), t.double(), backend="torch", reduction="none")
    torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-5, atol=1e-37)
    torch.testing.assert_close(got[1].double(), expected[1], rtol=1e-5, atol=1e-37)
    if name != "squared hinge":
        masked = torch.tensor([-torch.inf, torch.inf])
        value, gradient = _both(LOSSES[name], masked, torch.tensor([0.0, 1.0]), backend="cpu")
        assert value == 0
        assert not gradient.any()


def test_nan_in_a_value_that_counts_is_seen_and_elsewhere_it_is_not() -> None:
    x = torch.tensor([1.0, torch.nan, torch.inf])
    for name, loss in LOSSES.items():
        if "weighted" in name:
            continue
        for backend in ("cpu", "torch"):
            assert loss(x, torch.ones(3), backend=backend).isnan() or name == "hinge" or name == "squared hinge"
            weight = torch.tensor([2.0, 0.0, 0.0])
            value, gradient = _both(loss, x, torch.ones(3), sample_weight=weight, backend=backend)
            expected, slope = _both(loss, x[:1], torch.ones(1), backend="torch")
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(gradient, torch.tensor([slope.item(), 0.0, 0.0]))


def test_sums_of_many_elements_keep_their_digits_whatever_the_number_of_threads() -> None:
    x = torch.rand(3_000_001) + 0.5
    before = torch.get_num_threads()
    try:
        values = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            values.append(losses.mse_loss(x, torch.zeros_like(x), reduction="sum", backend="cpu").item())
    finally:
        torch.set_num_threads(before)
    assert values[0] == values[1] == values[2]
    exact = x.double().square().sum().item()
    assert abs(values[0] - exact) <= 1e-7 * exact  # the result itself is a float32


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    ],
    ids=["axes swapped", "channels last", "with holes", "reversed"],
)
def test_any_layout_gives_the_same(change: Callable[[Tensor], Tensor]) -> None:
    x, t, w = torch.randn(4, 3, 5, 7), torch.rand(4, 3, 5, 7).round(), torch.rand(4)
    positive = torch.rand(3, 1, 1)
    loss = partial(losses.binary_cross_entropy_with_logits, pos_weight=positive, backend="cpu")
    expected = _both(loss, x, t, sample_weight=w, mask=x > -1)
    assert not change(x).is_contiguous()
    for given, target in ((change(x), t), (x, change(t)), (change(x), change(t))):
        torch.testing.assert_close(_both(loss, given, target, sample_weight=w, mask=x > -1), expected)


def test_targets_of_other_types_are_taken() -> None:
    x = torch.randn(40, 3)
    t = torch.arange(120).reshape(40, 3) % 2
    expected = _both(losses.focal_loss, x, t.float())
    for other in (t, t.bool(), t.double(), t.to(torch.bfloat16), t.to(torch.uint8)):
        torch.testing.assert_close(_both(losses.focal_loss, x, other, backend="cpu"), expected)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (1025,), (33_000, 2)])
def test_any_number_of_elements(shape: tuple[int, ...]) -> None:
    x, t = torch.randn(shape), torch.randn(shape)
    for reduction in ("sum", "none"):
        got = _both(losses.huber_loss, x, t, backend="cpu", reduction=reduction)
        torch.testing.assert_close(got, _both(F.huber_loss, x, t, reduction=reduction))
    if not x.numel():
        assert losses.huber_loss(x, t, backend="cpu") == 0
        assert losses.huber_loss(x, t, backend="cpu", empty="nan").isnan()


@every_loss
def test_second_derivatives_equal_finite_differences(name: str) -> None:
    x, t = _batch(name, rows=4, dtype=torch.float64)
    x.requires_grad_()
    weighted = {"reduction": "none", "sample_weight": torch.tensor([1.0, 0.0, 2.0, 0.5])}
    for keywords in ({}, weighted) if name == "huber" else ({},):
        loss = partial(LOSSES[name], backend="cpu", **keywords)
        assert torch.autograd.gradcheck(loss, (x, t))
        assert torch.autograd.gradgradcheck(loss, (x, t))


@pytest.mark.parametrize("name", [*DIFFERENCES, *MIXTURES])
def test_targets_get_their_gradient_where_the_loss_has_one(name: str) -> None:
    x, t = _batch(name, rows=4, dtype=torch.float64)
    for given in (x.requires_grad_(), x.detach()):
        assert torch.autograd.gradcheck(LOSSES[name], (given, t.requires_grad_()))
        if name != "asymmetric":  # its logarithm of a shifted probability has a second derivative with a pole
            assert torch.autograd.gradgradcheck(LOSSES[name], (given, t))
    with pytest.raises(BackendError, match="wants a gradient"):
        LOSSES[name](x, t, backend="cpu")


def test_a_target_whose_gradient_nobody_computes_is_refused() -> None:
    with pytest.raises(InputError, match="detach"):
        losses.hinge_loss(torch.randn(3, requires_grad=True), torch.ones(3, requires_grad=True))


def test_transforms_take_the_plain_form() -> None:
    x, t = torch.randn(5, 4, dtype=torch.float64), torch.rand(5, 4, dtype=torch.float64)
    loss = losses.focal_loss
    each = torch.func.vmap(torch.func.grad(loss))(x, t)
    expected = torch.stack([_both(loss, row, other)[1] for row, other in zip(x, t, strict=True)])
    torch.testing.assert_close(each, expected)
    direction = torch.randn_like(x)
    _, along = torch.func.jvp(lambda x: loss(x, t), (x,), (direction,))
    torch.testing.assert_close(along, (_both(loss, x, t)[1] * direction).sum())
    hessian = torch.func.hessian(lambda x: losses.log_cosh_loss(x, t[0], reduction="sum"))(x[0])
    torch.testing.assert_close(hessian, torch.diag(1 - torch.tanh(x[0] - t[0]) ** 2))


def test_batched_upstream_gradients_are_taken() -> None:
    x, t = torch.randn(3, requires_grad=True), torch.zeros(3)
    values = losses.mse_loss(x, t, reduction="none", backend="cpu")
    (rows,) = torch.autograd.grad(values, x, torch.eye(3), is_grads_batched=True)
    torch.testing.assert_close(rows, torch.diag(2 * x.detach()))


def test_the_graph_can_be_walked_again() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        x, t = torch.randn(40_000).to(dtype).requires_grad_(), torch.zeros(40_000, dtype=dtype)
        for reduction in ("mean", "none"):
            value = losses.huber_loss(x, t, backend="cpu", reduction=reduction)
            first, second, third = (
                torch.autograd.grad(value, x, torch.full_like(value, 4.0), retain_graph=keep)[0]
                for keep in (True, True, False)
            )
            assert torch.equal(first, second)
            assert torch.equal(second, third)
            with pytest.raises(RuntimeError, match="second time"):
                torch.autograd.grad(value, x, torch.ones_like(value))


def test_a_gradient_that_was_handed_out_is_never_written_again() -> None:
    x = torch.randn(buffers.LARGE // 4, requires_grad=True)
    t = torch.zeros_like(x)
    first = torch.autograd.grad(losses.mse_loss(x, t, reduction="sum", backend="cpu"), x)[0]
    kept = first[:1000].clone()
    address = first.data_ptr()
    second = torch.autograd.grad(losses.mse_loss(x, 2 * x.detach(), reduction="sum", backend="cpu"), x)[0]
    assert second.data_ptr() != address
    assert torch.equal(first[:1000], kept)
    address = second.data_ptr()
    part = second[5:7]
    del second
    gc.collect()
    third = torch.autograd.grad(losses.mse_loss(x, t, backend="cpu"), x)[0]
    assert third.data_ptr() != address, "a view of the gradient is still held"
    address = third.data_ptr()
    del third, part
    assert torch.autograd.grad(losses.mse_loss(x, t, backend="cpu"), x)[0].data_ptr() == address


def test_gradients_accumulate_and_inputs_inside_a_model_get_theirs() -> None:
    torch.manual_seed(1)
    layer, again = nn.Linear(4, 2), nn.Linear(4, 2)
    again.load_state_dict(layer.state_dict())
    x, t = torch.randn(8, 4), torch.randn(8, 2)
    for _ in range(2):
        losses.mse_loss(layer(x), t, backend="cpu").backward()
        F.mse_loss(again(x), t).backward()
    torch.testing.assert_close(layer.weight.grad, again.weight.grad)


def test_without_gradients_none_is_computed() -> None:
    x = torch.randn(6, requires_grad=True)
    with torch.no_grad():
        assert not losses.mse_loss(x, torch.zeros(6), backend="cpu").requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(losses.mse_loss(x, torch.zeros(6)), x.square().mean())
    assert not losses.mse_loss(x.detach(), torch.zeros(6), backend="cpu").requires_grad


def test_modules_are_copied_and_pickled_with_their_backend() -> None:
    loss = losses.FocalLoss(gamma=1.5, backend="cpu")
    x, t = torch.randn(9), torch.ones(9)
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert again.backend == "cpu"
        assert torch.equal(again(x, t), loss(x, t))


def test_a_named_backend_works_or_raises(caplog: pytest.LogCaptureFixture) -> None:
    x, t = torch.randn(3), torch.zeros(3)
    with pytest.raises(InputError, match="Allowed: auto, cpu, torch, triton"):
        losses.mse_loss(x, t, backend="cuda")  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="backend='triton'"):
        losses.mse_loss(x, t, backend="triton")
    with pytest.raises(BackendError, match="transform"):
        torch.func.grad(lambda x: losses.mse_loss(x, t, backend="cpu"))(x)
    meta = torch.empty(3, device="meta")
    with pytest.raises(BackendError, match="on meta"):
        losses.mse_loss(meta, meta, backend="cpu")
    glue._SAID.clear()
    for _ in range(2):
        assert losses.mse_loss(meta, meta).device.type == "meta"
    assert sum("on meta" in record.message for record in caplog.records) == 1


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(DataError, match=r"squeeze"):
        losses.mse_loss(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(DataError, match=r"sample_weight \(2,\) for input \(3, 4\)"):
        losses.mse_loss(torch.zeros(3, 4), torch.zeros(3, 4), sample_weight=torch.ones(2))


def test_python_threads_may_share_the_kernel() -> None:
    x, t = torch.randn(100_000), torch.zeros(100_000)
    expected = _both(losses.focal_loss, x, t)[1]
    wrong: list[int] = []

    def work() -> None:
        for k in range(10):
            if not torch.equal(_both(losses.focal_loss, x, t, backend="cpu")[1], expected):
                wrong.append(k)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


class Losses(torch.utils.data.Dataset[Tensor]):
    """A set whose items are computed by a loss, inside a data worker."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        x = torch.full((40_000,), float(index + 1))
        return losses.mse_loss(x, torch.zeros_like(x))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_workers_compute_losses(method: str) -> None:
    losses.mse_loss(torch.ones(40_000), torch.zeros(40_000), backend="cpu")  # the parent's pool has its threads
    loader = torch.utils.data.DataLoader(Losses(), batch_size=2, num_workers=1, multiprocessing_context=method)
    assert torch.cat(list(loader)).tolist() == [1.0, 4.0, 9.0, 16.0]


@pytest.mark.slow
def test_model_and_loss_compile_into_one_graph() -> None:
    layer = nn.Linear(4, 3)
    x, t, w = torch.randn(6, 4), torch.rand(6, 3), torch.rand(6)

    def step(x: Tensor) -> Tensor:
        return losses.focal_loss(layer(x), t, sample_weight=w)

    torch._dynamo.reset()
    value = torch.compile(step, fullgraph=True, backend="aot_eager")(x)
    (compiled,) = torch.autograd.grad(value, layer.weight)
    expected = step(x)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(compiled, torch.autograd.grad(expected, layer.weight)[0])


@pytest.mark.slow
def test_a_process_that_used_kernels_ends_cleanly() -> None:
    code = (
        "import torch; from trivet import losses; x = torch.ones(9_000_000, requires_grad=True);"
        "losses.mse_loss(x, torch.zeros(9_000_000), backend='cpu').backward(); print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


def test_single_precision_kernels_are_vectorised_and_hold_no_double_arithmetic() -> None:
    from numba import njit, types

    from trivet.losses.binary import _focal

    block = kernel._kernel(_focal, torch.float32, torch.float32, (False,) * 3, False, False, True).block
    whole, double = (types.int64,), (types.float64,)
    signature = (types.Array(types.float32, 1, "C"), *whole * 4, *double * 4, *whole)
    anew = njit(fastmath={"contract", "nsz", "arcp", "reassoc"}, error_model="numpy")(
        block.py_func
    )  # not from the cache
    anew.compile(signature)
    code = anew.inspect_llvm(signature)
    assert "x float>" in code
    assert "x double>" not in code
