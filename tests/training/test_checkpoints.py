"""Checkpoints are atomic, and a file that would run code is refused."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from trivet.errors import RunError
from trivet.training import RandomState
from trivet.training.checkpoints import load_checkpoint, save_checkpoint


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"step": 3, "model": {"w": torch.arange(3.0)}, "best": [1.0, -2.0]})
    state = load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["model"]["w"], torch.arange(3.0))  # type: ignore[index]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_none_is_not_an_error(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"step": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RunError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_a_torn_checkpoint_is_named(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"step": 3, "x": torch.zeros(1000)})
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(RunError, match=r"checkpoint\.pt"):
        load_checkpoint(tmp_path)


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, {"step": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        save_checkpoint(tmp_path, {"step": 2})
    state = load_checkpoint(tmp_path)
    assert state is not None
    assert state["step"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_every_random_generator_comes_back(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"random": RandomState().data})
    drawn = (random.random(), float(np.random.rand()), float(torch.rand(())))
    state = load_checkpoint(tmp_path)
    assert state is not None
    RandomState(state["random"]).restore()  # type: ignore[arg-type]
    assert drawn == (random.random(), float(np.random.rand()), float(torch.rand(())))
