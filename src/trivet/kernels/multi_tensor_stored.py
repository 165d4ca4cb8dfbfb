"""One pass over memory where states are narrower than the arithmetic, or where a step is measured.

As `multi_tensor`, in blocks of 256 elements: a block's results stay in the first cache until it is known how large they
are, and are then written in 8 bits. A measured step adds up squares of the gradient, the change and the parameter.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivet.kernels import cpu, multi_tensor
from trivet.kernels.binding import Rule, on_host, parameters

__all__ = ["BLOCK", "STREAMS", "Column", "Table", "fits", "measure"]

BLOCK = 256  # elements that share a scale
STREAMS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)  # odd factors: one for each state in turn
PARAMETER_STREAM = 0xD3A2646D

BODY = """
from trivet.kernels.rounding import *

summing = njit(fastmath={{"contract", "nsz", "arcp", "reassoc"}}, error_model="numpy", nogil=True)


@summing
def squares(values, size):
    total = 0.0
    for i in range(size):
        total += float64(values[i]) * float64(values[i])
    return total


@kernel
def rows(chunks, pointers, scalars, keys, sums, begin, end):
{buffers}
    for row in range(begin, end):
        tensor, offset, size = chunks[row, 0], chunks[row, 1], chunks[row, 2]
        own = tensor if scalars.shape[1] > 1 else 0
        key = u32(keys[tensor])
{scalars}
        for start in range(offset, offset + size, 256):
            count = min(256, offset + size - start)
            first = u32(start)
{views}
            for i in range(count):
                {random}
{before}
                {results} = {rule}({arguments})
{stores}
{after}


@threaded
def shares(chunks, pointers, scalars, keys, sums, bounds):
    for part in prange(bounds.size - 1):
        rows(chunks, pointers, scalars, keys, sums, bounds[part], bounds[part + 1])
"""


class Column(NamedTuple):
    """How a parameter or a state lies in memory: rounded to nearest, by chance, or in 8 bits with a scale a block."""

    kind: Literal["plain", "stochastic", "signed", "unsigned"]
    dtype: torch.dtype

    @property
    def scaled(self) -> bool:
        return self.kind in ("signed", "unsigned")


class Layout(NamedTuple):
    """The columns of a parameter and its states; `compensated` adds one for what rounding the parameter cut off."""

    columns: tuple[Column, ...]
    compensated: bool


def fits(own: Sequence[Tensor], layout: Layout) -> bool:
    """Return whether the kernel takes a parameter and its states (scales behind their codes, compensation last)."""
    tensors, whole = list(own), []
    for column in layout.columns:
        tensor = tensors.pop(0)
        if not column.scaled:
            whole.append(tensor)
            continue
        scale = tensors.pop(0)
        same = tensor.shape == own[0].shape and tensor.stride() == own[0].stride() and tensor.device.type == "cpu"
        if not (same and tensor.dtype == torch.uint8 and scale.dtype == torch.float32 and scale.is_contiguous()):
            return False
    return multi_tensor.fits([*whole, *tensors])


class Table(multi_tensor.Table):
    """Tensors of one kind whose states are narrow; `keys` (32 bits a tensor) decide what chance does in this step."""

    def __init__(self, rule: Rule, columns: Sequence[Sequence[Tensor]], layout: Layout) -> None:
        super().__init__(rule, columns)
        self.layout = layout
        self.keys = np.zeros(len(self.sizes), dtype=np.int64)

    def _execute(self, dtype: torch.dtype, scalars: NDArray[np.float64]) -> None:
        _run(self, self.layout, dtype, scalars, self.keys, np.empty((0, 3)))


def measure(
    table: multi_tensor.Table, grads: Sequence[Tensor], scalars: NDArray[np.float64], *, recognised: bool
) -> NDArray[np.float64]:
    """Run a table's rule and return the norms of gradient, change and parameter (before it): a row for each tensor."""
    if isinstance(table, Table):
        layout, keys = table.layout, table.keys
    else:
        layout = Layout(tuple(Column("plain", dtype) for dtype in table.dtypes), compensated=False)
        keys = np.zeros(len(table.sizes), dtype=np.int64)
    sums = np.zeros((len(table.chunks), 3))
    table.run(
        grads,
        scalars,
        recognised=recognised,
        execute=lambda dtype, numbers: _run(table, layout, dtype, numbers, keys, sums),
    )
    total = np.zeros((len(table.sizes), 3))
    np.add.at(total, table.chunks[:, 0], sums)
    return np.asarray(np.sqrt(total))


