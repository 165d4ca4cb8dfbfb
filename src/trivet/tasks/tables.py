"""A task from a table: a CSV or Parquet file, or a polars frame. Every decision on a column is noted."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trivet.errors import DataError, nearest, require
from trivet.tasks.columns import fit_columns
from trivet.tasks.encoding import encoded_task
from trivet.tasks.metrics import Metric
from trivet.tasks.preprocessing import Preprocessing
from trivet.tasks.targets import read_target
from trivet.tasks.task import ModelFactory, Task

__all__ = ["read_table", "table", "task_from_table"]

Frame = Any  # polars.DataFrame; polars is imported at first use
Series = Any

MISSING = ["", "NA", "N/A", "n/a", "null", "NULL", "None", "?"]
"""Cells of a CSV file that count as missing; so does NaN in a feature."""


def task_from_table(
    data: object,
    target: str,
    kind: str | None = None,
    metric: str | Metric | Callable[[Tensor, Tensor], float] | None = None,
    model: ModelFactory | nn.Module | None = None,
    seed: int = 0,
    *,
    test: object = None,
    name: str | None = None,
    source: str | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
) -> Task:
    """Make a task from a table and the name of its target column.

    ``data`` (and ``test``, a second table with the same columns) is a path, a polars frame, or a mapping from
    names to values. Rows without a target are dropped and counted in the notes. With an own ``model`` the
    input is one float tensor, categories one-hot; the reference model embeds them.

    >>> rows = {"size": [float(i % 17) for i in range(60)], "town": ["Oslo", "Bergen", "Voss"] * 20}
    >>> task = task_from_table(rows | {"price": [3.0 * i for i in rows["size"]]}, target="price")
    >>> task.kind, [tuple(part.shape) for part in task.train.inputs]
    ('regression', [(36, 1), (36, 1)])

    Raises DataError for an unknown target, infinite numbers, and targets that cannot be learned.
    """
    frame = table(data)
    if target not in frame.columns:
        raise DataError(
            f"no column {target!r} to predict{nearest(target, frame.columns) or '.'} Columns: "
            f"{', '.join(frame.columns)}"
        )
    notes: list[str] = []
    frame, labels = _with_target(frame, target, notes)
    found = read_target(labels, kind, name=target)
    raw_test, test_values = None, None
    if test is not None:
        raw_test, test_labels = _with_target(table(test), target, notes)
        test_values = found.encode(test_labels)
    features = frame.drop(target)

    def fit(rows: Frame) -> tuple[Preprocessing, tuple[str, ...]]:
        return fit_columns(rows, one_hot=model is not None)

    where = str(data) if isinstance(data, (str, Path)) else "memory"
    return encoded_task(
        found,
        lambda rows: features[rows],
        fit,
        raw_test,
        test_values,
        metric=metric,
        model=model,
        seed=seed,
        name=name or (Path(where).name.split(".")[0] if where != "memory" else "table"),
        source=source or where,
        batch_size=batch_size,
        steps=steps,
        notes=tuple(notes),
    )


def table(data: object) -> Frame:
    """A polars frame from a path, a frame, or a mapping from column names to values."""
    polars = require("polars", "app")
    if isinstance(data, (str, Path)):
        return read_table(Path(data))
    if isinstance(data, polars.DataFrame):
        frame = data
    elif isinstance(data, polars.LazyFrame):
        frame = data.collect()
    else:
        try:
            frame = polars.DataFrame(dict(data) if isinstance(data, Mapping) else data, strict=False)
        except Exception as error:
            raise DataError(f"{type(data).__name__} cannot be read as a table: {error}") from error
    if frame.height == 0 or frame.width == 0:
        raise DataError("the table has no rows")
    return frame


def read_table(path: Path) -> Frame:
    """Read ``.csv``, ``.csv.gz`` or ``.parquet``; raises DataError when the file is not such a table."""
    polars = require("polars", "app")
    try:
        raw = path.read_bytes()
        if not raw:
            raise DataError(f"{path.name} is empty (0 bytes)")
        if path.name.endswith(".parquet"):
            frame = polars.read_parquet(io.BytesIO(raw))
        else:
            text = gzip.decompress(raw) if path.name.endswith(".gz") else raw
            frame = polars.read_csv(
                text,
                separator=_separator(text, path.name),
                null_values=MISSING,
                try_parse_dates=True,
                infer_schema_length=None,
            )
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path.name} is damaged or cut short: {error}") from error
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except (polars.exceptions.PolarsError, UnicodeDecodeError) as error:
        hint = "; save it as UTF-8" if "utf-8" in str(error) else ""
        raise DataError(f"{path.name} cannot be read as a table: {_first_line(error)}{hint}") from error
    if frame.height == 0:
        raise DataError(f"{path.name} has no rows below its header")
    return frame


def _separator(text: bytes, name: str) -> str:
    """The separator of the header line; raises DataError for binary data, and for duplicate column names."""
    if not text.strip():
        raise DataError(f"{name} is empty")
    if b"\0" in text[:4096]:
        raise DataError(f"{name} is not a CSV table: it holds binary data")
    header = text.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace").strip("\r")
    separator = max(",;\t|", key=header.count)
    columns = next(csv.reader([header], delimiter=separator), [])
    repeated = [column for column, count in Counter(columns).items() if count > 1]
    if repeated:
        raise DataError(f"{name} has duplicate column names: {', '.join(map(repr, repeated))}; rename them")
    return separator


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _with_target(frame: Frame, target: str, notes: list[str]) -> tuple[Frame, NDArray[Any]]:
    if target not in frame.columns:
        raise DataError(f"the test table lacks the target column {target!r}; it has {', '.join(frame.columns)}")
    absent = int(frame[target].null_count())
    if absent:
        frame = frame.filter(frame[target].is_not_null())
        notes.append(f"{absent:,} rows without a value in {target!r} dropped")
        if frame.height == 0:
            raise DataError(f"the target column {target!r} is empty")
    column = frame[target]
    if column.dtype.is_temporal():
        raise DataError(f"the target column {target!r} holds dates or times; it must hold numbers or classes")
    return frame, column.to_numpy() if column.dtype.is_numeric() else np.asarray(column.to_list())
