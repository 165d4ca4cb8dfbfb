"""Losses of rows of logits: one kernel call gives value and finished gradient, where there is a kernel.

The kernel's form is in `kernels/rows.py`, the GPU's in `kernels/rows_gpu.py`. The plain form below is their
specification: it runs on any device, under any transform, and to any derivative.
"""

from __future__ import annotations

import logging
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from trivet.errors import BackendError, DataError, unknown_name
from trivet.kernels import cpu, gpu, pointwise_gpu, rows, rows_gpu, scaling
from trivet.kernels.pages import fresh_like
from trivet.kernels.rows import Form
from trivet.losses.contract import check_choice, check_labels, reduce, widen
from trivet.losses.streaming import gradient_again

__all__ = ["Backend", "Form", "executes", "laid_out_as", "log_odds_against", "row_loss"]

log = logging.getLogger("trivet.losses")

Backend = Literal["auto", "torch", "cpu", "triton"]
SMALL = 1 << 15  # numbers; below, torch's own multiplication starts sooner than a kernel


class _Call(NamedTuple):
    """All that decides a loss but its logits."""

    form: Form
    target: Tensor
    sample_weight: Tensor | None
    ignore_index: int
    by_weight: bool
    times: float
    reduction: str
    empty: str


def row_loss(
    form: Form,
    input: Tensor,
    target: Tensor,
    *,
    sample_weight: Tensor | None,
    reduction: str,
    empty: str,
    ignore_index: int = -100,
    by_weight: bool = True,
    times: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Return the loss of ``form`` for logits ``(batch, classes, ...)`` and labels ``(batch, ...)`` or a matrix.

    The mean divides by the sum of ``sample_weight`` over the rows that take part, times the class weights of their
    labels where ``by_weight``; ``times`` multiplies all.
    """
    _check(form, input, target)
    if reduction not in ("mean", "sum", "none") or empty not in ("zero", "nan"):
        check_choice("reduction", reduction, ("mean", "sum", "none"))
        check_choice("empty", empty, ("zero", "nan"))
    call = _Call(form, target, sample_weight, ignore_index, by_weight, times, reduction, empty)
    others = (target, sample_weight, form.weight, form.offset, form.handicap)
    if backend == "torch" or not executes(backend, input, others, triton=True):
        return _plain(call, input)
    if input.requires_grad and torch.is_grad_enabled():
        fused: Tensor = _Fused.apply(input, call)  # type: ignore[no-untyped-call]
        return fused
    return _evaluate(call, input, gradient=None)[0]


def _check(form: Form, input: Tensor, target: Tensor) -> None:
    shape = tuple(input.shape[:1] + input.shape[2:])
    if input.ndim < 2:
        raise DataError(f"input has shape {tuple(input.shape)}; allowed are logits (batch, classes, ...)")
    if form.matrix and target.shape != input.shape:
        raise DataError(f"target {tuple(target.shape)}; allowed is input's shape {tuple(input.shape)}")
    if not form.matrix and (target.shape != shape or target.is_floating_point()):
        raise DataError(
            f"input {tuple(input.shape)} and target {target.dtype} {tuple(target.shape)}; allowed are logits "
            f"(batch, classes, ...) and integer labels (batch, ...), here {shape}"
        )
    if form.weight is not None and form.weight.shape != input.shape[1:2]:
        raise DataError(f"class weights of shape {tuple(form.weight.shape)}; allowed is ({input.shape[1]},)")


def executes(backend: str, input: Tensor, others: tuple[Tensor | None, ...], *, triton: bool = False) -> bool:
    """Return whether a kernel (on a GPU: `triton`) computes this; a backend that was named and cannot raises."""
    if backend not in ("auto", "cpu", "triton"):
        raise unknown_name("backend", backend, ("auto", "torch", "cpu", "triton"))
    given = [input, *(other for other in others if other is not None)]
    obstacle, silent = "", True
    on_gpu = triton and not torch.compiler.is_compiling() and gpu.executes(input)
    if torch.compiler.is_compiling():
        obstacle = "torch.compile traces torch's operations only"
    elif backend not in ("auto", "triton" if on_gpu else "cpu"):
        obstacle = f"it computes no {input.device.type} tensors here"
    # The check of torch.autograd.Function.apply itself: inside vmap, grad and jvp a tensor has no memory of its own.
    elif torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        obstacle = "a transform such as torch.func.vmap is active"
    elif torch._C._len_torch_dispatch_stack():
        obstacle = "a dispatch mode watches torch's operations"
    elif torch.is_grad_enabled() and any(other.requires_grad for other in given[1:]):
        obstacle = "the target or the weights want a gradient too"
    elif cpu.forked():
        obstacle = "a forked process has no threads for it"
    elif input.dtype not in cpu.STORAGE or any(
        (t.device != input.device if on_gpu else t.device.type != "cpu")
        or t.layout != torch.strided
        or t.is_neg()
        or type(t) not in _PLAIN
        for t in given
    ):
        silent = False
        obstacle = f"it reads no {type(input).__name__} of {input.dtype} on {input.device}"
    if obstacle and backend != "auto":
        raise BackendError(f"backend={backend!r} cannot compute this loss: {obstacle}; use backend='auto'")
    if not silent and obstacle not in _SAID:
        _SAID.add(obstacle)
        log.warning("a loss runs on torch's own operations instead of its kernel: %s", obstacle)
    return not obstacle


_PLAIN = (Tensor, torch.nn.Parameter)
_SAID: set[str] = set()


class _Fused(torch.autograd.Function):
    """The kernel's value. Its gradient is finished in the forward pass, scaled once, and handed out.

    A later backward pass through the same graph computes it again. In half precision, and where every row has its own
    upstream gradient, the gradient waits for what comes from above: the share of one row of a mean may have no number
    in float16, where its product with a loss scale has.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, call: _Call) -> Tensor:
        ready = input.dtype.itemsize >= 4 and call.reduction != "none"
        logits = input if rows.fits(input) else input.contiguous()
        gradient = fresh_like(logits) if ready else None
        result, ctx.factor = _evaluate(call, logits, gradient=gradient)
        ctx.call = call
        ctx.gradients = [gradient] if ready else []
        ctx.save_for_backward(input)
        return result

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            (input,) = ctx.saved_tensors
            return gradient_again(lambda z: _plain(ctx.call, z), (input,), upstream)[0], None
        try:
            gradient = ctx.gradients.pop()
        except IndexError:
            return _again(ctx, upstream), None
        if gradient.numel() < SMALL:
            return gradient.mul_(upstream), None
        if gpu.executes(gradient):
            return pointwise_gpu.scale(gradient, upstream), None
        return scaling.scale_rows(gradient, upstream), None


