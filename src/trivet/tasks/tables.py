"""A task from a table: a CSV or Parquet file, or a polars frame. Every decision on a column is noted."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trivet.errors import DataError, nearest, require
from trivet.tasks.columns import dates, fit_columns, lone_texts
from trivet.tasks.encoding import encoded_task
from trivet.tasks.metrics import Metric
from trivet.tasks.preprocessing import Preprocessing
from trivet.tasks.targets import read_columns, read_target
from trivet.tasks.task import ModelFactory, Task
from trivet.tasks.texts import joined, text_fit

__all__ = ["read_table", "table", "task_from_table"]

Frame = Any  # polars.DataFrame; polars is imported at first use
Series = Any

MISSING = ["", "NA", "N/A", "n/a", "null", "NULL", "None", "?"]
"""Cells of a CSV file that count as missing; so does NaN in a feature."""


def task_from_table(
    data: object,
    target: str | Sequence[str],
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
    group: str | None = None,
    time: str | None = None,
    text: str | None = None,
) -> Task:
    """Make a task from a table and the name of its target column.

    Several names, or one text ``"a,b,c"``, are columns of 0 and 1 that do not exclude each other (multilabel).
    ``group`` names a column whose equal values (a patient, a house) stay in one split; ``time`` one that orders the
    rows: validation is then later than training, and test later still. The group column is no input.
    ``text`` names the column (or several, ``"a,b"``) that is read as text, instead of all others; free text is also
    read when no other column can be used.

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
    targets = target_columns(target, frame.columns)
    _known_columns(frame, group, time)
    notes: list[str] = []
    frame, labels = _with_targets(frame, targets, notes)
    found = read_target(labels, kind, name=targets[0]) if len(targets) == 1 else read_columns(labels, kind, targets)
    raw_test, test_values = None, None
    if test is not None:
        raw_test, test_labels = _with_targets(table(test), targets, notes)
        test_values = found.encode(test_labels)
    kept_out = [*targets, *([group] if group else [])]
    features = frame.drop(kept_out)
    if group is not None:
        notes.append(f"rows of one {group!r} stay in one split; it is no input")
    if time is not None:
        notes.append(f"split by {time!r}: validation is later than training, test later still")

    texts = target_columns(text, features.columns) if text is not None else lone_texts(features)
    if texts:
        words = joined(features, texts)
        raw_words = None if raw_test is None else joined(raw_test, texts)
        idle = [name for name in features.columns if name not in texts]
        if idle:
            notes.append(f"{len(idle)} columns beside the text not used: {', '.join(idle[:8])}")

    def fit(rows: Frame) -> tuple[Preprocessing, tuple[str, ...]]:
        return fit_columns(rows, one_hot=model is not None)

    where = str(data) if isinstance(data, (str, Path)) else "memory"
    return encoded_task(
        found,
        (lambda rows: [words[row] for row in rows]) if texts else (lambda rows: features[rows]),
        text_fit(tuple(texts)) if texts else fit,
        raw_words if texts else raw_test,
        test_values,
        metric=metric,
        model=model,
        seed=seed,
        name=name or (Path(where).name.split(".")[0] if where != "memory" else "table"),
        source=source or where,
        batch_size=batch_size,
        steps=steps,
        notes=tuple(notes),
        groups=None if group is None else _codes(frame[group]),
        time=None if time is None else _moments(frame[time]),
    )


def target_columns(target: str | Sequence[str], columns: Sequence[str]) -> list[str]:
    """The target's columns by name: one, or several as a sequence or separated by commas; DataError for others."""
    names = [target] if isinstance(target, str) else list(target)
    if isinstance(target, str) and target not in columns and "," in target:
        names = [name.strip() for name in target.split(",") if name.strip()]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated or not names:
        raise DataError(f"the target names {repeated[0]!r} twice" if repeated else "the target names no column")
    for name in names:
        if name not in columns:
            raise DataError(
                f"no column {name!r} to predict{nearest(name, columns) or '.'} Columns: {', '.join(columns)}"
            )
    return names


def _known_columns(frame: Frame, group: str | None, time: str | None) -> None:
    if group is not None and time is not None:
        raise DataError("give a group or a time to split by, not both: a later row of a known group is still known")
    for what, name in (("group", group), ("time", time)):
        if name is None:
            continue
        if name not in frame.columns:
            raise DataError(
                f"no column {name!r} to {what} by{nearest(name, frame.columns) or '.'} Columns: "
                f"{', '.join(frame.columns)}"
            )


def _codes(series: Series) -> Tensor:
    """An integer for each distinct value; rows without one are a group of their own each."""
    known: dict[str, int] = {}
    values = [f"row {row}" if value is None else f"value {value}" for row, value in enumerate(series.to_list())]
    return torch.tensor([known.setdefault(value, len(known)) for value in values])


def _moments(series: Series) -> Tensor:
    """The rank of each row's moment; raises DataError where one is missing, or they are text in no known form."""
    if series.null_count():
        raise DataError(
            f"the time column {series.name!r} lacks {series.null_count():,} values; fill or drop those rows"
        )
    if not (series.dtype.is_temporal() or series.dtype.is_numeric()):
        parsed = dates(series)
        if parsed is None:
            raise DataError(
                f"the time column {series.name!r} holds {series.dtype} such as {str(series[0])[:40]!r}; it must hold "
                "numbers, dates or times (2024-01-31, 2024-01-31 12:00:00)"
            )
        series = parsed
    _, rank = np.unique(series.to_numpy(), return_inverse=True)
    return torch.from_numpy(rank.astype(np.int64))


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


def _with_targets(frame: Frame, targets: Sequence[str], notes: list[str]) -> tuple[Frame, NDArray[Any]]:
    """The rows that have every target, and their targets ``(rows,)``, or ``(rows, columns)`` for several."""
    absent = [name for name in targets if name not in frame.columns]
    if absent:
        raise DataError(f"the test table lacks the target column {absent[0]!r}; it has {', '.join(frame.columns)}")
    height = frame.height
    frame = frame.drop_nulls(list(targets))
    if frame.height < height:
        shown = ", ".join(map(repr, targets[:3]))
        notes.append(f"{height - frame.height:,} rows without a value in {shown} dropped")
        if frame.height == 0:
            raise DataError(f"the target column {shown} is empty")
    columns = []
    for name in targets:
        column = frame[name]
        if column.dtype.is_temporal():
            raise DataError(f"the target column {name!r} holds dates or times; it must hold numbers or classes")
        columns.append(column.to_numpy() if column.dtype.is_numeric() else np.asarray(column.to_list()))
    return frame, columns[0] if len(columns) == 1 else np.stack([c.astype(object) for c in columns], axis=1)
