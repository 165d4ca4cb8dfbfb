"""Shell completion: a script for the user's shell that knows the commands and their options."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from trivet.cli import run as cli

pytestmark = pytest.mark.app

pytest.importorskip("cyclopts")


def test_the_completion_script_knows_commands_and_options(tmp_path: Path) -> None:
    path = tmp_path / "trivet.bash"
    assert cli(["--install-completion", "--shell", "bash", "--output", str(path)]) == 0
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
    text = path.read_text()
    for word in ("predict", "recommend", "--target", "--group", "--budget"):
        assert word in text, word
