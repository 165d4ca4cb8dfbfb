"""Losses that compare element by element: one pass over memory gives the value and the finished gradient.

A rule takes an element of the input, one of the target and the loss's parameters, and returns the value and its
derivative. The kernel reads both tensors once, multiplies by the weight and by what the mean divides by, writes the
gradient in the input's type, and adds up the values: in single precision within a block, in double beyond.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from trivet.kernels import buffers, cpu, memory_order
from trivet.kernels.binding import Rule

__all__ = ["Parameter", "evaluate", "fits", "total_weight"]

Parameter = float | Tensor

BLOCK = 1024  # elements: a lane adds up 64 values at most in single precision, and a block's weights stay in cache
CHUNK = 64 * BLOCK  # elements: what threads share out; chunks are added in order, however many threads there are

BODY = """
summing = njit(fastmath={{"contract", "nsz", "arcp", "reassoc"}}, error_model="numpy", nogil=True, cache=True)


@kernel
def weigh(out, weight, mask, row_size, begin):
    size = out.size
    if weight == 0:
        out[:] = {compute}(1.0)
    else:
        done, row = 0, begin // row_size
        left = (row + 1) * row_size - begin
        while done < size:
            count = min(left, size - done)
            value = view_{compute}(weight + row * {bytes}, 1)[0]
            piece = out[done : done + count]
            for i in range(count):
                piece[i] = value
            row, done, left = row + 1, done + count, row_size
    if mask != 0:
        m = view_uint8(mask + begin, size)
        for i in range(size):
            out[i] *= m[i]


@summing
def block(weights, x, t, g, v, scale, {given}size):
{views}
    factor = {compute}(scale)
    total = {compute}(0.0)
    for i in range(size):
        value, slope = {rule}({arguments})
{body}
    return total


@kernel
def chunk(weights, x, t, weight, mask, row_size, g, v, scale, {taken}begin, end):
    total = 0.0
    for first in range(begin, end, {block}):
        size = min({block}, end - first)
{weigh}
        total += block({weights}, {addresses}, scale, {passed}size)
    return total


@kernel
def serial(x, t, weight, mask, row_size, g, v, upstream, out, scale, {taken}size):
    weights = np.empty({scratch}, np.{compute})
    factor = scale if upstream == 0 else scale * view_{compute}(upstream, 1)[0]
    total = 0.0
    for begin in range(0, size, {chunk}):
        end = min(begin + {chunk}, size)
        total += chunk(weights, x, t, weight, mask, row_size, g, v, factor, {taken}begin, end)
    if out != 0:
        view_{compute}(out, 1)[0] = total * scale
    return total


@threaded
def shared(x, t, weight, mask, row_size, g, v, upstream, out, scale, {taken}size, parts):
    factor = scale if upstream == 0 else scale * view_{compute}(upstream, 1)[0]
    chunks = (size + {chunk} - 1) // {chunk}
    sums = np.zeros(chunks)
    for part in prange(parts):
        weights = np.empty({scratch}, np.{compute})
        for k in range(part * chunks // parts, (part + 1) * chunks // parts):
            end = min((k + 1) * {chunk}, size)
            sums[k] = chunk(weights, x, t, weight, mask, row_size, g, v, factor, {taken}k * {chunk}, end)
    total = 0.0
    for k in range(chunks):
        total += sums[k]
    if out != 0:
        view_{compute}(out, 1)[0] = total * scale
    return total
"""


def fits(tensor: Tensor) -> bool:
    """Return whether the kernel reads this input: a plain tensor on the CPU in a type that kernels know."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.dtype in cpu.STORAGE
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not cpu.forked()
    )


