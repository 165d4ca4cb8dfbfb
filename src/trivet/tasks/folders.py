"""Tasks from folders: of class-named folders of images, and of ``images/`` beside ``masks/``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trivet.errors import DataError, first_line, require

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trivet.tasks.metrics import Metric
    from trivet.tasks.task import ModelFactory, Task

__all__ = ["image_files", "read_images", "task_from_images"]

Array = NDArray[Any]

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")

MOST_PIXELS = 64_000_000
"""A single image with more is refused before it is unfolded."""

LARGEST = 4 * 2**30
"""Bytes that all images of a folder may take together, in the size that they are trained in."""

LARGEST_SIDE = 128
"""Pixels of a side up to which images keep their size; larger ones, and unequal ones, are resized."""


def task_from_images(
    folder: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    kind: str | None = None,
    metric: str | Metric | Callable[[Tensor, Tensor], float] | None = None,
    model: ModelFactory | nn.Module | None = None,
    seed: int = 0,
    name: str | None = None,
    source: str | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
) -> Task:
    """Make a task from a folder of images.

    - ``folder/CLASS/*.png``: one class per folder; or ``folder/train/CLASS`` and ``folder/test/CLASS``.
    - ``folder/images`` and ``folder/masks``: segmentation; a mask has its image's name (``a.jpg``, ``a.png`` or
      ``a_mask.png``) and size, and one value or colour per class.

    Images keep their size when all have the same one of at most 128 pixels a side; otherwise they are resized to
    ``size`` (pixels, or height and width), by default the median shorter side and at most 128. Gray images have one
    channel. Raises DataError for images that cannot be read, and masks without an image or of another size.
    """
    from trivet.tasks.arrays import task_from_arrays
    from trivet.tasks.masks import read_masks

    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"there is no folder {str(root)!r}")
    tests: Any = (None, None)
    if (root / "masks").is_dir():
        files = _in_order(root / "images")
        shape, channels, notes = _form(files, size)
        images, _ = _decoded(files, shape, channels)
        targets, classes, more = read_masks(root / "masks", files, shape)
        notes, kind = (*notes, *more), kind or "segmentation"
    else:
        train = root / "train" if (root / "train").is_dir() else root
        files, labels, classes = _by_class(train)
        held: list[Path] = []
        held_labels: list[int] = []
        if train != root and (root / "test").is_dir():
            held, held_labels, _ = _by_class(root / "test", classes)
        shape, channels, notes = _form(files, size)
        images, _ = _decoded(files, shape, channels)
        targets = np.asarray(labels)
        if held:
            tests = _decoded(held, shape, channels)[0], np.asarray(held_labels)
    return task_from_arrays(
        images, targets, *tests,
        kind=kind or "multiclass" if len(classes) > 2 or kind else "binary", metric=metric, model=model, seed=seed,
        name=name or root.name, source=source or str(folder), classes=classes, batch_size=batch_size, steps=steps,
        notes=notes,
    )  # fmt: skip


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder and below it, sorted by path; hidden ones are left out."""
    found = [p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and not p.name.startswith(".") and p.is_file()]
    return sorted(found)


def read_images(path: Path, shape: tuple[int, int], channels: int) -> tuple[Array, list[str]]:
    """Images ``(rows, height, width, channels)`` of a file or folder in this shape, and their names."""
    if not path.exists():
        raise DataError(f"there is no image file or folder {str(path)!r}")
    root = path / "images" if (path / "images").is_dir() else path
    files = [path] if path.is_file() else image_files(root)
    if not files:
        raise DataError(f"{str(path)!r} holds no image ({', '.join(ENDINGS)})")
    images, _ = _decoded(files, shape, channels)
    return images, [str(file.relative_to(root)) if path.is_dir() else file.name for file in files]


def _in_order(folder: Path) -> list[Path]:
    files = image_files(folder) if folder.is_dir() else []
    if not files:
        raise DataError(f"{str(folder)!r} holds no image ({', '.join(ENDINGS)}); masks need images beside them")
    return files


def _by_class(folder: Path, known: tuple[str, ...] = ()) -> tuple[list[Path], list[int], tuple[str, ...]]:
    """The files, their labels, and the classes' names: the folders that hold images."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and image_files(p))
    if known:
        unseen = [name for name in names if name not in known]
        if unseen:
            raise DataError(f"the test folder has classes that training lacks: {', '.join(unseen[:5])}")
    elif len(names) < 2:
        have = f"one folder with images ({names[0]})" if names else "no folder with images"
        raise DataError(
            f"{str(folder)!r} has {have}; it must hold one folder for each class (CLASS/*.png), or images/ and masks/"
        )
    classes = known or tuple(names)
    pairs = [(file, classes.index(name)) for name in names for file in image_files(folder / name)]
    return [file for file, _ in pairs], [label for _, label in pairs], classes


def _form(files: list[Path], size: int | tuple[int, int] | None) -> tuple[tuple[int, int], int, tuple[str, ...]]:
    """The height and width that all images get, their channels, and a note on it; only headers are read."""
    sizes, gray = [], True
    for image in _opened(files):
        sizes.append((image.height, image.width))
        gray = gray and image.mode in ("1", "L", "I", "I;16", "F")
    channels = 1 if gray else 3
    if size is not None:
        shape = (size, size) if isinstance(size, int) else size
    elif len(set(sizes)) == 1 and max(sizes[0]) <= LARGEST_SIDE:
        shape = sizes[0]
    else:
        side = min(LARGEST_SIDE, int(np.median([min(pair) for pair in sizes])))
        shape = (side, side)
    if min(shape) < 4 or len(files) * shape[0] * shape[1] * channels > LARGEST:
        raise DataError(f"{len(files):,} images of {shape[0]} x {shape[1]} cannot be used: too small, or above 4 GB")
    changed = sum(pair != shape for pair in sizes)
    notes = (f"{changed:,} of {len(sizes):,} images resized to {shape[0]} x {shape[1]}",) if changed else ()
    return shape, channels, notes


def _decoded(files: list[Path], shape: tuple[int, int], channels: int) -> tuple[Array, list[tuple[int, int]]]:
    """Images as bytes ``(rows, height, width, channels)``, and the size that each had (height, width)."""
    pixels = np.empty((len(files), *shape, channels), np.uint8)
    sizes = []
    for row, image in enumerate(_opened(files)):
        sizes.append((image.height, image.width))
        with _naming(files[row]):
            turned = require("PIL.ImageOps", "app").exif_transpose(image).convert("L" if channels == 1 else "RGB")
            pixels[row] = np.asarray(turned.resize(shape[::-1])).reshape(*shape, channels)
    return pixels, sizes


def _opened(files: list[Path]) -> Iterator[Any]:
    """Each file as an image whose header was read; an image that would unfold to too much is refused by its header."""
    pil = require("PIL.Image", "app")
    for file in files:
        with _naming(file), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of large images; the limit here is lower
            image = pil.open(file)
            if image.width * image.height > MOST_PIXELS:
                raise DataError(
                    f"{file.name} has {image.width} x {image.height} pixels; at most {MOST_PIXELS:,} are read"
                )
        with image:
            yield image


class _naming:
    """Turn whatever a decoder raises into one line that names the file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, DataError):
            raise DataError(f"the image {str(self.file)!r} cannot be read: {first_line(error)}") from error
