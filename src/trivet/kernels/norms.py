"""The norm of many tensors together, in one pass over memory; on a GPU with what follows from it, unread."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trivet.kernels import cpu
from trivet.kernels.multi_tensor import cut

__all__ = ["fits", "norm", "status"]

# Squares are summed in double precision: a float32 of 1e20 has a square, and a million of them lose no digit.
BODY = """
summing = njit(fastmath={{"contract", "nsz", "arcp", "reassoc"}}, error_model="numpy", nogil=True, cache=True)


@summing
def some(chunks, pointers, begin, end):
    total = 0.0
    for row in range(begin, end):
        tensor, offset, size = chunks[row, 0], chunks[row, 1], chunks[row, 2]
        x = {view}(pointers[tensor] + offset * {itemsize}, size)
        part = 0.0
        for i in range(size):
            value = np.float64({load}(x[i]))
            part += value * value
        total += part
    return total


@threaded
def every(chunks, pointers, bounds, totals):
    for part in prange(bounds.size - 1):
        totals[part] = some(chunks, pointers, bounds[part], bounds[part + 1])
"""


def fits(tensors: Sequence[Tensor]) -> bool:
    """Return whether the kernel takes these: contiguous, on the CPU, of one type that it knows, in no forked child."""
    return (
        not cpu.forked()
        and not torch.compiler.is_compiling()
        and len({t.dtype for t in tensors}) == 1
        and tensors[0].dtype in cpu.STORAGE
        and all(t.device.type == "cpu" and t.layout == torch.strided and t.is_contiguous() for t in tensors)
        and not any(hasattr(t, "to_local") or t.is_neg() for t in tensors)
    )


def norm(tensors: Sequence[Tensor]) -> float:
    """Return the Euclidean norm of all elements of all tensors."""
    kernel = _kernel(tensors[0].dtype)
    chunks = _chunks(tuple(map(Tensor.numel, tensors)))
    pointers = np.fromiter(map(Tensor.data_ptr, tensors), np.int64, len(tensors))
    workers = cpu.threads(int(chunks[:, 2].sum()))
    if workers == 1:
        return float(np.sqrt(cpu.call(kernel.some, chunks, pointers, 0, len(chunks))))
    done = np.cumsum(chunks[:, 2])
    inner = np.searchsorted(done, done[-1] * np.arange(1, workers) / workers)
    totals = np.zeros(workers)
    bounds = np.array([0, *inner, len(chunks)], dtype=np.int64)
    cpu.call(kernel.every, chunks, pointers, bounds, totals, workers=workers)
    return float(np.sqrt(totals.sum()))


def status(tensors: Sequence[Tensor], max_norm: float | None, skip_nonfinite: bool) -> Tensor:
    """Return the norm of all tensors, what clips it, and 1 or 0 for whether a step is made with them.

    Three numbers in double precision where the tensors lie; nothing waits for them.
    """
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    # In double precision, which a pass bound by memory has time for: the square of a float32 of 1e20 is one, too.
    each = [norm for kind in kinds.values() for norm in torch._foreach_norm(kind, 2, torch.float64)]
    total = torch.linalg.vector_norm(torch.stack(each))
    factor = torch.ones_like(total) if max_norm is None else (max_norm / (total + 1e-6)).clamp_max(1.0)
    made = torch.isfinite(total) if skip_nonfinite else torch.ones_like(total)
    return torch.stack([total, factor, made.double()])


@functools.lru_cache(maxsize=16)
def _chunks(sizes: tuple[int, ...]):  # type: ignore[no-untyped-def]
    return cut(sizes)


@functools.cache
def _kernel(dtype: torch.dtype):  # type: ignore[no-untyped-def]
    storage = cpu.STORAGE[dtype]
    body = BODY.format(view=storage.view, load=storage.load, itemsize=dtype.itemsize)
    return cpu.module(body, storage.compute)
