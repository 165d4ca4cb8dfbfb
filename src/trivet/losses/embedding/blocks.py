r"""The two kinds of embedding loss over all pairs, in O(N D + block) memory.

:class:`Contrast` is the softmax family (NT-Xent, InfoNCE, SupCon, ArcFace, CosFace), three matrix products
for value and gradient. :class:`Pairs` is everything else: a rule in plain torch on one block at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trivet.losses.streaming import gradient_again, row_blocks

__all__ = ["Contrast", "Pairs", "stream_pairs"]


def _softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))  # torch's softplus is a straight line above 20


@dataclass(frozen=True, eq=False)
class Contrast:
    r"""Each row's positive score :math:`a_i` against the crowd of all columns but the excluded :math:`e_i`.

    :math:`L_i = \log\sum_{k \ne e_i} e^{x_i \cdot y_k}`, then :math:`\log(1 + e^{L_i - a_i})` with
    ``softplus`` (the positive joins the denominator), else :math:`L_i - a_i`. The operands are x, y and a.
    """

    excluded: Tensor
    softplus: bool

    def rows(self, *operands: Tensor) -> Tensor:
        """Return the values by the formula."""
        x, y, positive = operands
        logits = (x @ y.T).scatter(1, self.excluded[:, None], -torch.inf)
        gap = torch.logsumexp(logits, 1) - positive
        return _softplus(gap) if self.softplus else gap

    def walk(self, *operands: Tensor, upstream: Tensor | None) -> tuple[Tensor, ...]:
        """Return the values from blocks, and the gradients of x, y and the positive scores."""
        x, y, positive = operands
        values = x.new_empty(len(x))
        grads = (torch.zeros_like(x), torch.zeros_like(y), torch.zeros_like(positive))
        scores: Tensor | None = None
        for b in row_blocks(len(x), len(y)):
            scores = x.new_empty(b.stop - b.start, len(y)) if scores is None else scores
            block = torch.mm(x[b], y.T, out=scores[: b.stop - b.start])
            block.scatter_(1, self.excluded[b, None], -torch.inf)
            peak = block.amax(1, keepdim=True).clamp_min_(torch.finfo(x.dtype).min)
            total = block.sub_(peak).exp_().sum(1, keepdim=True)
            gap = (total.log() + peak)[:, 0] - positive[b]
            values[b] = _softplus(gap) if self.softplus else gap
            if upstream is None:
                continue
            by_gap = upstream[b] * torch.sigmoid(gap) if self.softplus else upstream[b]
            share = torch.where(total > 0, by_gap[:, None] / total, 0)
            torch.mm(block, y, out=grads[0][b]).mul_(share)
            grads[1].addmm_(block.T, x[b] * share)
            grads[2][b] = -by_gap
        return values, *grads


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
