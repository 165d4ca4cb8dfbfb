"""A search keeps its budget, loses and doubles nothing, and does not take luck for skill."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import trivet
from trivet.errors import InputError, RunError
from trivet.recipes import Recipe
from trivet.tuning import OptimizerSpace, Range, Space, search
from trivet.tuning.space import default_space, read_space
from trivet.tuning.trials import Trials

pytestmark = pytest.mark.app


@pytest.fixture(scope="module")
def task() -> trivet.Task:
    return trivet.read_task("sklearn:wine")


def recipe(**changes: object) -> Recipe:
    data: dict[str, object] = {
        "loss": "cross_entropy",
        "optimizer": {"name": "AdamW", "lr": 3e-3, "weight_decay": 0.01},
        "schedule": "cosine()",
        "batch_size": 32,
        "epochs": 18,
    }
    return Recipe.from_dict(data | changes)


def small_space() -> Space:
    return Space(
        base=recipe(),
        losses=({"name": "cross_entropy"},),
        optimizers=(
            OptimizerSpace(part={"name": "AdamW"}, lr=Range(1e-4, 1e-2), weight_decay=Range(1e-3, 0.1)),
            OptimizerSpace(part={"name": "SGD", "momentum": 0.9}, lr=Range(1e-3, 1.0)),
        ),
        schedules=("cosine()",),
    )


# -- the space ----------------------------------------------------------------------------------------------


def test_every_optimizer_gets_its_share_of_quasi_random_points_within_its_own_range() -> None:
    points = small_space().quasi_random(16, seed=3)
    assert [p["optimizer"] for p in points].count("SGD") == 8
    rates = sorted(float(p["SGD.lr"]) for p in points if p["optimizer"] == "SGD")
    assert 1e-3 <= rates[0] < rates[-1] <= 1.0
    # Sobol in one dimension: 8 points leave no eighth of the log range more than one empty neighbour.
    shares = [math.log(rate / 1e-3) / math.log(1e3) for rate in rates]
    assert {int(8 * min(share, 0.999)) for share in shares} == set(range(8))
    assert all("AdamW.lr" not in p for p in points if p["optimizer"] == "SGD")


def test_a_recipe_and_its_parameters_are_two_forms_of_one_thing() -> None:
    space = small_space()
    for point in space.quasi_random(6):
        assert space.parameters(space.recipe(point)) == point


def test_the_default_space_holds_the_recommended_recipe_and_a_range_for_each_optimizer(task: trivet.Task) -> None:
    facts = trivet.profile(task)
    recommended = trivet.recommend(task, facts)
    space = default_space(task, recommended, facts)
    assert space.parameters(recommended) is not None
    assert len({optimizer.lr for optimizer in space.optimizers}) >= 3
    assert space.warnings() == ()


def test_one_range_for_optimizers_of_different_scale_is_warned_about() -> None:
    lr = Range(1e-5, 1e-2)
    space = Space(
        base=recipe(),
        losses=({"name": "cross_entropy"},),
        optimizers=(OptimizerSpace(part={"name": "AdamW"}, lr=lr), OptimizerSpace(part={"name": "SGD"}, lr=lr)),
    )
    (warning,) = space.warnings()
    assert "AdamW" in warning
    assert "SGD" in warning


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optimizers = 3", "at least one table"),
        ("[optimizers.AdamW]\nlr = [1e-2, 1e-4]", "empty"),
        ("[optimizers.AdamW]\nlr = 0.1", "must be a range"),
        ("[optimizers.AdmaW]\nlr = [1e-4, 1e-2]", "AdamW"),
        ("loses = []\n[optimizers.AdamW]\nlr = [1e-4, 1e-2]", "losses"),
        ("losses = ['cross_entrpy']\n[optimizers.AdamW]\nlr = [1e-4, 1e-2]", "cross_entropy"),
        ("schedules = []\n[optimizers.AdamW]\nlr = [1e-4, 1e-2]", "no schedules"),
        ("[optimizers.AdamW\n", "cannot read"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read_space(path, recipe())
    assert "\n" not in str(caught.value)


# -- the search ---------------------------------------------------------------------------------------------


def test_a_search_goes_on_where_it_ended_and_repeats_nothing(task: trivet.Task, tmp_path: Path) -> None:
    lines: list[str] = []
    first = search(task, recipe(), trials=3, space=small_space(), out=tmp_path)
    again = search(task, recipe(), trials=5, space=small_space(), out=tmp_path, say=lines.append)
    assert again.attempts[:3] == first.attempts
    assert [attempt.number for attempt in again.attempts] == [0, 1, 2, 3, 4]
    assert sum(line.startswith("trial") for line in lines) == 2
    assert again.attempts[0].origin == "recommended"
    whole = search(task, recipe(), trials=5, space=small_space(), out=tmp_path / "whole")
    assert [a.parameters for a in whole.attempts] == [a.parameters for a in again.attempts]
    assert [a.scores for a in whole.attempts] == [a.scores for a in again.attempts]
    assert whole.choice == again.choice


def test_a_bad_recommendation_is_replaced_and_a_good_one_survives_luck(task: trivet.Task, tmp_path: Path) -> None:
    slow = recipe(optimizer={"name": "AdamW", "lr": 1e-4, "weight_decay": 0.01}, epochs=9)
    found = search(task, slow, trials=6, space=small_space(), out=tmp_path / "slow")
    assert found.choice.startswith("trial"), found.notes
    assert "better than the recommended" in found.notes[0]
    assert "test split" in found.notes[1]
    good = search(task, recipe(), trials=4, space=small_space(), out=tmp_path / "good")
    assert good.choice == "recommended", good.notes


def test_a_choice_at_the_edge_of_its_range_is_said(task: trivet.Task, tmp_path: Path) -> None:
    narrow = Space(
        base=recipe(epochs=9),
        losses=({"name": "cross_entropy"},),
        optimizers=(OptimizerSpace(part={"name": "AdamW"}, lr=Range(2e-5, 2e-3)),),
        schedules=("cosine()",),
    )
    slow = recipe(optimizer={"name": "AdamW", "lr": 2e-5}, epochs=9)
    study = search(task, slow, trials=5, space=narrow, out=tmp_path)
    edges = narrow.edges({"optimizer": "AdamW", "AdamW.lr": 1.95e-3})
    assert edges == {"AdamW.lr": "high"}
    if narrow.edges(study.attempts[int(study.choice.split()[1])].parameters):
        assert any("edge of its range" in note for note in study.notes)


def test_a_budget_of_time_is_kept_within_a_tenth(task: trivet.Task, tmp_path: Path) -> None:
    search(task, recipe(), trials=2, space=small_space(), out=tmp_path / "warm")  # compiles what compiles
    began = time.perf_counter()
    study = search(task, recipe(), budget=12, space=small_space(), out=tmp_path / "timed")
    assert time.perf_counter() - began < 1.1 * 12
    assert len(study.attempts) >= 2


def test_a_budget_too_small_is_said_before_anything_runs(task: trivet.Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give at least"):
        search(task, recipe(epochs=500), budget=0.01, space=small_space(), out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputError, match="2 or more"):
        search(task, trials=1, out=tmp_path / "a")
    with pytest.raises(InputError, match="not both"):
        search(task, budget=5, trials=3, out=tmp_path / "a")


def test_a_folder_of_another_search_is_refused_and_left_as_it_was(task: trivet.Task, tmp_path: Path) -> None:
    search(task, recipe(), trials=2, space=small_space(), out=tmp_path)
    before = (tmp_path / "trials.log").read_bytes()
    with pytest.raises(RunError, match="another search"):
        search(task, recipe(), trials=2, space=small_space(), seed=1, out=tmp_path)
    assert (tmp_path / "trials.log").read_bytes() == before


def test_a_trial_whose_process_was_killed_is_done_again(task: trivet.Task, tmp_path: Path) -> None:
    script = (
        "import sys, time, trivet\n"
        "from trivet.tuning.trials import Trials\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_recipe_search import small_space\n"
        "book = Trials(__import__('pathlib').Path(sys.argv[2]), small_space(), {}, higher_is_better=True, seed=0)\n"
        "book.queue([('first', p) for p in small_space().quasi_random(2)])\n"
        "book.ask(); print('asked', flush=True); time.sleep(60)\n"
    )
    folder = str(Path(__file__).parent)
    child = subprocess.Popen([sys.executable, "-c", script, folder, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"asked\n"
    living = Trials(tmp_path, small_space(), {}, higher_is_better=True, seed=0)
    assert living.waiting() == 1, "a living process keeps its trial"
    assert living.running()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not living.running(), "a final does not wait for the dead"
    book = Trials(tmp_path, small_space(), {}, higher_is_better=True, seed=0)
    assert book.waiting() == 2
    seen = [book.ask()[1] for _ in range(2)]
    assert sorted(map(str, seen)) == sorted(map(str, small_space().quasi_random(2)))


def test_two_processes_on_one_journal_run_the_queued_trials_once(task: trivet.Task, tmp_path: Path) -> None:
    points = small_space().quasi_random(6)
    one = Trials(tmp_path, small_space(), {}, higher_is_better=True, seed=0)
    two = Trials(tmp_path, small_space(), {}, higher_is_better=True, seed=0)
    one.queue([("x", point) for point in points])
    two.queue([("x", point) for point in points])
    taken = [book.ask()[1] for _ in range(3) for book in (one, two)]
    assert sorted(map(str, taken)) == sorted(map(str, points))