def _run(
    table: multi_tensor.Table,
    layout: Layout,
    dtype: torch.dtype,
    scalars: NDArray[np.float64],
    keys: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> None:
    tensors = 1 + len(layout.columns)
    kernel = _kernel(table.rule, layout, dtype, measured=bool(len(sums)))
    compute = cpu.STORAGE[layout.columns[0].dtype].compute
    numbers = multi_tensor._numbers(table.rule, tensors, scalars).astype(compute)
    workers = cpu.threads(table.elements)
    given = (table.chunks, table._pointers, numbers, keys, sums)
    if workers == 1:
        cpu.call(kernel.rows, *given, 0, len(table.chunks))
    else:
        cpu.call(kernel.shares, *given, table._shares(workers), workers=workers)


@functools.cache
def _depends() -> str:
    return Path(__file__).with_name("rounding.py").read_text(encoding="utf-8")


@functools.cache
def _kernel(rule: Rule, layout: Layout, grad: torch.dtype, *, measured: bool):  # type: ignore[no-untyped-def]
    tensors = 1 + len(layout.columns)
    numbers = parameters(rule)[tensors:]
    scalars = len(numbers) + len(on_host(rule, numbers))
    compute = cpu.STORAGE[layout.columns[0].dtype].compute
    body = _body(rule, layout, grad, scalars, compute, measured)
    return cpu.compiled(rule, body, compute, numbers, also=_depends())


def _body(rule: Rule, layout: Layout, grad: torch.dtype, scalars: int, compute: str, measured: bool) -> str:
    """Return the kernel's text; a{k} are columns as the rule counts them, c{k} scales, d what was cut off."""
    columns = [layout.columns[0], Column("plain", grad), *layout.columns[1:]]
    views, buffers, before, stores, after, encodes = [], [], [], [], [], []
    arguments, written, row = [], [], 0
    chance = False
    for k, column in enumerate(columns):
        storage = None if column.scaled else cpu.STORAGE[column.dtype]
        view, width = ("view_uint8", 1) if storage is None else (storage.view, column.dtype.itemsize)
        views.append(f"a{k} = {view}(pointers[{row}, tensor] + start * {width}, count)")
        row += 1
        value = f"decode_{column.kind}(a{k}[i]) * f{k}" if storage is None else f"{storage.load}(a{k}[i])"
        odd = PARAMETER_STREAM if k == 0 else STREAMS[(k - 2) % len(STREAMS)]
        if storage is None:
            buffers += [f"b{k} = np.empty(256, np.float32)"]
            views += [f"c{k} = view_float32(pointers[{row}, tensor] + (start >> 8) * 4, 1)", f"f{k} = c{k}[0]"]
            views += [f"m{k} = u32(0)"]
            row += 1
            stores += [f"b{k}[i] = r{k}", f"w{k} = magnitude(r{k})", f"m{k} = u32(w{k} if w{k} > m{k} else m{k})"]
            after += [f"f{k} = scale_of(m{k})", f"c{k}[0] = f{k}", f"f{k} = f32(1.0) / f{k}"]
            encodes += [f"a{k}[i] = encode_{column.kind}(b{k}[i] * f{k}, stream(random, u32({odd})))"]
        elif column.kind == "stochastic":
            chance = True
            stores += [f"a{k}[i] = narrow_by_chance(r{k}, stream(random, u32({odd})))"]
        elif k != 1:
            stores += [f"a{k}[i] = {storage.store}(r{k})"]
        arguments.append(f"sign * {value}" if k == 1 else value)
        written += [f"r{k}"] if k != 1 else []
    if layout.compensated:
        own = cpu.STORAGE[columns[0].dtype]
        views.append(f"d = {own.view}(pointers[{row}, tensor] + start * {columns[0].dtype.itemsize}, count)")
        arguments[0] = f"({arguments[0]} + {own.load}(d[i]))"
        stores.append(f"d[i] = {own.store}(r0 - {own.load}(a0[i]))")
    if measured:
        buffers += [f"{name} = np.empty(256, np.{compute})" for name in ("grads", "changes", "values")]
        before += [f"p = {arguments[0]}", f"grads[i] = {arguments[1].removeprefix('sign * ')}", "values[i] = p"]
        arguments[0] = "p"
        stores.append("changes[i] = r0 - p")
        sums = enumerate(("grads", "changes", "values"))
        after += [f"sums[row, {k}] += squares({name}, count)" for k, name in sums]
    if encodes:
        encodes.insert(0, "random = scrambled(u32(u32(first + u32(i)) ^ key))")
        after += ["for i in range(count):", *("    " + line for line in encodes)]
    numbers = [f"s{k} = scalars[{k}, own]" for k in range(scalars)] + [f"sign = scalars[{scalars}, own]"]

    def lines(some: list[str], depth: int) -> str:
        return "\n".join(" " * depth + line for line in some)

    return BODY.format(
        rule=rule.__name__,
        results=", ".join(written),
        arguments=", ".join(arguments + [f"s{k}" for k in range(scalars)]),
        random="random = scrambled(u32(u32(first + u32(i)) ^ key))" if chance else "",
        buffers=lines(buffers, 4),
        scalars=lines(numbers, 8),
        views=lines(views, 12),
        before=lines(before, 16),
        stores=lines(stores, 16),
        after=lines(after, 12),
    )
