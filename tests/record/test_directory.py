"""A run's directory: made once, written atomically, opened by path or name."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from trivet.errors import RunError
from trivet.recipes import Advice, Edit, Recipe
from trivet.record import Run, TaskCard, list_runs, new_run


def test_a_new_run_gets_a_directory_of_its_own(tmp_path: Path) -> None:
    one, other = new_run("task", runs=tmp_path), new_run("task", runs=tmp_path)
    assert one.path != other.path
    assert one.path.is_dir()


def test_an_existing_directory_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("data")
    with pytest.raises(RunError, match=r"exists already and is not empty; give another --out"):
        new_run("task", out=tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "data"
    with pytest.raises(RunError, match="exists already"):
        new_run("task", out=tmp_path / "precious.txt")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # chmod does not stop root, under which tests may run
    with pytest.raises(RunError, match="Permission denied; give another --out"):
        new_run("task", out=tmp_path / "run")


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match="cannot write"):
        new_run("task", out=tmp_path / "file" / "run")


def test_recipe_and_reasons_come_back_together(tmp_path: Path) -> None:
    run = new_run("task", out=tmp_path / "r")
    recipe = Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.1}).advise(Advice(Edit("epochs", 3), "short"))
    run.write_recipe(recipe)
    again = Run.open(tmp_path / "r")
    assert again.recipe == recipe
    assert again.recipe.why == recipe.why


def test_runs_are_found_by_path_and_by_name(tmp_path: Path) -> None:
    run = new_run("iris", runs=tmp_path)
    run.write(
        "task.json",
        TaskCard(name="iris", kind="multiclass", source="sklearn:iris", metric="accuracy", seed=0, rows={}),
    )
    assert Run.open(run.path).path == run.path
    assert Run.open(run.name, runs=tmp_path).path == run.path
    assert [r.name for r in list_runs(tmp_path)] == [run.name]
    with pytest.raises(RunError, match="did you mean"):
        Run.open(run.name[:-1] + "x", runs=tmp_path)
    with pytest.raises(RunError, match="is not a run"):
        Run.open(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = new_run("task", out=tmp_path / "r")
    run.write_bytes("result.json", b"{")
    with pytest.raises(RunError, match=r"cannot read .*result\.json"):
        _ = run.result


def test_numbers_that_are_not_finite_come_back_from_files(tmp_path: Path) -> None:
    run = new_run("task", out=tmp_path / "r")
    run.write("numbers.json", {"tried": [(0.1, 2.0), (9.0, math.inf)], "nothing": None})
    assert run.read("numbers.json", dict[str, list[tuple[float, float]] | None]) == {
        "tried": [(0.1, 2.0), (9.0, math.inf)],
        "nothing": None,
    }