def _again(ctx: Any, upstream: Tensor) -> Tensor:
    """Compute the gradient with what comes from above multiplied in before it is rounded."""
    (input,) = ctx.saved_tensors
    logits = input if rows.fits(input) else input.contiguous()
    gradient = fresh_like(logits)
    form, given = _prepared(ctx.call, logits)
    kernel = rows if isinstance(ctx.factor, float) else rows_gpu
    kernel.run(form, given, gradient=gradient, factor=ctx.factor, upstream=upstream.contiguous())
    return gradient


def _evaluate(call: _Call, input: Tensor, *, gradient: Tensor | None) -> tuple[Tensor, float | rows_gpu.Factor]:
    """Return the loss, and what the gradient of its sum of rows is multiplied by."""
    logits = input if rows.fits(input) else input.contiguous()
    form, given = _prepared(call, logits)
    compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if gpu.executes(logits):
        return _evaluate_on_gpu(call, form, given, gradient, compute)
    factor = call.times * (1.0 if call.reduction != "mean" else _inverse(_total(call, form, given), call.empty))
    if call.reduction != "mean":
        _total(call, form, given)
    if call.reduction == "none":
        values = torch.empty(logits.shape[:1] + logits.shape[2:], dtype=compute)
        rows.run(form, given, gradient=gradient, factor=factor, values=values)
        return values if call.times == 1 else values.mul_(call.times), factor
    return torch.tensor(factor * rows.run(form, given, gradient=gradient, factor=factor), dtype=compute), factor


