"""How raw values become a model's input: fitted on training rows, stored as data, applied by ``predict``.

Numeric columns are centred by their median, scaled by the distance of their quartiles, and softly clipped,

    z = (x - median) / (q75 - q25),    f(z) = z / sqrt(1 + (z / 3)^2),

so that a few extreme values neither set the scale nor reach the model: |f| < 3 (Holzmueller, Grinsztajn and
Steinwart 2024, "Better by default", section 3). A missing number becomes 0, the median, beside a 0/1
indicator column. Categories become codes, 0 for a missing or unseen one. Images are standardised per channel.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivet.errors import DataError

__all__ = [
    "Categorical",
    "Dates",
    "ImagePreprocessing",
    "MatrixPreprocessing",
    "Numeric",
    "Preprocessing",
    "TablePreprocessing",
]

Array = NDArray[Any]
Names = dict[str, Array]
"""Columns that a prediction begins with, such as the files of images."""


def stored_types() -> Any:
    """Every kind of preprocessing that a run may have stored."""
    from trivet.tasks.sequences import SequencePreprocessing
    from trivet.tasks.vocabulary import CharacterPreprocessing, TextPreprocessing

    own = TablePreprocessing | MatrixPreprocessing | ImagePreprocessing
    return own | SequencePreprocessing | TextPreprocessing | CharacterPreprocessing


class Preprocessing(msgspec.Struct, frozen=True, tag_field="type"):
    """How raw data becomes input; ``to_dict`` and ``from_dict`` are a round trip through JSON-able data."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return dict(msgspec.to_builtins(self))

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Preprocessing:
        """Rebuild what ``to_dict`` gave; raises DataError when it is something else."""
        try:
            stored: Preprocessing = msgspec.convert(data, type=stored_types())
            return stored
        except msgspec.ValidationError as error:
            raise DataError(f"this is not stored preprocessing: {error}") from error

    linear_view: ClassVar[str] = ""
    """What a linear baseline sees where that is not the encoded numbers themselves, such as ``"TF-IDF"``."""

    @abstractmethod
    def encode(self, raw: Any) -> Tensor | tuple[Tensor, ...]:
        """Encode new raw rows exactly as the training rows were."""

    def matrix(self, inputs: Tensor | tuple[Tensor, ...]) -> Any:
        """Encoded inputs as a linear baseline sees them; only where ``linear_view`` names it."""
        raise NotImplementedError

    def read(self, data: Any) -> tuple[Any, Names]:
        """Raw rows from what `predict` is given (a path, or data in memory), and a column that names them."""
        from trivet.tasks.npz import read_inputs

        return read_inputs(data), {}


class Numeric(msgspec.Struct, frozen=True):
    """A numeric column: its training median and scale, and whether missing values were seen in training."""

    name: str
    median: float
    scale: float
    missing: bool = False

    @classmethod
    def fit(cls, name: str, values: Array) -> Self:
        """Measure a float64 column (NaN where missing)."""
        present = values[~np.isnan(values)]
        low, quarter, median, three_quarters, high = np.quantile(present, [0, 0.25, 0.5, 0.75, 1])
        # A column that is mostly one value has no quartile distance; half its range takes the place.
        scale = float(three_quarters - quarter) or float(high - low) / 2 or 1.0
        return cls(name, float(median), scale, len(present) < len(values))

    def encode(self, values: Array) -> list[Array]:
        """One float32 column, and a second that marks missing values when there were any in training."""
        absent = np.isnan(values)
        z = np.where(absent, 0.0, (values - self.median) / self.scale)
        columns = [z / np.sqrt(1 + (z / 3) ** 2)]
        if self.missing:
            columns.append(absent)
        return [column.astype(np.float32) for column in columns]


class Categorical(msgspec.Struct, frozen=True):
    """A column of categories: code 1 for ``levels[0]`` and so on, 0 for a missing or unseen one."""

    name: str
    levels: tuple[str, ...]

    @property
    def codes(self) -> int:
        """How many codes there are, 0 among them."""
        return len(self.levels) + 1

    def encode(self, values: Sequence[str | None]) -> NDArray[np.int64]:
        """The int64 codes of these values."""
        code = {level: index + 1 for index, level in enumerate(self.levels)}
        return np.fromiter((code.get(value, 0) if value is not None else 0 for value in values), np.int64, len(values))


