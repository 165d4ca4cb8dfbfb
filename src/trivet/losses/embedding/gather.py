"""Negatives from every process, with gradients that equal a single process's.

Each process scores its own rows against everybody's. Under DDP, which averages gradients over W processes,
the whole is exact when a process returns W times its share of the global mean: ``all_reduce`` sums the
normaliser.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather_rows", "mean_over_processes", "rows_before"]


def _sizes(rows: int, device: torch.device) -> list[int]:
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([rows], device=device))
    return [int(size) for size in sizes]


class _Gather(torch.autograd.Function):
    """All processes' rows; the gradient of a row is the sum of what every process asks of it."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        local, sizes = given
        ctx.sizes = sizes
        padded = local.new_zeros(max(sizes), *local.shape[1:])  # gloo gathers equal shapes only
        padded[: len(local)] = local
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return _Scatter.apply(upstream[0], ctx.sizes), None  # type: ignore[no-untyped-call]


class _Scatter(torch.autograd.Function):
    """The adjoint of :class:`_Gather`: sum over processes, keep the own rows."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        full, sizes = given
        ctx.sizes = sizes
        total: Tensor = full.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = sum(sizes[: dist.get_rank()])
        return total[start : start + sizes[dist.get_rank()]]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(upstream[0], ctx.sizes), None  # type: ignore[no-untyped-call]


def rows_before(rows: int, device: torch.device) -> int:
    """Return how many rows the processes of lower rank hold."""
    return sum(_sizes(rows, device)[: dist.get_rank()])


def gather_rows(local: Tensor) -> Tensor:
    """Return ``(all rows, ...)`` from every process in the order of ranks; differentiable, twice too."""
    gathered: Tensor = _Gather.apply(local, _sizes(len(local), local.device))  # type: ignore[no-untyped-call]
    return gathered


def mean_over_processes(count: Tensor) -> Tensor:
    """Return the mean over processes of a normaliser: the sum over all rows, by the number of processes."""
    total = count.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