def _evaluate_on_gpu(
    call: _Call, form: Form, given: rows.Rows, gradient: Tensor | None, compute: torch.dtype
) -> tuple[Tensor, rows_gpu.Factor]:
    """The same without waiting for the device: what the mean divides by stays there."""
    logits = given.logits
    factor = rows_gpu.Factor(call.times)
    if call.reduction == "mean":
        nothing = call.times * _inverse(0, call.empty)
        if given.labels is None and given.row_weight is None:
            factor = rows_gpu.Factor(call.times * _inverse(logits.numel() / logits.shape[1], call.empty), nothing)
        else:
            parts = rows_gpu.weights(given, form.weight if call.by_weight else None)
            factor = rows_gpu.Factor(call.times, nothing, parts)
    if call.reduction == "none":
        values = torch.empty(logits.shape[:1] + logits.shape[2:], dtype=compute, device=logits.device)
        rows_gpu.run(form, given, gradient=gradient, factor=factor, values=values)
        return values if call.times == 1 else values.mul_(call.times), factor
    return rows_gpu.run(form, given, gradient=gradient, factor=factor), factor


def _inverse(total: float, empty: str) -> float:
    if total:
        return 1 / total
    return 1.0 if empty == "zero" else float("nan")


def _total(call: _Call, form: Form, given: rows.Rows) -> float:
    """Return what the mean divides by; raise DataError for a label that is no class."""
    classes = given.logits.shape[1]
    if given.labels is None:
        return given.logits.numel() / classes if given.row_weight is None else float(given.row_weight.sum())
    found = rows.census(given, form.weight if call.by_weight else None)
    if found.highest >= 0 and (found.lowest < 0 or found.highest >= classes):
        check_labels(given.labels, classes, call.ignore_index)
    return found.weight


