"""A task in its own words: Python source for its model and metric, and its encoded arrays in one file."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.tasks import metrics, models

if TYPE_CHECKING:
    from trivet.tasks.task import Task


def model_source(task: Task) -> str:
    """Return source that defines `make_model()`; a model that has no source to show becomes a place to put yours."""
    factory = task._model
    if isinstance(factory, functools.partial) and inspect.getmodule(factory.func) is models:
        # The reference models import torch alone, so the whole page can stand in a script.
        page = inspect.getsource(models)
        body = page[page.index("class TabularMLP") :].rstrip()
        words = ", ".join([*map(repr, factory.args), *(f"{k}={v!r}" for k, v in factory.keywords.items())])
        return f"{_IMPORTS}\n\n{body}\n\n\ndef make_model() -> nn.Module:\n    return {factory.func.__name__}({words})"
    module, name = getattr(factory, "__module__", ""), getattr(factory, "__qualname__", "")
    if module and name and module != "__main__" and "." not in name and callable(factory):
        return f"from {module} import {name} as make_model"
    return 'def make_model() -> nn.Module:\n    raise SystemExit("put your model into make_model()")'


_IMPORTS = "from collections.abc import Sequence\n\nfrom torch import Tensor"


def metric_source(task: Task) -> str:
    """Return source that defines `metric(outputs, targets)` and `HIGHER_IS_BETTER`."""
    function = task.metric.function
    head = f"HIGHER_IS_BETTER = {task.metric.higher_is_better}\n"
    if inspect.getmodule(function) is not metrics:
        module, name = function.__module__, getattr(function, "__qualname__", "metric")
        return f"from {module} import {name} as own_metric\n\n{head}\n\n{_wrapped(task, 'own_metric')}"
    needed = [source for name, source in _functions() if _reaches(function, name)]
    return f"{head}\n\n" + "\n\n".join([*needed, _wrapped(task, function.__name__)])


def _wrapped(task: Task, name: str) -> str:
    lines = ["def metric(outputs: torch.Tensor, targets: torch.Tensor) -> float:"]
    if task.metric.scale is not None:
        mean, std = task.metric.scale
        lines += [f"    mean, std = {mean!r}, {std!r}  # back into the target's own units"]
        lines += ["    outputs, targets = outputs.double() * std + mean, targets.double() * std + mean"]
    return "\n".join([*lines, f"    return float({name}(outputs.double(), targets))"])


def _functions() -> list[tuple[str, str]]:
    """Every function of the metrics' page with its source, decorators and `trivet` errors taken off."""
    found = []
    for name, function in vars(metrics).items():
        if inspect.isfunction(function) and function.__module__ == metrics.__name__:
            source = inspect.getsource(function)
            source = source[source.index("def ") :].replace("InputError(", "ValueError(")
            found.append((name, source.rstrip() + "\n"))
    return found


def _reaches(function: object, name: str) -> bool:
    """Say whether a metric function is, or calls, directly or not, the one of this name."""
    seen, todo = set(), [getattr(function, "__name__", "")]
    while todo:
        current = todo.pop()
        if current in seen or not inspect.isfunction(vars(metrics).get(current)):
            continue
        seen.add(current)
        todo += [n for n in vars(metrics)[current].__code__.co_names if inspect.isfunction(vars(metrics).get(n))]
        todo += _nested_names(vars(metrics)[current].__code__)
    return name in seen


def _nested_names(code: object) -> list[str]:
    nested = [c for c in getattr(code, "co_consts", ()) if inspect.iscode(c)]
    return [name for c in nested for name in (*c.co_names, *_nested_names(c))]


def save_arrays(task: Task, path: str | Path) -> Path:
    """Write the encoded splits as `X_train, y_train, X_val, ...` (`X0_train`, `X1_train` for two inputs) as npz.

    Raises `InputError` for a task whose splits are not tensors.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, split in (("train", task.train), ("val", task.val), ("test", task.test)):
        inputs, targets = split.batch(torch.arange(len(split)))
        if not all(isinstance(x, Tensor) for x in (*(inputs if isinstance(inputs, tuple) else (inputs,)), targets)):
            raise InputError("only tasks whose inputs are tensors can be written as arrays")
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        for number, part in enumerate(parts):
            arrays[f"X{number if len(parts) > 1 else ''}_{name}"] = part.numpy()
        arrays[f"y_{name}"] = targets.numpy()
    path = Path(path)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path
