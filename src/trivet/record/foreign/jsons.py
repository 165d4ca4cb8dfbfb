"""JSON logs: the Trainer's `trainer_state.json`, and W&B histories as a list, a table or lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from trivet.errors import RunError
from trivet.record.foreign.log import Raw, Table

Json: TypeAlias = object


def decode(content: bytes) -> Json:
    """Decode JSON, also the bare NaN and Infinity that Python writes; raises ValueError for anything else."""
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return json.loads(content)


def read_trainer_state(path: Path, content: bytes) -> Raw:
    """Read a `trainer_state.json` of Hugging Face's Trainer, also one that was cut off."""
    notes: list[str] = []
    try:
        state = decode(content)
    except ValueError:
        state = {"log_history": _whole_objects(content)}
        notes.append(f"the file is cut off: {len(state['log_history']):,} whole entries are read")
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list) or not isinstance(state, dict):
        raise RunError(f"{path} is not a trainer_state.json: it has no list log_history")
    # The last entry sums up the training; its train_loss is a mean over all of it.
    rows = [row for row in history if isinstance(row, dict) and "train_runtime" not in row]
    if not rows:
        raise RunError(f"{path} has an empty log_history: the Trainer logged nothing; set logging_steps=10")
    table = as_table(rows)
    raw = Raw("Hugging Face trainer_state.json", table, notes=notes, lost_is_zero=True)
    raw.known = {
        role: name
        for role, name in (("loss", "loss"), ("lr", "learning_rate"), ("val_loss", "eval_loss"), ("step", "step"))
        if name in table.values
    }
    raw.planned = _whole(state.get("max_steps"))
    raw.batch_size = _whole(state.get("train_batch_size"))
    if "loss" not in table.values:
        raise RunError(f"{path} has no training loss in log_history; set logging_steps=10 and logging_strategy='steps'")
    return raw


def read_history(path: Path, content: bytes) -> Raw:
    """Read a W&B history: JSON lines, a list of rows, or a table with `columns` and `data`."""
    notes: list[str] = []
    try:
        found = decode(content)
    except ValueError:
        found = _lines(path, content, notes)
    if isinstance(found, dict) and {"columns", "data"} <= found.keys():
        names, data = found["columns"], found["data"]
        if not isinstance(names, list) or not isinstance(data, list):
            raise RunError(f"{path}: columns and data have to be lists")
        found = [dict(zip(map(str, names), row, strict=False)) for row in data if isinstance(row, list)]
    if isinstance(found, dict):
        columns = {k: v for k, v in found.items() if isinstance(v, list)}
        found = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=False)] or [found]
    if not isinstance(found, list):
        raise RunError(f"{path} is JSON, but no log: expected a list of rows, or one row per line")
    rows = [flat for row in found if isinstance(row, dict) for flat in [_flat(row)] if flat]
    if not rows:
        raise RunError(f"{path} has no rows with numbers")
    if len(rows) < len(found):
        notes.append(f"{len(found) - len(rows):,} entries without numbers left out")
    kind = "a W&B history (JSON)" if any("_step" in row for row in rows[:5]) else "rows of JSON"
    if kind == "rows of JSON":
        notes.append("which key is what was guessed from the names")
    return Raw(kind, as_table(rows), notes=notes)


def as_table(rows: Iterable[Mapping[str, object]]) -> Table:
    """Turn rows with different keys into columns; words for numbers ("NaN", "Infinity") count as those."""
    listed = list(rows)
    values: dict[str, np.ndarray] = {}
    for place, row in enumerate(listed):
        for key, value in row.items():
            number = _number(value)
            if number is None:
                continue
            if key not in values:
                values[key] = np.full((2, len(listed)), np.nan)
                values[key][1] = 0
            values[key][0, place] = number
            values[key][1, place] = 1
    return Table({k: v[0] for k, v in values.items()}, {k: v[1] == 1 for k, v in values.items()})


def _lines(path: Path, content: bytes, notes: list[str]) -> list[Json]:
    rows: list[Json] = []
    unreadable = 0
    for line in content.splitlines():
        if not line.strip():
            continue
        try:
            rows.append(decode(line))
        except ValueError:
            unreadable += 1
    if not rows or unreadable > len(rows):
        raise RunError(f"{path} is not readable as JSON or as lines of JSON; is it cut off or another kind of file?")
    if unreadable:
        notes.append(f"{unreadable:,} lines that are no JSON left out")
    return rows


def _whole_objects(content: bytes) -> list[Json]:
    """Return the entries of `log_history` that are whole in a file that is cut off."""
    text = content.decode("utf-8", errors="replace")
    place = text.find("[", text.find('"log_history"')) + 1 if '"log_history"' in text else 0
    decoder, found = json.JSONDecoder(), []
    while place:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        try:
            entry, place = decoder.raw_decode(text, place)
        except ValueError:
            break
        found.append(entry)
    return found


def _flat(row: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return a row without nesting, `a.b` for what stands in `a`; only what is a number or a word for one."""
    flat: dict[str, object] = {}
    for key, value in row.items():
        if isinstance(value, dict) and not prefix:
            flat |= _flat(value, f"{key}.")
        elif _number(value) is not None:
            flat[prefix + key] = value
    return flat


def _number(value: object) -> float | None:
    """Return a number, also one that stands in a string ("NaN" cannot stand otherwise); None for all else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and value > 0 else None
