"""Losses over a matrix that is too large to keep: walked in blocks of rows, value and gradient in one walk.

A :class:`Walk` knows its rows' values from the whole matrix (``rows``, plain torch: the definition) and from
blocks (``walk``, with gradients by hand). :func:`stream` makes it differentiable: once by the walk, twice by
the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Walk", "block_height", "gradient_again", "row_blocks", "stream"]

BLOCK_ELEMENTS = 2**20  # 4 MB of float32: larger blocks were no faster where measured (NT-Xent, 8192 x 128)


def block_height(columns: int, elements: int = BLOCK_ELEMENTS) -> int:
    """Return how many rows a block holds at most."""
    return max(16, elements // max(columns, 1))


def row_blocks(rows: int, columns: int, elements: int = BLOCK_ELEMENTS) -> Iterator[slice]:
    """Yield slices of rows: one block holds about ``elements`` numbers, and never fewer than 16 rows."""
    height = block_height(columns, elements)
    for start in range(0, rows, height):
        yield slice(start, min(start + height, rows))


class Walk(Protocol):
    """What :func:`stream` differentiates; the tensors that carry gradients are the operands."""

    def rows(self, *operands: Tensor) -> Tensor:
        """Return each row's value from the whole matrix, in operations that torch differentiates."""
        ...

    def walk(self, *operands: Tensor, upstream: Tensor | None) -> tuple[Tensor, ...]:
        """Return each row's value from blocks, and with ``upstream`` the gradient of every operand."""
        ...


def gradient_again(
    function: Callable[..., Tensor], operands: tuple[Tensor, ...], upstream: Tensor
) -> list[Tensor | None]:
    """Return the gradients of ``function`` in a graph of their own: for backward, when a second one is
    wanted.

    Each operand is taken as an alias: operands may be one tensor, or depend on each other, and no gradient
    may travel from one to another here.
    """
    aliases = [operand.view_as(operand) for operand in operands]
    wanted = [alias for alias in aliases if alias.requires_grad]
    grads = iter(torch.autograd.grad(function(*aliases), wanted, upstream, create_graph=True))
    return [next(grads) if alias.requires_grad else None for alias in aliases]


class _Sum(torch.autograd.Function):
    """The weighted sum of the rows: its gradients, the further outputs, are ready when its value is.

    The first backward scales them in place and gives them away, since a copy of an output layer's gradient would be
    the largest tensor of all; another backward through the same graph walks again.
    """

    @staticmethod
    def forward(plan: Walk, weight: Tensor, with_gradient: bool, *operands: Tensor) -> tuple[Tensor, ...]:
        values, *grads = plan.walk(*operands, upstream=weight if with_gradient else None)
        return (torch.where(weight != 0, values, 0) @ weight, *grads)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.plan, weight, _, *operands = inputs
        ctx.given_away = False
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(weight, *operands, *output[1:])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        weight, *saved = ctx.saved_tensors
        if torch.is_grad_enabled():
            operands = tuple(saved[: len(ctx.needs_input_grad) - 3])
            return None, None, None, *gradient_again(ctx.plan.rows, operands, weight * upstream[0])
        operands, grads = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        if ctx.given_away:
            grads = ctx.plan.walk(*operands, upstream=weight)[1:]
        ctx.given_away = True
        # detach() would share the version counter, and whoever changes the gradient would spoil the saved tensor.
        return None, None, None, *(grad.data.mul_(upstream[0]) for grad in grads)


class _Rows(torch.autograd.Function):
    """Each row's value; backward walks again, with the upstream gradient that it then knows."""

    @staticmethod
    def forward(plan: Walk, *operands: Tensor) -> Tensor:
        return plan.walk(*operands, upstream=None)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.plan, *operands = inputs
        ctx.save_for_backward(*operands)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return None, *gradient_again(ctx.plan.rows, ctx.saved_tensors, upstream[0])
        return None, *ctx.plan.walk(*ctx.saved_tensors, upstream=upstream[0])[1:]


def stream(plan: Walk, *operands: Tensor, weight: Tensor | None) -> Tensor:
    """Return the values of the rows, or with ``weight`` their weighted sum (those of weight 0 left out)."""
    if torch.compiler.is_compiling():
        values = plan.rows(*operands)
        return values if weight is None else torch.where(weight != 0, values, 0) @ weight
    if weight is None:
        rows: Tensor = _Rows.apply(plan, *operands)  # type: ignore[no-untyped-call]
        return rows
    needed = torch.is_grad_enabled() and any(operand.requires_grad for operand in operands)
    total: Tensor = _Sum.apply(plan, weight, needed, *operands)[0]  # type: ignore[no-untyped-call]
    return total
