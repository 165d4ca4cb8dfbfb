"""Sums over regions in one pass, and their gradient in a second: no tensor of probabilities is ever made.

For each image and class the first pass sums shared, predicted and true mass over the positions. A loss is a function
of these few numbers; what it sends back are two numbers for each image and class, from which the second pass computes
the gradient of every logit. It computes the probabilities anew: reading logits twice costs less than writing them once.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivet.kernels import cpu
from trivet.kernels.region_bodies import BODY
from trivet.kernels.row_bodies import DECAY

__all__ = ["Map", "gradient", "sums"]

PIECE = 1 << 14  # positions that are summed in one go; the same pieces for any number of threads
TILE = 1 << 13  # numbers in a tile: 32 KB of float32, two thirds of a first-level cache
LONGEST, VECTOR = 512, 16  # positions in a tile: at most, and a multiple of what one vector holds


class Map(NamedTuple):
    """What lies in memory: logits `(images, classes, ...)`, labels (int64) or shares like the logits, a mask (bool).

    `sigmoid`: classes do not exclude each other; `squared`: the squares of predicted and true shares are summed.
    """

    logits: Tensor
    labels: Tensor | None
    shares: Tensor | None
    mask: Tensor | None
    ignore_index: int
    sigmoid: bool
    squared: bool


def sums(given: Map) -> Tensor:
    """Return shared, predicted, true and counted positions, `(4, images, classes)`."""
    images, classes, inner = _sizes(given)
    pieces = max(1, -(-inner // PIECE))
    parts = np.zeros((images * pieces, 4, classes))
    _run(given, pieces, 0, 0, parts)
    compute = torch.float64 if given.logits.dtype == torch.float64 else torch.float32
    return torch.from_numpy(parts).view(images, pieces, 4, classes).sum(1).movedim(1, 0).to(compute)


def gradient(given: Map, upstream: Tensor, room: Tensor) -> Tensor:
    """Write the logits' gradient into `room`, laid out as they are; `upstream` is that of shared and of predicted.

    Its shape is `(2, images, classes)`, in the type that is computed in.
    """
    _run(given, max(1, -(-_sizes(given)[2] // PIECE)), room.data_ptr(), upstream.data_ptr(), np.zeros((1, 4, 1)))
    return room


def _sizes(given: Map) -> tuple[int, int, int]:
    images, classes = given.logits.shape[:2]
    return images, classes, given.logits[0, 0].numel() if given.logits.numel() else 0


def _run(given: Map, pieces: int, room: int, upstream: int, parts: NDArray[np.float64]) -> None:
    images, classes, inner = _sizes(given)
    if not given.logits.numel():
        return
    last = given.logits.dim() > 2 and not given.logits.is_contiguous()
    truth = None if given.shares is None else given.shares.dtype
    kernel = _kernel(given.logits.dtype, truth, last, given.sigmoid, given.squared)
    width = max(VECTOR, min(LONGEST, TILE // classes // VECTOR * VECTOR))
    addresses = (given.logits, given.labels, given.shares, given.mask)
    arguments = (
        *(0 if tensor is None else tensor.data_ptr() for tensor in addresses), room, upstream, images, classes, inner,
        width, given.ignore_index, pieces, PIECE, parts,
    )  # fmt: skip
    workers = min(cpu.threads(given.logits.numel()), images * pieces)
    if workers == 1:
        cpu.call(kernel.some, *arguments, 0, images * pieces)
    else:
        cpu.call(kernel.every, *arguments, workers=workers)


@functools.cache
def _kernel(dtype: torch.dtype, truth: torch.dtype | None, last: bool, sigmoid: bool, squared: bool):  # type: ignore[no-untyped-def]
    storage, second = cpu.STORAGE[dtype], cpu.STORAGE[truth or dtype]
    lines = f"LAST, SIGMOID, SHARES, SQUARED = {last}, {sigmoid}, {truth is not None}, {squared}\n"
    body = BODY
    for name, text in {
        "DECAY": DECAY[storage.compute].strip(),
        "SIZE": str(dtype.itemsize),
        "COMPUTE": storage.compute,
        "WIDE": str(np.dtype(storage.compute).itemsize),
        "INTEGER": storage.compute.replace("float", "int"),
        "VIEW": storage.view,
        "LOAD": storage.load,
        "STORE": storage.store,
        "TSIZE": str((truth or dtype).itemsize),
        "TVIEW": second.view,
        "TLOAD": second.load,
    }.items():
        body = body.replace(f"${name}", text)
    return cpu.module(lines + body, storage.compute)
