"""The command line's DATA: a path, ``sklearn:NAME`` or ``module:function``, to a Task."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
from torch import Tensor, nn

from trivet.errors import DataError, InputError, TrivetError, first_line, nearest, require, unknown_name
from trivet.tasks.arrays import task_from_arrays
from trivet.tasks.metrics import Metric
from trivet.tasks.npz import read_npz
from trivet.tasks.task import ModelFactory, Task

__all__ = ["SKLEARN_SETS", "read_task"]

SKLEARN_SETS = ("breast_cancer", "diabetes", "digits", "iris", "wine")
"""The real sets that scikit-learn carries with it; nothing is downloaded."""

TEXTS = (".txt", ".txt.gz")

TABLES = (".csv", ".csv.gz", ".parquet")


def read_task(
    data: str,
    *,
    target: str | None = None,
    kind: str | None = None,
    metric: str | Metric | Callable[[Tensor, Tensor], float] | None = None,
    model: str | ModelFactory | nn.Module | None = None,
    seed: int = 0,
    group: str | None = None,
    time: str | None = None,
    text: str | None = None,
) -> Task:
    """Read a task from what the command line calls DATA.

    - ``*.csv``, ``*.csv.gz``, ``*.parquet``: a table; ``target`` names the column to predict, or several
      (``a,b,c``) that each hold 0 and 1; ``group`` and ``time`` columns to split by.
    - ``*.npz``: arrays ``X_train, y_train[, X_test, y_test]``, perhaps ``classes`` (names of labels 0, 1,
      ..); ``target`` names other arrays than ``y``: ``TARGET_train[, TARGET_test]``.
      With lengths ``n_train`` the inputs are padded sequences; with ``y`` ``(rows, height, width)`` they are masks.
    - ``*.txt``, ``*.txt.gz``: one long text, for a language model of its characters.
    - a folder of class-named folders of images, of ``images/`` and ``masks/``, or of ``train.csv`` and ``test.csv``
      (or another kind of table).
    - ``sklearn:NAME``: one of scikit-learn's bundled sets: breast_cancer, diabetes, digits, iris, wine.
    - ``module:function``: a function without arguments that returns a Task; ``model`` too may be
      ``module:factory``.

    Raises DataError (one line: what was given, what is allowed, what to try) for anything else.

    >>> read_task("sklearn:wine").classes
    ('class_0', 'class_1', 'class_2')
    """
    factory = cast(ModelFactory, load_function(model, "model factory")) if isinstance(model, str) else model
    prefix, colon, rest = data.partition(":")
    columns = {"group": group, "time": time, "text": text}
    path = Path(data)
    tables = _tables_of(path) if path.is_dir() else None
    if not data.endswith(TABLES) and not tables and any(columns.values()):
        raise DataError(f"{' and '.join(n for n, c in columns.items() if c)} name columns of a table; {data} is none")
    if colon and prefix == "sklearn":
        _refuse_target(target, data)
        return _sklearn_task(rest, kind, metric, factory, seed)
    if path.is_dir() and tables is None:
        from trivet.tasks.folders import task_from_images

        if target is not None:
            raise DataError(
                f"the folder {data!r} holds no train.csv whose column {target!r} could be predicted; name a table in "
                "it, or leave the target out for a folder of images"
            )
        return task_from_images(path, kind=kind, metric=metric, model=factory, seed=seed, source=data)
    if data.endswith(TEXTS) and path.exists():
        from trivet.tasks.texts import task_from_text

        _refuse_target(target, data)
        if kind not in (None, "language"):
            raise DataError(f"a text file makes a language task, not {kind}; put texts and their classes into a .csv")
        return task_from_text(path, metric=metric, model=factory, seed=seed, source=data)
    if colon and not os.path.lexists(path) and not data.endswith((*TABLES, ".npz")):
        return _task_from_function(data, target, kind, metric, factory)
    train, test = tables or (path, None)
    _check_file(train)
    if data.endswith(".npz"):
        arrays = read_npz(path, target)
        return task_from_arrays(
            arrays["X_train"],
            arrays["y_train"],
            arrays.get("X_test"),
            arrays.get("y_test"),
            kind=kind,
            metric=metric,
            model=factory,
            seed=seed,
            name=path.stem,
            source=data,
            classes=arrays.get("classes", np.array([])).tolist(),
            lengths=arrays.get("n_train"),
            lengths_test=arrays.get("n_test"),
        )
    from trivet.tasks.tables import read_table, task_from_table

    frame = read_table(train)
    if target is None:
        raise DataError(
            f"which column of {train.name} is to be predicted? Name it as target (--target). Columns: "
            f"{', '.join(frame.columns)}"
        )
    name = path.name.split(".")[0]
    return task_from_table(
        frame, target, kind, metric, factory, seed, name=name, source=data, group=group, time=time, text=text,
        test=None if test is None else read_table(test),
    )  # fmt: skip


def _tables_of(folder: Path) -> tuple[Path, Path | None] | None:
    """``train.*`` and perhaps ``test.*`` of a folder, where it holds such tables."""
    found = {}
    for part in ("train", "test"):
        found[part] = next((folder / f"{part}{end}" for end in TABLES if (folder / f"{part}{end}").is_file()), None)
    return None if found["train"] is None else (found["train"], found["test"])


def _check_file(path: Path) -> None:
    if not os.path.lexists(path):
        near = nearest(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise DataError(f"there is no file {str(path)!r}{near}")
    if not path.name.endswith((*TABLES, ".npz")):
        raise DataError(
            f"{path.name!r} is not a known kind of data file: use {', '.join(TABLES)}, .npz, .txt, "
            "a folder of images, sklearn:NAME or module:function"
        )
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    if not first:
        raise DataError(f"{path.name} is empty (0 bytes)")


def _refuse_target(target: str | None, data: str) -> None:
    if target is not None:
        raise DataError(f"{data} has its own target; leave the target {target!r} out (it names a column of a table)")


def _sklearn_task(
    name: str,
    kind: str | None,
    metric: str | Metric | Callable[[Tensor, Tensor], float] | None,
    model: ModelFactory | nn.Module | None,
    seed: int,
) -> Task:
    if name not in SKLEARN_SETS:
        raise unknown_name("scikit-learn set", name, SKLEARN_SETS, error=DataError)
    bunch = getattr(require("sklearn.datasets", "app"), f"load_{name}")()
    return task_from_arrays(
        bunch.images if name == "digits" else bunch.data,
        bunch.target,
        kind=kind or ("regression" if name == "diabetes" else None),
        metric=metric,
        model=model,
        seed=seed,
        name=name,
        source=f"sklearn:{name}",
        features=() if name == "digits" else [str(feature) for feature in bunch.feature_names],
        classes=[] if name == "diabetes" else [str(label) for label in bunch.target_names],
    )


def _task_from_function(
    data: str,
    target: str | None,
    kind: str | None,
    metric: object,
    model: object,
) -> Task:
    given = [
        name
        for name, value in (("target", target), ("kind", kind), ("metric", metric), ("model", model))
        if value is not None
    ]
    if given:
        raise DataError(f"{data} makes its own Task; set {', '.join(given)} inside that function instead")
    make = load_function(data, "function that returns a Task")
    try:
        task = make()
    except TrivetError:
        raise
    except Exception as error:
        raise DataError(f"{data} fails: {first_line(error)}") from error
    if not isinstance(task, Task):
        raise DataError(f"{data} returned {type(task).__name__}; it must return a trivet.Task")
    return task


def load_function(path: str, what: str) -> Callable[..., object]:
    """Import ``module:function``; the current folder is searched first, as by ``python -m``."""
    module_name, colon, name = path.partition(":")
    if not (colon and module_name and name):
        raise DataError(f"{path!r} is no {what}: write module:function, for instance mymodule:make")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise DataError(f"module {module_name!r} of {path!r} cannot be imported: {first_line(error)}") from error
    if not hasattr(module, name):
        public = [entry for entry in vars(module) if not entry.startswith("_")]
        raise DataError(f"module {module_name!r} has no {name!r}{nearest(name, public)}")
    function = getattr(module, name)
    if not callable(function):
        raise InputError(f"{path!r} is {type(function).__name__}, not a {what}")
    return function  # type: ignore[no-any-return]