class Dates(msgspec.Struct, frozen=True):
    """A column of dates: how late (days, scaled as a number), and sine and cosine of the place in cycles that it spans.

    ``parts`` names the cycles: ``hour`` (of the day, where times of day occur), ``weekday``, ``yearday``.
    """

    name: str
    late: Numeric
    parts: tuple[str, ...]

    @classmethod
    def fit(cls, name: str, days: Array) -> Self:
        """Measure a column of days since 1970 (NaN where missing)."""
        present = days[~np.isnan(days)]
        parts = ["hour"] if bool((present % 1 != 0).any()) else []
        span = float(present.max() - present.min())
        parts += ["weekday"] if span >= 14 else []
        parts += ["yearday"] if span >= 60 else []
        return cls(name, Numeric.fit(name, days), tuple(parts))

    def encode(self, days: Array) -> list[Array]:
        """Float32 columns: how late, whether missing when there were missing ones, two for each cycle."""
        absent = np.isnan(days)
        known = np.where(absent, self.late.median, days)
        # 1970 began on a Thursday; a year of 365.25 days keeps the seasons in place.
        turns = {"hour": known % 1, "weekday": (known + 3) / 7 % 1, "yearday": known / 365.25 % 1}
        columns = self.late.encode(days)
        for part in self.parts:
            angle = 2 * np.pi * turns[part]
            columns += [np.where(absent, 0.0, wave(angle)).astype(np.float32) for wave in (np.sin, np.cos)]
        return columns

    @property
    def features(self) -> int:
        """How many columns."""
        return 1 + self.late.missing + 2 * len(self.parts)


class TablePreprocessing(Preprocessing, frozen=True, tag="table"):
    """Columns of a table, by name.

    The input is a float tensor ``(rows, features)``; with categories it is a pair with their codes ``(rows,
    categories)``, or with ``one_hot`` a single tensor in which each code has a 0/1 column, for models that
    take one tensor.
    """

    numeric: tuple[Numeric, ...]
    categorical: tuple[Categorical, ...] = ()
    one_hot: bool = False
    dates: tuple[Dates, ...] = ()

    @property
    def features(self) -> int:
        """Columns of the float tensor."""
        numeric = sum(2 if column.missing else 1 for column in self.numeric)
        numeric += sum(column.features for column in self.dates)
        return numeric + (sum(column.codes for column in self.categorical) if self.one_hot else 0)

    def read(self, data: Any) -> tuple[Any, Names]:
        """A polars frame from a path, a frame or a mapping."""
        from trivet.tasks.tables import table

        return table(data), {}

    def encode(self, raw: Any) -> Tensor | tuple[Tensor, ...]:
        """Encode a table (a polars frame, or a mapping from column names to values).

        Raises DataError when a column is missing or a numeric one holds text.
        """
        from trivet.tasks.columns import dates, days, numbers, strings
        from trivet.tasks.tables import table

        frame = table(raw)
        names = [c.name for c in self.numeric] + [c.name for c in self.dates] + [c.name for c in self.categorical]
        absent = [name for name in names if name not in frame.columns]
        if absent:
            raise DataError(
                f"the table lacks {len(absent)} of the {len(names)} columns that the model was trained on: "
                f"{', '.join(absent[:8])}; it has {', '.join(frame.columns[:12])}"
            )
        floats = [part for column in self.numeric for part in column.encode(numbers(frame[column.name]))]
        for moment in self.dates:
            parsed = dates(frame[moment.name])
            if parsed is None and frame[moment.name].null_count() < len(frame):
                raise DataError(f"column {moment.name!r} must hold dates; it has {str(frame[moment.name][0])[:40]!r}")
            floats += moment.encode(np.full(len(frame), np.nan) if parsed is None else days(parsed))
        codes = [torch.from_numpy(column.encode(strings(frame[column.name]))) for column in self.categorical]
        if self.one_hot:
            for column, code in zip(self.categorical, codes, strict=True):
                floats.extend(torch.nn.functional.one_hot(code, column.codes).float().numpy().T)
        matrix = np.stack(floats, axis=1) if floats else np.zeros((len(frame), 0), np.float32)
        if codes and not self.one_hot:
            return torch.from_numpy(matrix), torch.stack(codes, dim=1)
        return torch.from_numpy(matrix)


