"""The race before a run: fair heats, a confirmed winner, nothing lost by a crash, and silence where it cannot pay."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

import trivet
from trivet.facts import profile
from trivet.recipes import Edit, Recipe
from trivet.tasks import Task
from trivet.tuning import Plan, Race, plan_race, race
from trivet.tuning.portfolio import portfolio
from trivet.tuning.race import FRESH, RECOMMENDED, TRIALS, Heat, contenders

pytestmark = pytest.mark.app


@pytest.fixture(scope="module")
def task() -> Task:
    """A line through noise, 240 rows: the reference perceptron learns it in a second."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    return Task.from_arrays(x, x @ np.arange(1.0, 6.0) + 0.1 * rng.normal(size=400), kind="regression", steps=80)


def recipe(lr: float) -> Recipe:
    optimizer = {"name": "AdamW", "lr": lr}
    return Recipe(loss="mse_loss", optimizer=optimizer, schedule="cosine()", batch_size=32, epochs=10)


def plan(task: Task, **named: Recipe) -> Plan:
    one = plan_race(task, next(iter(named.values())), profile(task))
    return msgspec.structs.replace(one, contenders={name: r.as_dict() for name, r in named.items()})


def test_the_contenders_are_the_recipe_its_neighbours_and_what_did_well_elsewhere(task: Task) -> None:
    huber = recipe(1e-3).apply(Edit("loss", {"name": "huber_loss", "delta": 1.0}))
    named = contenders(task, huber, profile(task))
    assert list(named)[:4] == [RECOMMENDED, "the plain loss", "three times the rate", "a third of the rate"]
    assert named["three times the rate"].optimizer["lr"] == 3e-3
    assert named["the plain loss"].loss == {"name": "mse_loss"}
    others = [named[name] for name in named if name.startswith("portfolio")]
    assert others
    assert {(r.batch_size, r.epochs) for r in named.values()} == {(32, 10)}
    assert "the plain loss" not in contenders(task, recipe(1e-3), profile(task))


def test_a_clearly_better_recipe_wins_twice_and_comes_with_its_reason(task: Task) -> None:
    found = race(task, plan(task, recommended=recipe(1e-6), other=recipe(1e-2)))
    assert found.choice == "other"
    chosen = found.advise(recipe(1e-6))
    assert chosen.optimizer["lr"] == 1e-2
    assert "won twice" in chosen.why[-1].reason
    assert {heat.seed for heat in found.heats} == {FRESH, FRESH + 1}


def test_the_same_recipe_under_another_name_never_wins(task: Task) -> None:
    almost = recipe(5e-3).apply(Edit("optimizer.lr", 5.0001e-3))
    found = race(task, plan(task, recommended=recipe(5e-3), twin=almost))
    assert found.choice == RECOMMENDED
    assert found.advise(recipe(5e-3)) == recipe(5e-3)


def test_a_recommended_recipe_that_diverges_is_replaced(task: Task) -> None:
    wild = recipe(1e-2).apply(Edit("optimizer", {"name": "SGD", "lr": 1e12}))
    found = race(task, plan(task, recommended=wild, calm=recipe(1e-2)))
    assert found.choice == "calm"
    assert next(heat for heat in found.heats if heat.contender == RECOMMENDED).metric is None


def test_a_killed_race_goes_on_where_it_was_and_ends_the_same(task: Task, tmp_path: Path) -> None:
    planned = plan(task, recommended=recipe(1e-6), other=recipe(1e-2), third=recipe(1e-3))
    whole = race(task, planned, book=tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == len(whole.heats) <= TRIALS
    for kept in range(len(lines)):
        book = tmp_path / f"after{kept}.jsonl"
        book.write_bytes(b"".join(lines[:kept]) + lines[kept][:7])  # killed while it wrote the next line
        again = race(task, planned, book=book)
        assert (again.choice, again.reason) == (whole.choice, whole.reason)
        assert [told(h) for h in again.heats] == [told(h) for h in whole.heats]
        assert len(book.read_bytes().splitlines()) == len(lines)


def told(heat: Heat) -> tuple[object, ...]:
    return heat.contender, heat.seed, heat.metric


def test_a_race_without_time_for_one_run_is_left_out_and_says_so(task: Task) -> None:
    skipped = plan_race(task, recipe(1e-3), profile(task), budget=0.01)
    assert "do not fit into" in skipped.skipped
    assert not plan_race(task, recipe(1e-3), profile(task), budget=1000).skipped


def test_a_long_run_has_short_heats_that_cost_no_more_than_half_of_it(task: Task) -> None:
    long = recipe(1e-3).apply(Edit("epochs", 20_000))
    planned = plan_race(task, long, profile(task))
    assert planned.share == pytest.approx(1 / 16, rel=0.05)
    assert plan_race(task, recipe(1e-3), profile(task)).share == 1


def test_heats_end_with_the_time_that_is_given(task: Task) -> None:
    found = race(task, plan(task, recommended=recipe(1e-3), other=recipe(1e-2)), seconds=0.0)
    assert found.choice == RECOMMENDED
    assert len(found.heats) <= 1


def test_fit_races_notes_it_and_leaves_it_out_when_told(tmp_path: Path, task: Task) -> None:
    run = trivet.fit(task, out=tmp_path / "raced", progress="off")
    found = run.read("race.json", Race)
    assert found is not None
    assert found.heats
    assert "The race before it" in (run.path / "report.html").read_text()
    assert any(note.text.startswith("race: ") for note in run.record.notes)
    plain = trivet.fit(task, out=tmp_path / "plain", progress="off", race=False)
    assert not (plain.path / "race.json").exists()


def test_the_portfolio_says_where_it_comes_from_and_every_member_can_be_built(task: Task) -> None:
    held = portfolio()
    assert len(held.provenance["tasks"]) > 10  # type: ignore[arg-type]
    for member in held.members:
        candidate = member.recipe(recipe(1e-3), task)
        assert candidate.epochs == 10
        candidate.build(task.make_model(0), steps=10)
