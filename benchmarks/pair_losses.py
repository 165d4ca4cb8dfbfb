"""What the losses over all pairs cost, beside their own matrix products and beside the eager formula.

Run: `python -m benchmarks.pair_losses [--quick] [--only TEXT]`. Budgets of the project for NT-Xent of 8192 embeddings
of 128 numbers, value and gradient, on two CPU cores: at most 1.4 times the time of its three matrix products, peak
extra memory below 100 MB. The products are the similarities and, for each of the two sides, the gradient; they are
timed alone, in the blocks that the loss walks in. Nothing ran on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import arguments, compare, show
from benchmarks.store import store_rows
from trivet import losses
from trivet.losses.streaming import row_blocks

WIDTH = 128
TAU = 0.5


def value_and_gradient(loss: Callable[..., Tensor], *leaves: Tensor) -> Callable[[], object]:
    """Return one training step's worth of a loss: forward, and the gradient of every leaf."""
    return lambda: torch.autograd.grad(loss(*leaves), leaves)


def eager_nt_xent(a: Tensor, b: Tensor) -> Tensor:
    """The formula with the whole matrix in memory, as it is usually written."""
    z = F.normalize(torch.cat([a, b]))
    scores = (z @ z.T / TAU).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(z)).roll(len(a)))


def products(rows: int) -> Callable[[], object]:
    """The three products in blocks, without anything between them."""
    x, columns = torch.randn(rows, WIDTH), torch.randn(rows, WIDTH)

    def run() -> object:
        by_row, by_column, scores = torch.empty_like(x), torch.zeros_like(columns), None
        for b in row_blocks(rows, rows):
            scores = x.new_empty(b.stop - b.start, rows) if scores is None else scores
            block = torch.mm(x[b], columns.T, out=scores[: b.stop - b.start])
            torch.mm(block, columns, out=by_row[b])
            by_column.addmm_(block.T, x[b])
        return by_row, by_column

    return run


def cases(quick: bool) -> dict[str, dict[str, Callable[[], object]]]:
    """Return every case: its title, and what is timed in it."""
    rows = 1024 if quick else 8192
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(rows // 2, WIDTH, generator=generator).requires_grad_() for _ in range(2))
    x = torch.randn(rows, WIDTH, generator=generator).requires_grad_()
    labels = torch.randint(rows // 8, (rows,), generator=generator)
    few = torch.randn(rows // 8, WIDTH, generator=generator).requires_grad_()

    def ours(a: Tensor, b: Tensor) -> Tensor:
        return losses.nt_xent_loss(a, b, temperature=TAU)

    return {
        f"NT-Xent, {rows} x {WIDTH}": {
            "its matrix products": products(rows),
            "trivet": value_and_gradient(ours, a, b),
            "eager": value_and_gradient(eager_nt_xent, a, b),
        },
        f"SupCon, {rows} x {WIDTH}": {
            "its matrix products": products(rows),
            "trivet": value_and_gradient(lambda x: losses.supervised_contrastive_loss(x, labels), x),
        },
        f"triplet (all), {rows // 8} x {WIDTH}": {
            "trivet": value_and_gradient(lambda x: losses.triplet_loss(x, labels[: rows // 8]), few),
        },
    }


def main() -> None:
    given = arguments(__doc__)
    rows: list[dict[str, Any]] = []
    for title, contenders in cases(given.quick).items():
        if given.only in title:
            baseline = next(iter(contenders)) if len(contenders) > 1 else None
            case = compare(contenders, title=title, rounds=11, baseline=baseline, memory=True)
            show(case)
            rows.append(case)
    if not given.quick:
        store_rows("pair_losses", rows)


if __name__ == "__main__":
    main()
