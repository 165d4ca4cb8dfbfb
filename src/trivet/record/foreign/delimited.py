"""CSV logs: Lightning's and Keras's `CSVLogger`, exports of W&B, and plain tables with columns to be guessed."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trivet.errors import RunError, require
from trivet.record.foreign.log import Numbers, Raw, Table

Present = NDArray[np.bool_]


def read_csv(path: Path, content: bytes, run: str | None = None) -> Raw:
    """Read a table of numbers; text cells are counted, not fatal. polars reads a million rows in 0.1 s."""
    polars = require("polars", "app")
    notes: list[str] = []
    text = _plain(path, content)
    head, _, rest = text.partition(b"\n")
    header = head.decode("utf-8", errors="replace").replace("\r", " ").rstrip()
    separator = max(",;\t|", key=header.count)
    names = [n.strip() for n in next(csv.reader([header], delimiter=separator), [])]
    if not rest.strip():
        raise RunError(f"{path} has a header and no rows below it")
    if all(_is_number(n) for n in names):
        raise RunError(f"{path} has no header; its first line is {header[:60]!r}; name the columns in the first line")
    if rest[-1:] not in b"\r\n" and rest.rsplit(b"\n", 1)[-1].count(separator.encode()) < len(names) - 1:
        rest = rest[: rest.rfind(b"\n") + 1]
        notes.append("the last line is cut off: left out")
    schema = {str(place): polars.String for place in range(len(names))}
    try:
        frame = polars.read_csv(
            io.BytesIO(rest), has_header=False, separator=separator, schema=schema, truncate_ragged_lines=True,
            encoding="utf8-lossy",
        )  # fmt: skip
    except polars.exceptions.PolarsError as error:
        raise RunError(f"{path} cannot be read as a table: {str(error).strip().splitlines()[0]}") from error
    values: dict[str, Numbers] = {}
    present: dict[str, Present] = {}
    text_cells: dict[str, int] = {}
    for name, column in zip(_distinct(names), frame.get_columns(), strict=True):
        cells = column.str.strip_chars().replace("", None)
        numbers = cells.cast(polars.Float64, strict=False)
        there = numbers.is_not_null().to_numpy()
        bad = int(cells.is_not_null().sum() - there.sum())
        if bad and there.any():
            text_cells[name] = bad
        if not there.any():
            continue
        values[name] = numbers.fill_null(np.nan).to_numpy()
        present[name] = there
    if text_cells:
        where = ", ".join(f"{name} ({count:,})" for name, count in list(text_cells.items())[:4])
        notes.append(f"cells that are no numbers left out: {where}")
    if not values:
        raise RunError(f"{path} has no column of numbers; is it a log?")
    kind, values, present = _kind(path, values, present, run, notes)
    return Raw(kind, Table(values, present), notes=notes)


def _plain(path: Path, content: bytes) -> bytes:
    if path.name.endswith(".gz") or content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise RunError(f"{path} is damaged or cut short: {error}") from error
    return content.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")


def _kind(
    path: Path, values: dict[str, Numbers], present: dict[str, Present], run: str | None, notes: list[str]
) -> tuple[str, dict[str, Numbers], dict[str, Present]]:
    """Return which tool wrote a table, by its columns; of a W&B export of several runs, the columns of one."""
    owners = sorted({name.rsplit(" - ", 1)[0] for name in values if " - " in name})
    if owners:
        if run is None and len(owners) > 1:
            raise RunError(f"{path} holds {len(owners)} runs: {', '.join(owners[:8])}; say which: --run NAME")
        chosen = run or owners[0]
        if chosen not in owners:
            raise RunError(f"{path} has no run {chosen!r}; it has {', '.join(owners[:8])}")
        mine = {n: n.rsplit(" - ", 1)[-1] for n in values if " - " not in n or n.rsplit(" - ", 1)[0] == chosen}
        mine = {n: short for n, short in mine.items() if not short.endswith(("__MIN", "__MAX"))}
        return "a W&B export (CSV)", {s: values[n] for n, s in mine.items()}, {s: present[n] for n, s in mine.items()}
    if "_step" in values or "_runtime" in values:
        return "a W&B export (CSV)", values, present
    if "epoch" in values and "loss" in values and "step" not in values and _rises_by_one(values["epoch"]):
        return "Keras's CSVLogger", values, present
    if path.name == "metrics.csv" and "step" in values and "epoch" in values:
        return "Lightning's CSVLogger", values, present
    notes.append("a plain table: which column is what was guessed from the names")
    return "a CSV table", values, present


def _rises_by_one(epoch: Numbers) -> bool:
    """Whether a column counts epochs, one row each; a run that was resumed may begin again."""
    return bool(epoch.size and np.isin(np.diff(epoch)[np.diff(epoch) > 0], 1).all())


def _distinct(names: list[str]) -> list[str]:
    """Return names made distinct: a second `loss` is `loss (2)`, a nameless column `column 3`."""
    seen: dict[str, int] = {}
    made = []
    for place, name in enumerate(names, 1):
        name = name or f"column {place}"
        seen[name] = seen.get(name, 0) + 1
        made.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return made


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
