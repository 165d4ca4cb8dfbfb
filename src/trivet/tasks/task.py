"""A task: data in three splits, a way to make the model, the kind of target, and the metric that decides."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trivet.errors import DataError, InputError, first_line
from trivet.tasks.baselines import Baseline, fit_baselines
from trivet.tasks.kinds import Kind, kind_named
from trivet.tasks.metrics import Metric, bootstrap_interval, metric_for
from trivet.tasks.splits import Split, as_split, draw_splits, shared_rows

if TYPE_CHECKING:
    from trivet.tasks.prediction import Predictor
    from trivet.tasks.preprocessing import Preprocessing

__all__ = ["ModelFactory", "Task"]

ModelFactory = Callable[..., nn.Module]
SplitData = object


class Task:
    """What is to be learned, and how the result is judged. Frozen after construction.

    ``model`` is a factory or a module that is copied at each use; a factory is called without arguments, or
    with ``(features, outputs)`` when it needs them. ``train``, ``val`` and ``test`` are Datasets of ``(input,
    target)`` or pairs of tensors; a ``val`` or ``test`` that is not given is drawn from ``train``: 20 % of
    all rows each, stratified by class, the same for equal seeds. An input that is a tuple of tensors is given
    to the model as positional arguments. ``metric`` is a name, or a callable ``(outputs, targets) -> float``
    where higher is better.

    >>> x = torch.randn(100, 3)
    >>> task = Task(nn.Linear(3, 1), (x, x.sum(dim=1)), kind="regression")
    >>> len(task.train), len(task.val), len(task.test), task.metric.name, task.outputs
    (60, 20, 20, 'rmse', 1)
    """

    name: str
    kind: str
    metric: Metric
    train: Split
    val: Split
    test: Split
    outputs: int
    classes: tuple[str, ...]
    source: str
    notes: tuple[str, ...]
    batch_size: int | None
    steps: int | None
    seed: int
    target_scale: tuple[float, float] | None
    preprocessing: Preprocessing | None

    def __init__(
        self,
        model: ModelFactory | nn.Module,
        train: SplitData,
        val: SplitData | None = None,
        test: SplitData | None = None,
        *,
        kind: str,
        metric: str | Metric | Callable[[Tensor, Tensor], float] | None = None,
        batch_size: int | None = None,
        steps: int | None = None,
        name: str = "task",
        seed: int = 0,
        classes: tuple[str, ...] = (),
        source: str = "memory",
        notes: tuple[str, ...] = (),
        target_scale: tuple[float, float] | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        rules = kind_named(kind)
        for what, count in (("batch_size", batch_size), ("steps", steps)):
            if count is not None and count < 1:
                raise InputError(f"{what} is {count}; it must be 1 or more")
        self.name, self.kind, self.source, self.seed = name, kind, source, seed
        self.batch_size, self.steps = batch_size, steps
        self.target_scale, self.preprocessing = target_scale, preprocessing
        self._rules, self._model, self._checked = rules, model, False
        self._baselines: list[Baseline] | None = None
        self.train, self.val, self.test = _three_splits(train, val, test, rules, seed)
        for where, split in (("train", self.train), ("val", self.val), ("test", self.test)):
            rules.check_targets(split.targets, where)
            if target_scale is None:
                rules.check_values(split.targets, where)
        self.outputs = rules.outputs(self.train.targets)
        if rules.an_output_per_class and len(classes) > 2:
            self.outputs = max(self.outputs, len(classes))
        for where, split in (("train", self.train), ("validation", self.val), ("test", self.test)):
            rules.check_labels(split.targets, self.outputs, where)
        if rules.classifies:
            self._check_labels_known()
            classes = classes or tuple(str(label) for label in range(max(self.outputs, 2)))
        self.classes = classes
        self.metric = metric_for(metric or rules.default_metric(self.train.targets), kind).in_units(target_scale)
        self.notes = (*notes, *self._split_notes())
        self._frozen = True

    def __setattr__(self, name: str, value: object) -> None:
        if getattr(self, "_frozen", False) and not name.startswith("_"):
            raise AttributeError(f"a Task is frozen; make a new one to change {name!r}")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        rows = " + ".join(str(len(split)) for split in (self.train, self.val, self.test))
        return f"Task({self.name!r}, kind={self.kind!r}, metric={self.metric.name!r}, rows={rows})"

    def make_model(self, seed: int) -> nn.Module:
        """A fresh model, initialised under ``seed``; the global random state is left as it was.

        A model that gives ``(batch,)`` for a single output gets a hook that makes it ``(batch, 1)``, the
        shape of the targets. Raises InputError when the factory fails to give a module, or its output does
        not fit the task.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = (
                copy.deepcopy(self._model) if isinstance(self._model, nn.Module) else self._call_factory(self._model)
            )
            if not self._checked or any(nn.parameter.is_lazy(part) for part in model.parameters()):
                self._squeezed = self._check_output(model)
                self._checked = True
        if self._squeezed:
            model.register_forward_hook(_as_column)
        return model

    def order(self, generator: torch.Generator) -> Tensor:
        """The order of the training rows in one epoch, a permutation; kinds that need pairs keep classes together."""
        return self._rules.order(self.train.targets, generator)

    def baselines(self) -> list[Baseline]:
        """The best guess that ignores the input, and a simple model, judged on the test split."""
        if self._baselines is None:
            splits = self.train, self.val, self.test
            self._baselines = fit_baselines(self._rules, *splits, self.outputs, self.metric, self.preprocessing)
        return self._baselines

    def interval(self, outputs: Tensor, targets: Tensor, seed: int = 0, resamples: int = 1000) -> tuple[float, float]:
        """The 95 % bootstrap interval of the metric on these rows."""
        return bootstrap_interval(self.metric, outputs, targets, seed=seed, resamples=resamples)

    def model_source(self) -> str:
        """Python source that defines ``make_model()``; see `trivet.tasks.source`."""
        from trivet.tasks.source import model_source

        return model_source(self)

    def metric_source(self) -> str:
        """Python source that defines ``metric(outputs, targets)`` and ``HIGHER_IS_BETTER``."""
        from trivet.tasks.source import metric_source

        return metric_source(self)

    def save_arrays(self, path: str | Path) -> Path:
        """Write the encoded splits into an npz file, for a script that trains without trivet."""
        from trivet.tasks.source import save_arrays

        return save_arrays(self, path)

    def predictor(self) -> Predictor:
        """What `predict` needs besides the weights: the preprocessing, the model's source, classes and units."""
        from trivet.tasks.prediction import predictor_of

        return predictor_of(self)

    @classmethod
    def from_arrays(cls, X: object, y: object, X_test: object = None, y_test: object = None, **options: Any) -> Task:
        """A task from arrays; see `trivet.tasks.arrays.task_from_arrays` for the options."""
        from trivet.tasks.arrays import task_from_arrays

        return task_from_arrays(X, y, X_test, y_test, **options)

    @classmethod
    def from_table(cls, data: object, target: str | Sequence[str], **options: Any) -> Task:
        """A task from a table; see `trivet.tasks.tables.task_from_table` for the options."""
        from trivet.tasks.tables import task_from_table

        return task_from_table(data, target, **options)

    @classmethod
    def from_images(cls, folder: str | Path, **options: Any) -> Task:
        """A task from a folder of images; see `trivet.tasks.folders.task_from_images` for the options."""
        from trivet.tasks.folders import task_from_images

        return task_from_images(folder, **options)

    @classmethod
    def from_text(cls, data: object, target: str | None = None, **options: Any) -> Task:
        """A language model's task from one long text, or, with ``target``, the classes of texts in a table.

        See `trivet.tasks.texts.task_from_text` and `trivet.tasks.tables.task_from_table` for the options.
        """
        if target is not None:
            return cls.from_table(data, target, **options)
        from trivet.tasks.texts import task_from_text

        return task_from_text(data, **options)  # type: ignore[arg-type]

    def _call_factory(self, factory: ModelFactory) -> nn.Module:
        if not callable(factory):
            raise InputError(f"model must be a torch.nn.Module or a factory, not {type(factory).__name__}")
        arguments = _factory_arguments(factory, self)
        try:
            model = factory(*arguments)
        except Exception as error:
            raise InputError(f"the model factory fails: {first_line(error)}") from error
        if not isinstance(model, nn.Module):
            raise InputError(f"the model factory returned {type(model).__name__}; it must return a torch.nn.Module")
        return model

    def _check_output(self, model: nn.Module) -> bool:
        """Run two training rows through the model; True when its output needs the missing last dimension."""
        rows = min(2, len(self.train))
        inputs, targets = self.train.batch(torch.arange(rows))
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                output = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
        except Exception as error:
            shapes = [tuple(part.shape) for part in (inputs if isinstance(inputs, tuple) else (inputs,))]
            raise InputError(
                f"the model cannot take input of shape {', '.join(map(str, shapes))}: {first_line(error)}"
            ) from error
        finally:
            model.train(training)
        squeezed = isinstance(output, Tensor) and tuple(output.shape) == (rows,) and self.outputs == 1
        self._rules.check_output(_as_column(model, (), output) if squeezed else output, targets, self.outputs)
        return squeezed

    def _check_labels_known(self) -> None:
        known = set(torch.unique(self.train.targets).tolist())
        for where, split in (("validation", self.val), ("test", self.test)):
            unseen = sorted(set(torch.unique(split.targets).tolist()) - known)
            if unseen:
                names = [self._class_name(label) for label in unseen]
                raise DataError(f"the {where} target has labels that no training row has: {', '.join(names[:5])}")

    def _class_name(self, label: float) -> str:
        classes: tuple[str, ...] = getattr(self, "classes", ())
        return classes[int(label)] if int(label) < len(classes) else f"{label:g}"

    def _split_notes(self) -> list[str]:
        rows = len(self.train), len(self.val), len(self.test)
        notes = ["rows: {:,} to train, {:,} to validate, {:,} to test".format(*rows)]
        for where, split in (("validation", self.val), ("test", self.test)):
            shared = shared_rows(self.train, split)
            if shared:
                share = shared / len(split)
                notes.append(
                    f"{shared:,} {where} rows ({share:.1%}) have inputs that also occur in training: "
                    "scores there flatter"
                )
        return notes


