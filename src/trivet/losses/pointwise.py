"""Losses that compare element by element: one rule each, value and derivative written together.

One kernel call gives the value and the finished gradient, which the backward pass scales and hands out. The plain
form below does the same with torch's operations, on any device, under any transform, to any derivative.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from trivet.errors import BackendError, DataError, InputError, unknown_name
from trivet.kernels import cpu, gpu, pointwise_gpu, scaling
from trivet.kernels import pointwise as pointwise_cpu
from trivet.losses.contract import check_choice, reduce, widen

__all__ = ["Backend", "Evaluated", "Rule", "pointwise"]

log = logging.getLogger("trivet.losses")

Backend = Literal["auto", "torch", "cpu", "triton"]
Evaluated = tuple[Tensor, Tensor]
Rule = Callable[..., tuple[Any, Any]]
Parameters = tuple[float | Tensor, ...]
Targets = Literal["difference", "mixture", "constant"]


def pointwise(
    rule: Rule,
    input: Tensor,
    target: Tensor,
    parameters: Parameters,
    *,
    mask: Tensor | None,
    reduction: str,
    empty: str,
    sample_weight: Tensor | None,
    backend: str = "auto",
    targets: Targets = "constant",
) -> Tensor:
    """Evaluate a rule and reduce it; the mean is over the weights of the elements that take part.

    ``sample_weight`` has the leading axes of input: ``(batch,)`` up to its whole shape. ``targets`` says how the
    target gets a gradient: the loss is a function of ``x - t``, or a mixture of its forms at 0 and at 1, or neither.
    """
    if input.shape != target.shape:
        raise DataError(
            f"input {tuple(input.shape)} and target {tuple(target.shape)}; allowed are equal shapes, since "
            "broadcasting compares every prediction with every target; try input.squeeze(-1)"
        )
    if reduction not in ("mean", "sum", "none"):
        check_choice("reduction", reduction, ("mean", "sum", "none"))
    if empty not in ("zero", "nan"):
        check_choice("empty", empty, ("zero", "nan"))
    if sample_weight is not None:
        sample_weight = _rows(sample_weight, input)
    if backend == "torch" or not _executes(backend, input, target, sample_weight):
        return _plain(rule, input, target, parameters, mask, reduction, empty, sample_weight, targets)
    scale = _scale(input, sample_weight, mask, empty) if reduction == "mean" else 1.0
    values = reduction == "none"
    if input.requires_grad and torch.is_grad_enabled():
        result: Tensor = _Fused.apply(  # type: ignore[no-untyped-call]
            input, target, sample_weight, mask, rule, parameters, scale, values
        )
        return result
    return _evaluate(rule, parameters, input, target, sample_weight, mask, scale=scale, values=values, gradient=False)[
        0
    ]


def _evaluate(
    rule: Rule,
    parameters: Parameters,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    *,
    scale: float | Tensor,
    upstream: Tensor | None = None,
    values: bool = False,
    gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Evaluate by the kernel of the input's device: see `kernels/pointwise.py`."""
    if gpu.executes(input):
        return pointwise_gpu.evaluate(
            rule, parameters, input, target, weight, mask,
            scale=scale, upstream=upstream, values=values, gradient=gradient,
        )  # fmt: skip
    return pointwise_cpu.evaluate(
        rule, parameters, input, target, weight, mask,
        scale=float(scale), upstream=upstream, values=values, gradient=gradient,
    )  # fmt: skip


def _rows(weight: Tensor, input: Tensor) -> Tensor:
    """Return a weight for each index of the leading axes of input."""
    leading = input.shape[: weight.ndim]
    if weight.ndim > input.ndim or any(own not in (1, n) for own, n in zip(weight.shape, leading, strict=True)):
        raise DataError(
            f"sample_weight {tuple(weight.shape)} for input {tuple(input.shape)}; allowed is one weight for each "
            f"sample {tuple(input.shape[:1])}, or for each element"
        )
    return weight.expand(leading)


