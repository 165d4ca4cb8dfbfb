"""Checkpoints: the whole state of a run in one file, replaced atomically, read without executing anything."""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch

from trivet.errors import RunError

FILE = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, object]) -> None:
    """Write the state beside the old checkpoint, flush it to the disk, then replace the old one."""
    path, part = folder / FILE, folder / f".{FILE}.part"
    try:
        with part.open("wb") as file:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RunError(f"cannot write the checkpoint {path}: {error.strerror}") from error


def load_checkpoint(folder: Path) -> dict[str, object] | None:
    """Read the checkpoint, or None where there is none yet; only tensors and plain data are accepted."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        state: dict[str, object] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for torn, foreign and unsafe files
        raise RunError(f"cannot read the checkpoint {path}: {error}; start a new run") from error
    return state
