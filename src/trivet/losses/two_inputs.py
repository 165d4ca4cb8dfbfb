"""Losses of a mean and its uncertainty: two numbers for each target, one pass for the value and both gradients.

The kernel's form is in `kernels/pointwise_two.py`. The rule on tensors is its specification, and runs wherever the
kernel does not: on other devices, in half precision, under transforms, and where the target wants a gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from trivet.errors import BackendError
from trivet.kernels import pointwise_two
from trivet.kernels.binding import Rule
from trivet.losses.contract import check_choice, reduce, widen
from trivet.losses.rowwise import executes
from trivet.losses.streaming import gradient_again

__all__ = ["two_inputs"]


class _Call(NamedTuple):
    """All that decides a loss but its inputs."""

    rule: Rule
    numbers: tuple[float, ...]
    target: Tensor
    weight: Tensor | None
    reduction: str
    empty: str


def two_inputs(
    rule: Rule,
    numbers: tuple[float, ...],
    input: Tensor,
    second: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    *,
    reduction: str,
    empty: str,
    backend: str,
) -> Tensor:
    """Return the loss of a rule `(x, y, t, *numbers) -> (value, by x, by y)`, reduced over the elements' weights.

    ``second`` is None where ``input`` is ``(batch, 2, ...)`` and holds both.
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    check_choice("empty", empty, ("zero", "nan"))
    call = _Call(rule, numbers, target, weight, reduction, empty)
    if backend == "torch" or not _fits(backend, call, input, second):
        return _plain(call, input, second)
    differentiable = input.requires_grad or (second is not None and second.requires_grad)
    if differentiable and torch.is_grad_enabled():
        fused: Tensor = _Fused.apply(input, second, call)  # type: ignore[no-untyped-call]
        return fused
    return _evaluate(call, input, second, gradient=False)[0]


def _fits(backend: str, call: _Call, input: Tensor, second: Tensor | None) -> bool:
    if not executes(backend, input, (call.target, call.weight)):
        return False
    given = (input,) if second is None else (input, second)
    fits = pointwise_two.fits(*given) and (second is None or second.shape == input.shape)
    if not fits and backend != "auto":
        raise BackendError(
            f"backend={backend!r} cannot compute this loss: it reads float32 and float64, and a second input of the "
            "first one's type and shape; use backend='auto'"
        )
    return fits


def _plain(call: _Call, input: Tensor, second: Tensor | None) -> Tensor:
    x, y = widen(input).unbind(1) if second is None else (widen(input), widen(second))
    t, weight = call.target.to(x.dtype), call.weight
    y = y.expand_as(x)
    if weight is not None:  # 1 against 1, sure of it, has a finite value and slope; 0 times a NaN would be one
        counts = weight != 0
        x, y, t = (torch.where(counts, part, 1) for part in (x, y, t))
    return reduce(_values(call, x, y, t), weight, reduction=call.reduction, empty=call.empty)


def _values(call: _Call, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    # torch's maximum shares a gradient out at a tie and stops it below a bound; rules say what they want of both.
    values: Tensor = _Rule.apply(x, y, t, call.rule, call.numbers)[0]  # type: ignore[no-untyped-call]
    return values


class _Rule(torch.autograd.Function):
    """A rule's value; its derivatives come from the same evaluation, and may be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, y: Tensor, t: Tensor, rule: Rule, numbers: tuple[float, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        value, by_x, by_y = rule(x, y, t, *numbers)
        return value, by_x, by_y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, y, t, ctx.rule, ctx.numbers = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, y, t)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, y, t = ctx.saved_tensors
        _, by_x, by_y = ctx.rule(x, y, t, *ctx.numbers)
        gradient = upstream[0] * by_x
        # Both rules here are functions of x - t.
        return gradient, upstream[0] * by_y, -gradient if ctx.needs_input_grad[2] else None, None, None


def _evaluate(
    call: _Call, input: Tensor, second: Tensor | None, *, gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    target = call.target.to(input.dtype)
    weight = None if call.weight is None else call.weight.to(input.dtype)
    scale = 1.0
    if call.reduction == "mean":
        total = float(target.numel()) if weight is None else float(weight.sum())
        scale = 1 / total if total else (1.0 if call.empty == "zero" else float("nan"))
    return pointwise_two.evaluate(
        call.rule, call.numbers, input, second, target, weight,
        scale=scale, values=call.reduction == "none", gradient=gradient,
    )  # fmt: skip


class _Fused(torch.autograd.Function):
    """The kernel's value; both gradients are finished with it, scaled by the first backward pass and handed out."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, second: Tensor | None, call: _Call) -> Tensor:
        value, *gradients = _evaluate(call, input, second, gradient=True)
        ctx.call, ctx.gradients = call, [gradients]
        ctx.save_for_backward(input, second)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        input, second = ctx.saved_tensors
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            given = (input,) if second is None else (input, second)
            with torch.enable_grad():
                again = gradient_again(lambda x, y=None: _plain(ctx.call, x, y), given, upstream)
            return again[0], again[1] if len(again) > 1 else None, None
        # Another backward pass through the same graph computes both again.
        first, other = ctx.gradients.pop() if ctx.gradients else _evaluate(ctx.call, input, second, gradient=True)[1:]
        assert first is not None
        rows = upstream.unsqueeze(1) if ctx.call.reduction == "none" and second is None else upstream
        return first.mul_(rows), None if other is None else other.mul_(upstream), None
