"""Tensors laid out for kernels that walk through memory: as an input lies, element beside element."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["alike", "column", "dense", "rows"]


def dense(tensor: Tensor) -> Tensor:
    """Return the tensor if its elements fill its memory without holes, in any order of axes; else a copy."""
    if tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    filled = tensor.permute(order).is_contiguous() and not tensor.is_neg()
    return tensor if filled else tensor.contiguous().resolve_neg()


def alike(tensor: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor, broadcast, in this type and in the memory order of `like`: a copy only where it must be."""
    same = tensor.shape == like.shape and tensor.stride() == like.stride() and not tensor.is_neg()
    if same and tensor.dtype == dtype:
        return tensor
    return torch.empty_like(like, dtype=dtype).copy_(tensor)


def rows(weight: Tensor, like: Tensor) -> tuple[Tensor, int]:
    """Return weights of the leading axes of `like`, and how many elements in memory share each of them."""
    size = math.prod(like.shape[weight.ndim :])
    leading = like.is_contiguous() or (weight.ndim == 1 and like.stride(0) == size)
    if weight.shape == like.shape[: weight.ndim] and leading:
        return weight.contiguous().resolve_neg(), max(size, 1)
    expanded = weight.reshape(weight.shape + (1,) * (like.ndim - weight.ndim)).expand(like.shape)
    return alike(expanded, like, weight.dtype), 1


def column(parameter: Tensor, like: Tensor, block: int) -> tuple[Tensor, int]:
    """Return a parameter that broadcasts against `like` as a table that repeats, and its period.

    The table is long enough to be read for `block` elements on end from anywhere within the period.
    """
    while parameter.ndim and parameter.shape[0] == 1:
        parameter = parameter[0]
    if not like.is_contiguous():
        full = alike(parameter.expand(like.shape), like, parameter.dtype)
        return full, max(full.numel(), 1)
    shape = like.shape[like.ndim - parameter.ndim :]
    table = parameter.expand(shape).reshape(-1)
    period = max(table.numel(), 1)
    if period == like.numel():
        return table.contiguous(), period
    return table.repeat(1 + math.ceil(block / period))[: period + block].contiguous(), period
