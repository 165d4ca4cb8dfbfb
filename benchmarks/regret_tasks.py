"""The tasks and the space of `benchmarks.regret`, frozen on 2026-12-01, before any rule was tuned on them.

Every set is cut down until a trial takes seconds on one core; lengths and batch sizes are fixed, so that every trial of
a task costs the same and a recommendation is judged on what it says about loss, optimizer, rate, schedule and decay.
`HELD_OUT` tasks are scored after the rules were changed for the last time: they were not looked at while changing them.
"""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from trivet.recipes import Recipe
from trivet.tasks import Task, read_task
from trivet.tasks.arrays import task_from_arrays
from trivet.tasks.models import CausalTransformer, ResidualCNN, TextTransformer, UNet
from trivet.tasks.tables import read_table, task_from_table
from trivet.tasks.texts import task_from_text

DATA = Path(__file__).parents[2] / "shared" / "data"
Array = NDArray[Any]


# -- tasks ------------------------------------------------------------------------------------------------


def _sklearn(name: str, batch_size: int, steps: int) -> Task:
    task = read_task(f"sklearn:{name}")
    object.__setattr__(task, "batch_size", batch_size)
    object.__setattr__(task, "steps", steps)
    return task


def _arrays(name: str) -> dict[str, Array]:
    with np.load(DATA / name / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def _some(rows: int, *arrays: Array) -> list[Array]:
    """The same rows of each array, drawn by a fixed seed."""
    chosen = np.random.default_rng(0).permutation(len(arrays[0]))[:rows]
    return [array[chosen] for array in arrays]


def _pooled(images: Array, factor: int) -> Array:
    """Images `(rows, height, width, ...)` made smaller by the mean over squares."""
    height, width = (size // factor for size in images.shape[1:3])
    cut = images[:, : height * factor, : width * factor].astype(np.float32)
    squares = cut.reshape(len(cut), height, factor, width, factor, *cut.shape[3:])
    return squares.mean(axis=(2, 4)).round().astype(np.uint8)


def _cnn(channels: int, size: int, outputs: int) -> Callable[[], torch.nn.Module]:
    return functools.partial(ResidualCNN, channels=channels, size=size, outputs=outputs, widths=(8, 16, 32))


def _annthyroid() -> Task:
    z = _arrays("annthyroid")
    X, y = _some(3000, z["X_train"], z["y_train"])
    return task_from_arrays(X, y, z["X_test"], z["y_test"], name="annthyroid", batch_size=256, steps=250)


def _fashion() -> Task:
    z = _arrays("fashion_mnist")
    X, y = _some(2000, z["X_train"], z["y_train"])
    tests = _some(2000, z["X_test"], z["y_test"])
    return task_from_arrays(
        _pooled(X, 2), y, _pooled(tests[0], 2), tests[1], name="fashion_mnist", batch_size=64, steps=160,
        model=_cnn(1, 14, 10),
    )  # fmt: skip


def _bccd() -> Task:
    z = _arrays("bccd_blood_cells")
    X, y = _some(1500, z["X_train"], z["y_train"])
    return task_from_arrays(
        _pooled(X, 2), y, _pooled(z["X_test"], 2), z["y_test"], name="bccd_blood_cells", batch_size=64, steps=150,
        model=_cnn(3, 20, 3),
    )  # fmt: skip


def _digits() -> Task:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    X, y = bunch.images.astype(np.uint8), bunch.target
    return task_from_arrays(X, y, name="digits", batch_size=64, steps=200, model=_cnn(1, 8, 10))


def _digits_labels() -> Task:
    """Labels that follow from the digit, on the images as vectors: the reference perceptron."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    digit = bunch.target
    labels = [digit % 2 == 0, digit >= 5, np.isin(digit, [2, 3, 5, 7]), np.isin(digit, [0, 6, 8, 9])]
    X, y = _some(900, bunch.data, np.stack(labels, axis=1).astype(np.int64))
    return task_from_arrays(X, y, name="digits_labels", batch_size=64, steps=250)


def _omniglot() -> Task:
    z = _arrays("omniglot_small")
    seen, unseen = np.unique(z["y_train"])[:70], np.unique(z["y_test"])[:50]
    train, test = np.isin(z["y_train"], seen), np.isin(z["y_test"], unseen)
    return task_from_arrays(
        _pooled(z["X_train"][train], 2), z["y_train"][train], _pooled(z["X_test"][test], 2), z["y_test"][test],
        name="omniglot", kind="embedding", batch_size=128, steps=160, model=_cnn(1, 17, 64),
    )  # fmt: skip


def _nuclei(target: str) -> Task:
    z = _arrays("dsb2018_nuclei")
    X, X_test = z["X_train"], z["X_test"]
    if target == "counts":
        counts = [z["count_train"], z["count_test"]]
        return task_from_arrays(
            _pooled(X, 4), counts[0], _pooled(X_test, 4), counts[1], kind="counts", name="nuclei_counts",
            batch_size=32, steps=240, model=_cnn(1, 32, 1),
        )  # fmt: skip
    masks = [(_pooled(255 * (z[f"y_{part}"] > 0), 4) > 127).astype(np.int64) for part in ("train", "test")]
    X, y = _some(200, _pooled(X, 4), masks[0])
    return task_from_arrays(
        X, y, _pooled(X_test, 4), masks[1], name="nuclei_masks", batch_size=16, steps=150,
        model=functools.partial(UNet, channels=1, outputs=2, widths=(8, 16, 32)),
    )  # fmt: skip


def _table(name: str, target: str, rows: int, batch_size: int, steps: int) -> Task:
    """Rows of a table; twice as many others are kept for the test."""
    frame = read_table(DATA / name / f"{name}.csv.gz").drop_nulls(target)
    order = np.random.default_rng(0).permutation(len(frame))
    return task_from_table(
        frame[order[:rows].tolist()], target, test=frame[order[rows : 3 * rows].tolist()], name=name,
        batch_size=batch_size, steps=steps,
    )  # fmt: skip


def _texts(name: str, rows: int, batch_size: int, steps: int) -> Task:
    train, test = (read_table(DATA / name / f"{part}.csv.gz") for part in ("train", "test"))
    chosen = np.random.default_rng(0).permutation(len(train))[:rows].tolist()
    make = functools.partial(
        task_from_table, train[chosen], "label", test=test, name=name, batch_size=batch_size, steps=steps
    )
    usual = make()
    sizes = cast(TextTransformer, usual.make_model(0))
    words, length = sizes.words.num_embeddings, sizes.places.num_embeddings
    small = functools.partial(TextTransformer, words=words, length=length, outputs=usual.outputs, width=48)
    return make(model=small)


def _vowels() -> Task:
    z = _arrays("japanese_vowels")
    return task_from_arrays(
        z["X_train"], z["y_train"], z["X_test"], z["y_test"], lengths=z["n_train"], lengths_test=z["n_test"],
        name="japanese_vowels", batch_size=32, steps=120,
    )  # fmt: skip


def _shakespeare() -> Task:
    with gzip.open(DATA / "tiny_shakespeare" / "tiny_shakespeare.txt.gz", "rt") as file:
        text = file.read(150_000)
    return task_from_text(
        text, length=32, name="tiny_shakespeare", batch_size=32, steps=200,
        model=functools.partial(CausalTransformer, symbols=1 + len(set(text[:120_000])), length=32, width=48, depth=2),
    )  # fmt: skip


TASKS: dict[str, Callable[[], Task]] = {
    "breast_cancer": lambda: _sklearn("breast_cancer", 32, 200),
    "diabetes": lambda: _sklearn("diabetes", 16, 250),
    "wine": lambda: _sklearn("wine", 16, 150),
    "annthyroid": _annthyroid,
    "california_housing": lambda: _table("california_housing", "median_house_value", 3000, 128, 350),
    "beijing_pm25": lambda: _table("beijing_pm25", "pm2.5", 3000, 128, 350),
    "digits": _digits,
    "digits_labels": _digits_labels,
    "fashion_mnist": _fashion,
    "bccd_blood_cells": _bccd,
    "omniglot": _omniglot,
    "nuclei_counts": lambda: _nuclei("counts"),
    "nuclei_masks": lambda: _nuclei("masks"),
    "japanese_vowels": _vowels,
    "sms_spam": lambda: _texts("sms_spam", 1500, 32, 150),
    "banking77": lambda: _texts("banking77", 3000, 32, 300),
    "tiny_shakespeare": _shakespeare,
}
# Half of the families that occur twice.
HELD_OUT = ("diabetes", "wine", "beijing_pm25", "fashion_mnist", "banking77", "digits_labels", "nuclei_counts")


@functools.cache
def load(name: str) -> Task:
    """Return a task of the benchmark."""
    return TASKS[name]()


# -- the space --------------------------------------------------------------------------------------------

# Own three decades of rates for each optimizer (the ranges of the priors' table lie inside), and decades of decay:
# SGD's is L2, which counts times the rate, the others' is decoupled.
OPTIMIZERS: dict[str, tuple[dict[str, Any], tuple[float, float], tuple[float, float]]] = {
    "SGD": ({"momentum": 0.9, "nesterov": True}, (3e-3, 3.0), (1e-6, 1e-2)),
    "AdamW": ({}, (3e-5, 3e-2), (1e-4, 0.3)),
    "NAdam": ({"decoupled_weight_decay": True}, (3e-5, 3e-2), (1e-4, 0.3)),
    "Lion": ({}, (3e-6, 3e-3), (1e-4, 0.3)),
}
LOSSES: dict[str, list[dict[str, Any]]] = {
    "regression": [{"name": "mse_loss"}, {"name": "huber_loss", "delta": 1.0}, {"name": "l1_loss"}],
    "counts": [{"name": "poisson_nll_loss"}],
    "binary": [
        {"name": "binary_cross_entropy_with_logits"},
        {"name": "focal_loss", "gamma": 2.0},
        {"name": "asymmetric_loss"},
    ],
    "multilabel": [
        {"name": "binary_cross_entropy_with_logits"},
        {"name": "focal_loss", "gamma": 2.0},
        {"name": "asymmetric_loss"},
    ],
    "multiclass": [
        {"name": "cross_entropy"},
        {"name": "cross_entropy", "label_smoothing": 0.1},
        {"name": "softmax_focal_loss", "gamma": 2.0},
        {"name": "generalized_cross_entropy_loss"},
    ],
    "segmentation": [
        {"name": "cross_entropy"},
        {"name": "cross_entropy + dice_loss"},
        {"name": "dice_loss"},
    ],
    "embedding": [
        {"name": "supervised_contrastive_loss"},
        {"name": "multi_similarity_loss"},
        {"name": "triplet_loss"},
    ],
    "language": [{"name": "cross_entropy"}, {"name": "cross_entropy", "label_smoothing": 0.1}],
}
SCHEDULES = ("constant()", "linear()", "cosine()")
WARMUPS = (0.0, 0.05, 0.1)
CLIPS: tuple[dict[str, float] | None, ...] = (None, {"norm": 1.0})
TRIALS = 64


def points(task: Task) -> Iterator[Recipe]:
    """Yield the task's quasi-random recipes: the optimizers in turn, each on its own scrambled Sobol sequence."""
    losses = LOSSES[task.kind]
    engines = {
        name: torch.quasirandom.SobolEngine(6, scramble=True, seed=number)  # type: ignore[no-untyped-call]
        for number, name in enumerate(OPTIMIZERS)
    }
    for number in range(TRIALS):
        name = list(OPTIMIZERS)[number % len(OPTIMIZERS)]
        fixed, rates, decays = OPTIMIZERS[name]
        shares = engines[name].draw(1, dtype=torch.float64)[0].clamp(0, 1 - 1e-9).tolist()
        rate, decay = (
            float(f"{low * (high / low) ** share:.3g}")
            for (low, high), share in zip((rates, decays), shares, strict=False)
        )
        loss, schedule, warmup, clip = (
            options[int(share * len(options))]
            for options, share in zip((losses, SCHEDULES, WARMUPS, CLIPS), shares[2:], strict=True)
        )
        yield fixed_length(
            task,
            Recipe(
                loss=dict(loss),
                optimizer={"name": name, "lr": rate, "weight_decay": decay} | fixed,
                schedule=f"warmup({warmup}) >> {schedule}" if warmup else schedule,
                clip=clip,
                groups={"no_decay": ["bias", "norm", "embedding"], "layer_decay": 1.0},
            ),
        )


def fixed_length(task: Task, recipe: Recipe) -> Recipe:
    """Return a recipe with the task's own batch size and number of steps."""
    from trivet.recipes import Edit

    assert task.batch_size is not None
    assert task.steps is not None
    per_epoch = max(1, len(task.train) // task.batch_size)
    return recipe.apply(Edit("batch_size", task.batch_size), Edit("epochs", task.steps / per_epoch))
