"""Write a record line by line; read it back, whatever the last crash did to it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import msgspec

from trivet.errors import RunError
from trivet.record.events import End, Eval, Event, Found, Note, Probe, Resume, Setting, Start, Step, encode

_decoder = msgspec.json.Decoder(Event, strict=False)


class Journal:
    """An append-only file of events; every event is one `write` of one line, so a crash tears at most the last.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "record.jsonl"
    >>> with Journal(path) as journal:
    ...     journal.write(Note(1, "hello"))
    >>> read_record(path).notes[0].text
    'hello'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            # A torn last line must not swallow the next event.
            size = os.lseek(self._file, 0, os.SEEK_END)
            if size and os.pread(self._file, 1, size - 1) != b"\n":
                os.write(self._file, b"\n")
        except OSError as error:
            raise RunError(f"cannot write the record {path}: {error.strerror}") from error

    def write(self, event: Event) -> None:
        """Append one event."""
        try:
            os.write(self._file, encode(event) + b"\n")
        except OSError as error:
            raise RunError(f"cannot write the record {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Flush to the disk and close; closing twice is allowed."""
        if self._file >= 0:
            # Some file systems (pipes, /dev/full in tests) cannot sync; the data has been handed over all the same.
            with contextlib.suppress(OSError):
                os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclasses.dataclass(frozen=True)
class Record:
    """All events of a run, sorted by kind, without what a crash lost and a resume repeated."""

    start: Start | None = None
    steps: tuple[Step, ...] = ()
    evals: tuple[Eval, ...] = ()
    notes: tuple[Note, ...] = ()
    resumes: tuple[Resume, ...] = ()
    end: End | None = None
    unreadable_lines: int = 0
    setting: Setting | None = None
    probes: tuple[Probe, ...] = ()
    found: tuple[Found, ...] = ()

    def best(self) -> Eval | None:
        """Return the best evaluation on validation data, or None before the first."""
        marked = [e for e in self.evals if e.best]
        return marked[-1] if marked else None


def read_record(path: str | Path) -> Record:
    """Read a record; lines that are torn or from a newer version are counted, not fatal."""
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise RunError(f"cannot read the record {path}: {error.strerror}") from error
    events: list[Event] = []
    unreadable = 0
    for line in lines:
        if not line.strip():
            continue
        try:
            events.append(_decoder.decode(line))
        except msgspec.MsgspecError:
            unreadable += 1
    return as_record(events, unreadable)


def as_record(events: Iterable[Event], unreadable: int = 0) -> Record:
    """Sort events by kind into a record; what a `Resume` says was lost is left out.

    >>> as_record([Note(1, "one"), Note(9, "lost"), Resume(5)]).notes
    (Note(step=1, text='one'),)
    """
    start: Start | None = None
    end: End | None = None
    steps: list[Step] = []
    evals: list[Eval] = []
    notes: list[Note] = []
    resumes: list[Resume] = []
    setting: Setting | None = None
    probes: list[Probe] = []
    found: list[Found] = []
    for event in events:
        match event:
            case Start():
                start = event
            case Step():
                steps.append(event)
            case Eval():
                evals.append(event)
            case Setting():
                setting = event
            case Probe():
                probes.append(event)
            case Found():
                found.append(event)
            case Note():
                notes.append(event)
            case End():
                end = event
            case Resume(step=step):
                resumes.append(event)
                end = None
                steps = [e for e in steps if e.step <= step]
                evals = [e for e in evals if e.step <= step]
                notes = [e for e in notes if e.step <= step]
                probes = [e for e in probes if e.step <= step]
                found = [e for e in found if e.step <= step]
    return Record(
        start,
        tuple(steps),
        tuple(evals),
        tuple(notes),
        tuple(resumes),
        end,
        unreadable,
        setting,
        tuple(probes),
        tuple(found),
    )
