"""A live view survives what happens to a log while it is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from trivet.doctor.follow import View, curve, headline, lines, views
from trivet.record import End, Journal, Resume, Start, Step

pytestmark = pytest.mark.app
LOGS = Path(__file__).parents[1] / "record" / "foreign_logs"


def look(path: Path, *changes: Callable[[], object]) -> list[View]:
    """Look at a log now and after each change; a change is made while the view sleeps."""
    todo = iter(changes)

    def sleep(seconds: float) -> None:
        change = next(todo, None)
        if change is None:
            raise StopAsyncIteration
        change()

    seen = []
    try:
        for view in views(path, sleep=sleep):
            seen.append(view)
    except StopAsyncIteration:
        pass
    return seen


def losses(view: View) -> list[float]:
    assert view.found is not None
    return [s.loss for s in view.found.log.record.steps]


def test_a_view_follows_growth_rotation_truncation_and_a_gap(tmp_path: Path) -> None:
    path, fresh = tmp_path / "log.csv", tmp_path / "new"
    path.write_text("step,loss\n1,9\n2,8\n")
    fresh.write_text("step,loss\n1,5\n2,4\n3,3\n4,2\n")
    seen = look(
        path,
        lambda: path.open("a").write("3,7\n4"),  # a line that is half written
        lambda: None,  # nothing new: no view
        lambda: path.open("a").write(",6\n"),
        path.unlink,
        lambda: fresh.rename(path),
        lambda: path.write_text("step,loss\n1,1\n"),
    )
    assert [losses(v) for v in seen] == [[9, 8], [9, 8, 7], [9, 8, 7, 6], [9, 8, 7, 6], [5, 4, 3, 2], [1]]
    assert ["there is no" in v.waiting for v in seen] == [False, False, False, True, False, False]


def test_a_resumed_run_of_ones_own_is_followed_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    journal = Journal(path)
    journal.write(Start(6, 6, 32, 0, "cpu", "accuracy", True))
    for k in range(1, 5):
        journal.write(Step(k, 1.0, 0.1, float(k)))

    def resume() -> None:
        journal.write(Resume(2))
        for k in range(3, 7):
            journal.write(Step(k, 2.0, 0.1, float(k)))

    seen = look(path, resume, lambda: journal.write(End(6, "finished", 6.0)), lambda: pytest.fail("it has ended"))
    assert [losses(v) for v in seen] == [[1] * 4, [1, 1, 2, 2, 2, 2], [1, 1, 2, 2, 2, 2]]
    assert [v.ended for v in seen] == ["", "", "finished"]
    # One step a second, two of six left.
    assert "step 4/6" in headline(seen[0])
    assert "eta 0:02" in headline(seen[0])
    assert "ended: finished" in lines(seen[-1])[-1]


@pytest.mark.parametrize("width", [30, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_findings_are_in_it(width: int) -> None:
    for folder in ("tensorboard", "lightning", "transformers_nan"):
        view = next(views(LOGS / folder))
        drawn = lines(view, width=width, height=6)
        assert max(map(len, drawn)) <= width
        assert view.found is not None
        assert [line for line in drawn if any(f.code in line for f in view.found.findings)] or not view.found.findings


def test_a_curve_shows_the_range_and_marks_nan() -> None:
    drawn = curve([5.0, 4.0, math.nan, 3.0], 40, 3)
    assert drawn[0].startswith("    5 ┤█")
    assert drawn[-1] == "    3 ┤██x▁"
    assert curve([math.nan], 40, 3) == ["    (no finite loss)"]
    steep = curve([1e4, 1e2, 1.0], 40, 3)
    assert "log" in steep[0]
    # Halfway by the logarithm, where a hundredth of the height would be left by value.
    assert steep[1].count("█") + steep[1].count("▄") + steep[1].count("▅") == 2
