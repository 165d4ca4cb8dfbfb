"""Counts, several labels, dates, and splits by time and by group."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from trivet.errors import DataError
from trivet.tasks import Preprocessing, Task, read_task

pytestmark = pytest.mark.app

polars = pytest.importorskip("polars")

RNG = np.random.default_rng(0)


def frame(rows: int = 120, **more: object) -> polars.DataFrame:
    return polars.DataFrame({"a": RNG.normal(size=rows), "b": RNG.normal(size=rows)} | more)  # type: ignore[arg-type]


def test_several_columns_of_zero_and_one_make_a_multilabel_task() -> None:
    table = frame(red=RNG.integers(0, 2, 120), big=[True, False] * 60, soft=["yes", "no", "no"] * 40)
    task = Task.from_table(table, "red, big,soft")
    assert (task.kind, task.outputs, task.classes) == ("multilabel", 3, ("red", "big", "soft"))
    assert task.metric.name == "mean_average_precision"
    assert task.train.targets.shape == (72, 3)
    assert [b.name for b in task.baselines()] == ["label frequencies", "logistic regressions"]
    assert task.baselines()[0].value == pytest.approx(float(task.test.targets.mean()), abs=0.02)


def test_what_is_no_multilabel_target_is_said() -> None:
    with pytest.raises(DataError, match="'big' has the value 2"):
        Task.from_table(frame(red=RNG.integers(0, 2, 120), big=[0, 1, 2] * 40), "red,big")
    with pytest.raises(DataError, match="did you mean 'big'"):
        Task.from_table(frame(red=RNG.integers(0, 2, 120), big=[0, 1] * 60), "red,bigg")
    with pytest.raises(DataError, match="same in every row"):
        Task.from_table(frame(red=RNG.integers(0, 2, 120), big=[0] * 120), "red,big")


def test_counts_are_learned_on_the_scale_of_their_mean_and_judged_in_whole_numbers() -> None:
    counts = RNG.poisson(np.exp(3 + 0.5 * np.linspace(-1, 1, 200)))
    task = Task.from_arrays(np.linspace(-1, 1, 200)[:, None], counts, kind="counts")
    assert float(task.train.targets.mean()) == pytest.approx(1.0)
    mean, glm = task.baselines()
    assert mean.name == "mean count"
    assert glm.value < mean.value
    # The mean count's deviance, from scikit-learn, in the target's own units.
    from sklearn.metrics import mean_poisson_deviance

    true = task.test.targets.double() * task.target_scale[1]  # type: ignore[index]
    known = torch.cat([task.train.targets, task.val.targets]).mean() * task.target_scale[1]  # type: ignore[index]
    assert mean.value == pytest.approx(mean_poisson_deviance(true, known.expand_as(true)), rel=1e-5)


@pytest.mark.parametrize("bad", [-1.0, 2.5])
def test_what_is_no_count_is_said(bad: float) -> None:
    counts = RNG.poisson(3, 100).astype(float)
    counts[7] = bad
    with pytest.raises(DataError, match=f"{bad:g}.*kind='regression'"):
        Task.from_arrays(RNG.normal(size=(100, 2)), counts, kind="counts")


def test_a_group_is_never_torn_apart() -> None:
    group = [f"patient {i // 7}" for i in range(210)]
    table = frame(210, patient=group, t=RNG.normal(size=210), row=list(range(1000, 1210)))
    task = Task.from_table(table, "t", group="patient", model=lambda features, outputs: torch.nn.Linear(features, 1))
    assert "stay in one split" in " ".join(task.notes)
    assert sorted(len(split) for split in (task.train, task.val, task.test))[-1] == len(task.train)
    for split in (task.train, task.val, task.test):
        assert len(split) % 7 == 0  # seven rows for each patient
    assert not any("patient" in note and "categorical" in note for note in task.notes)


def test_time_puts_the_future_into_the_test_split() -> None:
    day = [datetime.date(2020, 1, 1) + datetime.timedelta(days=i // 2) for i in range(200)]
    value = np.arange(200) // 2  # two rows of each day
    shuffled = RNG.permutation(200)
    table = frame(200, day=day, t=value.astype(float))[shuffled]
    task = Task.from_table(table, "t", time="day")
    mean, std = task.target_scale or (0.0, 1.0)
    train, val, test = (split.targets * std + mean for split in (task.train, task.val, task.test))
    assert float(train.max()) < float(val.min()) <= float(val.max()) < float(test.min())
    assert len(val) == pytest.approx(40, abs=2)


def test_splits_that_cannot_be_are_said() -> None:
    table = frame(t=RNG.normal(size=120), g=["a", "b"] * 60)
    with pytest.raises(DataError, match="2 different groups"):
        Task.from_table(table, "t", group="g")
    with pytest.raises(DataError, match="not both"):
        Task.from_table(table, "t", group="g", time="a")
    with pytest.raises(DataError, match="no column 'gg'"):
        Task.from_table(table, "t", group="gg")
    with pytest.raises(DataError, match="must hold numbers, dates"):
        Task.from_table(table, "t", time="g")
    with pytest.raises(DataError, match="name columns of a table"):
        read_task("sklearn:wine", group="g")


def test_dates_become_numbers_that_new_rows_get_too(tmp_path: Path) -> None:
    start = datetime.datetime(2021, 3, 1)
    when = [start + datetime.timedelta(hours=7 * i) for i in range(300)]
    hour = np.array([w.hour for w in when])
    table = polars.DataFrame({"when": [w.strftime("%Y-%m-%d %H:%M:%S") for w in when], "t": np.sin(hour / 24 * 6.28)})
    task = Task.from_table(table, "t")
    assert "when (hour, weekday, yearday)" in " ".join(task.notes)
    assert task.preprocessing is not None
    fitted = Preprocessing.from_dict(task.preprocessing.to_dict())
    encoded = fitted.encode(table)
    assert isinstance(encoded, torch.Tensor)
    assert encoded.shape == (300, 7)
    assert encoded[:, 1].numpy() == pytest.approx(np.sin(hour / 24 * 2 * np.pi), abs=1e-4)
    missing = fitted.encode(polars.DataFrame({"when": [None, None]}))
    assert isinstance(missing, torch.Tensor)
    assert bool(missing.isfinite().all())
