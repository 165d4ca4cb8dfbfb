"""Predictions of a finished run: its preprocessing, weights, thresholds and words applied to new rows.

What is needed besides the weights is data (`predictor.json`): the fitted preprocessing, the model's source by name
with its arguments, the classes and the units. The weights come from safetensors. Nothing is unpickled.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trivet.errors import DataError, InputError, RunError, first_line
from trivet.tasks import models
from trivet.tasks.decision import Decision
from trivet.tasks.kinds import Context, kind_named
from trivet.tasks.preprocessing import Preprocessing

if TYPE_CHECKING:
    from trivet.tasks.task import Task

__all__ = ["Predictions", "Predictor", "predictor_of"]


class Predictor(msgspec.Struct, frozen=True, kw_only=True):
    """How new rows become predictions, as data.

    ``factory`` is the name of one of trivet's reference models, ``module:function`` of the user's own, or empty for a
    model that only Python can make again; ``positional`` and ``keywords`` are its arguments.
    """

    kind: str
    outputs: int
    classes: tuple[str, ...] = ()
    target_scale: tuple[float, float] | None = None
    factory: str = ""
    positional: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}
    preprocessing: dict[str, Any] | None = None

    def make_model(self) -> nn.Module:
        """Make the model with fresh weights; raises RunError where its source is not recorded or has gone."""
        if not self.factory:
            raise RunError("the run's model was made in Python; give it again: run.predict(data, model=my_model)")
        name = self.factory
        try:
            if ":" in name:
                from trivet.tasks.readers import load_function

                made = load_function(name, "model factory")(*map(_tuple, self.positional), **self.keywords)
            else:
                made = getattr(models, name)(*map(_tuple, self.positional), **self.keywords)
        except InputError:
            raise
        except Exception as error:
            raise RunError(f"the model {name} cannot be made again: {first_line(error)}") from error
        if not isinstance(made, nn.Module):
            raise RunError(f"{name} returned {type(made).__name__}; the run's model was a torch.nn.Module")
        return made

    def predict(
        self,
        data: object,
        weights: Mapping[str, Tensor],
        decisions: tuple[Decision, ...] = (),
        model: nn.Module | None = None,
    ) -> Predictions:
        """Predict new rows: a path, or data in memory, of the same form as the training data without its target."""
        model = self.make_model() if model is None else model
        try:
            model.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise RunError(f"the stored weights do not fit the model: {' '.join(str(error).split())[:300]}") from error
        names: dict[str, NDArray[Any]] = {}
        if self.preprocessing is None:
            inputs = _tensors(data)
        else:
            fitted = Preprocessing.from_dict(self.preprocessing)
            raw, names = fitted.read(data)
            inputs = fitted.encode(raw)
        rules = kind_named(self.kind)
        outputs = _outputs(model, inputs, self.outputs)
        said = rules.answers(outputs, Context(inputs, self.classes, decisions, self.target_scale))
        return Predictions(names | said)


def predictor_of(task: Task) -> Predictor:
    """Everything about a task that predictions need."""
    factory, positional, keywords = _source(task)
    return Predictor(
        kind=task.kind,
        outputs=task.outputs,
        classes=task.classes,
        target_scale=task.target_scale,
        factory=factory,
        positional=positional,
        keywords=keywords,
        preprocessing=None if task.preprocessing is None else task.preprocessing.to_dict(),
    )


def _source(task: Task) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The model's factory by name, with its arguments; an empty name where it has none that can be imported."""
    from trivet.tasks.task import _factory_arguments

    made = task._model
    if isinstance(made, nn.Module):
        return "", (), {}
    if isinstance(made, functools.partial):
        name = made.func.__name__ if getattr(models, made.func.__name__, None) is made.func else ""
        return name, tuple(made.args), dict(made.keywords)
    module, name = getattr(made, "__module__", ""), getattr(made, "__qualname__", "")
    if not module or not name or module == "__main__" or "<" in name or "." in name:
        return "", (), {}
    return f"{module}:{name}", _factory_arguments(made, task), {}


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _tensors(data: object) -> Tensor | tuple[Tensor, ...]:
    if isinstance(data, (str, Path)):
        raise DataError(f"the run was trained on tensors made in Python; give such tensors instead of {str(data)!r}")
    if isinstance(data, (tuple, list)):
        return tuple(torch.as_tensor(part) for part in data)
    return torch.as_tensor(data)


@torch.no_grad()
def _outputs(model: nn.Module, inputs: Tensor | tuple[Tensor, ...], outputs: int) -> Tensor:
    """The model's outputs for all rows, in batches that fit any memory, in evaluation mode."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    rows = len(parts[0])
    if rows == 0:
        raise DataError("there are no rows to predict")
    batch = max(16, min(1024, 2**20 // max(1, sum(part[0].numel() for part in parts))))
    model.eval()
    found = []
    for begin in range(0, rows, batch):
        output = model(*(part[begin : begin + batch] for part in parts))
        found.append((output.unsqueeze(-1) if output.ndim == 1 and outputs == 1 else output).float().cpu())
    return torch.cat(found)


class Predictions(Mapping[str, NDArray[Any]]):
    """Predictions column by column, each with one entry per row; ``save`` writes them as ``.csv`` or ``.npz``.

    >>> said = Predictions({"prediction": np.array(["yes", "no"])})
    >>> len(said.rows()), list(said)
    (2, ['prediction'])
    """

    def __init__(self, columns: dict[str, NDArray[Any]]) -> None:
        self._columns = columns

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def rows(self) -> list[dict[str, object]]:
        """One dict of plain values per row; arrays (masks, embeddings) become nested lists."""
        columns = {name: values.tolist() for name, values in self._columns.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def to_csv(self) -> str:
        """The predictions as CSV text; raises InputError for masks, which are no table."""
        wide = [name for name, values in self._columns.items() if values.ndim > 1]
        if wide:
            raise InputError(f"{wide[0]} is an array per row and does not fit a table; write to a .npz file")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._columns)
        writer.writerows(zip(*(values.tolist() for values in self._columns.values()), strict=True))
        return text.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write ``.csv`` or ``.npz``, atomically; raises InputError for another ending."""
        path = Path(path)
        if path.suffix not in (".csv", ".npz"):
            raise InputError(f"{path.name!r} is neither .csv nor .npz; predictions are written as one of these")
        if path.suffix == ".csv":
            content = self.to_csv().encode()
        else:
            buffer, plain = io.BytesIO(), {}
            for name, values in self._columns.items():
                plain[name] = values.astype(str) if values.dtype == object else values
            np.savez_compressed(buffer, **plain)  # type: ignore[arg-type]
            content = buffer.getvalue()
        part = path.with_name(f".{path.name}.part")
        try:
            part.write_bytes(content)
            part.replace(path)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}") from error
        return path
