r"""The divergence of student and teacher from their mixture: its kernels, and their specification in torch.

The gradient by a student's logit is :math:`(1 - \beta) p_k (r_k - \sum_j p_j r_j) / T` with
:math:`r = \log(p / m)`: what the mixture's own change contributes cancels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trivet.errors import BackendError
from trivet.kernels import divergence, divergence_gpu, gpu, rows, rows_gpu
from trivet.kernels.pages import fresh_like
from trivet.losses.contract import check_choice, reduce, widen
from trivet.losses.rowwise import executes, laid_out_as
from trivet.losses.streaming import gradient_again

__all__ = ["mixture_divergence"]


class _Call(NamedTuple):
    """All that decides the loss but the student's logits."""

    teacher: Tensor
    weight: Tensor | None
    beta: float
    temperature: float
    reduction: str
    empty: str


def mixture_divergence(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    *,
    beta: float,
    temperature: float,
    reduction: str,
    empty: str,
    backend: str,
) -> Tensor:
    """Return the reduced divergence of logits ``(batch, classes, ...)``; ``weight`` has leading axes of the rows."""
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    check_choice("empty", empty, ("zero", "nan"))
    shape = input.shape[:1] + input.shape[2:]
    if weight is not None:
        weight = weight.reshape(weight.shape + (1,) * (len(shape) - weight.ndim)).expand(shape)
    call = _Call(target, weight, beta, temperature, reduction, empty)
    if backend == "torch" or not _fits(backend, call, input):
        return _plain(call, input)
    if input.requires_grad and torch.is_grad_enabled():
        fused: Tensor = _Fused.apply(input, call)  # type: ignore[no-untyped-call]
        return fused
    return _evaluate(call, input, _laid_out(input))


def _fits(backend: str, call: _Call, input: Tensor) -> bool:
    if not executes(backend, input, (call.teacher, call.weight), triton=True):
        return False
    fits = 0 < call.beta < 1 and divergence.fits(input[:, :1], call.teacher[:, :1]) and input.shape[1] > 0
    if not fits and backend != "auto":
        raise BackendError(
            f"backend={backend!r} cannot compute this loss: it mixes, with beta inside (0, 1), logits that are both "
            "float64 or both narrower; use backend='auto'"
        )
    return fits


def _laid_out(input: Tensor) -> Tensor:
    """Return the logits as the kernel of their device reads them: rows in one piece, or as they lie on a GPU."""
    if gpu.executes(input):
        return input.detach() if rows.fits(input) else input.detach().contiguous()
    return _rows(input)


def _rows(matrix: Tensor) -> Tensor:
    """Return ``(rows, classes)`` in one piece; copied where classes do not lie together."""
    return matrix.detach().movedim(1, -1).reshape(-1, matrix.shape[1]).contiguous()


def _evaluate(
    call: _Call, input: Tensor, logits: Tensor, gradient: Tensor | None = None, upstream: Tensor | None = None
) -> Tensor:
    """Return the loss of ``logits``, the input's rows, and write their gradient where there is room for it."""
    compute = widen(input[:0]).dtype
    weight = None if call.weight is None else call.weight.detach().reshape(-1).to(compute)
    if gpu.executes(input):
        return _evaluate_on_gpu(call, logits, weight, gradient, upstream, compute)
    factor = 1.0
    if call.reduction == "mean":
        total = float(len(logits)) if weight is None else float(weight.sum())
        factor = 1 / total if total else (1.0 if call.empty == "zero" else float("nan"))
    if upstream is not None:  # one number for each row, or for all
        given = upstream.reshape(-1).expand(len(logits))
        weight = given if weight is None else weight * given
    values = torch.empty(len(logits), dtype=compute) if call.reduction == "none" else None
    total = divergence.run(
        logits, _rows(call.teacher), beta=call.beta, scale=1 / call.temperature,
        weight=None if weight is None else weight.contiguous(), factor=factor, gradient=gradient, values=values,
    )  # fmt: skip
    if values is not None:
        return values.view(input.shape[:1] + input.shape[2:])
    return torch.tensor(factor * total, dtype=compute)


def _evaluate_on_gpu(
    call: _Call,
    logits: Tensor,
    weight: Tensor | None,
    gradient: Tensor | None,
    upstream: Tensor | None,
    compute: torch.dtype,
) -> Tensor:
    """The same without waiting for the device: what the mean divides by stays there."""
    values, factor = None, rows_gpu.Factor(1.0)
    nothing = 1.0 if call.empty == "zero" else float("nan")
    if call.reduction == "none":
        values = torch.empty(logits.shape[:1] + logits.shape[2:], dtype=compute, device=logits.device)
    elif call.reduction == "mean" and weight is not None:
        parts = rows_gpu.weights(rows.Rows(logits, None, None, weight, 0), None)
        factor = rows_gpu.Factor(1.0, nothing, parts)
    elif call.reduction == "mean":
        count = logits.numel() // logits.shape[1]
        factor = rows_gpu.Factor(1 / count if count else nothing)
    total = divergence_gpu.run(
        logits, laid_out_as(logits, call.teacher), beta=call.beta, scale=1 / call.temperature, weight=weight,
        factor=factor, upstream=None if upstream is None else upstream.contiguous(), gradient=gradient, values=values,
    )  # fmt: skip
    return total if values is None else values


class _Fused(torch.autograd.Function):
    """The kernel's value. Its gradient is finished with it, but in half precision, where it is rounded once when what
    comes from above is known, and where each row has its own."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, call: _Call) -> Tensor:
        logits = _laid_out(input)
        ready = input.dtype.itemsize >= 4 and call.reduction != "none"
        gradient = fresh_like(logits) if ready else None
        ctx.call, ctx.gradients = call, [gradient] if ready else []
        ctx.save_for_backward(input)
        return _evaluate(call, input, logits, gradient)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None]:
        (input,) = ctx.saved_tensors
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return gradient_again(lambda z: _plain(ctx.call, z), (input,), upstream)[0], None
        if ctx.gradients:
            gradient = ctx.gradients.pop().mul_(upstream)
        else:
            logits = _laid_out(input)
            gradient = fresh_like(logits)
            _evaluate(ctx.call, input, logits, gradient, upstream)
        if gradient.shape == input.shape:
            return gradient, None
        return gradient.view(input.shape[:1] + input.shape[2:] + input.shape[1:2]).movedim(-1, 1), None


def _plain(call: _Call, input: Tensor) -> Tensor:
    student, teacher = _log_softmax(input, call.temperature), _log_softmax(call.teacher, call.temperature)
    beta = call.beta
    if beta == 0:
        values = _over(teacher, student)
    elif beta == 1:
        values = _over(student, teacher)
    else:
        mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
        mixture = mixture.clamp_min(torch.finfo(mixture.dtype).min)
        values = beta * _over(teacher, mixture) + (1 - beta) * _over(student, mixture)
    return reduce(values, call.weight, reduction=call.reduction, empty=call.empty)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Return log probabilities over axis 1; a masked logit of -inf gives the lowest finite number, not -inf.

    Probability 0 times that number is 0, where 0 times -inf is NaN.
    """
    wide = widen(logits) / temperature
    return torch.log_softmax(wide, 1).clamp_min(torch.finfo(wide.dtype).min)


def _over(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) over axis 1."""
    return (log_p.exp() * (log_p - log_q)).sum(1)
