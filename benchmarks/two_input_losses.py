"""Losses of two inputs, value and gradients: the Gaussian likelihood of a mean and its variance, and Jensen-Shannon.

Run: `python -m benchmarks.two_input_losses [--quick] [--only TEXT]`. Budgets (2 cores, float32): the Gaussian never
slower than torch's own and at most 3 times the floor (20 bytes a target: read mean, variance and target, write two
gradients); Jensen-Shannon at least 5 times faster than its formula in torch; peak extra memory the gradients
and less than 1 MB. Nothing ran on a GPU.
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


def gradients(loss: Callable[..., Tensor], *leaves: Tensor) -> Callable[[], object]:
    """Return one step's worth of a loss: the value, and the gradient of every leaf."""
    return lambda: torch.autograd.grad(loss(*leaves), leaves)


def gaussian(targets: int) -> dict[str, Any]:
    both, target = torch.randn(targets, 2).requires_grad_(), torch.randn(targets)
    mean, var = torch.randn(targets).requires_grad_(), (torch.rand(targets) + 0.1).requires_grad_()
    return compare(
        {
            "trivet, mean and log variance": gradients(lambda x: losses.gaussian_nll_loss(x, target), both),
            "torch of the same": gradients(lambda x: F.gaussian_nll_loss(x[:, 0], target, x[:, 1].exp()), both),
            "trivet, mean and variance": gradients(lambda m, v: losses.gaussian_nll_loss(m, target, v), mean, var),
            "torch": gradients(lambda m, v: F.gaussian_nll_loss(m, target, v), mean, var),
        },
        title=f"Gaussian likelihood, {targets} targets", moved=20 * targets, elements=targets, baseline="torch",
        memory=True, seconds=8.0,
    )  # fmt: skip


def formula(z: Tensor, t: Tensor) -> Tensor:
    p, q = z.softmax(1), t.softmax(1)
    middle = 0.5 * (p + q)
    return 0.5 * ((q * (q / middle).log()).sum(1) + (p * (p / middle).log()).sum(1)).mean()


def jensen_shannon(rows: int, classes: int) -> dict[str, Any]:
    z, t, y = torch.randn(rows, classes).requires_grad_(), torch.randn(rows, classes), torch.randint(classes, (rows,))
    return compare(
        {
            "trivet": gradients(lambda z: losses.jensen_shannon_loss(z, t), z),
            "formula": gradients(lambda z: formula(z, t), z),
            "cross entropy": gradients(lambda z: losses.cross_entropy(z, y), z),
        },
        title=f"Jensen-Shannon, {rows}x{classes}", moved=12 * rows * classes, elements=rows * classes,
        baseline="formula", memory=True, seconds=8.0,
    )  # fmt: skip


def main() -> None:
    given = arguments(__doc__)
    torch.manual_seed(0)
    sizes = ((1 << 18,), ((256, 1000), (4000, 10))) if given.quick else ((1 << 23,), ((8192, 1000), (800_000, 10)))
    rows = [gaussian(n) for n in sizes[0] if given.only in "Gaussian"]
    rows += [jensen_shannon(*shape) for shape in sizes[1] if given.only in "Jensen-Shannon"]
    for case in rows:
        show(case)
    if not given.quick:
        store_rows("two_input_losses", rows)


if __name__ == "__main__":
    main()
