"""Directions and distances whose gradients stay right at zero vectors and at duplicates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trivet.errors import DataError, unknown_name

__all__ = ["check_embeddings", "distance", "euclidean", "unit"]


def unit(x: Tensor) -> Tensor:
    """Return the rows scaled to length 1; a zero row stays zero and has zero gradient.

    The largest entry is divided out first, so that rows of 1e-30 or 1e30 have a direction in float32 too.

    >>> unit(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    peak = x.detach().abs().amax(-1, keepdim=True) if x.shape[-1] else x.new_zeros(*x.shape[:-1], 1)
    zero = peak == 0
    safe = torch.where(zero, 1, x / torch.where(zero, 1, peak))
    return torch.where(zero, 0, safe * safe.square().sum(-1, keepdim=True).rsqrt())


class _Euclidean(torch.autograd.Function):
    """torch.cdist with a second derivative, which its own backward lacks."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor]:
        x, y, d = ctx.saved_tensors
        if not torch.is_grad_enabled():
            by = upstream[0].contiguous()
            one_side = torch.ops.aten._cdist_backward
            return one_side(by, x, y, 2.0, d), one_side(by.T.contiguous(), y, x, 2.0, d.T.contiguous())
        apart = x[:, None] - y[None]
        squared = apart.square().sum(-1)
        inverse = torch.where(squared == 0, 0, torch.where(squared == 0, 1, squared).rsqrt())
        pull = (upstream[0] * inverse)[..., None] * apart
        return pull.sum(1), -pull.sum(0)


def euclidean(x: Tensor, y: Tensor) -> Tensor:
    """Return all distances ``(rows, columns)`` from differences, not from squared norms: no cancellation.

    The gradient at distance 0 is 0.
    """
    if torch.compiler.is_compiling():
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    d: Tensor = _Euclidean.apply(x, y)  # type: ignore[no-untyped-call]
    return d


def _squared(x: Tensor, y: Tensor) -> Tensor:
    return euclidean(x, y).square()


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return 1 - x @ y.T


_DISTANCES = {"euclidean": euclidean, "squared": _squared, "cosine": _cosine}


def distance(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function of that name: euclidean, squared (euclidean), or cosine (of unit rows)."""
    if name not in _DISTANCES:
        raise unknown_name("distance", name, _DISTANCES)
    return _DISTANCES[name]


def check_embeddings(input: Tensor, target: Tensor, *, labels: bool) -> None:
    """Raise DataError unless ``input`` is (batch, features) and ``target`` has a label, or a row, per row."""
    if input.ndim != 2:
        raise DataError(f"input has shape {tuple(input.shape)}; embeddings are (batch, features)")
    if labels and (target.shape != input.shape[:1] or target.is_floating_point()):
        raise DataError(
            f"target is {target.dtype} of shape {tuple(target.shape)}; allowed are integer labels of shape "
            f"({len(input)},), one for each embedding"
        )
    if not labels and (target.ndim != 2 or target.shape[1] != input.shape[1]):
        raise DataError(
            f"target has shape {tuple(target.shape)}; the other view is (batch, {input.shape[1]}), as input"
        )
