"""The directory of a run: which file holds what, written atomically."""

from __future__ import annotations

import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from trivet.errors import RunError, first_line, require, unknown_name
from trivet.recipes import Advice, Recipe
from trivet.record.events import encode
from trivet.record.journal import Record, read_record
from trivet.record.summary import Result
from trivet.tasks.prediction import Predictions, Predictor

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")

RECIPE, RECORD, RESULT = "recipe.toml", "record.jsonl", "result.json"


class Run:
    """A training in progress or done: recipe, record and checkpoints in one directory.

    ```
    recipe.toml          what is run               task.json         what it is run on
    why.json             the reasons               profile.json      the facts they rest on
    lr_range.json        the range test            environment.json  versions, machine, seed
    race.json            the race before the run   race.jsonl        its short runs, one a line
    record.jsonl         every event               checkpoint.pt     the latest state, for resuming
    model.safetensors    the best weights          result.json       the verdict
    predictor.json       how new rows are read    report.html       all of it, to look at
    ```
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path, *, runs: str | Path = "runs") -> Run:
        """Open an existing run by its directory, or by its name in the runs folder."""
        for candidate in (Path(path), Path(runs) / str(path)):
            if (candidate / "task.json").is_file() or (candidate / RECIPE).is_file():
                return cls(candidate)
        if Path(path).exists():
            raise RunError(f"{path} is not a run: it has no {RECIPE}; give a directory that `trivet fit` made")
        names = [run.path.name for run in list_runs(runs)]
        if names:
            raise unknown_name("run", str(path), names, error=RunError)
        raise RunError(f"there is no run {path}; `trivet fit DATA` makes one, `trivet runs` lists them")

    # -- what it holds ----------------------------------------------------------------------------

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, with its reasons where they were stored."""
        recipe = Recipe.load(self.path / RECIPE)
        why = self.read("why.json", tuple[Advice, ...])
        return msgspec.structs.replace(recipe, why=why) if why else recipe

    @property
    def record(self) -> Record:
        """The record so far (read anew each time: the run may be in progress)."""
        path = self.path / RECORD
        return read_record(path) if path.exists() else Record()

    @property
    def result(self) -> Result | None:
        """The verdict, or None while the run is unfinished."""
        return self.read(RESULT, Result)

    @property
    def status(self) -> str:
        """How the run stands: "done", or how it ended, or "unfinished" (in progress, or crashed)."""
        if (self.path / RESULT).exists():
            return "done"
        end = self.record.end
        return end.reason if end is not None else "unfinished"

    @property
    def name(self) -> str:
        return self.path.name

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status})"

    def predict(self, data: object, *, model: nn.Module | None = None) -> Predictions:
        """Predict new rows with the run's own preprocessing, weights, thresholds and class names.

        `data` is a path or data in memory, in the form of the training data; its target may be absent. `model` is
        needed where the run's was made in Python. Raises `RunError` for a run without weights, `DataError` for data
        that does not fit.
        """
        weights, predictor = self.path / "model.safetensors", self.read("predictor.json", Predictor)
        if not weights.exists():
            raise RunError(f"{self.path} has no weights yet; go on with it: trivet fit --resume {self.path}")
        if predictor is None:
            raise RunError(f"{self.path} has no predictor.json: it was made before runs could predict; run it again")
        safetensors = require("safetensors", "app")
        from safetensors.torch import load_file

        try:
            loaded = load_file(weights)
        except (OSError, safetensors.SafetensorError) as error:
            raise RunError(f"cannot read {weights}: {first_line(error)}") from error
        result = self.result
        decisions = () if result is None else result.decisions or ((result.decision,) if result.decision else ())
        return predictor.predict(data, loaded, decisions, model)

    # -- reading and writing ----------------------------------------------------------------------

    def read(self, name: str, kind: type[T]) -> T | None:
        """Read one of the JSON files as `kind`, or None where it was not written."""
        path = self.path / name
        if not path.exists():
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind, strict=False)
        except (OSError, msgspec.MsgspecError) as error:
            raise RunError(f"cannot read {path}: {error}") from error

    def write(self, name: str, data: object) -> Path:
        """Write one of the JSON files atomically."""
        text = msgspec.json.format(encode(data), indent=2)
        return self.write_bytes(name, text + b"\n")

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write a file atomically: a reader sees the old content or the new, never half of it."""
        path, part = self.path / name, self.path / f".{name}.part"
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise RunError(f"cannot write {path}: {error.strerror}") from error
        return path

    def write_recipe(self, recipe: Recipe) -> None:
        """Store a recipe and the reasons beside it."""
        self.write_bytes(RECIPE, recipe.to_toml().encode())
        self.write("why.json", recipe.why)
        self.__dict__.pop("recipe", None)

    def remove(self) -> None:
        """Delete the directory and all that is in it."""
        shutil.rmtree(self.path)


def refuse_taken(path: str | Path | None) -> None:
    """Raise `RunError` where something is already that a new run would overwrite; an empty directory is none."""
    if path is None or not os.path.lexists(path):
        return
    try:
        if Path(path).is_dir() and not any(Path(path).iterdir()):
            return
    except OSError as error:
        raise RunError(f"cannot look into {path}: {error.strerror}; give another --out") from error
    is_run = (Path(path) / "task.json").is_file()
    hint = f", or go on with it: trivet fit --resume {path}" if is_run else ""
    raise RunError(f"{path} exists already{' and is not empty' * Path(path).is_dir()}; give another --out{hint}")


def new_run(name: str, *, out: str | Path | None = None, runs: str | Path = "runs") -> Run:
    """Make an empty run directory: `out` itself where given, else a fresh `runs/NAME-xxxx`."""
    path = Path(out) if out is not None else Path(runs) / f"{name}-{os.urandom(2).hex()}"
    refuse_taken(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise RunError(f"cannot write to {path}: {error.strerror}; give another --out") from error
    return Run(path)


def list_runs(runs: str | Path = "runs") -> list[Run]:
    """Return all runs in a folder, oldest first."""
    folder = Path(runs)
    if not folder.is_dir():
        return []
    found = [Run(p) for p in folder.iterdir() if (p / "task.json").is_file() or (p / RECIPE).is_file()]
    return sorted(found, key=lambda run: run.path.stat().st_mtime)
