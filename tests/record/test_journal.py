"""A record is append-only and readable after any crash."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trivet.errors import RunError
from trivet.record import End, Eval, Journal, Note, Resume, Start, Step, read_record

START = Start(100, 10, 32, 0, "cpu", "rmse", False)


def write(path: Path, *events: object) -> None:
    with Journal(path) as journal:
        for event in events:
            journal.write(event)  # type: ignore[arg-type]


def test_every_kind_of_event_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    events = (
        START,
        Step(1, 0.5, 0.1, 0.01, 2.0),
        Eval(10, "val", 1.5, 0.4, 0.2, True),
        Note(10, "hi"),
        End(10, "finished", 1.0),
    )
    write(path, *events)
    record = read_record(path)
    assert (record.start, record.steps, record.evals, record.notes, record.end) == (
        START, (events[1],), (events[2],), (events[3],), events[4]
    )  # fmt: skip
    assert record.best() == events[2]


@given(cut=st.integers(0, 400))
def test_a_torn_file_loses_at_most_its_last_line(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("torn") / "record.jsonl"
    write(path, START, *(Step(i, 1.0 / i, 0.1, float(i)) for i in range(1, 6)))
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n")
    record = read_record(path)
    assert len(record.steps) >= max(0, complete - 1)
    assert record.unreadable_lines <= 1
    # Writing goes on after the tear without swallowing the next event.
    write(path, Note(6, "after"))
    assert read_record(path).notes == (Note(6, "after"),)


def test_what_a_resume_repeats_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    steps = [Step(i, 1.0, 0.1, float(i)) for i in range(1, 8)]
    write(path, START, *steps, End(7, "interrupted", 7.0), Resume(4), *steps[4:])
    record = read_record(path)
    assert [s.step for s in record.steps] == [1, 2, 3, 4, 5, 6, 7]
    assert record.end is None
    assert record.resumes == (Resume(4),)


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    write(path, START, Step(1, float("nan"), 0.1, 0.1, float("inf")), Note(1, "null"), End(1, "diverged", 0.1))
    record = read_record(path)
    assert record.unreadable_lines == 0
    assert math.isnan(record.steps[0].loss)
    assert record.steps[0].grad_norm == math.inf
    assert record.notes == (Note(1, "null"),)
    assert record.end == End(1, "diverged", 0.1)


def test_a_full_disk_is_said_in_one_line() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(RunError, match="No space left"), Journal(full) as journal:
        journal.write(Note(0, "x"))
