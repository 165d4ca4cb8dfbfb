"""Region losses on the GPU: `kernels/regions.py` with a program for each tile of positions and classes.

Programs of the first pass leave the sums of their positions, which torch adds in double precision, always in the same
order; how positions are shared among them depends on the shape alone. The second pass computes the gradient anew.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from trivet.kernels import gpu
from trivet.kernels.region_bodies_gpu import REGIONS
from trivet.kernels.regions import Map
from trivet.kernels.row_bodies_gpu import COMMON, DECAY
from trivet.kernels.rows_gpu import Tile, filled, layout

__all__ = ["gradient", "sums"]

LARGEST = 1 << 13  # numbers in a tile that is kept in registers: several sums are taken from it
STEPS = 4  # tiles that a program adds up, so that what programs leave is a small part of what they read


def sums(given: Map) -> Tensor:
    """Return shared, predicted, true and counted positions, `(4, images, classes)`; a wrong label makes them NaN."""
    logits = given.logits
    images, classes = logits.shape[:2]
    compute = gpu.COMPUTE[logits.dtype]
    wide = getattr(torch, compute)
    if not logits.numel():
        return torch.zeros(4, images, classes, dtype=wide, device=logits.device)
    tile = _tile(given)
    steps = min(STEPS, tile.pieces) if tile.whole else 1
    pieces = -(-tile.pieces // steps)
    parts = torch.empty(images, pieces, 4, classes, dtype=wide, device=logits.device)
    gpu.launch(
        _kernel(compute).add_up, images * pieces,
        logits, given.labels, given.shares, _bytes(given.mask), parts, given.ignore_index, *tile.sizes, pieces,
        like=logits, STEPS=steps, **_constants(given, tile),
    )  # fmt: skip
    return parts.sum(1, dtype=torch.float64).movedim(1, 0).to(wide)


def gradient(given: Map, upstream: Tensor, room: Tensor) -> Tensor:
    """Write the logits' gradient into `room`, laid out as they are; `upstream` as in `kernels/regions.py`."""
    logits = given.logits
    images = logits.shape[0]
    if logits.numel():
        tile = _tile(given)
        gpu.launch(
            _kernel(gpu.COMPUTE[logits.dtype]).spread, images * tile.pieces,
            logits, given.labels, given.shares, _bytes(given.mask), upstream, room, given.ignore_index,
            *tile.sizes, images, tile.pieces, like=logits, **_constants(given, tile),
        )  # fmt: skip
    return room


def _tile(given: Map) -> Tile:
    return layout(given.logits, LARGEST, by_image=True)


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.view(torch.uint8)


def _constants(given: Map, tile: Tile) -> dict[str, Any]:
    return {
        "SIGMOID": given.sigmoid,
        "SQUARED": given.squared,
        "APART": tile.apart,
        "WHOLE": tile.whole,
        "ALIGN": tile.align,
        "ROWS": tile.rows,
        "COLS": tile.cols,
        "num_warps": tile.warps,
    }


@functools.cache
def _kernel(compute: str) -> Any:
    return gpu.module(filled(DECAY[compute] + COMMON + REGIONS, compute))
