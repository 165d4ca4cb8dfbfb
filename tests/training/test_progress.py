"""Progress for a terminal, a pipe and a program."""

from __future__ import annotations

import io
import json

import pytest

from trivet.errors import InputError
from trivet.record import End, Eval, Note, Start, Step
from trivet.training.progress import make_progress, sparkline

pytestmark = pytest.mark.app

EVENTS = [
    Start(20, 10, 32, 0, "cpu", "accuracy", True),
    *(Step(i, 1.0 / i, 0.1, i / 10) for i in range(1, 11)),
    Eval(10, "val", 0.9, 0.3, 1.0, True),
    Note(10, "a note"),
    *(Step(i, 1.0 / i, 0.1, i / 10) for i in range(11, 21)),
    End(20, "finished", 2.0),
]


def shown(style: str) -> str:
    stream = io.StringIO()
    progress = make_progress(style, stream=stream)
    for event in EVENTS:
        progress.handle(event)
    progress.say("done")
    progress.close()
    return stream.getvalue()


def test_a_pipe_gets_few_plain_lines() -> None:
    text = shown("plain")
    assert text.count("\n") <= 5
    assert "\r" not in text
    assert "\x1b" not in text
    assert "accuracy 0.9" in text
    assert "finished after 0:02" in text
    assert "a note" in text


def test_a_program_gets_one_json_object_per_line() -> None:
    lines = [json.loads(line) for line in shown("json").splitlines()]
    assert lines[0]["event"] == "start"
    assert lines[-2]["event"] == "end"
    assert sum(line["event"] == "step" for line in lines) == 20


def test_a_terminal_gets_a_bar_with_loss_and_metric() -> None:
    text = shown("rich")
    assert "20/20" in text
    assert "accuracy" in text
    assert "finished" in text


def test_off_is_silent() -> None:
    assert shown("off") == ""


def test_an_unknown_style_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'plain'"):
        make_progress("plan")


def test_the_sparkline_survives_numbers_that_are_not_finite() -> None:
    assert sparkline([float("nan"), 1.0, 2.0]) == "▁█"
    assert sparkline([]) == ""
    assert sparkline([1.0, 1.0]) == "▁▁"