def evaluate(
    rule: Rule,
    parameters: tuple[Parameter, ...],
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    scale: float = 1.0,
    upstream: Tensor | None = None,
    values: bool = False,
    gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Return the weighted sum of the values times `scale` (or the weighted values), and the gradient.

    Args:
        rule: `(x, t, *parameters) -> (value, slope)`.
        parameters: numbers, or tensors that broadcast against the input.
        input: anything that `fits`.
        target: of the same shape.
        weight: of the input's leading axes, one for each row; an element of weight 0 takes no part.
        mask: boolean, of the input's shape.
        scale: what sum and gradient are multiplied by, in double precision.
        upstream: a number in a tensor of no dimension, by which the gradient is multiplied too.
        values: return the weighted values, unscaled, in place of their sum.
        gradient: compute the gradient, of the input's type.
    """
    storage = cpu.STORAGE[input.dtype]
    wide = torch.float64 if storage.compute == "float64" else torch.float32
    x = memory_order.dense(input)
    given = cpu.STORAGE.get(target.dtype)
    t = memory_order.alike(target, x, target.dtype if given and given.compute == storage.compute else wide)
    arguments: list[Any] = []
    kept = [x, t]  # whatever the kernel reads must live until it returns
    for parameter in parameters:
        if isinstance(parameter, Tensor):
            column, period = memory_order.column(parameter.to(wide), x, BLOCK)
            kept.append(column)
            arguments += (column.data_ptr(), period)
        else:
            arguments.append(float(parameter))
    weight_address = mask_address = 0
    row_size = 1
    if weight is not None:
        rows, row_size = memory_order.rows(weight.to(wide), x)
        kept.append(rows)
        weight_address = rows.data_ptr()
    if mask is not None:
        kept.append(memory_order.alike(mask, x, torch.bool))
        mask_address = kept[-1].data_ptr()
    slopes = buffers.empty_like(x) if gradient else None
    result = torch.empty_like(x, dtype=wide) if values else torch.empty((), dtype=wide)
    columns = tuple(isinstance(parameter, Tensor) for parameter in parameters)
    kernel = _kernel(rule, x.dtype, t.dtype, columns, weight is not None or mask is not None, values, gradient)
    size = x.numel()
    workers = cpu.threads(size)
    call = (
        x.data_ptr(), t.data_ptr(), weight_address, mask_address, row_size,
        0 if slopes is None else slopes.data_ptr(),
        result.data_ptr() if values else 0,
        0 if upstream is None else upstream.data_ptr(),
        0 if values else result.data_ptr(),
        scale, *arguments, size,
    )  # fmt: skip
    if workers == 1:
        cpu.call(kernel.serial, *call)
    else:
        cpu.call(kernel.shared, *call, workers, workers=workers)
    return result, slopes


def total_weight(input: Tensor, weight: Tensor | None, mask: Tensor | None) -> float:
    """Return the sum of the weights of the elements that take part, in double precision."""
    if mask is None:
        rows = input.numel() if weight is None else math.prod(input.shape[weight.ndim :])
        return float(rows) if weight is None else rows * float(weight.sum(dtype=torch.float64))
    # The kernel that adds up values adds up weights, if each value is 1; of the tensors it reads the weights only.
    ones = input.detach()
    total, _ = evaluate(_one, (), ones, ones, weight, mask, gradient=False)
    return float(total)


def _one(x: float, t: float) -> tuple[float, float]:
    return 1, 0


@functools.cache
def _kernel(  # type: ignore[no-untyped-def]
    rule: Rule,
    input: torch.dtype,
    target: torch.dtype,
    columns: tuple[bool, ...],
    weighted: bool,
    values: bool,
    gradient: bool,
):
    """Return the compiled module of a rule; `columns` says which parameters are tensors."""
    x, t = cpu.STORAGE[input], cpu.STORAGE[target]
    compute, size = x.compute, (8 if x.compute == "float64" else 4)
    names = [f"c{k}" if column else f"n{k}" for k, column in enumerate(columns)]
    taken = [part for name in names for part in ([name, name + "_period"] if name[0] == "c" else [name])]
    passed = [f"{n} + first % {n}_period * {size}" if n[0] == "c" else n for n in names]
    views = [f"x = {x.view}(x, size)", f"t = {t.view}(t, size)"]
    views += [f"g = {x.view}(g, size)"] * gradient + [f"v = view_{compute}(v, size)"] * values
    views += [f"{n} = view_{compute}({n}, size)" if n[0] == "c" else f"{n} = {compute}({n})" for n in names]
    body = []
    if weighted:
        body += ["weight = weights[i]", f"counts = weight != {compute}(0.0)"]
        body += [f"value = weight * value if counts else {compute}(0.0)"]
        body += [f"slope = weight * slope if counts else {compute}(0.0)"] * gradient
    body += ["v[i] = value"] if values else ["total += value"]
    body += [f"g[i] = {x.store}(factor * slope)"] * gradient
    source = BODY.format(
        compute=compute, bytes=size, block=BLOCK, chunk=CHUNK, rule=rule.__name__,
        given="".join(f"{name}, " for name in names),
        taken="".join(f"{name}, " for name in taken),
        passed="".join(f"{address}, " for address in passed),
        addresses=", ".join(
            f"{name} + first * {bytes}"
            for name, bytes in (("x", input.itemsize), ("t", target.itemsize), ("g", input.itemsize), ("v", size))
        ),
        arguments=", ".join([f"{x.load}(x[i])", f"{t.load}(t[i])", *(n + "[i]" * (n[0] == "c") for n in names)]),
        scratch=BLOCK if weighted else 0,
        weights="weights[:size]" if weighted else "weights",
        weigh="        weigh(weights[:size], weight, mask, row_size, first)" if weighted else "",
        views="\n".join("    " + line for line in views),
        body="\n".join("        " + line for line in body),
    )  # fmt: skip
    return cpu.compiled(rule, source, compute)
