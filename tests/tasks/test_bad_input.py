"""Whatever is wrong with the data gets one clear line: what was given, what is allowed, what to try."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trivet.errors import InputError
from trivet.tasks import Task, read_task

pytestmark = pytest.mark.app

polars = pytest.importorskip("polars")

RNG = np.random.default_rng(0)
GOOD = {
    "size": RNG.normal(100, 20, 60),
    "rooms": RNG.integers(1, 6, 60),
    "town": np.array(["Oslo", "Bergen", "Voss"] * 20),
    "price": RNG.normal(3e5, 5e4, 60),
}


def frame(**changes: object) -> polars.DataFrame:
    return polars.DataFrame(GOOD | changes)  # type: ignore[arg-type]


def one_line(action: Callable[[], object], *words: str) -> None:
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message, message
    for word in words:
        assert word in message, message


def test_files_that_are_not_there_or_not_data(tmp_path: Path) -> None:
    frame().write_csv(tmp_path / "houses.csv")
    one_line(lambda: read_task(str(tmp_path / "house.csv"), target="price"), "house.csv", "did you mean 'houses.csv'")
    one_line(lambda: read_task(str(tmp_path), target="price"), "folder")
    (tmp_path / "notes.doc").write_text("hello")
    one_line(lambda: read_task(str(tmp_path / "notes.doc")), ".csv", ".parquet", ".npz")


@pytest.mark.parametrize("name", ["empty.csv", "empty.parquet", "empty.npz", "empty.csv.gz"])
def test_empty_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    one_line(lambda: read_task(str(tmp_path / name), target="price"), name, "empty")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_files(tmp_path: Path, share: float) -> None:
    frame().write_parquet(tmp_path / "t.parquet")
    np.savez(tmp_path / "t.npz", X_train=RNG.normal(size=(60, 3)), y_train=np.arange(60) % 2)
    with gzip.open(tmp_path / "t.csv.gz", "wb") as file:
        file.write(frame().write_csv().encode())
    for name in ("t.parquet", "t.npz", "t.csv.gz"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        target = None if name.endswith("npz") else "price"
        one_line(lambda path=path, target=target: read_task(str(path), target=target), name)


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "noise.csv"
    path.write_bytes(bytes(range(256)) * 40)
    one_line(lambda: read_task(str(path), target="price"))
    path = tmp_path / "fake.parquet"
    path.write_bytes(b"PAR1 not really")
    one_line(lambda: read_task(str(path), target="price"), "fake.parquet")


def test_targets_that_cannot_be_used(tmp_path: Path) -> None:
    frame().write_csv(tmp_path / "houses.csv")
    data = str(tmp_path / "houses.csv")
    one_line(lambda: read_task(data, target="prize"), "prize", "did you mean 'price'")
    one_line(lambda: read_task(data), "--target", "price", "town")
    one_line(lambda: read_task(data, target="town", kind="regression"), "town")
    one_line(lambda: Task.from_table(frame(price=np.ones(60)), "price"), "price", "constant")
    one_line(lambda: Task.from_table(frame(price=np.full(60, np.inf)), "price"), "price")
    mixed = np.where(np.arange(60) == 7, np.inf, GOOD["price"])
    one_line(lambda: Task.from_table(frame(price=mixed), "price"), "price")
    labels = np.array(["a"] * 30 + ["b"] * 29 + ["c"])
    one_line(lambda: Task.from_table(frame(price=labels), "price"), "c")


def test_duplicate_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.csv"
    path.write_text("a,b,a\n" + "\n".join(f"{i},{i % 3},{i * 2}" for i in range(40)))
    one_line(lambda: read_task(str(path), target="b"), "a")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_in_arrays(bad: float) -> None:
    x, y = RNG.normal(size=(60, 3)), RNG.normal(size=60)
    broken = x.copy()
    broken[13, 1] = bad
    one_line(lambda: Task.from_arrays(broken, y, kind="regression"))
    wrong = y.copy()
    wrong[5] = bad
    one_line(lambda: Task.from_arrays(x, wrong, kind="regression"))


def test_lengths_and_shapes_that_do_not_match() -> None:
    x, y = RNG.normal(size=(60, 3)), np.arange(60) % 2
    one_line(lambda: Task.from_arrays(x, y[:-1]), "60", "59")
    one_line(lambda: Task.from_arrays(x, y, RNG.normal(size=(20, 4)), np.arange(20) % 2), "4", "3")
    one_line(lambda: Task.from_arrays(x, y, RNG.normal(size=(20, 3))))
    one_line(lambda: Task.from_arrays(x[:4], y[:4]))


def test_npz_files_without_what_is_needed_or_with_pickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "keys.npz", inputs=np.zeros((60, 3)), y_train=np.zeros(60))
    one_line(lambda: read_task(str(tmp_path / "keys.npz")), "X_train")

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (tmp_path / "pwned").touch, ()  # type: ignore[return-value]

    objects = np.empty(60, dtype=object)
    objects[:] = [Evil() for _ in range(60)]
    np.savez(tmp_path / "evil.npz", X_train=np.zeros((60, 3)), y_train=objects)
    one_line(lambda: read_task(str(tmp_path / "evil.npz")), "pickle")
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Evil()))
    one_line(lambda: read_task(str(tmp_path / "plain.npz")), "plain.npz")
    assert not (tmp_path / "pwned").exists()


def test_labels_that_only_the_test_split_has() -> None:
    x = RNG.normal(size=(60, 3))
    labels = np.array([0, 1, 2] * 6 + [3, 3])
    one_line(lambda: Task.from_arrays(x, np.arange(60) % 3, x[:20], labels, kind="multiclass"), "3")


def test_names_that_are_close_are_offered() -> None:
    one_line(lambda: read_task("sklearn:brest_cancer"), "did you mean 'breast_cancer'")
    one_line(lambda: read_task("sklearn:wine", metric="acuracy"), "did you mean 'accuracy'")
    one_line(lambda: read_task("sklearn:wine", metric="rmse"), "rmse")
    one_line(lambda: read_task("sklearn:wine", kind="multi-class"), "did you mean 'multiclass'")


def test_functions_that_do_not_make_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "making.py").write_text("import nothing_like_this\n")
    (tmp_path / "returning.py").write_text("value = 3\ndef number(): return 3\n")
    one_line(lambda: read_task("making:task"), "making", "nothing_like_this")
    one_line(lambda: read_task("returning:numbr"), "did you mean 'number'")
    one_line(lambda: read_task("returning:number"), "int", "Task")
    one_line(lambda: read_task("returning:value"), "int")


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    from torch import nn

    x, y = RNG.normal(size=(60, 3)), np.arange(60) % 3

    def task(model: nn.Module) -> Task:
        return Task.from_arrays(x, y, kind="multiclass", model=model)

    one_line(lambda: task(nn.Linear(3, 2)).make_model(0), "(2, 2)", "(2, 3)")
    one_line(lambda: task(nn.Linear(5, 3)).make_model(0), "cannot take input")
    one_line(lambda: Task.from_arrays(x, y, kind="multiclass", model=lambda: 3).make_model(0), "int")


def test_permission_denied_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame().write_csv(tmp_path / "houses.csv")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # chmod does not stop root, under which tests may run
    one_line(lambda: read_task(str(tmp_path / "houses.csv"), target="price"), "Permission denied")
