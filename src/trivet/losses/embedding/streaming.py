r"""Losses over all pairs in O(N D + block) memory: the similarity matrix is walked in blocks of rows, never
stored.

Two walks. :func:`stream_pairs` runs any rule written in plain torch on one block at a time and recomputes the
block in backward. :func:`stream_contrast` is the softmax family (NT-Xent, InfoNCE, SupCon, ArcFace, CosFace):
value and gradient in one walk, three matrix products in all. A second derivative is taken by the same
formula on the whole matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

__all__ = ["Pairs", "contrast", "row_blocks", "stream_contrast", "stream_pairs"]

BLOCK_ELEMENTS = 2**20  # 4 MB of float32: a block and its gradient stay in cache on the machines measured


def row_blocks(rows: int, columns: int, elements: int = BLOCK_ELEMENTS) -> Iterator[slice]:
    """Yield slices of rows: one block holds about ``elements`` numbers, and never fewer than 16 rows."""
    height = max(16, elements // max(columns, 1))
    for start in range(0, rows, height):
        yield slice(start, min(start + height, rows))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which pairs are positive and negative: labels of rows and columns, and where the rows lie in the
    columns.

    ``score(x, y)`` gives the block of similarities or distances; ``rule(score, positive, negative)`` gives
    each row's terms ``(rows, k)`` and how many pairs or triplets each term adds up.
    """

    rows: Tensor
    columns: Tensor
    offset: int
    score: Callable[[Tensor, Tensor], Tensor]
    rule: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

    def block(self, where: slice, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return terms and counts of the rows at ``where``; ``x`` holds those rows only."""
        same = self.rows[where, None] == self.columns[None, :]
        positive = same.clone()
        index = torch.arange(where.start, where.stop, device=x.device)
        positive[index - where.start, index + self.offset] = False  # nobody is its own positive
        return self.rule(self.score(x, y), positive, ~same)


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


class _PairStream(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        parts = [pairs.block(b, x[b], y) for b in row_blocks(len(x), len(y))]
        if not parts:
            return pairs.block(slice(0, 0), x, y)
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, y, ctx.pairs = inputs
        ctx.save_for_backward(x, y)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        pairs, grad = ctx.pairs, upstream[0]
        if torch.is_grad_enabled():  # a second derivative is wanted
            rows = slice(0, len(x))
            return (*gradient_again(lambda x, y: pairs.block(rows, x, y)[0], (x, y), grad), None)
        grad_x, grad_y = torch.zeros_like(x), torch.zeros_like(y)
        for b in row_blocks(len(x), len(y)):
            with torch.enable_grad():
                rows, columns = x[b].detach().requires_grad_(), y.detach().requires_grad_()
                terms, _ = pairs.block(b, rows, columns)
            by_row, by_column = torch.autograd.grad(terms, (rows, columns), grad[b])
            grad_x[b] = by_row
            grad_y += by_column
        return grad_x, grad_y, None


def stream_pairs(x: Tensor, y: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Return each row's terms and counts, both ``(rows, k)``, walking the pairs in blocks."""
    if torch.compiler.is_compiling():
        return pairs.block(slice(0, len(x)), x, y)
    terms, counts = _PairStream.apply(x, y, pairs)  # type: ignore[no-untyped-call]
    return terms, counts


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))  # torch's softplus is a straight line above 20


def contrast(x: Tensor, y: Tensor, positive: Tensor, excluded: Tensor, softplus: bool) -> Tensor:
    r"""Return each row's :math:`\ell_i` from the whole matrix: the definition that the walk is tested
    against.

    :math:`L_i = \log\sum_{k \ne e_i} e^{x_i \cdot y_k}`, then :math:`\log(1 + e^{L_i - a_i})` with
    ``softplus`` (the positive score :math:`a_i` joins the denominator), else :math:`L_i - a_i`.
    """
    logits = (x @ y.T).scatter(1, excluded[:, None], -torch.inf)
    gap = torch.logsumexp(logits, 1) - positive
    return _softplus(gap) if softplus else gap


