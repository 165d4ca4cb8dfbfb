"""`trivet doctor`: exit codes, one JSON object, text that fits the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trivet.cli import run
from trivet.record import Journal, Step

pytestmark = pytest.mark.app
LOGS = Path(__file__).parents[1] / "record" / "foreign_logs"


@pytest.fixture
def diverging(tmp_path: Path) -> str:
    path = tmp_path / "log.csv"
    path.write_text("step,nll,lr\n" + "\n".join(f"{k},{2.3 * 1.2**k},0.5" for k in range(40)))
    return str(path)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_an_error_exits_with_4_and_names_cause_evidence_fix_and_doubt_within_the_width(
    width: int, diverging: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run(["doctor", diverging]) == 4
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out  # no colour where nobody can see it
    for label in ("TV202", "seen: ", "do: set the learning rate", "wrong if: ", "cannot tell ", "looked for "):
        assert label in out
    wrapped = [line for line in out.splitlines() if line.startswith("  ")]
    assert wrapped
    assert max(map(len, wrapped)) <= width
    assert not any(line != line.rstrip() for line in out.splitlines())


def test_a_healthy_log_exits_with_0_and_says_how_much_that_means(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", str(LOGS / "lightning")]) == 0
    out = capsys.readouterr().out
    assert "Nothing wrong, as far as this log can tell" in out
    assert "needs a look into the model" in " ".join(out.split())


def test_json_is_one_object_with_findings_and_what_cannot_be_told(
    diverging: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", diverging, "--json", "--column", "loss=nll"]) == 4
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == 1
    assert said["findings"][0]["code"] == "TV202"
    assert said["findings"][0]["fix"]["path"] == "optimizer.lr"
    assert said["columns"]["loss"] == "nll"
    assert "TV202" in said["decided"]
    assert "trivet.watch" in said["undecided"]["TV208"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["doctor", "nothing"], "there is no nothing"),
        (["doctor", "{log}", "--column", "loss"], "ROLE=COLUMN"),
        (["doctor", "{log}", "--column", "loss=nl"], "did you mean 'nll'"),
        (["doctor", "{log}", "--column", "rate=lr"], "unknown role"),
        (["doctor", "{log}", "--prior", "nan"], "prior = nan"),
        (["doctor", str(LOGS)], "holds 5 runs"),
        (["doctor"], "path"),
    ],
)
def test_wrong_input_exits_with_2_and_says_what_to_give(
    arguments: list[str], words: str, diverging: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([word.format(log=diverging) for word in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words.lower() in err.lower()
    assert err.count("trivet: ") == 1


def test_the_list_of_runs_names_what_the_doctor_finds_in_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, growth in (("good-1", 0.9), ("bad-2", 1.2)):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "task.json").write_text(
            '{"name": "t", "kind": "binary", "source": "", "metric": "auroc", "seed": 0, "rows": {}}'
        )
        with Journal(folder / "record.jsonl") as journal:
            for k in range(1, 40):
                journal.write(Step(k, 2.3 * growth**k, 0.5, 0.1 * k))
    monkeypatch.chdir(tmp_path)
    assert run(["runs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert {row["run"]: row["findings"] for row in rows} == {"good-1": "-", "bad-2": "TV202"}
    assert run(["doctor", "bad-2"]) == 4
    assert "a run of trivet" in capsys.readouterr().out
