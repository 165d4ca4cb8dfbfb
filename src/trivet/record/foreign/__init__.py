"""Readers of logs: trivet's own and those of other tools, all as a `Record`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trivet.errors import RunError
from trivet.record.directory import RECORD
from trivet.record.foreign.assemble import assemble
from trivet.record.foreign.find import find_run, kind_of, prefix, stamp
from trivet.record.foreign.log import Log
from trivet.record.journal import read_record

__all__ = ["Log", "read_log", "stamp"]

_OWN = (b'"event":"', b'"event": "')


def read_log(path: str | Path, *, columns: Mapping[str, str] | None = None, run: str | None = None) -> Log:
    """Read the log of a run, whoever wrote it.

    Read are trivet's runs and `record.jsonl`, Hugging Face's `trainer_state.json` (or a folder of checkpoints),
    TensorBoard event files (or their folder), the `CSVLogger` of Lightning and Keras, W&B exports as CSV, JSON or
    JSON lines, and any CSV with a header. `columns` says which column is what where the guess is wrong, such as
    `{"loss": "train_nll"}` (roles: step, epoch, time, loss, lr, grad_norm, val_loss, metric, train_metric); `run` names
    one run of a file that holds several. Nothing is ever unpickled.

    Raises `RunError` in one line for what is no log, is empty, holds several runs, or cannot be read.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "trainer_state.json"
    >>> _ = path.write_text('{"log_history": [{"step": 10, "loss": 2.5}, {"step": 20, "loss": NaN}]}')
    >>> log = read_log(path); log.format, log.record.steps[1].loss
    ('Hugging Face trainer_state.json', nan)
    """
    where = Path(path)
    given = dict(columns or {})
    try:
        if where.is_dir():
            return _folder(where, given, run)
        if not where.exists():
            named = Path("runs") / where
            if named.is_dir():
                return _folder(named, given, run)
            raise RunError(f"there is no {where}; give a log file, a folder with one, or the name of a run in runs/")
        return _file(where, given, run)
    except OSError as error:
        raise RunError(f"cannot read {error.filename or where}: {error.strerror}") from error


def _folder(folder: Path, given: dict[str, str], run: str | None) -> Log:
    if (folder / RECORD).is_file():
        return _own(folder / RECORD, given)
    if run is not None and (folder / run).exists():
        return read_log(folder / run, columns=given)
    kind, files = find_run(folder)
    if kind == "events":
        return _events(folder, files, given)
    if kind == "trainer_state":
        # Every checkpoint holds the whole history so far: the longest is the latest.
        files = sorted(files, key=lambda p: p.stat().st_size)
    return _file(files[-1], given, run)


def _file(path: Path, given: dict[str, str], run: str | None) -> Log:
    from trivet.record.foreign import delimited, jsons

    if not path.is_file():
        raise RunError(f"{path} is not a file or folder that can be read as a log")
    if kind_of(path.name) == "events":
        return _events(path, [path], given)
    content = path.read_bytes()
    if not content.strip():
        raise RunError(f"{path} is empty; the run has not logged anything yet")
    head = content[:4096]
    if b"\0" in head and content[:2] != b"\x1f\x8b":
        raise RunError(
            f"{path} is binary and no TensorBoard event file (whose name has 'tfevents'); weights, optimizer states "
            "and pickles are not logs and are not opened"
        )
    if content[:2] == b"\x1f\x8b" or path.name.lower().endswith((".csv", ".tsv", ".csv.gz")):
        return assemble(delimited.read_csv(path, content, run), path, given)
    first = content.lstrip()[:1]
    if first in b"{[":
        if any(mark in head for mark in _OWN):
            return _own(path, given)
        if b'"log_history"' in content:
            return assemble(jsons.read_trainer_state(path, content), path, given)
        return assemble(jsons.read_history(path, content), path, given)
    return assemble(delimited.read_csv(path, content, run), path, given)


def _own(path: Path, given: dict[str, str]) -> Log:
    if given:
        raise RunError(f"{path} is trivet's own record, which needs no --column; leave it out")
    record = read_record(path)
    notes = [f"{record.unreadable_lines:,} lines are torn or unknown"] if record.unreadable_lines else []
    if record.start is None and not record.steps:
        raise RunError(f"{path} has no events that can be read")
    kind = "a run of trivet" if (path.parent / "task.json").is_file() else "a record of trivet.watch"
    return Log(path, kind, record, tuple(notes))


def _events(path: Path, files: list[Path], given: dict[str, str]) -> Log:
    from trivet.record.foreign.tensorboard import read_events

    # The name of an event file begins with the time it was opened.
    return assemble(read_events({file: prefix(file) for file in sorted(files)}), path, given)
