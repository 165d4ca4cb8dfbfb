"""A task in its own words: Python source for its model and metric, and its encoded arrays in one file."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from types import ModuleType
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
    if isinstance(factory, functools.partial) and getattr(models, factory.func.__name__, None) is factory.func:
        # The reference models import torch alone, so the whole page of one can stand in a script.
        page = inspect.getsource(inspect.getmodule(factory.func))  # type: ignore[arg-type]
        body = page[page.index("\nclass ") + 1 :].rstrip()
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
    page = inspect.getmodule(function)
    if page is None or not page.__name__.startswith(metrics.__name__):
        module, name = function.__module__, getattr(function, "__qualname__", "metric")
        return f"from {module} import {name} as own_metric\n\n{head}\n\n{_wrapped(task, 'own_metric')}"
    needed = [source for name, source in _functions(page) if _reaches(page, function, name)]
    return f"{head}\n\n" + "\n\n".join([*needed, _wrapped(task, function.__name__)])


def _wrapped(task: Task, name: str) -> str:
    lines = ["def metric(outputs: torch.Tensor, targets: torch.Tensor) -> float:"]
    if task.metric.scale is not None:
        mean, std = task.metric.scale
        lines += [f"    mean, std = {mean!r}, {std!r}  # back into the target's own units"]
        back = "outputs.double() + math.log(std)" if task.metric.log_outputs else "outputs.double() * std + mean"
        lines += [f"    outputs, targets = {back}, targets.double() * std + mean"]
    return "\n".join([*lines, f"    return float({name}(outputs.double(), targets))"])


def _functions(page: ModuleType) -> list[tuple[str, str]]:
    """Every function of a page of metrics with its source, decorators and `trivet` errors taken off."""
    found = []
    for name, function in vars(page).items():
        if inspect.isfunction(function) and function.__module__ == page.__name__:
            source = inspect.getsource(function)
            source = source[source.index("def ") :].replace("InputError(", "ValueError(")
            found.append((name, source.rstrip() + "\n"))
    return found


def _reaches(page: ModuleType, function: object, name: str) -> bool:
    """Say whether a metric function is, or calls, directly or not, the one of this name on its page."""
    seen, todo = set(), [getattr(function, "__name__", "")]
    while todo:
        current = todo.pop()
        if current in seen or not inspect.isfunction(vars(page).get(current)):
            continue
        seen.add(current)
        code = vars(page)[current].__code__
        todo += [n for n in (*code.co_names, *_nested_names(code)) if inspect.isfunction(vars(page).get(n))]
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
