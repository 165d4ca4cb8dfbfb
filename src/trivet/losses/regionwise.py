"""Sums over regions, which all overlap losses are made of: by a kernel where there is one, else by torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from trivet.errors import DataError, InputError
from trivet.kernels import gpu, regions, regions_gpu, rows
from trivet.kernels.pages import fresh_like
from trivet.losses.contract import check_choice, check_labels, widen
from trivet.losses.rowwise import executes, laid_out_as
from trivet.losses.streaming import gradient_again

__all__ = ["Regions", "region_sums"]


@dataclass(frozen=True, eq=False)
class Regions:
    """Sums over pixels, each ``(images or 1, classes)``: shared, predicted, true, and pixels that count."""

    shared: Tensor
    predicted: Tensor
    true: Tensor
    pixels: Tensor


class _SumOverProcesses(torch.autograd.Function):
    """Every process has the same loss of the summed statistics; DDP's average of gradients is then exact."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        total: Tensor = given[0].clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        total: Tensor = _SumOverProcesses.apply(upstream[0])  # type: ignore[no-untyped-call]
        return total


class _Call(NamedTuple):
    """All that decides the sums but the logits."""

    target: Tensor
    mask: Tensor | None
    ignore_index: int
    sigmoid: bool
    squared: bool


def region_sums(
    input: Tensor,
    target: Tensor,
    *,
    multilabel: bool = False,
    pooling: str = "image",
    ignore_index: int = -100,
    mask: Tensor | None = None,
    gather: bool = False,
    squared: bool = False,
    backend: str = "auto",
) -> Regions:
    """Return the sums of shared, predicted and true mass; ``pooling="batch"`` adds up the batch.

    ``squared`` sums the squares of predicted and true probabilities.
    """
    check_choice("pooling", pooling, ("image", "batch"))
    if gather and pooling != "batch":
        raise InputError("gather=True with pooling='image'; sums over processes need pooling='batch'")
    if input.ndim < 2:
        raise DataError(f"input has shape {tuple(input.shape)}; allowed are logits (batch, classes, ...)")
    call = _Call(target, mask, ignore_index, multilabel or input.shape[1] == 1, squared)
    if backend == "torch" or not executes(backend, input, (target, mask), triton=True):
        sums = _plain(call, input)
    elif input.requires_grad and torch.is_grad_enabled():
        sums = _Sums.apply(input, call)  # type: ignore[no-untyped-call]
    else:
        sums = _evaluate(call, input)
    if pooling == "batch":
        sums = sums.sum(1, keepdim=True)
    if gather:
        sums = _SumOverProcesses.apply(sums)  # type: ignore[no-untyped-call]
    return Regions(*sums)


class _Sums(torch.autograd.Function):
    """The kernel's sums. Nothing is kept for their gradient: it computes the probabilities anew."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, call: _Call) -> Tensor:
        ctx.call = call
        ctx.save_for_backward(input)
        return _evaluate(call, input)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None]:
        (input,) = ctx.saved_tensors
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return gradient_again(lambda z: _plain(ctx.call, z), (input,), upstream)[0], None
        given = _map(ctx.call, input)
        kernel = regions_gpu if gpu.executes(input) else regions
        return kernel.gradient(given, upstream[:2].contiguous(), fresh_like(given.logits)), None


def _evaluate(call: _Call, input: Tensor) -> Tensor:
    given = _map(call, input)
    if gpu.executes(input):
        return regions_gpu.sums(given)
    if given.labels is not None and given.labels.numel():
        found = rows.census(rows.Rows(given.logits, given.labels, None, None, call.ignore_index), None)
        if found.highest >= 0 and (found.lowest < 0 or found.highest >= max(2, input.shape[1])):
            check_labels(given.labels, max(2, input.shape[1]), call.ignore_index)
    return regions.sums(given)


def _map(call: _Call, input: Tensor) -> regions.Map:
    """Return the call's tensors as the kernel reads them."""
    logits = input.detach() if rows.fits(input) else input.detach().contiguous()
    labels = shares = None
    target = _as_labels(input, call.target)
    if target is None:
        shares = laid_out_as(logits, call.target)
    else:
        labels = target.to(torch.int64).contiguous()
    mask = call.mask
    if mask is not None:
        mask = _by_position(mask, input).bool().expand((*input.shape[:1], 1, *input.shape[2:])).contiguous()
    return regions.Map(logits, labels, shares, mask, call.ignore_index, call.sigmoid, call.squared)


def _as_labels(input: Tensor, target: Tensor) -> Tensor | None:
    """Return labels ``(batch, ...)``, or None where the target holds shares of input's shape."""
    if target.shape == input.shape:
        if target.is_floating_point() or target.dtype == torch.bool:
            return None
        target = target[:, 0] if input.shape[1] == 1 else target
    if target.shape != input.shape[:1] + input.shape[2:]:
        raise DataError(
            f"input {tuple(input.shape)} and target {tuple(target.shape)}; allowed are (batch, classes, "
            "...) with labels (batch, ...) or probabilities of input's shape"
        )
    return target


def _by_position(mask: Tensor, input: Tensor) -> Tensor:
    return mask if mask.ndim == input.ndim else mask[:, None]


def _plain(call: _Call, input: Tensor) -> Tensor:
    logits = widen(input)
    p = logits.sigmoid() if call.sigmoid else logits.softmax(1)
    t, kept = _one_hot(input, call.target, call.ignore_index)
    t = t.to(p.dtype)
    if call.mask is not None:
        kept = kept & _by_position(call.mask, input).bool()
    p, t = torch.where(kept, p, 0), torch.where(kept, t, 0)
    predicted, true = (p * p, t * t) if call.squared else (p, t)
    parts = (p * t, predicted, true, kept.to(p.dtype).expand_as(p))
    return torch.stack([part.flatten(2).sum(2) if part.ndim > 2 else part for part in parts])


def _one_hot(input: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return the target as ``(batch, classes, ...)`` and where it takes part ``(batch, 1, ...)``."""
    labels = _as_labels(input, target)
    if labels is None:
        return target.to(torch.float32), torch.ones_like(target[:, :1], dtype=torch.bool)
    kept = labels != ignore_index
    check_labels(labels, max(2, input.shape[1]), ignore_index)
    if input.shape[1] == 1:
        return torch.where(kept, labels, 0)[:, None].to(torch.float32), kept[:, None]
    label = torch.where(kept, labels.long(), 0)
    classes = torch.arange(input.shape[1], device=label.device).view(-1, *(1,) * (label.ndim - 1))
    return (label[:, None] == classes).to(torch.float32), kept[:, None]