def _prepared(call: _Call, logits: Tensor) -> tuple[Form, rows.Rows]:
    """Return the call's tensors as the kernel reads them: contiguous, in the type that is computed in."""
    form, compute = call.form, torch.float64 if logits.dtype == torch.float64 else torch.float32

    def plain(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.detach().to(compute).contiguous()

    if form.weight is not None or form.offset is not None or form.handicap is not None:
        form = form._replace(weight=plain(form.weight), offset=plain(form.offset), handicap=plain(form.handicap))
    labels = matrix = None
    if form.matrix:
        matrix = laid_out_as(logits, call.target)
    else:
        labels = call.target.to(torch.int64).contiguous()
    weight = call.sample_weight
    if weight is not None:
        weight = plain(_expanded(weight, logits.shape[:1] + logits.shape[2:]))
    return form, rows.Rows(logits, labels, matrix, weight, call.ignore_index)


def laid_out_as(logits: Tensor, matrix: Tensor) -> Tensor:
    """Return a matrix laid out as the logits, in their type or the one that is computed in; copied if need be."""
    compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
    dtype = matrix.dtype if matrix.dtype in (logits.dtype, compute) else compute
    if matrix.dtype == dtype and matrix.stride() == logits.stride():
        return matrix.detach()
    return torch.empty_like(logits, dtype=dtype).copy_(matrix.detach())


def _expanded(weight: Tensor, shape: torch.Size) -> Tensor:
    leading = weight.shape + (1,) * (len(shape) - weight.ndim)
    if len(leading) != len(shape) or any(own not in (1, n) for own, n in zip(leading, shape, strict=True)):
        raise DataError(
            f"sample_weight {tuple(weight.shape)} for rows {tuple(shape)}; allowed is one weight for each sample "
            f"({shape[0]},), or for each row"
        )
    return weight.reshape(leading).expand(shape)


def _plain(call: _Call, input: Tensor) -> Tensor:
    form, classes = call.form, input.shape[1]
    shape = input.shape[:1] + input.shape[2:]
    z = _flat(widen(input))
    weight = None if form.weight is None else form.weight.to(z.dtype)
    if form.matrix:
        other = _flat(call.target.to(z.dtype))
        values = _divergence(form, z, other) if form.matrix == "teacher" else _expected(z, _shares(form, other, weight))
        kept = count = torch.ones_like(values)
    else:
        target = call.target.reshape(-1)
        if not torch._C._are_functorch_transforms_active():  # within vmap no label can be looked at
            check_labels(target, classes, call.ignore_index)
        kept = (target != call.ignore_index).to(z.dtype)
        label = torch.where(kept != 0, target, 0).long()
        values = form.rule(log_odds_against(_changed(form, z, label), label), *form.numbers)[0]
        own = torch.ones_like(values) if weight is None else weight[label]
        values = torch.where(own != 0, (1 - form.smoothing) * own * values, 0)
        if form.smoothing:
            values = values + _expected(z, _shares(form, torch.zeros_like(z), weight))
        count = kept * own if call.by_weight else kept
    if call.sample_weight is not None:
        rows_of = _expanded(call.sample_weight.to(z.dtype), shape).reshape(-1)
        kept, count = kept * rows_of, count * rows_of
    result = reduce(call.times * values, kept, reduction=call.reduction, empty=call.empty, normalizer=count.sum())
    return result.view(shape) if call.reduction == "none" else result


def _flat(matrix: Tensor) -> Tensor:
    return matrix.movedim(1, -1).reshape(-1, matrix.shape[1])


def _changed(form: Form, z: Tensor, label: Tensor) -> Tensor:
    if form.offset is not None:
        z = z + form.offset.to(z)
    if form.handicap is not None:
        z = z.scatter_add(1, label[:, None], -form.handicap.to(z)[label][:, None])
    return z if form.scale == 1 else form.scale * z


def _shares(form: Form, target: Tensor, weight: Tensor | None) -> Tensor:
    """Return what each class's -log p counts."""
    keep = 0.0 if not form.matrix else 1 - form.smoothing
    share = target * keep + form.smoothing / target.shape[1]
    return share if weight is None else share * weight


def _expected(logits: Tensor, share: Tensor) -> Tensor:
    """Return the sum over classes of share times -log p; a class masked by -inf has no share."""
    log_p = torch.log_softmax(logits, 1).clamp_min(torch.finfo(logits.dtype).min)
    return -(torch.where(logits == -torch.inf, 0, share) * log_p).sum(1)


def _divergence(form: Form, z: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || student); probability 0 times the lowest finite number is 0, times -inf it would be NaN."""
    low = torch.finfo(z.dtype).min
    log_q, log_p = (torch.log_softmax(form.scale * x, 1).clamp_min(low) for x in (teacher, z))
    return (log_q.exp() * (log_q - log_p)).sum(1)


def log_odds_against(logits: Tensor, label: Tensor) -> Tensor:
    r"""Return :math:`g = \log \sum_{k \ne y} e^{z_k} - z_y` of each row of ``logits`` (rows, classes).

    >>> log_odds_against(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([1]))  # log 2
    tensor([0.6931])
    """
    if torch.compiler.is_compiling():
        return _plain_odds(logits, label)
    odds: Tensor = _Odds.apply(logits, label)[0]  # type: ignore[no-untyped-call]
    return odds


def _plain_odds(logits: Tensor, label: Tensor) -> Tensor:
    own = logits.gather(1, label[:, None])
    others = logits.scatter(1, label[:, None], -torch.inf)
    return torch.logsumexp(others, 1) - own[:, 0]


class _Odds(torch.autograd.Function):
    """Log odds against the label, and their gradient: the softmax of the other classes, and -1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        index = label[:, None]
        share = logits.scatter(1, index, -torch.inf)
        peak = share.amax(1, keepdim=True).clamp_min_(torch.finfo(logits.dtype).min)
        total = share.sub_(peak).exp_().sum(1, keepdim=True)
        odds = (total.log() + peak - logits.gather(1, index))[:, 0]
        # Without another class in play (all masked) the odds are -inf and the others' gradient is 0, not 0/0.
        return odds, share.div_(torch.where(total == 0, 1, total)).scatter_(1, index, -1.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None]:
        logits, label, slope = ctx.saved_tensors
        if torch.is_grad_enabled():
            return gradient_again(lambda z: _plain_odds(z, label), (logits,), upstream[0])[0], None
        return slope * upstream[0][:, None], None
