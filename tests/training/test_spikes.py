"""Batches that would throw a run off are left out, NaN among them; a run that stays lost goes back or gives up."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from torch import nn

import trivet
from trivet.errors import DivergedError, RecipeError
from trivet.record import Journal, read_record
from trivet.training import Recorder, train
from trivet.training.spikes import Spikes

RECIPE = trivet.Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.05}, batch_size=20, epochs=20)
SKIP = RECIPE.apply(trivet.Edit("spikes", "skip"))


def task(broken: int) -> trivet.Task:
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    y = x.sum(dim=1)
    made = trivet.Task(
        nn.Linear(4, 1), (x, y), (x[:50].clone(), y[:50]), (x[50:90].clone(), y[50:90]), kind="regression"
    )
    made.train.inputs[:broken] = 1e20  # overflows to infinity in the loss
    return made


@pytest.mark.parametrize("tail", [1.0, 3.0])
def test_ordinary_noise_is_never_refused(tail: float) -> None:
    draw, spikes = random.Random(0), Spikes()
    losses = [math.exp(-k / 200) * math.exp(0.2 * tail * draw.gauss(0, 1)) for k in range(1000)]
    assert [loss for loss in losses if spikes.refuses(loss)] == []


def test_one_nan_changes_nothing_for_later_batches() -> None:
    one, other = Spikes(), Spikes()
    for k in range(40):
        loss = 1 + 0.1 * math.sin(k)
        assert not one.refuses(loss)
        assert not other.refuses(loss)
        assert other.refuses(math.nan)
    assert one.recent == other.recent
    assert one.refuses(30.0)
    assert other.refuses(30.0)


def test_a_run_with_a_broken_row_learns_all_the_same_and_says_how_often(tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        train(task(1), RECIPE)
    with Journal(tmp_path / "record.jsonl") as journal:
        outcome = train(task(1), SKIP, callbacks=(Recorder(journal),))
    assert outcome.metric < 0.05
    assert outcome.reason == "finished"
    notes = [note.text for note in read_record(tmp_path / "record.jsonl").notes]
    assert any("20 of 200 batches were left out" in text for text in notes)


def test_a_run_of_nothing_but_broken_rows_gives_up() -> None:
    with pytest.raises(DivergedError, match="went back"):
        train(task(200), SKIP)


def test_without_spikes_the_guarded_run_is_the_same_run() -> None:
    ends = [train(task(0), recipe).model.weight for recipe in (RECIPE, SKIP)]
    assert torch.equal(*ends)


def test_a_script_is_refused_rather_than_written_without_it() -> None:
    with pytest.raises(RecipeError, match="spikes"):
        SKIP.to_python()


def test_the_judge_survives_a_checkpoint() -> None:
    spikes = Spikes()
    for k in range(30):
        spikes.refuses(1 + 0.1 * math.sin(k))
    spikes.refuses(99.0)
    again = Spikes.of(spikes.data)
    assert (again.recent, again.in_a_row, again.skipped) == (spikes.recent, 1, 1)