class MatrixPreprocessing(Preprocessing, frozen=True, tag="matrix"):
    """Numeric columns by position: the ``kept`` ones of ``(rows, columns)``, to a float tensor."""

    numeric: tuple[Numeric, ...]
    kept: tuple[int, ...]
    columns: int

    def encode(self, raw: Any) -> Tensor:
        """Encode a ``(rows, columns)`` array; raises DataError for another width."""
        values = np.asarray(raw, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != self.columns:
            raise DataError(f"the array has shape {values.shape}; the training data had {self.columns} columns")
        columns = [column.encode(values[:, at])[0] for column, at in zip(self.numeric, self.kept, strict=True)]
        return torch.from_numpy(np.stack(columns, axis=1))


class ImagePreprocessing(Preprocessing, frozen=True, tag="images"):
    """Images of layout ``HW``, ``HWC`` or ``CHW`` to a float tensor ``(rows, channels, height, width)``."""

    layout: str
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, images: Array, layout: str) -> Self:
        """Measure the mean and standard deviation of every channel of the training images."""
        rows = channels_first(images, layout)
        mean = rows.mean(axis=(0, 2, 3), dtype=np.float64)
        std = rows.std(axis=(0, 2, 3), dtype=np.float64)
        std[std == 0] = 1.0
        _, channels, height, width = rows.shape
        return cls(layout, (channels, height, width), tuple(mean.tolist()), tuple(std.tolist()))

    def read(self, data: Any) -> tuple[Any, Names]:
        """Images from an npz file or an array, an image file, or a folder of them, in the training size."""
        from trivet.tasks.folders import read_images

        if isinstance(data, (str, Path)) and not str(data).endswith(".npz"):
            channels, height, width = self.shape
            images, files = read_images(Path(data), (height, width), channels)
            laid = {"HWC": images, "HW": images[..., 0], "CHW": images.transpose(0, 3, 1, 2)}[self.layout]
            return laid, {"file": np.asarray(files, dtype=object)}
        return super().read(data)

    def encode(self, raw: Any) -> Tensor:
        """Encode images of the training layout; raises DataError for another shape."""
        images = np.asarray(raw)
        rows = channels_first(images, self.layout) if images.ndim == (3 if self.layout == "HW" else 4) else images
        if rows.shape[1:] != self.shape:
            raise DataError(f"the images have shape {images.shape[1:]}; the training images had {self.shape} (C, H, W)")
        mean, std = (torch.tensor(part, dtype=torch.float32).view(-1, 1, 1) for part in (self.mean, self.std))
        return torch.from_numpy(np.ascontiguousarray(rows)).float().sub_(mean).div_(std)


def channels_first(images: Array, layout: str) -> Array:
    """View images of layout ``HW``, ``HWC`` or ``CHW`` as ``(rows, channels, height, width)``."""
    if layout == "HW":
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if layout == "HWC" else images


def image_layout(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str | None:
    """``"HW"``, ``"HWC"`` or ``"CHW"`` when an array of this shape ``(rows, ...)`` holds images, else None.

    Bytes of three dimensions are images; other numbers only when the two sides are alike, since ``(rows,
    channels, time)`` looks the same.

    >>> image_layout((100, 28, 28), np.dtype("uint8")), image_layout((100, 12, 29), np.dtype("float32"))
    ('HW', None)
    """
    if len(shape) == 3:
        small, large = sorted(shape[1:])
        return "HW" if small >= 4 and (dtype == np.uint8 or large <= 2 * small) else None
    if len(shape) == 4:
        return "HWC" if shape[3] <= 4 < shape[1] else "CHW" if shape[1] <= 4 < shape[2] else None
    return None
