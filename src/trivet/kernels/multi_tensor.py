"""One pass over memory for all parameters: an elementwise optimizer's rule over a table of chunks.

A `Table` holds columns of tensors: parameters, then one column for each state. A step adds the gradients and the
per-step numbers. All tensors together are cut into chunks, and every thread takes an equal share of the chunks.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from types import CodeType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivet.kernels import cpu
from trivet.kernels.binding import Rule, on_host, parameters
from trivet.kernels.pointers import Likeness, addresses, numbers_of

__all__ = ["Table", "addresses", "advance", "cut", "fits", "multiply", "overlapping"]

CHUNK = 1 << 16  # elements: short enough to share evenly, long enough that its start costs nothing
TRIES = 16  # steps after which gradients that look different each time are no longer remembered
START = 64  # what starting a chunk costs, in elements

Execute = Callable[[torch.dtype, NDArray[np.float64]], None]

BODY = """
@kernel
def rows(chunks, pointers, scalars, begin, end):
    for row in range(begin, end):
        tensor, offset, size = chunks[row, 0], chunks[row, 1], chunks[row, 2]
        own = tensor if scalars.shape[1] > 1 else 0
{views}
{scalars}
        for i in range(size):
            {results} = {rule}({arguments})
{stores}


@threaded
def shares(chunks, pointers, scalars, bounds):
    for part in prange(bounds.size - 1):
        rows(chunks, pointers, scalars, bounds[part], bounds[part + 1])
"""


def fits(column: Sequence[Tensor]) -> bool:
    """Return whether these tensors (parameter, gradient, states) may be read and written as flat memory.

    They must lie on the CPU in a type that kernels know, with equal sizes and strides, and without holes or overlap
    of their own elements.
    """
    first = column[0]
    strides = first.stride()
    return all(
        t.dtype in cpu.STORAGE
        and t.device.type == "cpu"
        and t.layout == torch.strided
        and t.shape == first.shape
        and t.stride() == strides
        and not t.is_neg()
        for t in column
    ) and _dense(first)


def overlapping(owned: Sequence[Sequence[Tensor]]) -> set[int]:
    """Return which of these (a parameter and its states each) share memory: threads would write it at once."""
    spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes, k) for k, own in enumerate(owned) for t in own if t.numel())
    shared: set[int] = set()
    reach, last = 0, -1
    for begin, end, k in spans:
        if begin < reach:
            shared |= {k, last}
        if end > reach:
            reach, last = end, k
    return shared


def _dense(tensor: Tensor) -> bool:
    if tensor.is_contiguous():
        return True
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).is_contiguous()


class Table:
    """Tensors of one kind (type and device), ready for the kernel of one rule."""

    def __init__(self, rule: Rule, columns: Sequence[Sequence[Tensor]]) -> None:
        self.columns = [list(column) for column in columns]
        self.sizes = [tensor.numel() for tensor in columns[0]]
        self.addresses = np.array([addresses(column) for column in self.columns])
        self.memory = [tensor.untyped_storage() for column in self.columns for tensor in column]
        self._pointers = np.insert(self.addresses, 1, 0, axis=0)  # with a row for gradients
        self.dtypes = tuple(column[0].dtype for column in columns)
        self.flat = all(tensor.is_contiguous() for tensor in columns[0])
        self.rule = rule
        self.chunks = cut(self.sizes)
        self.elements = sum(self.sizes)
        self._bounds: dict[int, NDArray[np.int64]] = {}
        self._objects = np.concatenate([numbers_of(self.columns[0])] * 2)  # parameters, and room for gradients
        self._found = np.empty_like(self._objects)
        self._likeness: tuple[Likeness, torch.dtype] | None = None
        self._tries = TRIES

    def moved(self, *, states: bool = True) -> bool:
        """Return whether a tensor has got other memory since the table was made (`p.data = ...`, offloading).

        Without `states` only parameters are looked at: every tensor that is touched costs some 0.1 microseconds.
        """
        here = list(map(Tensor.numel, self.columns[0])) == self.sizes
        columns = self.columns if states else self.columns[:1]
        return not here or not all(map(np.array_equal, map(addresses, columns), self.addresses))

    def recognises(self, grads: Sequence[Tensor | None]) -> bool:
        """Return whether all is as in the last step but the gradients' addresses and numbers, and find the addresses.

        Parameters lie where they lay, and parameters and gradients look as they did (`Likeness`). A `run` that follows
        trusts this.
        """
        if self._likeness is None or not self._likeness[0].of((*self.columns[0], *grads)):
            return False
        count = len(grads)
        self._objects[count:] = numbers_of(grads)  # type: ignore[arg-type]
        Likeness.look_up(self._objects, self._found)
        self._pointers[1] = self._found[count:]
        return np.array_equal(self._found[:count], self.addresses[0])

    def run(
        self,
        grads: Sequence[Tensor],
        scalars: NDArray[np.float64],
        *,
        recognised: bool = False,
        execute: Execute | None = None,
    ) -> None:
        """Run the rule in place on all tensors.

        `scalars` has a row for each number of the rule and a last one for the gradient's sign, and a column per tensor
        or one for all of them. `recognised` says that `recognises` has just said so of the gradients. `execute` runs
        in place of the kernel, when all addresses are at hand.
        """
        if recognised:
            assert self._likeness is not None
            dtype = self._likeness[1]
        else:
            given, grads = grads, self._alike(grads)
            dtype = grads[0].dtype
            self._pointers[1] = addresses(grads)
            self._likeness = self._remember(given) if all(map(operator.is_, given, grads)) else None
        (execute or self._execute)(dtype, scalars)
        cpu.wrote(self.columns[0])

    def _execute(self, dtype: torch.dtype, scalars: NDArray[np.float64]) -> None:
        """Run the kernel; the gradients are of this type and their addresses are noted."""
        dtypes = (self.dtypes[0], dtype, *self.dtypes[1:])
        kernel = _kernel(self.rule, dtypes)
        pointers = self._pointers
        numbers = _numbers(self.rule, len(dtypes), scalars).astype(cpu.STORAGE[dtypes[0]].compute)
        workers = cpu.threads(self.elements)
        if workers == 1:
            cpu.call(kernel.rows, self.chunks, pointers, numbers, 0, len(self.chunks))
        else:
            cpu.call(kernel.shares, self.chunks, pointers, numbers, self._shares(workers), workers=workers)

    def _remember(self, grads: Sequence[Tensor]) -> tuple[Likeness, torch.dtype] | None:
        """Return how parameters and gradients look; not for ever, should they look different at every step."""
        self._tries -= 1
        return (Likeness((*self.columns[0], *grads)), grads[0].dtype) if self._tries >= 0 else None

    def _alike(self, grads: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the gradients laid out as their parameters, copies where they are not."""
        if (
            self.flat
            and all(map(Tensor.is_contiguous, grads))
            and len(set(map(Tensor.dtype.__get__, grads))) == 1  # type: ignore[attr-defined]
            and grads[0].dtype in cpu.STORAGE
            and list(map(Tensor.numel, grads)) == self.sizes
        ):
            return grads
        return [
            grad if grad.stride() == own.stride() and grad.dtype == own.dtype else torch.empty_like(own).copy_(grad)
            for own, grad in zip(self.columns[0], grads, strict=True)
        ]

    def _shares(self, workers: int) -> NDArray[np.int64]:
        """Return where each thread's share of the chunks begins, and the end."""
        if workers not in self._bounds:
            done = np.cumsum(self.chunks[:, 2] + START)
            inner = np.searchsorted(done, done[-1] * np.arange(1, workers) / workers)
            self._bounds[workers] = np.array([0, *inner, len(done)], dtype=np.int64)
        return self._bounds[workers]