def _walk(
    x: Tensor, y: Tensor, positive: Tensor, excluded: Tensor, softplus: bool, upstream: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return values, and where ``upstream`` weighs them the gradients of x, y and positive."""
    values = x.new_empty(len(x))
    grads = (torch.zeros_like(x), torch.zeros_like(y), torch.zeros_like(positive))
    scores = x.new_empty(len(x) and next(row_blocks(len(x), len(y))).stop, len(y))
    for b in row_blocks(len(x), len(y)):
        block = torch.mm(x[b], y.T, out=scores[: b.stop - b.start])
        block.scatter_(1, excluded[b, None], -torch.inf)
        peak = block.amax(1, keepdim=True).clamp_min_(torch.finfo(x.dtype).min)
        total = block.sub_(peak).exp_().sum(1, keepdim=True)
        gap = (total.log() + peak)[:, 0] - positive[b]
        values[b] = _softplus(gap) if softplus else gap
        if upstream is None:
            continue
        by_gap = upstream[b] * torch.sigmoid(gap) if softplus else upstream[b].clone()
        share = torch.where(total > 0, by_gap[:, None] / total, 0)
        torch.mm(block, y, out=grads[0][b]).mul_(share)
        grads[1].addmm_(block.T, x[b] * share)
        grads[2][b] = -by_gap
    return values, *grads


class _ContrastSum(torch.autograd.Function):
    """The weighted sum: its gradients, the further outputs, are ready when its value is."""

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        positive: Tensor,
        excluded: Tensor,
        softplus: bool,
        weight: Tensor,
        with_gradient: bool,
    ) -> tuple[Tensor, ...]:
        values, *grads = _walk(x, y, positive, excluded, softplus, weight if with_gradient else None)
        return (torch.where(weight != 0, values, 0) @ weight, *grads)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, y, positive, excluded, ctx.softplus, weight, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, y, positive, excluded, weight, *output[1:])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, y, positive, excluded, weight, *grads = ctx.saved_tensors
        if torch.is_grad_enabled():
            each = torch.where(weight != 0, weight * upstream[0], 0)
            rows = partial(contrast, excluded=excluded, softplus=ctx.softplus)
            return (*gradient_again(rows, (x, y, positive), each), None, None, None, None)
        return (*(grad * upstream[0] for grad in grads), None, None, None, None)


class _ContrastRows(torch.autograd.Function):
    """Each row's value; backward walks again, with the upstream gradient it then knows."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, positive: Tensor, excluded: Tensor, softplus: bool) -> Tensor:
        return _walk(x, y, positive, excluded, softplus, None)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, y, positive, excluded, ctx.softplus = inputs
        ctx.save_for_backward(x, y, positive, excluded)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, y, positive, excluded = ctx.saved_tensors
        if torch.is_grad_enabled():
            rows = partial(contrast, excluded=excluded, softplus=ctx.softplus)
            return (*gradient_again(rows, (x, y, positive), upstream[0]), None, None)
        _, *grads = _walk(x, y, positive, excluded, ctx.softplus, upstream[0])
        return (*grads, None, None)


def stream_contrast(
    x: Tensor,
    y: Tensor,
    positive: Tensor,
    excluded: Tensor,
    *,
    softplus: bool,
    weight: Tensor | None,
) -> Tensor:
    """Return :func:`contrast` walked in blocks: the rows' values, or with ``weight`` their weighted sum."""
    if torch.compiler.is_compiling():
        values = contrast(x, y, positive, excluded, softplus)
        return values if weight is None else torch.where(weight != 0, values, 0) @ weight
    if weight is None:
        rows: Tensor = _ContrastRows.apply(  # type: ignore[no-untyped-call]
            x, y, positive, excluded, softplus
        )
        return rows
    needed = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad or positive.requires_grad)
    total: Tensor = _ContrastSum.apply(  # type: ignore[no-untyped-call]
        x, y, positive, excluded, softplus, weight, needed
    )[0]
    return total