def _as_column(module: nn.Module, arguments: tuple[object, ...], output: Tensor) -> Tensor:
    return output.unsqueeze(-1)


def _three_splits(
    train: SplitData, val: SplitData | None, test: SplitData | None, rules: Kind, seed: int
) -> tuple[Split, Split, Split]:
    rest = as_split(train, rules, "train")
    val_split = None if val is None else as_split(val, rules, "validation")
    test_split = None if test is None else as_split(test, rules, "test")
    if val_split is None or test_split is None:
        rules.check_targets(rest.targets, "train")
        rows, val_rows, test_rows = draw_splits(
            len(rest),
            rules.strata(rest.targets),
            seed,
            val=val is None,
            test=test is None,
            groups=rules.groups(rest.targets),
        )
        val_split = val_split if val_rows is None else rest.subset(val_rows)
        test_split = test_split if test_rows is None else rest.subset(test_rows)
        rest = rest.subset(rows)
    assert val_split is not None
    assert test_split is not None
    return rest, val_split, test_split


def _factory_arguments(factory: ModelFactory, task: Task) -> tuple[object, ...]:
    """``()`` or ``(features, outputs)``, by what the factory takes; ``features`` is a shape for images."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return ()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    named = [p.name for p in positional][:2] in (["features", "outputs"], ["inputs", "outputs"])
    if not required and not named:
        return ()
    if len(required) != 2 and not (named and len(required) < 2):
        raise InputError(
            f"the model factory requires ({', '.join(required)}); it may require nothing, or (features, outputs)"
        )
    inputs, _ = task.train.batch(torch.arange(1))
    first = inputs[0] if isinstance(inputs, tuple) else inputs
    shape = tuple(first.shape[1:])
    return (shape[0] if len(shape) == 1 else shape), task.outputs
