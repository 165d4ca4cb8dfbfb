"""What a run writes: an append-only record of events, and the directory that keeps a run's files."""

from __future__ import annotations

from trivet.record.directory import Run, list_runs, new_run, refuse_taken
from trivet.record.events import End, Eval, Event, Found, Note, Probe, Resume, Setting, Start, Step
from trivet.record.journal import Journal, Record, as_record, read_record
from trivet.record.summary import Baseline, Judged, Result, TaskCard

__all__ = [
    "Baseline",
    "End",
    "Eval",
    "Event",
    "Found",
    "Journal",
    "Judged",
    "Note",
    "Probe",
    "Record",
    "Result",
    "Resume",
    "Run",
    "Setting",
    "Start",
    "Step",
    "TaskCard",
    "as_record",
    "list_runs",
    "new_run",
    "read_record",
    "refuse_taken",
]