def _scale(input: Tensor, weight: Tensor | None, mask: Tensor | None, empty: str) -> float | Tensor:
    """Return what the mean multiplies the sum by, on the device where asking for it would wait for the device."""
    kernel = pointwise_gpu if gpu.executes(input) else pointwise_cpu
    total = input.numel() if weight is mask is None else kernel.total_weight(input, weight, mask)
    nothing = 1.0 if empty == "zero" else float("nan")
    if isinstance(total, Tensor):
        return torch.where(total == 0, nothing, 1 / total)
    return 1 / total if total else nothing


def _executes(backend: str, input: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    """Return whether the kernel computes this; a backend that was named and cannot raises."""
    on_gpu = not torch.compiler.is_compiling() and gpu.executes(input)
    fits = pointwise_gpu.fits if on_gpu else pointwise_cpu.fits
    here = backend == "auto" or backend == ("triton" if on_gpu else "cpu")
    obstacle = "" if here else f"it computes no {input.device.type} tensors here"
    if backend not in ("auto", "cpu", "triton"):
        raise unknown_name("backend", backend, ("auto", "torch", "cpu", "triton"))
    if torch.compiler.is_compiling():
        obstacle = "torch.compile traces torch's operations only"
    # The check of torch.autograd.Function.apply itself: inside vmap, grad and jvp a tensor has no memory of its own.
    elif torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        obstacle = "a transform such as torch.func.vmap is active"
    elif torch.is_grad_enabled() and (target.requires_grad or (weight is not None and weight.requires_grad)):
        obstacle = "the target or a weight wants a gradient too"
    elif cpu.forked():
        obstacle = "a forked process has no threads for it"
    elif not obstacle and not (fits(input) and type(target) in (Tensor, torch.nn.Parameter)):
        obstacle = f"it reads no {type(input).__name__} of {input.dtype} on {input.device}"
        if backend == "auto":
            _say_once(obstacle)
    if obstacle and backend != "auto":
        raise BackendError(f"backend={backend!r} cannot compute this loss: {obstacle}; use backend='auto'")
    return not obstacle


_SAID: set[str] = set()


def _say_once(obstacle: str) -> None:
    if obstacle not in _SAID:
        _SAID.add(obstacle)
        log.warning("a loss runs on torch's own operations instead of its kernel: %s", obstacle)


class _Fused(torch.autograd.Function):
    """The kernel's value. Its gradient is finished in the forward pass, scaled once, and handed out.

    A later backward pass through the same graph computes it again. In half precision the gradient waits for what comes
    from above, and is rounded once: the slope of one element of a mean may have no number in float16, where its
    product with a loss scale has.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        mask: Tensor | None,
        rule: Rule,
        parameters: Parameters,
        scale: float | Tensor,
        values: bool,
    ) -> Tensor:
        ready = input.dtype in (torch.float32, torch.float64)
        result, gradient = _evaluate(
            rule, parameters, input, target, weight, mask, scale=scale, values=values, gradient=ready
        )
        ctx.call = rule, parameters, scale, values
        ctx.gradients = [gradient] if ready else []
        ctx.save_for_backward(input, target, weight, mask)
        return result

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or _transformed(upstream):
            gradient = _derivative(ctx, upstream)
        else:
            try:
                gradient = _scaled(ctx.gradients.pop(), upstream)
            except IndexError:
                gradient = _again(ctx, upstream)
        return gradient, None, None, None, None, None, None, None


def _transformed(upstream: Tensor) -> bool:
    """Return whether what comes from above stands for many: torch.func.vmap's tensors, or is_grads_batched's."""
    batched: bool = torch._C._functorch.is_legacy_batchedtensor(upstream)
    return batched or torch._C._are_functorch_transforms_active()


def _scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    if upstream.ndim or gradient.numel() < 1 << 15:
        return gradient.mul_(upstream)
    if gpu.executes(gradient):
        return pointwise_gpu.scale(gradient, upstream)
    return scaling.scale_rows(gradient, upstream)


def _again(ctx: Any, upstream: Tensor) -> Tensor:
    """Compute the gradient with what comes from above multiplied in before it is rounded."""
    input, target, weight, mask = ctx.saved_tensors
    rule, parameters, scale, values = ctx.call
    factor: Tensor | None = upstream
    if values:
        if weight is not None:
            weight = weight.reshape(weight.shape + (1,) * (input.ndim - weight.ndim))
        weight, factor = upstream if weight is None else upstream * weight, None
    _, gradient = _evaluate(rule, parameters, input, target, weight, mask, scale=scale, upstream=factor)
    assert gradient is not None
    return gradient


def _derivative(ctx: Any, upstream: Tensor) -> Tensor:
    """Return the gradient as a differentiable function of input and upstream."""
    input, target, weight, mask = ctx.saved_tensors
    rule, parameters, scale, _ = ctx.call
    x, t, weight = _taking_part(input, target, weight, mask)
    slope = upstream * scale * rule(x, t, *parameters)[1]
    gradient: Tensor = slope if weight is None else slope * weight
    return gradient.to(input.dtype)


def _taking_part(
    input: Tensor, target: Tensor, weight: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return input and target, widened, and the weight of each element; an element of weight 0 is made harmless."""
    x = widen(input)
    t = target.to(x.dtype)
    if mask is not None:
        chosen = mask.bool().expand_as(x).to(x.dtype)
    if weight is None and mask is None:
        return x, t, None
    if weight is not None:
        missing = (1,) * (x.ndim - weight.ndim)
        rows = weight.to(x.dtype).reshape(weight.shape + missing).expand_as(x)
        chosen = rows if mask is None else rows * chosen
    # 1 against 1 has a finite value and slope under every rule; 0 times a NaN would be one.
    counts = chosen != 0
    return torch.where(counts, x, 1), torch.where(counts, t, 1), chosen


def _plain(
    rule: Rule,
    input: Tensor,
    target: Tensor,
    parameters: Parameters,
    mask: Tensor | None,
    reduction: str,
    empty: str,
    sample_weight: Tensor | None,
    targets: Targets,
) -> Tensor:
    if targets == "constant" and target.requires_grad and torch.is_grad_enabled():
        raise InputError("target requires a gradient, which this loss has for its input only; try target.detach()")
    x, t, weight = _taking_part(input, target, sample_weight, mask)
    function = _Pointwise if torch.compiler.is_compiling() else _PointwiseForward
    values, _ = function.apply(rule, parameters, x, t, targets)  # type: ignore[no-untyped-call]
    return reduce(values, weight, reduction=reduction, empty=empty)


class _Pointwise(torch.autograd.Function):
    """A rule's value; its derivative comes from the same evaluation."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        rule: Rule, parameters: Parameters, input: Tensor, target: Tensor, targets: Targets
    ) -> tuple[Tensor, Tensor]:
        return rule(input, target, *parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.rule, ctx.parameters, input, target, ctx.targets = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(input, target, output[1])
        ctx.save_for_forward(input, target, output[1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        input, target, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: that of the rule's own derivative
            slope = _slope(ctx, input, target)
        gradient = upstream[0] * slope
        other = upstream[0] * _target_slope(ctx, input, target, slope) if ctx.needs_input_grad[3] else None
        return None, None, gradient, other, None


def _slope(ctx: Any, input: Tensor, target: Tensor) -> Tensor:
    if ctx.targets == "mixture" and ctx.needs_input_grad[3]:
        # At a target of 0 or 1 the rule leaves the other form out, and its derivative by the target with it.
        yes, no = (ctx.rule(input, t, *ctx.parameters)[1] for t in (torch.ones_like(target), torch.zeros_like(target)))
        mixed: Tensor = no + target * (yes - no)
        return mixed
    slope: Tensor = ctx.rule(input, target, *ctx.parameters)[1]
    return slope


def _target_slope(ctx: Any, input: Tensor, target: Tensor, slope: Tensor) -> Tensor:
    if ctx.targets == "difference":
        return -slope
    yes, no = (
        _Pointwise.apply(ctx.rule, ctx.parameters, input, t, "constant")[0]  # type: ignore[no-untyped-call]
        for t in (torch.ones_like(target), torch.zeros_like(target))
    )
    difference: Tensor = yes - no
    return difference


class _PointwiseForward(_Pointwise):
    """Differentiates forward too; torch.compile takes no function that does."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, None]:
        input, target, slope = ctx.saved_tensors
        along = torch.zeros_like(slope) if tangents[2] is None else tangents[2] * slope
        if tangents[3] is not None and ctx.targets != "constant":
            along = along + tangents[3] * _target_slope(ctx, input, target, slope)
        return along, None
