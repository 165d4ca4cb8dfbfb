"""What each column of a table is, decided on the training rows alone and said in a note.

Numbers (integers among them) stay numbers; booleans count as 0 and 1; text is a category; dates become numbers
(how late, and where in the day, week and year). Dropped: constant and empty columns, row numbers and identifiers,
and free text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trivet.errors import DataError, require
from trivet.tasks.preprocessing import Categorical, Dates, Numeric, TablePreprocessing

__all__ = ["dates", "days", "fit_columns", "numbers", "strings"]

Frame = Any  # polars.DataFrame; polars is imported at first use
Series = Any

MOSTLY_NUMBERS = 0.05
"""Text with at most this share of cells that are no numbers is numeric; those cells count as missing."""

FREE_TEXT = "free text"

MAX_LEVELS = 256
"""The most frequent categories that get a code of their own; rarer ones share that of the unseen."""


def fit_columns(frame: Frame, *, one_hot: bool) -> tuple[TablePreprocessing, tuple[str, ...]]:
    """Decide on every column from the training rows, and say what was decided."""
    numeric: list[Numeric] = []
    categorical: list[Categorical] = []
    dropped: list[str] = []
    imputed: list[str] = []
    misread: list[str] = []
    dated: list[Dates] = []
    for series in frame.get_columns():
        reason = _why_dropped(series)
        if reason:
            dropped.append(f"{series.name} ({reason})")
        elif (moments := dates(series)) is not None:
            dated.append(Dates.fit(series.name, days(moments)))
        elif _is_numeric(series):
            values = numbers(series)
            column = Numeric.fit(series.name, values)
            numeric.append(column)
            text = _text_cells(series)
            if text:
                misread.append(f"{series.name} ({len(text):,}, such as {text[0][:20]!r})")
            if column.missing:
                imputed.append(f"{series.name} ({int(np.isnan(values).sum()):,})")
        else:
            counts = Counter(value for value in strings(series) if value is not None)
            levels = sorted(level for level, _ in counts.most_common(MAX_LEVELS))
            categorical.append(Categorical(series.name, tuple(levels)))
    if not numeric and not categorical and not dated:
        raise DataError(
            f"no column is left to learn from; dropped: {', '.join(dropped) or 'none, the table has no other column'}"
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
        notes.append(f"{len(categorical)} categorical columns ({'one-hot' if one_hot else 'embedded'}): {shown}")
    if dated:
        shown = _listed([f"{column.name} ({', '.join(column.parts)})" for column in dated])
        notes.append(f"{len(dated)} columns of dates, as numbers: {shown}")
    if misread:
        notes.append(f"text in columns of numbers, taken as missing: {_listed(misread)}")
    if imputed:
        notes.append(f"missing numbers in training rows, set to the median beside a 0/1 indicator: {_listed(imputed)}")
    if dropped:
        notes.append(f"{len(dropped)} columns dropped: {_listed(dropped)}")
    return TablePreprocessing(tuple(numeric), tuple(categorical), one_hot, tuple(dated)), tuple(notes)


def lone_texts(frame: Frame) -> list[str]:
    """The columns of free text in a table of which nothing else can be used; empty where something can."""
    reasons = {series.name: _why_dropped(series) for series in frame.get_columns()}
    return [] if "" in reasons.values() else [name for name, reason in reasons.items() if reason.startswith(FREE_TEXT)]


def _why_dropped(series: Series) -> str:
    """Why a column cannot help, or an empty string."""
    kept = series.drop_nulls()
    rows, distinct = len(kept), kept.n_unique()
    if rows == 0:
        return "empty"
    if series.dtype.is_temporal() and dates(series) is None:
        return "times of day and durations are not used yet; add a column of numbers"
    if series.dtype.is_nested() or str(series.dtype) in ("Object", "Binary"):
        return f"type {series.dtype}"
    if distinct == 1 and rows == len(series):
        return "constant"
    if series.dtype.is_integer() and distinct == len(series) and _is_row_number(kept):
        return "row number or identifier"
    if _is_numeric(series) or dates(series) is not None:
        return ""
    if distinct > 20 and distinct > 0.5 * rows:
        words = sum(str(value).count(" ") + 1 for value in kept.head(200)) / min(rows, 200)
        return (
            f"{FREE_TEXT}, not used beside other columns; name it: text={series.name!r}"
            if words > 3
            else "identifier: almost every value is different"
        )
    return ""


DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y/%m/%d", "%d.%m.%Y")
"""Text in one of these forms is a date; forms that could be read in two ways (01/02/2024) are left alone."""


def dates(series: Series) -> Series | None:
    """A column of dates as polars datetimes, or None for one that holds something else."""
    polars = require("polars", "app")
    if series.dtype in (polars.Date, polars.Datetime):
        return series.cast(polars.Datetime("us"))
    present = len(series) - series.null_count()
    # A digit is the least that a date has: most text columns are told apart by their first value.
    if not _is_text(series) or present == 0 or not str(series.drop_nulls()[0])[:1].isdigit():
        return None
    text = series.cast(polars.String)
    for form in DATE_FORMATS:
        parsed = text.str.strptime(polars.Datetime("us"), form, strict=False)
        if present - (len(parsed) - parsed.null_count()) <= MOSTLY_NUMBERS * present:
            return parsed
    return None


def days(moments: Series) -> NDArray[np.float64]:
    """Datetimes as days since 1970, NaN where missing."""
    microseconds = moments.dt.timestamp("us").cast(require("polars", "app").Float64)
    return (microseconds / 86_400e6).to_numpy().astype(np.float64)  # type: ignore[no-any-return]


def _is_text(series: Series) -> bool:
    return str(series.dtype) in ("String", "Categorical", "Enum")


def _is_numeric(series: Series) -> bool:
    """Numbers and booleans, and text that is numbers all but a few cells."""
    if not _is_text(series):
        return bool(series.dtype.is_numeric()) or str(series.dtype) == "Boolean"
    present = len(series) - series.null_count()
    return bool(present > 0) and len(_text_cells(series)) <= MOSTLY_NUMBERS * present


def _text_cells(series: Series) -> list[str]:
    """The cells whose value is no number."""
    if not _is_text(series):
        return []
    polars = require("polars", "app")
    absent = series.cast(polars.Float64, strict=False).is_null()
    return [str(cell) for cell in series.filter(absent & series.is_not_null())]


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


def numbers(series: Series) -> NDArray[np.float64]:
    """A column as float64, NaN where missing or, here and there, text; raises DataError for mostly text."""
    polars = require("polars", "app")
    text = _text_cells(series)
    if len(text) > MOSTLY_NUMBERS * (len(series) - series.null_count()):
        raise DataError(f"column {series.name!r} must hold numbers; it has text such as {text[0][:40]!r}")
    values = series.cast(polars.Float64, strict=False).to_numpy().astype(np.float64)
    broken = np.flatnonzero(np.isinf(values))
    if len(broken):
        raise DataError(f"column {series.name!r} has {len(broken)} infinite values; correct them")
    return values  # type: ignore[no-any-return]


def strings(series: Series) -> Sequence[str | None]:
    """A column as text, None where missing."""
    polars = require("polars", "app")
    return series.cast(polars.String).to_list()  # type: ignore[no-any-return]
