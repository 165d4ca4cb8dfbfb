"""Comparing trains with paired seeds, keeps every finished run, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trivet.cli import run as cli
from trivet.errors import InputError, RunError
from trivet.recipes import Edit, Recipe
from trivet.tasks import Task
from trivet.tuning import comparison
from trivet.tuning.comparison import compare, state_bytes_per_parameter
from trivet.tuning.contenders import at_shared_rate, at_tuned_rate

pytestmark = pytest.mark.app

PLAIN = Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.05}, batch_size=32, epochs=2)
SLOW = PLAIN.apply(Edit("optimizer.lr", 1e-5))


@pytest.fixture(scope="module")
def task() -> Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.1 * rng.normal(size=200)).astype(np.float32)
    return Task.from_arrays(x, y, kind="regression", model=lambda: nn.Linear(4, 1))


def test_a_recipe_ties_with_itself_run_for_run(task: Task) -> None:
    study = compare(task, {"a": PLAIN, "b": PLAIN}, seeds=3)
    assert study.scores("a") == study.scores("b")
    assert study.difference("a", "b").verdict == "tie"
    assert len(set(study.scores("a"))) == 3


def test_a_rate_that_is_far_too_low_is_worse(task: Task) -> None:
    study = compare(task, [PLAIN, SLOW], seeds=3)
    assert study.difference("recipe 1", "recipe 2").verdict == "worse"
    assert study.best() == "recipe 1"
    assert "recipe 2 is worse than recipe 1" in str(study)
    assert study.plot().axes


def test_a_stopped_comparison_goes_on_and_ends_the_same(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compare(task, [PLAIN, SLOW], seeds=2)
    real, runs = comparison.train, 0

    def stopped(*arguments: object, **keywords: object) -> object:
        nonlocal runs
        runs += 1
        if runs == 4:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(comparison, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare(task, [PLAIN, SLOW], seeds=2, out=tmp_path)
    file = tmp_path / "study.jsonl"
    file.write_bytes(file.read_bytes() + b'{"contender": "recipe 2", "se')  # a crash in the middle of a line
    runs = 100
    study = compare(task, [PLAIN, SLOW], seeds=2, out=tmp_path)
    assert runs == 101  # one run was left
    assert [study.scores(c.name) for c in study.contenders] == [whole.scores(c.name) for c in whole.contenders]
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 5


def test_the_file_of_another_study_is_not_touched(task: Task, tmp_path: Path) -> None:
    compare(task, [PLAIN, SLOW], seeds=2, out=tmp_path)
    before = (tmp_path / "study.jsonl").read_bytes()
    with pytest.raises(RunError, match="another comparison"):
        compare(task, [PLAIN, PLAIN.apply(Edit("epochs", 3))], seeds=2, out=tmp_path)
    assert (tmp_path / "study.jsonl").read_bytes() == before


def test_state_is_counted_as_the_optimizers_are_known_to_keep_it(task: Task) -> None:
    for part, expected in (
        ({"name": "SGD"}, 0.0),
        ({"name": "SGD", "momentum": 0.9}, 4.0),
        ({"name": "Lion"}, 4.0),
        ({"name": "AdamW"}, 8.0),
    ):
        recipe = PLAIN.apply(Edit("optimizer", part | {"lr": 0.01}))  # type: ignore[arg-type, operator]
        assert state_bytes_per_parameter(task, recipe) == expected


def test_optimizers_share_a_rate_or_get_their_own(task: Task) -> None:
    shared = at_shared_rate(PLAIN, ["sgd", "adam"], 1e-3)
    assert [r.optimizer for r in shared.values()] == [{"name": "SGD", "lr": 1e-3}, {"name": "Adam", "lr": 1e-3}]
    tuned = at_tuned_rate(task, PLAIN.apply(Edit("epochs", 20)), ["sgd", "adam"])
    rates = [float(str(r.optimizer["lr"])) for r in tuned.values()]
    assert rates[0] > 3 * rates[1]  # plain SGD needs the larger one


def test_what_cannot_be_compared_is_said(task: Task) -> None:
    with pytest.raises(InputError, match="1 recipe"):
        compare(task, [PLAIN])
    with pytest.raises(InputError, match="seeds = 1"):
        compare(task, [PLAIN, SLOW], seeds=1)
    with pytest.raises(InputError, match="split = 'train'"):
        compare(task, [PLAIN, SLOW], split="train")


def test_a_run_that_diverges_is_counted_and_does_not_stop_the_others(task: Task) -> None:
    wild = PLAIN.apply(Edit("optimizer.lr", 1e30))
    study = compare(task, {"wild": wild, "plain": PLAIN}, seeds=2)
    assert study.difference("wild", "plain").verdict == "better"
    assert [t.metric for t in study.of("wild")] == [None, None]
    assert "diverged in 2 of 2" in str(study)


def test_the_command_compares_files_and_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, lr in (("a", 0.003), ("b", 0.0001)):
        recipe = Recipe(loss="cross_entropy", optimizer={"name": "AdamW", "lr": lr}, epochs=2)
        recipe.save(tmp_path / f"{name}.toml")
    torch.manual_seed(0)
    files = [str(tmp_path / "a.toml"), str(tmp_path / "b.toml")]
    out = ["--out", str(tmp_path / "study"), "--json"]
    assert cli(["compare", "sklearn:wine", *files, "--seeds", "2", *out]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["differences"][0]["first"] == "a"
    assert [c["name"] for c in told["contenders"]] == ["a", "b"]
    assert cli(["compare", "sklearn:wine"]) == 2
    assert "nothing to compare" in capsys.readouterr().err
    assert cli(["compare", "sklearn:wine", files[0], files[0]]) == 2
    assert "given twice" in capsys.readouterr().err
    assert cli(["compare", "sklearn:wine", *files, "--and-tuned"]) == 2
