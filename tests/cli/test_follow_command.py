"""`trivet follow` in a terminal, in a pipe, and once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trivet.cli import run

pytestmark = pytest.mark.app
LOGS = Path(__file__).parents[1] / "record" / "foreign_logs"


def test_once_draws_the_curve_the_metric_and_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["follow", str(LOGS / "lightning"), "--once"]) == 0
    out = capsys.readouterr().out
    for words in ("0.725 ┤█", "val_acc", "best 0.8917", "step 149  loss 0.314  lr 1.1e-06 ↘"):
        assert words in out
    assert "\x1b" not in out


def test_json_is_one_object_of_the_run_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["follow", str(LOGS / "transformers"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["schema"], said["planned"], said["last"]["step"], said["ended"]) == (1, 120, 120, "finished")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["follow", "nothing"], "there is no nothing"),
        (["follow", str(LOGS), "--once"], "holds 5 runs"),
        (["follow", str(LOGS / "lightning"), "--every", "0"], "--every 0"),
    ],
)
def test_wrong_input_exits_with_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert words in capsys.readouterr().err


def test_in_a_pipe_it_prints_lines_and_ends_with_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["follow", str(LOGS / "transformers_nan")]) == 0
    out = capsys.readouterr().out
    assert "ended: finished" in out.splitlines()[0]
    assert "error TV2" in out
    assert "\x1b" not in out


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_in_a_terminal_it_redraws_as_the_log_grows_and_ctrl_c_leaves_cleanly(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n" + "".join(f"{k},{9 - k / 10}\n" for k in range(1, 20)))
    main, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "trivet", "follow", str(path), "--every", "0.1"],
        stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
        # A test run in the background of a shell ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(terminal)
    screen = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(main, 4096):
                screen.extend(chunk)
        except OSError:
            pass  # the terminal is gone with the process

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def wait_for(text: str) -> None:
        end = time.monotonic() + 30
        while text.encode() not in screen:
            assert process.poll() is None, screen.decode(errors="replace")
            assert time.monotonic() < end, screen.decode(errors="replace")
            time.sleep(0.05)

    try:
        wait_for("step 19")
        with path.open("a") as file:
            file.write("20,5.5\n")
        wait_for("step 20  loss 5.5")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        os.close(main)
    assert b"Traceback" not in screen
    # The cursor is back: hidden while drawing, shown in the end.
    assert screen.rfind(b"\x1b[?25h") > screen.rfind(b"\x1b[?25l")
