"""A task from a table: a CSV or Parquet file, or a polars frame. Every decision on a column is noted.

Numbers (integers among them) stay numbers; booleans count as 0 and 1; text is a category. Dropped, with a
note: constant and empty columns, row numbers and identifiers, free text, and dates.
"""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trivet.errors import DataError, nearest, require
from trivet.tasks.encoding import encoded_task
from trivet.tasks.metrics import Metric
from trivet.tasks.preprocessing import Categorical, Numeric, Preprocessing, TablePreprocessing
from trivet.tasks.targets import read_target
from trivet.tasks.task import ModelFactory, Task

__all__ = ["numbers", "read_table", "strings", "table", "task_from_table"]

Frame = Any  # polars.DataFrame; polars is imported at first use
Series = Any

MISSING = ["", "NA", "N/A", "n/a", "null", "NULL", "None", "?"]
"""Cells of a CSV file that count as missing; so does NaN in a feature."""

MAX_LEVELS = 256
"""The most frequent categories that get a code of their own; rarer ones share that of the unseen."""


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
            _check_header(text, path.name)
            frame = polars.read_csv(
                text,
                null_values=MISSING,
                try_parse_dates=True,
                infer_schema_length=None,
                truncate_ragged_lines=False,
            )
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)):
            raise
        raise DataError(f"{path.name} is damaged or cut short: {error}") from error
    except (polars.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read as a table: {_first_line(error)}") from error
    if frame.height == 0:
        raise DataError(f"{path.name} has no rows below its header")
    return frame


def _check_header(text: bytes, name: str) -> None:
    if not text.strip():
        raise DataError(f"{name} is empty")
    if b"\0" in text[:4096]:
        raise DataError(f"{name} is not a CSV table: it holds binary data")
    import csv

    header = text.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace").strip("\r")
    columns = next(csv.reader([header]), [])
    repeated = [column for column, count in Counter(columns).items() if count > 1]
    if repeated:
        raise DataError(
            f"{name} has duplicate column names: {', '.join(map(repr, repeated))}; every column needs its own"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def numbers(series: Series) -> NDArray[np.float64]:
    """A column as float64, NaN where missing; raises DataError for text and for infinite values."""
    polars = require("polars", "app")
    try:
        values = series.cast(polars.Float64).to_numpy().astype(np.float64)
    except polars.exceptions.PolarsError as error:
        raise DataError(f"column {series.name!r} must hold numbers: {_first_line(error)}") from error
    broken = np.flatnonzero(np.isinf(values))
    if len(broken):
        raise DataError(
            f"column {series.name!r} has {len(broken)} infinite values, the first in row "
            f"{broken[0] + 1} of its split"
        )
    return values  # type: ignore[no-any-return]


def strings(series: Series) -> Sequence[str | None]:
    """A column as text, None where missing."""
    polars = require("polars", "app")
    return series.cast(polars.String).to_list()  # type: ignore[no-any-return]


def _with_target(frame: Frame, target: str, notes: list[str]) -> tuple[Frame, NDArray[Any]]:
    if target not in frame.columns:
        raise DataError(
            f"the test table lacks the target column {target!r}; it has {', '.join(frame.columns)}"
        )
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


def fit_columns(frame: Frame, *, one_hot: bool) -> tuple[TablePreprocessing, tuple[str, ...]]:
    """Decide on every column from the training rows, and say what was decided."""
    numeric: list[Numeric] = []
    categorical: list[Categorical] = []
    dropped: list[str] = []
    imputed: list[str] = []
    for series in frame.get_columns():
        reason = _why_dropped(series)
        if reason:
            dropped.append(f"{series.name} ({reason})")
        elif series.dtype.is_numeric() or str(series.dtype) == "Boolean":
            values = numbers(series)
            column = Numeric.fit(series.name, values)
            numeric.append(column)
            if column.missing:
                imputed.append(f"{series.name} ({int(np.isnan(values).sum()):,})")
        else:
            counts = Counter(value for value in strings(series) if value is not None)
            levels = sorted(level for level, _ in counts.most_common(MAX_LEVELS))
            categorical.append(Categorical(series.name, tuple(levels)))
    if not numeric and not categorical:
        raise DataError(
            "no column is left to learn from; dropped: "
            f"{', '.join(dropped) or 'none, the table has no other column'}"
        )
    notes = []
    if numeric:
        names = _listed([column.name for column in numeric])
        notes.append(
            f"{len(numeric)} numeric columns (median removed, scaled by the quartile distance, "
            f"extremes softly clipped): {names}"
        )
    if categorical:
        shown = _listed([f"{column.name} ({len(column.levels)} values)" for column in categorical])
        notes.append(
            f"{len(categorical)} categorical columns ({'one-hot' if one_hot else 'embedded'}): {shown}"
        )
    if imputed:
        notes.append(
            f"missing numbers in training rows, set to the median beside a 0/1 indicator: {_listed(imputed)}"
        )
    if dropped:
        notes.append(f"{len(dropped)} columns dropped: {_listed(dropped)}")
    return TablePreprocessing(tuple(numeric), tuple(categorical), one_hot), tuple(notes)


def _why_dropped(series: Series) -> str:
    """Why a column cannot help, or an empty string."""
    kept = series.drop_nulls()
    rows, distinct = len(kept), kept.n_unique()
    if rows == 0:
        return "empty"
    if series.dtype.is_temporal():
        return "dates are not used yet; add columns such as month, weekday or hour"
    if series.dtype.is_nested() or str(series.dtype) in ("Object", "Binary"):
        return f"type {series.dtype}"
    if distinct == 1 and rows == len(series):
        return "constant"
    if series.dtype.is_integer() and distinct == len(series) and _is_row_number(kept):
        return "row number or identifier"
    if series.dtype.is_numeric() or str(series.dtype) == "Boolean":
        return ""
    if distinct > 20 and distinct > 0.5 * rows:
        words = sum(str(value).count(" ") + 1 for value in kept.head(200)) / min(rows, 200)
        return "free text is not used yet" if words > 3 else "identifier: almost every value is different"
    return ""


def _is_row_number(series: Series) -> bool:
    """Whether unique integers name rows: called so, or evenly filling their range (a sample of 1 to n)."""
    name = series.name.lower().strip("_ ")
    if name in ("", "id", "index", "row", "no", "nr", "number", "unnamed: 0", "uid", "uuid") or name.endswith(
        ("_id", " id")
    ):
        return True
    values = series.to_numpy()
    return bool((np.diff(values) > 0).all()) and values[-1] - values[0] < 3 * len(values)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
