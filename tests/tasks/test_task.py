"""Tasks: fair splits, inferred columns, standardised targets, models that fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from trivet.tasks import Preprocessing, Task, read_task

pytestmark = pytest.mark.app

polars = pytest.importorskip("polars")


def test_splits_are_stratified_seeded_and_disjoint() -> None:
    x = np.arange(1000, dtype=np.float32).reshape(-1, 1)
    y = np.repeat([0, 1, 2], [700, 200, 100])
    one, same, other = (Task.from_arrays(x, y, kind="multiclass", seed=s) for s in (0, 0, 1))
    for split, again in ((one.train, same.train), (one.test, same.test)):
        assert torch.equal(split.targets, again.targets)
        assert torch.equal(split.inputs, again.inputs)
    assert not torch.equal(one.test.inputs, other.test.inputs)
    values = [set(split.inputs.flatten().tolist()) for split in (one.train, one.val, one.test)]
    assert sum(map(len, values)) == len(set.union(*values)) == 1000
    for split in (one.train, one.val, one.test):
        shares = torch.bincount(split.targets) / len(split)
        assert shares.tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.01)


def test_a_given_test_set_is_left_untouched() -> None:
    x, y = np.random.default_rng(0).normal(size=(100, 2)), np.arange(100) % 2
    test, labels = np.random.default_rng(1).normal(size=(30, 2)), np.arange(30) % 2
    task = Task.from_arrays(x, y, test, labels)
    assert len(task.test) == 30
    assert len(task.train) + len(task.val) == 100
    assert task.test.targets.flatten().tolist() == labels.tolist()


def test_table_columns_are_inferred_and_every_decision_is_noted() -> None:
    rng = np.random.default_rng(0)
    size = rng.normal(100, 10, 300)
    table = polars.DataFrame(
        {
            "id": [f"house-{i}" for i in range(300)],
            "size": [None if i % 10 == 0 else float(v) for i, v in enumerate(size)],
            "town": ["Oslo", "Bergen", None] * 100,
            "same": [1] * 300,
            "price": size * 3 + rng.normal(size=300),
        }
    )
    task = Task.from_table(table, "price")
    notes = " ".join(task.notes)
    for word in ("id", "size", "same", "missing"):
        assert word in notes, word
    assert task.kind == "regression"
    inputs, _ = task.train.batch(torch.arange(5))
    assert isinstance(inputs, tuple)
    assert all(torch.isfinite(part.float()).all() for part in inputs)
    assert task.make_model(0)(*inputs).shape == (5, 1)


def test_new_rows_are_encoded_like_the_training_rows(tmp_path: Path) -> None:
    rows = {"a": [float(i % 17) for i in range(80)], "b": ["x", "y", "z", "x"] * 20}
    table = polars.DataFrame(rows | {"t": [3.0 * v for v in rows["a"]]})  # type: ignore[operator]
    task = Task.from_table(table, "t")
    assert task.preprocessing is not None
    again = Preprocessing.from_dict(task.preprocessing.to_dict())
    one, other = task.preprocessing.encode(table), again.encode(table)
    parts = zip(one if isinstance(one, tuple) else (one,), other if isinstance(other, tuple) else (other,), strict=True)
    assert all(torch.equal(a, b) for a, b in parts)
    unseen = polars.DataFrame({"a": [None, 1e9], "b": ["never", None]})
    encoded = again.encode(unseen)
    assert all(torch.isfinite(part.float()).all() for part in (encoded if isinstance(encoded, tuple) else (encoded,)))


def test_regression_targets_are_standardised_and_judged_in_their_own_units() -> None:
    y = 5000 + 300 * np.random.default_rng(0).normal(size=400)
    task = Task.from_arrays(np.random.default_rng(1).normal(size=(400, 3)), y, kind="regression")
    assert float(task.train.targets.mean()) == pytest.approx(0, abs=0.2)
    assert float(task.train.targets.std()) == pytest.approx(1, abs=0.2)
    guess = torch.zeros(len(task.test), 1)
    assert task.metric(guess, task.test.targets) == pytest.approx(300, rel=0.2)


def test_formats_read_alike(tmp_path: Path) -> None:
    table = polars.DataFrame({"a": [float(i) for i in range(60)], "b": [i % 3 for i in range(60)]})
    table.write_csv(tmp_path / "t.csv")
    table.write_parquet(tmp_path / "t.parquet")
    import gzip

    (tmp_path / "t.csv.gz").write_bytes(gzip.compress((tmp_path / "t.csv").read_bytes()))
    tasks = [read_task(str(tmp_path / name), target="b") for name in ("t.csv", "t.csv.gz", "t.parquet")]
    for task in tasks[1:]:
        assert torch.equal(task.train.targets, tasks[0].train.targets)


def test_images_of_every_layout_are_recognised() -> None:
    rng = np.random.default_rng(0)
    for shape in ((60, 12, 12), (60, 12, 12, 3), (60, 3, 12, 12)):
        task = Task.from_arrays(rng.integers(0, 256, shape, dtype=np.uint8), np.arange(60) % 3, kind="multiclass")
        inputs, _ = task.train.batch(torch.arange(4))
        assert isinstance(inputs, torch.Tensor)
        assert inputs.shape == (4, 3 if len(shape) == 4 else 1, 12, 12)
        assert abs(float(inputs.mean())) < 0.5
        assert task.make_model(0)(inputs).shape == (4, 3)


class Pairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __len__(self) -> int:
        return 90

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor([float(i), 1.0]), torch.tensor(i % 3)


def test_any_dataset_of_pairs_makes_a_task() -> None:
    task = Task(lambda: nn.Linear(2, 3), Pairs(), kind="multiclass")
    inputs, targets = task.train.batch(torch.tensor([0, 3]))
    assert inputs.shape == (2, 2)
    assert targets.shape == (2,)
    assert len(task.train) + len(task.val) + len(task.test) == 90


def test_models_are_seeded_and_leave_the_random_state_alone() -> None:
    task = read_task("sklearn:wine")
    before = torch.get_rng_state()
    one, same, other = task.make_model(3), task.make_model(3), task.make_model(4)
    assert torch.equal(before, torch.get_rng_state())
    pairs = list(zip(one.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_the_baselines_are_what_scikit_learn_makes_of_the_same_rows() -> None:
    from sklearn.linear_model import LogisticRegression

    task = read_task("sklearn:breast_cancer")
    trivial, simple = task.baselines()
    assert (trivial.name, trivial.value) == ("majority class", 0.5)
    x = torch.cat([task.train.inputs, task.val.inputs]).numpy()
    y = torch.cat([task.train.targets, task.val.targets]).flatten().numpy()
    scores = LogisticRegression(max_iter=5000).fit(x, y).decision_function(task.test.inputs.numpy())
    value = task.metric(torch.from_numpy(scores).unsqueeze(1), task.test.targets)
    assert simple.value == pytest.approx(value, abs=0.01)


@pytest.mark.parametrize("name", ["annthyroid", "fashion_mnist"])
def test_real_sets_are_read(real_data: Path, name: str) -> None:
    task = read_task(str(real_data / name / f"{name}.npz"))
    assert len(task.test) == {"annthyroid": 2159, "fashion_mnist": 5000}[name]
    inputs, _ = task.train.batch(torch.arange(3))
    assert task.make_model(0)(inputs).shape == (3, task.outputs)