def cut(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Cut tensors of these sizes into rows of (tensor, offset, size), in elements."""
    rows = [
        (tensor, offset, min(CHUNK, size - offset))
        for tensor, size in enumerate(sizes)
        for offset in range(0, size, CHUNK)
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def _numbers(rule: Rule, tensors: int, scalars: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rule's numbers, what it computes from them alone, and the sign, a row each, in double precision."""
    names = parameters(rule)[tensors:]
    known = dict(zip(names, scalars, strict=False))
    computed = [eval(expression, {"__builtins__": {}}, known) for expression in _expressions(rule, names)]
    return np.vstack([scalars[:-1], *computed, scalars[-1]])


@functools.cache
def _expressions(rule: Rule, names: tuple[str, ...]) -> list[CodeType]:
    return [compile(expression, rule.__qualname__, "eval") for expression in on_host(rule, names)]


def advance(steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Add 1 to the step count (float32, on the CPU) at each of these addresses and return them all, in one call."""
    counts = np.empty(steps.size)
    cpu.call(_counting().advance, steps, counts)
    return counts


def multiply(numbers: Sequence[Tensor], by: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply each number (float32, on the CPU) by its factor and return the products, in one call."""
    products = np.array(by, dtype=np.float64)
    cpu.call(_counting().multiply, np.fromiter(map(Tensor.data_ptr, numbers), np.int64, len(numbers)), products)
    return products


@functools.cache
def _counting():  # type: ignore[no-untyped-def]
    source = """
@kernel
def advance(pointers, counts):
    for k in range(counts.size):
        step = view_float32(pointers[k], 1)
        step[0] += np.float32(1.0)
        counts[k] = step[0]


@kernel
def multiply(pointers, products):
    for k in range(products.size):
        number = view_float32(pointers[k], 1)
        number[0] *= products[k]
        products[k] = number[0]
"""
    return cpu.module(source, "float32")


@functools.cache
def _kernel(rule: Rule, dtypes: tuple[torch.dtype, ...]):  # type: ignore[no-untyped-def]
    """Return the compiled module for a rule over columns of these types; the last scalar is the gradient's sign."""
    names = parameters(rule)
    storage = [cpu.STORAGE[dtype] for dtype in dtypes]
    numbers = names[len(dtypes) :]
    scalars = [*numbers, *on_host(rule, numbers)]
    written = [0, *range(2, len(dtypes))]  # all but the gradient
    arguments = [f"{s.load}(a{k}[i])" for k, s in enumerate(storage)]
    arguments[1] = f"sign * {arguments[1]}"
    lines = {
        "views": [
            f"a{k} = {s.view}(pointers[{k}, tensor] + offset * {dtype.itemsize}, size)"
            for k, (s, dtype) in enumerate(zip(storage, dtypes, strict=True))
        ],
        "scalars": [f"s{k} = scalars[{k}, own]" for k in range(len(scalars))]
        + [f"sign = scalars[{len(scalars)}, own]"],
        "stores": [f"    a{k}[i] = {storage[k].store}(r{k})" for k in written],
    }
    body = BODY.format(
        rule=rule.__name__,
        results=", ".join(f"r{k}" for k in written),
        arguments=", ".join(arguments + [f"s{k}" for k in range(len(scalars))]),
        **{key: "\n".join("        " + line for line in value) for key, value in lines.items()},
    )
    return cpu.compiled(rule, body, storage[0].compute, numbers)
