"""Memory for gradients that are as large as a loss's input, used again from step to step.

From 32 MB on the C library asks the system for fresh pages at every allocation: of a pass over 32 MB that takes
0.5 ms, the page faults took 8. So the last such buffer is kept, and used again once nobody else holds it.
"""

from __future__ import annotations

import mmap
import sys
import threading

import torch
from torch import Tensor

__all__ = ["empty_like"]

LARGE = 1 << 25  # bytes: the largest threshold that glibc gives itself for fresh pages

_LOCK = threading.Lock()
_kept: list[mmap.mmap] = []


def empty_like(tensor: Tensor) -> Tensor:
    """Return memory for a tensor of this shape, type and order; `tensor` fills its own without holes."""
    size = tensor.numel() * tensor.itemsize
    if size < LARGE:
        return torch.empty_like(tensor)
    with _LOCK:
        flat = torch.frombuffer(_buffer(size), dtype=tensor.dtype, count=tensor.numel())
    return flat.as_strided(tensor.shape, tensor.stride())


def _buffer(size: int) -> mmap.mmap:
    """Return the kept buffer if it has this size and is free, else a new one, which is kept in its place."""
    # Held by the list and by getrefcount's own argument: no tensor has it.
    if _kept and len(_kept[0]) == size and sys.getrefcount(_kept[0]) == 2:
        return _kept[0]
    made = _fresh(size)
    _kept[:] = [made]
    return made


def _fresh(size: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    # Private: a forked child must not write into its parent's gradients, as it could through Python's default.
    made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        made.madvise(mmap.MADV_HUGEPAGE)
    return made
