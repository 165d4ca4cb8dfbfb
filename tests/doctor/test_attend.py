"""The doctor beside trivet's own loop: in the record, in the progress line, in the report, and never in the way."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import trivet
from trivet.doctor import Doctor
from trivet.doctor.guard import NonFiniteError
from trivet.record import Journal, read_record
from trivet.training import Recorder, train
from trivet.training.progress import PlainProgress

torch.manual_seed(0)
X = torch.randn(200, 6)
TASK = trivet.Task(
    lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), (X, X[:, :3].argmax(dim=1)), kind="multiclass"
)


def recipe(**changes: object) -> trivet.Recipe:
    base = {"loss": "cross_entropy", "optimizer": {"name": "AdamW", "lr": 1e-2}, "batch_size": 20, "epochs": 10}
    return trivet.Recipe.from_dict({**base, **changes})


def test_an_attended_run_is_bit_for_bit_the_run_alone() -> None:
    ends = [
        torch.cat([p.flatten() for p in train(TASK, recipe(), observer=observer).model.parameters()])
        for observer in (None, Doctor())
    ]
    assert torch.equal(*ends)


def test_probes_go_into_the_record_and_findings_into_record_and_progress(tmp_path: Path) -> None:
    stream = io.StringIO()
    with Journal(tmp_path / "record.jsonl") as journal:
        train(
            TASK,
            recipe(optimizer={"name": "SGD", "lr": 1e-7}, epochs=20),
            callbacks=(Recorder(journal), PlainProgress(stream)),
            observer=Doctor(),
        )
    record = read_record(tmp_path / "record.jsonl")
    assert record.setting is not None
    assert record.setting.prior == pytest.approx(math.log(3), abs=0.1)
    assert len(record.probes) >= 8
    assert [event.finding.code for event in record.found] == ["TV203"]
    assert "TV203 at step" in stream.getvalue()
    assert record.end is not None


def test_a_nan_in_training_names_the_sample_and_ends_the_record_as_diverged(tmp_path: Path) -> None:
    class Log(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.log(x.abs() - 0.001)

    task = trivet.Task(lambda: nn.Sequential(Log(), nn.Linear(6, 3)), (X, X[:, :3].argmax(dim=1)), kind="multiclass")
    task.train.inputs[3, 0] = 0.0005
    with Journal(tmp_path / "record.jsonl") as journal, pytest.raises(NonFiniteError, match="output of 0"):
        train(task, recipe(), callbacks=(Recorder(journal),), observer=Doctor())
    assert read_record(tmp_path / "record.jsonl").end.reason == "diverged"


@pytest.mark.app
def test_the_report_says_what_the_doctor_saw(tmp_path: Path) -> None:
    run = trivet.fit(TASK, recipe(optimizer={"name": "SGD", "lr": 1e-7}), out=tmp_path / "run", progress="off")
    page = (run.path / "report.html").read_text()
    assert "What the doctor saw" in page
    assert "TV203" in page
