"""`trivet lint`: findings for people and programs, exit code 4 on errors, 2 on input that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trivet.cli import run
from trivet.recipes import Recipe

pytestmark = pytest.mark.app

GOOD = Recipe(loss="cross_entropy", optimizer={"name": "AdamW", "lr": 2e-3, "weight_decay": 0.0}, schedule="cosine()")


def lint(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["lint", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_healthy_recipe_leaves_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lint(capsys, str(GOOD.save(tmp_path / "good.toml")), "sklearn:digits")
    assert (code, out) == (0, "nothing found\n")


def test_errors_leave_with_4_and_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = Recipe(
        loss={"name": "cross_entropy", "weight": [1.0, 2.0]},
        optimizer={"name": "AdamW", "lr": 2e-3, "weight_decay": 0.0},
    )
    code, out, _ = lint(capsys, str(bad.save(tmp_path / "bad.toml")), "sklearn:digits", "--json")
    said = json.loads(out)
    assert code == 4
    assert said["errors"] == 1
    assert [(f["code"], f["severity"]) for f in said["findings"]] == [("TV109", "error"), ("TV130", "warning")]
    assert said["findings"][0]["evidence"] == {"weights": 2, "classes": 10}


@pytest.mark.parametrize("arguments", [("absent.toml", "sklearn:wine"), ("good.toml", "absent.csv")])
def test_input_that_cannot_be_used_leaves_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    GOOD.save(tmp_path / "good.toml")
    code, out, err = lint(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "absent" in err


def test_a_finding_has_a_page_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "tv120"]) == 0
    assert capsys.readouterr().out.startswith("TV120  L2 inside Adam")
    assert run(["show", "TV199"]) == 2
