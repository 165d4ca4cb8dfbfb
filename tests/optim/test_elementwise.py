"""What every elementwise optimizer shares: which parameters a kernel takes, and what a step must leave intact."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from trivet.errors import BackendError, InputError
from trivet.kernels import cpu
from trivet.optim import SGD, Adam, AdamW, ElementwiseOptimizer, Lion, base

PARTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (SGD, {"lr": 0.05}),
    "momentum": (SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    "nesterov": (SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "Adam": (Adam, {"lr": 0.05, "weight_decay": 0.01}),
    "AMSGrad": (Adam, {"lr": 0.05, "amsgrad": True}),
    "AdamW": (AdamW, {"lr": 0.05}),
    "Lion": (Lion, {"lr": 0.01, "weight_decay": 0.1}),
}
every = pytest.mark.parametrize("name", PARTS)


def _make(name: str, params: Any, **options: Any) -> ElementwiseOptimizer:
    part, defaults = PARTS[name]
    made: ElementwiseOptimizer = part(params, **{**defaults, **options})
    return made


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _walk(optimizer: torch.optim.Optimizer, steps: range = range(5)) -> None:
    """Take steps along gradients that depend on the step alone."""
    for step in steps:
        for group in optimizer.param_groups:
            for index, param in enumerate(group["params"]):
                param.grad = torch.empty_like(param).copy_(_random(*param.shape, seed=10 * step + index))
        optimizer.step()


def _both_ways(name: str, *values: Tensor, **options: Any) -> tuple[list[Parameter], list[Parameter]]:
    """The same walk by the kernel and by the reference."""
    walked = []
    for backend in ("cpu", "torch"):
        params = [Parameter(value.clone(memory_format=torch.preserve_format)) for value in values]
        _walk(_make(name, params, backend=backend, **options))
        walked.append(params)
    return walked[0], walked[1]


# ---- what a kernel takes


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_single_precision_and_rounded_to_nearest(name: str, dtype: torch.dtype) -> None:
    options = {} if PARTS[name][0] is SGD or name == "Lion" else {"eps": 1e-4}  # 1e-8 is 0 in float16's second moment
    kernel, reference = _both_ways(name, _random(1000).to(dtype), **options)
    # Both round the same number; where it lies between two halves, the last digit of single precision decides.
    differing = (kernel[0] != reference[0]).float().mean()
    assert differing < 0.01
    torch.testing.assert_close(kernel[0], reference[0], rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@every
def test_complex_parameters_are_pairs_of_reals(name: str) -> None:
    value = torch.complex(_random(40), _random(40, seed=1))
    w, pairs = Parameter(value), Parameter(torch.view_as_real(value).clone())
    a, b = _make(name, [w]), _make(name, [pairs])
    for step in range(5):
        grad = torch.complex(_random(40, seed=step), _random(40, seed=step + 50))
        w.grad = grad.conj() if step % 2 else grad
        pairs.grad = torch.view_as_real(w.grad.resolve_conj()).clone()
        a.step()
        b.step()
    assert torch.equal(torch.view_as_real(w.detach()), pairs.detach())


@every
def test_layouts_of_parameter_and_gradient_do_not_change_the_numbers(name: str) -> None:
    plain = [Parameter(_random(4, 3, 5, 6)), Parameter(_random(6, 5))]
    other = [
        Parameter(plain[0].detach().contiguous(memory_format=torch.channels_last)),
        Parameter(plain[1].detach().t().contiguous().t()),
    ]
    a, b = _make(name, plain, backend="cpu"), _make(name, other, backend="cpu")
    for step in range(4):
        for index, (p, q) in enumerate(zip(plain, other, strict=True)):
            p.grad = _random(*p.shape, seed=step + index)
            q.grad = p.grad if step % 2 else torch.empty_like(q).copy_(p.grad)  # as contiguous, then as the parameter
            if step == 3:
                p.grad = p.grad.transpose(0, 1).contiguous().transpose(0, 1)
        a.step()
        b.step()
    for p, q in zip(plain, other, strict=True):
        assert torch.equal(p, q)
        assert not q.is_contiguous()


@every
def test_gradients_that_are_expanded_or_lazily_negated_are_read_right(name: str) -> None:
    params = [Parameter(torch.ones(6)), Parameter(torch.ones(2, 3))]
    same = copy.deepcopy(params)
    a, b = _make(name, params, backend="cpu"), _make(name, same, backend="cpu")
    negated = torch._neg_view(torch.full((2, 3), 0.25))
    assert negated.is_neg()
    params[0].grad, params[1].grad = torch.tensor(0.5).expand(6), negated
    same[0].grad, same[1].grad = torch.full((6,), 0.5), torch.full((2, 3), -0.25)
    a.step()
    b.step()
    assert all(map(torch.equal, params, same))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32])
def test_gradients_of_another_type_are_read_by_their_value(dtype: torch.dtype) -> None:
    w, v = Parameter(torch.zeros(3)), Parameter(torch.zeros(3))
    for p in (w, v):
        p.grad_dtype = None
    w.grad, v.grad = torch.tensor([1, -2, 3], dtype=dtype), torch.tensor([2.0, 2.0, 2.0])
    SGD([w, v], lr=1.0, backend="cpu").step()
    assert w.tolist() == [-1.0, 2.0, -3.0]
    assert v.tolist() == [-2.0] * 3


def test_a_parameter_that_no_kernel_can_take_uses_the_reference_unless_a_backend_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    holes, expanded = torch.zeros(10)[::2], torch.zeros(1).expand(4)
    for tensor in (holes, expanded):
        w = tensor.requires_grad_()
        w.grad = torch.ones_like(w)
        for backend in ("cpu", "triton"):
            # Without Triton that it is absent comes first.
            with pytest.raises(BackendError, match="strides" if backend == "cpu" else "triton"):
                SGD([w], lr=1.0, backend=backend).step()  # type: ignore[arg-type]
    base._say.cache_clear()
    with caplog.at_level(logging.WARNING, logger="trivet.kernels"):
        for _ in range(2):
            SGD([holes], lr=1.0).step()
            plain = Parameter(torch.zeros(3))
            plain.grad = torch.ones(3)
            SGD([plain], lr=1.0).step()
    assert holes.tolist() == [-2.0] * 5
    (said,) = caplog.messages  # once, and nothing about what a kernel took
    assert "torch.float32 on cpu" in said
    with pytest.raises(BackendError, match="triton"):
        AdamW([plain], backend="triton").step()
    meta = Parameter(torch.zeros(3, device="meta"))
    meta.grad = torch.zeros(3, device="meta")
    with pytest.raises(BackendError, match="meta"):
        AdamW([meta], backend="cpu").step()


@every
def test_parameters_that_share_memory_are_updated_one_after_the_other(name: str) -> None:
    # In one table two threads would write the same numbers at once.
    memory = [_random(1 << 10), _random(1 << 10)]
    walked = []
    for backend, whole in zip(("auto", "torch"), memory, strict=True):
        whole.copy_(_random(1 << 10, seed=9))
        params = [Parameter(whole[:600]), Parameter(whole[500:]), Parameter(torch.ones(5))]
        optimizer = _make(name, params, backend=backend)
        _walk(optimizer)
        walked.append(params)
        if backend == "auto":
            (batches,) = optimizer._cached.values()
            assert batches.others == params[:2]
    assert all(map(torch.equal, walked[0][:2], walked[1][:2]))
    with pytest.raises(BackendError, match="shared"):
        _walk(_make(name, [Parameter(memory[0]), Parameter(memory[0])], backend="cpu"))


@every
def test_sparse_gradients_are_refused_before_anything_is_counted(name: str) -> None:
    table = torch.nn.Embedding(5, 3, sparse=True)
    table(torch.tensor([1, 1])).sum().backward()
    for backend in ("cpu", "torch"):
        optimizer = _make(name, table.parameters(), backend=backend)
        with pytest.raises(InputError, match="SparseAdam"):
            optimizer.step()
        assert optimizer.state[table.weight].get("step", 0) == 0


@every
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan"), 3e38, 0.0, 1e-42])
def test_extreme_gradients_do_to_the_kernel_what_they_do_to_the_reference(name: str, bad: float) -> None:
    results = []
    for backend in ("cpu", "torch"):
        w = Parameter(torch.linspace(-1, 1, 64))
        optimizer = _make(name, [w], backend=backend)
        for step in range(3):
            w.grad = _random(64, seed=step)
            w.grad[step] = bad
            optimizer.step()
        results.append([w.detach(), *(optimizer.state[w][state] for state in optimizer.states(optimizer.defaults))])
    for kernel, reference in zip(*results, strict=True):
        torch.testing.assert_close(kernel, reference, rtol=1e-5, atol=1e-6, equal_nan=True)


# ---- memory that moves, and autograd


@every
@pytest.mark.parametrize("second", [_random(8), torch.complex(_random(8), _random(8))], ids=["real", "complex"])
def test_a_parameter_whose_data_was_replaced_is_updated_where_it_lies_now(name: str, second: Tensor) -> None:
    params = [Parameter(_random(20)), Parameter(second.clone())]
    same = copy.deepcopy(params)
    a, b = _make(name, params, backend="cpu"), _make(name, same, backend="torch")
    for optimizer, own in ((a, params), (b, same)):
        _walk(optimizer, range(2))
        own[0].data = _random(20, seed=5)
        own[1].data = own[1].data.clone()
        _walk(optimizer, range(2, 4))
    for p, q in zip(params, same, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@every
def test_a_state_that_was_replaced_is_the_one_that_is_used(name: str) -> None:
    w = Parameter(torch.zeros(4))
    optimizer = _make(name, [w], backend="cpu")
    _walk(optimizer, range(2))
    for key, value in optimizer.state[w].items():
        optimizer.state[w][key] = torch.zeros_like(value)
    before = {key: value.clone() for key, value in optimizer.state[w].items()}
    _walk(optimizer, range(2, 3))
    for key, value in optimizer.state[w].items():
        assert not torch.equal(value, before[key])


@every
def test_a_state_whose_data_was_replaced_is_updated_where_it_lies_now(name: str) -> None:
    w, same = Parameter(torch.zeros(4)), Parameter(torch.zeros(4))
    a, b = _make(name, [w], backend="cpu"), _make(name, [same], backend="cpu")
    for optimizer in (a, b):
        _walk(optimizer, range(2))
    for value in a.state[w].values():  # as those do who move an optimizer to another device by hand
        value.data = value.data.clone()
    before = {key: value.clone() for key, value in a.state[w].items()}
    for optimizer in (a, b):
        _walk(optimizer, range(2, 4))
    assert torch.equal(w, same)
    assert all(not torch.equal(value, before[key]) for key, value in a.state[w].items())


@every
def test_reading_the_state_dict_or_a_copy_does_not_slow_the_steps_that_follow(name: str) -> None:
    optimizer = _make(name, [Parameter(torch.zeros(4))])
    _walk(optimizer, range(1))
    optimizer.state_dict()
    optimizer.load_state_dict(copy.deepcopy(optimizer).state_dict())
    assert not optimizer._seen
    assert isinstance(optimizer.state, dict)
    assert optimizer._seen


@every
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_backward_through_a_parameter_that_a_step_has_changed_is_an_error(name: str, backend: str) -> None:
    w = Parameter(torch.ones(3))
    loss = (w * w).sum()
    _walk(_make(name, [w], backend=backend), range(1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every
def test_the_number_of_threads_does_not_change_a_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in (1, 2):
        monkeypatch.setattr(cpu, "threads", lambda elements, threads=threads: threads)
        params = [Parameter(_random(70_000, seed=k)) for k in range(3)]
        _walk(_make(name, params, backend="cpu"), range(2))
        results.append(params)
    assert all(map(torch.equal, *results))


def test_threads_follow_torch_at_every_call() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert cpu.threads(1 << 20) == 1
        torch.set_num_threads(2)
        from numba import config

        assert cpu.threads(1 << 20) == min(2, config.NUMBA_NUM_THREADS)
        assert cpu.threads(100) == 1
    finally:
        torch.set_num_threads(before)


def test_several_python_threads_may_step_at_once() -> None:
    optimizers = [_make("AdamW", [Parameter(_random(1 << 16, seed=1))]) for _ in range(4)]
    failures: list[BaseException] = []

    def work(optimizer: ElementwiseOptimizer) -> None:
        try:
            _walk(optimizer, range(6))
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(optimizer,)) for optimizer in optimizers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not failures
    first, *others = (optimizer.param_groups[0]["params"][0] for optimizer in optimizers)
    assert all(torch.equal(first, other) for other in others)


# ---- torch's protocol


@every
def test_a_state_dict_resumes_bit_for_bit(name: str) -> None:
    whole, first = (_make(name, [Parameter(_random(33)), Parameter(_random(4, 2))]) for _ in range(2))
    _walk(whole, range(6))
    _walk(first, range(3))
    params = copy.deepcopy(first.param_groups[0]["params"])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed = _make(name, params)
    _walk(resumed, range(1))  # what it had before it loads must not matter
    for param, saved in zip(params, first.param_groups[0]["params"], strict=True):
        param.data.copy_(saved)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    _walk(resumed, range(3, 6))
    assert all(map(torch.equal, params, whole.param_groups[0]["params"]))


@pytest.mark.parametrize("name", [name for name in PARTS if name != "Lion"])
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
def test_state_dicts_go_from_and_to_torch(name: str, direction: str) -> None:
    part, options = PARTS[name]
    theirs = getattr(torch.optim, part.__name__)
    writer, reader = (theirs, part) if direction == "from torch" else (part, theirs)
    params = [Parameter(_random(12, dtype=torch.float64)), Parameter(_random(2, 3, dtype=torch.float64))]
    first = writer(params, **options)
    _walk(first, range(3))
    loaded = copy.deepcopy(params)
    second = reader(loaded, **options)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    _walk(first, range(3, 6))
    _walk(second, range(3, 6))
    for p, q in zip(params, loaded, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


@every
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_goes_on_by_itself(name: str, copier: Any) -> None:
    optimizer = _make(name, [Parameter(_random(20))], backend="cpu")
    _walk(optimizer, range(2))
    other = copier(optimizer)
    assert other.backend == "cpu"
    _walk(other, range(2, 5))
    before = optimizer.param_groups[0]["params"][0].clone()
    assert not torch.equal(before, other.param_groups[0]["params"][0])
    _walk(optimizer, range(2, 5))
    assert torch.equal(optimizer.param_groups[0]["params"][0], other.param_groups[0]["params"][0])


@every
def test_groups_have_their_own_numbers_and_may_be_added_later(name: str) -> None:
    first, second = Parameter(torch.ones(4)), Parameter(torch.ones(4))
    optimizer = _make(name, [first])
    _walk(optimizer, range(1))
    optimizer.add_param_group({"params": [second], "lr": 0.0})
    _walk(optimizer, range(1, 3))
    assert torch.equal(second, torch.ones(4))
    optimizer.param_groups[1]["lr"] = 0.1
    _walk(optimizer, range(3, 4))
    assert not torch.equal(second, torch.ones(4))


def test_a_group_that_is_refused_leaves_the_optimizer_as_it_was() -> None:
    optimizer = SGD([Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(InputError):
        optimizer.add_param_group({"params": [Parameter(torch.zeros(1))], "lr": -1.0})
    assert len(optimizer.param_groups) == 1


@every
def test_parameters_without_a_gradient_keep_value_and_count(name: str) -> None:
    seen, unseen = Parameter(torch.ones(3)), Parameter(torch.ones(3))
    optimizer = _make(name, [seen, unseen])
    seen.grad = torch.ones(3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()
    assert unseen.tolist() == [1.0] * 3
    assert not optimizer.state.get(unseen)
    assert optimizer.state[seen].get("step", 1) == 1
    value = seen.clone()
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    assert torch.equal(value, seen)


def test_a_closure_gives_the_loss_and_hooks_surround_the_step() -> None:
    w = Parameter(torch.tensor([2.0]))
    optimizer = SGD([w], lr=0.25)
    order: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: order.append("pre"))
    optimizer.register_step_post_hook(lambda *_: order.append("post"))

    def closure() -> Tensor:
        order.append("closure")
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4.0
    assert order == ["pre", "closure", "post"]
    assert w.tolist() == [1.0]


def test_a_scheduler_of_torch_drives_the_rate() -> None:
    w = Parameter(torch.zeros(1))
    optimizer = SGD([w], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(3):
        w.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
    assert w.item() == -1.75


def test_a_gradient_scaler_skips_the_step_that_overflowed() -> None:
    w = Parameter(torch.zeros(2))
    optimizer = AdamW([w], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for value in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale((w * value).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.state[w]["step"] == 2
    assert torch.isfinite(w).all()


@every
def test_a_compiled_training_step_uses_the_optimizer_as_it_is(name: str, recwarn: pytest.WarningsRecorder) -> None:
    model, same = (torch.nn.Linear(3, 2) for _ in range(2))
    same.load_state_dict(model.state_dict())
    x = _random(5, 3)
    walked = []
    torch._dynamo.reset()
    for net, compiler in ((model, lambda f: torch.compile(f, backend="eager")), (same, lambda f: f)):
        optimizer = _make(name, net.parameters())

        def train(net: Any = net, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()

        run = compiler(train)
        for _ in range(3):
            run()
        walked.append([*net.parameters()])
    assert all(map(torch.equal, *walked))
    assert not [w for w in recwarn if "trivet" in str(w.filename)]


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="auto, cpu, torch, triton"):
        SGD([Parameter(torch.zeros(1))], backend="cuda")  # type: ignore[arg-type]
