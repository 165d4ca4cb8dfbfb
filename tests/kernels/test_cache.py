"""Generated modules: whose folder, which file, and what other processes find there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trivet.kernels import cache


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that does not exist yet, named by TRIVET_CACHE."""
    path = tmp_path / "one" / "two"
    monkeypatch.setenv("TRIVET_CACHE", str(path))
    cache.folder.cache_clear()
    yield path
    cache.folder.cache_clear()


def test_the_folder_is_made_for_this_user_alone(wanted: Path) -> None:
    assert cache.folder() == wanted
    assert wanted.stat().st_mode & 0o777 == 0o700


def test_without_a_wish_the_folder_lies_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIVET_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.folder.cache_clear()
    try:
        assert cache.folder() == tmp_path / "trivet"
    finally:
        cache.folder.cache_clear()


def test_a_folder_that_others_may_read_is_closed_to_them(wanted: Path) -> None:
    wanted.mkdir(parents=True, mode=0o755)
    assert cache.folder() == wanted
    assert wanted.stat().st_mode & 0o777 == 0o700


def _assert_refused(wanted: Path, because: str) -> None:
    with pytest.warns(UserWarning, match=because):
        instead = cache.folder()
    assert instead != wanted
    assert instead.stat().st_mode & 0o777 == 0o700
    instead.rmdir()


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_is_refused(wanted: Path, mode: int) -> None:
    wanted.mkdir(parents=True)
    wanted.chmod(mode)
    _assert_refused(wanted, "can be written by other users")


def test_a_folder_of_another_user_is_refused(wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    _assert_refused(wanted, "belongs to another user")


def test_a_folder_that_cannot_be_written_is_refused(wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere, so the mode says nothing
    _assert_refused(wanted, "cannot be written")


def test_a_folder_that_cannot_be_made_is_refused(wanted: Path) -> None:
    wanted.parent.mkdir(parents=True)
    wanted.write_text("a file in its place")
    _assert_refused(wanted, "exists")


def test_one_source_is_one_module_and_another_source_another(wanted: Path) -> None:
    first = cache.module("x = 1", "a")
    assert cache.module("x = 1", "a") is first
    assert sys.modules[first.__name__] is first
    others = {cache.module("x = 2", "a").__name__, cache.module("x = 1", "b").__name__}
    assert len(others | {first.__name__}) == 3


def test_a_file_that_was_changed_on_disk_is_not_believed(wanted: Path) -> None:
    first = cache.module("x = 'changed'", "")
    path = Path(first.__file__ or "")
    path.write_text("x = 'by someone'")
    del sys.modules[first.__name__]
    assert cache.module("x = 'changed'", "").x == "changed"


def test_a_module_that_fails_is_not_left_half_imported(wanted: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            cache.module("x = 1\ny = 1 / 0", "")
    assert [path.suffix for path in wanted.iterdir() if not path.name.startswith("__")] == [".py"]


CHILD = """
import json, os, sys

folder, forks = sys.argv[1:]
sys.path.insert(0, folder)
import trivet, trivet.losses, trivet.optim
assert "numba" not in sys.modules, "numba was imported before a kernel was needed"

import first, second
import numpy as np
import torch
from trivet.kernels import multi_tensor

values, hits, misses = [], 0, 0
for rule in (first.update, second.update):
    p = torch.ones(3)
    multi_tensor.Table(rule, [[p]]).run([torch.ones(3)], np.array([[10.0], [1.0]]))
    values.append(p[0].item())
    stats = multi_tensor._kernel(rule, (torch.float32,) * 2).rows.stats
    hits += sum(stats.cache_hits.values())
    misses += sum(stats.cache_misses.values())

if forks == "fork":
    w = torch.nn.Parameter(torch.ones(1 << 17))
    w.grad = torch.ones(1 << 17)
    torch.set_num_threads(2)
    optimizer = trivet.optim.SGD([w], lr=1.0)
    optimizer.step()  # by the kernel, in its thread pool
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # as data workers do: torch's own threads are not there either
        optimizer.step()
        try:
            trivet.optim.SGD([w], lr=1.0, backend="cpu").step()
        except trivet.errors.BackendError:
            os._exit(int(w[0].item() == -1.0) * 42)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    optimizer.step()
    assert w[0].item() == -1.0
print(json.dumps([values, hits, misses]))
"""


def _start(rules: Path, folder: Path, forks: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "TRIVET_CACHE": str(folder), "NUMBA_NUM_THREADS": "2"}
    environment.pop("NUMBA_CACHE_DIR", None)
    arguments = [sys.executable, "-W", "error::ResourceWarning", "-c", CHILD, str(rules), forks]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _result(process: subprocess.Popen[str]) -> Any:
    """What a process printed; it must have ended by itself, in order, with no word but of slow compiling."""
    out, error = process.communicate(timeout=120)
    complaints = [line for line in error.splitlines() if not line.startswith("compiled a kernel")]
    assert (process.returncode, complaints) == (0, [])
    return json.loads(out)


def test_processes_share_what_is_the_same_and_only_that(tmp_path: Path) -> None:
    rules, folder = tmp_path / "rules", tmp_path / "cache"
    rules.mkdir()
    # The same name, the same bytecode but for one constant: Numba's own cache takes one for the other.
    text = "def update(p, g, lr):\n    return {} * p + lr * g\n"
    (rules / "first.py").write_text(text.format(2))
    (rules / "second.py").write_text(text.format(3))

    at_once = [_start(rules, folder) for _ in range(2)]  # both compile, neither sees half of the other's files
    for process in at_once:
        values, hits, misses = _result(process)
        assert values == [12.0, 13.0]
        assert hits + misses == 2

    assert _result(_start(rules, folder, "fork")) == [[12.0, 13.0], 2, 0]  # nothing is compiled again

    (rules / "second.py").write_text(text.format(5))
    assert _result(_start(rules, folder)) == [[12.0, 15.0], 1, 1]  # only what was edited
