"""Losses that compare element by element: one rule each, value and derivative written together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.losses.contract import reduce, widen

__all__ = ["pointwise"]

Rule = Callable[..., tuple[Tensor, Tensor]]


class _Pointwise(torch.autograd.Function):
    """A rule's value; its derivative comes from the same evaluation."""

    @staticmethod
    def forward(
        rule: Rule, parameters: tuple[float | Tensor, ...], input: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        return rule(input, target, *parameters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.rule, ctx.parameters, input, target = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(input, target, output[1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        input, target, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: that of the rule's own derivative
            slope = ctx.rule(input, target, *ctx.parameters)[1]
        return None, None, upstream[0] * slope, None


def pointwise(
    rule: Rule,
    input: Tensor,
    target: Tensor,
    parameters: tuple[float | Tensor, ...],
    *,
    mask: Tensor | None,
    reduction: str,
    empty: str,
    sample_weight: Tensor | None,
) -> Tensor:
    """Evaluate a rule and reduce it; the mean is over the weights of the elements that take part.

    ``sample_weight`` is ``(batch,)`` or of input's shape. The target has no gradient.
    """
    if input.shape != target.shape:
        raise DataError(
            f"input {tuple(input.shape)} and target {tuple(target.shape)}; allowed are equal shapes, since "
            "broadcasting compares every prediction with every target; try input.squeeze(-1)"
        )
    x = widen(input)
    values, _ = _Pointwise.apply(rule, parameters, x, target.detach().to(x.dtype))  # type: ignore[no-untyped-call]
    weight = None if mask is None else mask.expand_as(values).to(values.dtype)
    if sample_weight is not None:
        missing = (1,) * (values.ndim - sample_weight.ndim)
        expanded = sample_weight.to(values.dtype).reshape(sample_weight.shape + missing).expand_as(values)
        weight = expanded if weight is None else weight * expanded
    return reduce(values, weight, reduction=reduction, empty=empty)
