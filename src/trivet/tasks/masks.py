"""Masks of segmentation: one value or colour per class, the same palette in every file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trivet.errors import DataError, require
from trivet.tasks.folders import _naming, _opened, image_files

__all__ = ["VOID", "palette", "read_masks", "relabelled"]

Array = NDArray[Any]

VOID = -100
"""The label of pixels that take no part; 255 beside classes numbered from 0, as in PASCAL VOC."""

MOST_CLASSES = 64
"""Masks with more values are photographs, or were saved with lossy compression."""


def palette(values: Sequence[int]) -> tuple[int, ...]:
    """The classes among the values of masks, in order: all but a 255 beside classes numbered from 0.

    >>> palette([0, 255]), palette([0, 1, 2, 255])
    ((0, 255), (0, 1, 2))
    """
    numbered = [value for value in values if value != 255]
    void = 255 in values and len(numbered) >= 2 and numbered == list(range(len(numbered)))
    classes = numbered if void else list(values)
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"the masks have {len(classes)} different values, more than {MOST_CLASSES} classes: are they photographs, "
            "or saved as JPEG? Save masks as PNG with one value for each class"
        )
    return tuple(classes)


def relabelled(masks: Array, classes: Sequence[int], where: str) -> Array:
    """Values to class numbers; 255 outside of the palette takes no part; DataError names any other value."""
    values = np.unique(masks)
    unknown = [int(value) for value in values if value not in classes and value not in (255, VOID)]
    if unknown:
        shown = ", ".join(_name(value) for value in unknown[:5])
        raise DataError(
            f"the {where} masks have labels outside of the palette: {shown}; training has "
            f"{', '.join(_name(value) for value in classes[:12])}"
        )
    order = np.argsort(classes)
    sorted_classes = np.asarray(classes)[order]
    place = np.searchsorted(sorted_classes, masks).clip(0, len(classes) - 1)
    return np.where(sorted_classes[place] == masks, order[place], VOID)


def read_masks(
    folder: Path, images: Sequence[Path], shape: tuple[int, int]
) -> tuple[Array, tuple[str, ...], tuple[str, ...]]:
    """The masks of these images, in their order and in this shape: labels, the classes' names, notes.

    ``classes.txt`` beside the folder names the classes, one a line, by the number in the mask.
    """
    by_name = {file.stem.removesuffix("_mask"): file for file in image_files(folder)}
    absent = [image.name for image in images if image.stem not in by_name]
    if absent:
        raise DataError(
            f"{len(absent)} images have no mask in {str(folder)!r}, the first {absent[0]}; a mask has its image's name"
        )
    pil = require("PIL.Image", "app")
    files = [by_name[image.stem] for image in images]
    stored = []
    for file, image, mask in zip(files, images, _opened(files), strict=True):
        with next(_opened([image])) as picture:
            if picture.size != mask.size:
                raise DataError(
                    f"mask {file.name} is {mask.height} x {mask.width} pixels, its image {image.name} "
                    f"{picture.height} x {picture.width}; they must be the same"
                )
        with _naming(file):
            # Nearest: a blend of two class numbers would be a third class.
            small = mask.convert("RGB") if mask.mode in ("RGBA", "CMYK", "YCbCr", "LA") else mask
            values = np.asarray(small.resize(shape[::-1], pil.Resampling.NEAREST)).astype(np.int64)
        stored.append(values if values.ndim == 2 else (values[..., 0] << 16) + (values[..., 1] << 8) + values[..., 2])
    masks = np.stack(stored)
    named = folder.parent / "classes.txt"
    if named.is_file():
        names = [line.strip() for line in named.read_text(encoding="utf-8").splitlines() if line.strip()]
        return relabelled(masks, range(len(names)), "training"), tuple(names), ()
    classes = palette([int(value) for value in np.unique(masks)])
    return relabelled(masks, classes, "training"), tuple(map(_name, classes)), (f"masks: {len(classes)} classes",)


def _name(value: int) -> str:
    return str(value) if value < 256 else f"#{value:06x}"
