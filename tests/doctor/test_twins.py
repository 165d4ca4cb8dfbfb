"""What twins and folders of runs decide."""

from __future__ import annotations

from pathlib import Path

import pytest

import trivet
from trivet.doctor.folder import examine_runs
from trivet.doctor.twins import bad_dynamics, final_metric, local_minimum
from trivet.record import Eval, Record, Run, Start, TaskCard


def ended(*metrics: float, higher: bool = True) -> list[Record]:
    start = Start(10, 10, 1, 0, "cpu", "accuracy" if higher else "rmse", higher)
    return [
        Record(start=start, evals=(Eval(5, "val", m - 1, 1.0, 0.0), Eval(10, "val", m, 1.0, 0.0, True)))
        for m in metrics
    ]


def test_a_noisier_twin_counts_only_beyond_two_standard_deviations_of_seeds() -> None:
    runs = ended(0.80, 0.81, 0.82)
    assert local_minimum(runs, ended(0.85, 0.86, 0.87)).code == "TV240"
    assert local_minimum(runs, ended(0.81, 0.82, 0.83)) is None
    assert local_minimum(runs, ended(0.70, 0.71, 0.72)) is None
    assert local_minimum(runs[:1], ended(0.99)) is None


def test_lower_is_better_where_the_metric_says_so() -> None:
    assert final_metric(ended(3.0, higher=False)[0]) == -3.0
    assert local_minimum(ended(3.0, 3.1, higher=False), ended(2.0, 2.1, higher=False)) is not None
    assert local_minimum(ended(2.0, 2.1, higher=False), ended(3.0, 3.1, higher=False)) is None


def test_the_recipe_is_blamed_with_the_fields_that_differ() -> None:
    bad = trivet.Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 1e-6})
    good = bad.apply(trivet.Edit("optimizer.lr", 0.1))
    finding = bad_dynamics(ended(0.1, 0.11), ended(0.9, 0.91), bad, good)
    assert (finding.code, str(finding.fix)) == ("TV241", "optimizer.lr = 0.1")
    assert bad_dynamics(ended(0.1, 0.11), ended(0.9, 0.91), bad, bad) is None


def make(folder: Path, name: str, kind: str, lr: float) -> None:
    run = Run(folder / f"{name}-{lr}")
    run.path.mkdir(parents=True)
    run.write_recipe(trivet.Recipe(loss="mse_loss", optimizer={"name": "Adam", "lr": lr}))
    run.write("task.json", TaskCard(name=name, kind=kind, source="", metric="rmse", seed=0, rows={}))


def test_one_recipe_on_three_unlike_tasks_is_said_until_another_was_tried(tmp_path: Path) -> None:
    for name, kind in (("houses", "regression"), ("flowers", "multiclass"), ("spam", "binary")):
        make(tmp_path, name, kind, 1e-3)
    assert [f.code for f in examine_runs(tmp_path)] == ["TV250", "TV251"]
    make(tmp_path, "spam", "binary", 1e-2)
    assert [f.code for f in examine_runs(tmp_path)] == ["TV251"]
    assert examine_runs(tmp_path)[0].evidence["tasks"] == 2


@pytest.mark.parametrize("count", [0, 1])
def test_a_range_test_on_record_is_a_test_of_the_rate(tmp_path: Path, count: int) -> None:
    make(tmp_path, "houses", "regression", 1e-3)
    for _ in range(count):
        (tmp_path / "houses-0.001" / "lr_range.json").write_text("{}")
    assert [f.code for f in examine_runs(tmp_path)] == ([] if count else ["TV251"])
