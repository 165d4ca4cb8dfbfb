"""From a log to a diagnosis: the same answer whoever wrote the log, and a word on what the log cannot tell."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import trivet
from trivet.doctor import examine_log, rules
from trivet.errors import InputError, RunError
from trivet.record import Record, Step

pytestmark = pytest.mark.app
LOGS = Path(__file__).parents[1] / "record" / "foreign_logs"


def csv(path: Path, header: str, *rows: object) -> Path:
    path.write_text("\n".join([header, *map(str, rows)]) + "\n")
    return path


def overfitting(path: Path) -> Path:
    rows = [
        f"{k},{2.3 * 0.9**k:.4f},{1.2 + 0.04 * abs(k - 8):.4f},{0.6 - 0.004 * max(k - 8, 0):.4f}" for k in range(40)
    ]
    return csv(path, "epoch,loss,val_loss,val_accuracy", *rows)


def test_an_overfitting_keras_log_is_told_from_a_healthy_one(tmp_path: Path) -> None:
    found = examine_log(overfitting(tmp_path / "log.csv"))
    assert found.findings[0].code == "TV214"
    assert found.findings[0].step in (7, 8, 9)  # the rule smooths over three evaluations
    healthy = [f"{k},{2.3 * 0.9**k:.4f},{2.5 * 0.92**k:.4f}" for k in range(40)]
    assert trivet.diagnose(csv(tmp_path / "healthy.csv", "epoch,loss,val_loss", *healthy)) == []


def test_a_loss_that_ends_in_nan_is_an_error_though_the_trainer_wrote_zeros() -> None:
    found = examine_log(LOGS / "transformers_nan")
    assert found.failed
    assert found.findings[0].severity == "error"


def test_a_log_and_the_record_made_of_it_give_the_same_findings(tmp_path: Path) -> None:
    path = csv(tmp_path / "log.csv", "step,loss,lr", *(f"{k},{2.3 * 1.2**k},0.5" for k in range(1, 40)))
    record = Record(steps=tuple(Step(k, 2.3 * 1.2**k, 0.5, 0.0) for k in range(1, 40)))
    assert [f.code for f in trivet.diagnose(path)] == [f.code for f in trivet.diagnose(record)] == ["TV202"]


def test_what_a_log_shows_and_what_it_cannot_show_are_all_the_modes(tmp_path: Path) -> None:
    bare = examine_log(csv(tmp_path / "a.csv", "step,loss", *(f"{k},{9 - k}" for k in range(9))))
    full = examine_log(overfitting(tmp_path / "b.csv"))
    for found in (bare, full):
        assert found.decided.keys() | found.undecided.keys() == rules.catalogue().keys()
        assert not found.decided.keys() & found.undecided.keys()
        assert sum(map(len, found.missing().values())) == len(found.undecided)
    assert "validation loss" in bare.undecided["TV214"]
    assert "TV214" in full.decided
    assert "trivet.watch" in full.undecided["TV208"]


def test_the_loss_of_a_constant_decides_more_modes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=200) / 100
    path = csv(tmp_path / "a.csv", "step,loss", *(f"{k},{math.log(10) + noise[k]}" for k in range(200)))
    assert "--prior" in examine_log(path).undecided["TV231"]
    assert "TV231" in examine_log(path, prior=math.log(10)).decided
    with pytest.raises(InputError, match="prior = nan"):
        trivet.diagnose(path, prior=math.nan)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("trainer_state.json", None, "TrainingArguments(learning_rate="),
        ("metrics.csv", None, "lr="),
        ("log.csv", None, "(optimizer.lr = "),
    ],
)
def test_the_fix_is_said_in_the_words_of_the_tool(name: str, text: str | None, words: str, tmp_path: Path) -> None:
    losses = [2.3 * 1.2**k for k in range(40)]
    if name.endswith("json"):
        entries = ",".join(f'{{"step": {k}, "loss": {v}, "learning_rate": 0.5}}' for k, v in enumerate(losses))
        (tmp_path / name).write_text(f'{{"log_history": [{entries}]}}')
    else:
        csv(tmp_path / name, "epoch,step,train_loss,lr", *(f"0,{k},{v},0.5" for k, v in enumerate(losses)))
    found = examine_log(tmp_path / name)
    assert found.findings[0].code == "TV202"
    assert words in found.fix(found.findings[0])
    assert found.fix(found.findings[0]).startswith("set the learning rate to 0.05")


def test_what_is_no_log_is_said_and_not_diagnosed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no"):
        trivet.diagnose(tmp_path / "nothing")
