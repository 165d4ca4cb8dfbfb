"""Losses that compare element by element, on the GPU: `kernels/pointwise.py` with a program for each block.

A program leaves the sum of its block; torch adds the sums in double precision, always in the same order. What the mean
divides by may be a number on the device, so that the host waits for nothing.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from trivet.kernels import gpu, memory_order
from trivet.kernels.binding import Rule
from trivet.kernels.pointwise import Parameter

__all__ = ["evaluate", "fits", "scale", "total_weight"]

BLOCK = 1024  # elements of a program: two 16-byte reads for each of its 128 threads and each tensor

BODY = """
@triton.jit
def evaluate(x, t, weight, mask, row_size, g, v, sums, upstream, numbers, {columns}size, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    i = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    z = tl.load(x + i, inside).to(tl.{compute})
    value, slope = {rule}(z, tl.load(t + i, inside).to(tl.{compute}){arguments})
    counts = inside
    if weight is not None:
        w = tl.load(weight + i // row_size, inside)
        counts = counts & (w != 0.0)
        value, slope = w * value, w * slope
    if mask is not None:
        counts = counts & (tl.load(mask + i, inside) != 0)
    if g is not None:
        factor = tl.load(numbers)
        if upstream is not None:
            factor = factor * tl.load(upstream)
        tl.store(g + i, tl.where(counts, factor * slope, 0.0).to(g.dtype.element_ty), inside)
    if v is not None:
        tl.store(v + i, tl.where(counts, value, 0.0), inside)
    if sums is not None:
        tl.store(sums + program, tl.sum(tl.where(counts, value, 0.0), 0))
"""

SCALE = """
@triton.jit
def scale(gradient, upstream, size, BLOCK: tl.constexpr):
    by = tl.load(upstream)
    if by != 1.0:
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = i < size
        scaled = tl.load(gradient + i, inside).to(upstream.dtype.element_ty) * by
        tl.store(gradient + i, scaled.to(gradient.dtype.element_ty), inside)
"""


def fits(tensor: Tensor) -> bool:
    """Return whether the kernel reads this input: a plain tensor on a GPU in a type that kernels know."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.dtype in gpu.COMPUTE
        and tensor.layout == torch.strided
        and gpu.executes(tensor)
    )


def evaluate(
    rule: Rule,
    parameters: tuple[Parameter, ...],
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    scale: float | Tensor = 1.0,
    upstream: Tensor | None = None,
    values: bool = False,
    gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Return the weighted sum of the values times `scale` (or the weighted values), and the gradient.

    Arguments as in `kernels/pointwise.py`; `scale` may also be a tensor of no dimension on the device.
    """
    compute = gpu.COMPUTE[input.dtype]
    wide = torch.float64 if compute == "float64" else torch.float32
    x = memory_order.dense(input)
    t = memory_order.alike(target, x, target.dtype if gpu.COMPUTE.get(target.dtype) == compute else wide)
    columns = tuple(isinstance(parameter, Tensor) for parameter in parameters)
    tables: list[Any] = []
    for parameter in parameters:
        if isinstance(parameter, Tensor):
            table, period = memory_order.column(parameter.to(wide), x, 0)
            tables += (table, None if period == x.numel() else period)
    rows, row_size = memory_order.rows(weight.to(wide), x) if weight is not None else (None, 1)
    if isinstance(scale, Tensor):
        scale = scale.to(wide)
        upstream = scale if upstream is None else scale * upstream
    numbers = gpu.numbers(
        x.device,
        wide,
        (1.0 if isinstance(scale, Tensor) else scale, *(p for p in parameters if isinstance(p, float | int))),
    )
    size = x.numel()
    programs = -(-size // BLOCK)
    slopes = torch.empty_like(x) if gradient else None
    result = torch.empty_like(x, dtype=wide) if values else None
    sums = None if values else torch.empty(programs, dtype=wide, device=x.device)
    if size:
        gpu.launch(
            _kernel(rule, columns, compute).evaluate, programs,
            x, t, rows, None if mask is None else memory_order.alike(mask, x, torch.bool).view(torch.uint8), row_size,
            slopes, result, sums, upstream, numbers, *tables, size, like=x, BLOCK=BLOCK,
        )  # fmt: skip
    if result is None:
        assert sums is not None
        result = (sums.sum(dtype=torch.float64) * scale).to(wide)
    return result, slopes


def total_weight(input: Tensor, weight: Tensor | None, mask: Tensor | None) -> float | Tensor:
    """Return the sum of the weights of the elements that take part, on the device unless the host knows it."""
    each = math.prod(input.shape[weight.ndim :]) if weight is not None else 1
    if mask is None:
        return float(input.numel()) if weight is None else each * weight.sum(dtype=torch.float64)
    if weight is None:
        return mask.expand(input.shape).sum(dtype=torch.float64)
    counts = mask.expand(input.shape).reshape(*weight.shape, -1).sum(-1, dtype=torch.float64)
    return (counts * weight).sum()


def scale(gradient: Tensor, upstream: Tensor) -> Tensor:
    """Multiply a gradient in place by a number on the device; where that is 1, nothing is read or written."""
    if gradient.numel():
        programs = -(-gradient.numel() // BLOCK)
        gpu.launch(
            _scale().scale, programs, gradient, upstream, gradient.numel(), like=gradient, BLOCK=BLOCK
        )  # fmt: skip
    return gradient


@functools.cache
def _scale() -> Any:
    return gpu.module(SCALE)


@functools.cache
def _kernel(rule: Rule, columns: tuple[bool, ...], compute: str) -> Any:
    """Return the module of a rule; `columns` says which of its parameters are tensors."""
    names = [f"c{k}" for k, column in enumerate(columns) if column]
    arguments, number = "", 0
    for k, column in enumerate(columns):
        number += not column
        place = f"c{k} + (i if c{k}_period is None else i % c{k}_period), inside"
        arguments += f", tl.load({place})" if column else f", tl.load(numbers + {number})"
    body = BODY.format(
        rule=rule.__name__,
        compute=compute,
        columns="".join(f"{name}, {name}_period, " for name in names),
        arguments=arguments,
    )
    return gpu.compiled(rule, body)
