"""From raw rows and a target to a Task: draw the splits, fit the preprocessing on training rows, encode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, nn

from trivet.tasks.kinds import kind_named
from trivet.tasks.metrics import Metric
from trivet.tasks.models import RecurrentNet, ResidualCNN, TabularMLP, TextTransformer, UNet
from trivet.tasks.preprocessing import ImagePreprocessing, Preprocessing, TablePreprocessing
from trivet.tasks.sequences import SequencePreprocessing
from trivet.tasks.splits import TensorSplit, draw_splits
from trivet.tasks.targets import Target
from trivet.tasks.task import ModelFactory, Task
from trivet.tasks.vocabulary import TextPreprocessing

__all__ = ["encoded_task"]

Array = NDArray[Any]


def encoded_task(
    target: Target,
    take: Callable[[Array], Any],
    fit: Callable[[Any], tuple[Preprocessing, tuple[str, ...]]],
    raw_test: object,
    test_values: Tensor | None,
    *,
    metric: str | Metric | Callable[[Tensor, Tensor], float] | None,
    model: ModelFactory | nn.Module | None,
    seed: int,
    name: str,
    source: str,
    batch_size: int | None,
    steps: int | None,
    notes: tuple[str, ...],
    groups: Tensor | None = None,
    time: Tensor | None = None,
) -> Task:
    """Draw the splits, ``fit`` the preprocessing on the training rows that ``take`` gives, encode all.

    ``groups`` are kept whole by the splits; with ``time`` the later rows are held out.
    """
    kind = kind_named(target.kind)
    shaped = kind.shape_target(target.values)
    kind.check_targets(shaped, "train")
    kind.check_values(shaped, "train")
    train, val, test = draw_splits(
        len(shaped),
        kind.strata(shaped),
        seed,
        val=True,
        test=raw_test is None,
        names=target.classes,
        groups=kind.groups(shaped) if groups is None else groups,
        time=time,
    )
    assert val is not None
    preprocessing, fitted = fit(take(train.numpy()))
    scale = kind.scale(target.values[train])

    def split(raw: Any, values: Tensor) -> TensorSplit:
        values = values if scale is None else (values - scale[0]) / scale[1]
        return TensorSplit(
            preprocessing.encode(raw),
            kind.shape_target(values).float() if scale else kind.shape_target(values),
        )

    if test is not None:
        raw_test, test_values = take(test.numpy()), target.values[test]
    assert test_values is not None
    kind.check_values(test_values, "test")
    train_split = split(take(train.numpy()), target.values[train])
    val_split = split(take(val.numpy()), target.values[val])
    outputs = kind.outputs(shaped)
    if kind.an_output_per_class:
        outputs = max(outputs, len(target.classes))
    return Task(
        model if model is not None else reference_model(preprocessing, train_split, target.kind, outputs),
        train_split,
        val_split,
        split(raw_test, test_values),
        kind=target.kind,
        metric=metric,
        batch_size=batch_size,
        steps=steps,
        name=name,
        seed=seed,
        classes=target.classes,
        source=source,
        notes=(target.note, *notes, *fitted),
        target_scale=scale,
        preprocessing=preprocessing,
    )


def reference_model(preprocessing: Preprocessing, train: TensorSplit, kind: str, outputs: int) -> ModelFactory:
    """The small model that fits this input and kind of task, as a factory with its arguments."""
    if isinstance(preprocessing, TextPreprocessing):
        return partial(TextTransformer, words=preprocessing.size, length=preprocessing.length, outputs=outputs)
    if isinstance(preprocessing, SequencePreprocessing):
        return partial(RecurrentNet, channels=len(preprocessing.mean), outputs=outputs)
    if isinstance(preprocessing, ImagePreprocessing) and kind == "segmentation":
        return partial(UNet, channels=preprocessing.shape[0], outputs=outputs)
    if isinstance(preprocessing, ImagePreprocessing):
        channels, height, width = preprocessing.shape
        return partial(ResidualCNN, channels=channels, size=min(height, width), outputs=outputs)
    categories = preprocessing.categorical if isinstance(preprocessing, TablePreprocessing) else ()
    numeric = train.inputs[0] if isinstance(train.inputs, tuple) else train.inputs
    # Measured on scikit-learn's four small sets: below 2,000 rows the wide network overfits within 30 epochs.
    small = len(train) < 2000
    return partial(
        TabularMLP,
        features=numeric.shape[1],
        outputs=outputs,
        codes=tuple(column.codes for column in categories),
        hidden=(64, 64) if small else (256, 256, 128),
        dropout=0.3 if small else 0.05,
    )
