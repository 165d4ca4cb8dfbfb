"""Array files: bounded, without pickles, with one line for whatever is wrong."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trivet.errors import DataError

__all__ = ["open_npz", "read_inputs", "read_npz"]

Array = NDArray[Any]

WANTED = ("X_train", "y_train", "X_test", "y_test", "n_train", "n_test", "classes")
LARGEST = 8 * 2**30
"""Bytes that an array file may unfold to: a small file can hold arrays that no memory holds."""


def read_npz(path: Path, target: str | None = None) -> dict[str, Array]:
    """Read ``X_train, y_train[, X_test, y_test]``, perhaps lengths ``n_*`` and ``classes``; pickles are never loaded.

    With ``target`` the arrays ``TARGET_train`` and ``TARGET_test`` take the place of ``y_*``. Raises DataError when
    the file is damaged, holds objects, or lacks an array.
    """
    arrays = open_npz(path, (*WANTED, *((f"{target}_train", f"{target}_test") if target else ())))
    if target is not None:
        if f"{target}_train" not in arrays:
            raise DataError(f"{path.name} lacks {target}_train; it has {', '.join(_stored(path))}")
        for split in ("train", "test"):
            arrays.pop(f"y_{split}", None)
            if f"{target}_{split}" in arrays:
                arrays[f"y_{split}"] = arrays.pop(f"{target}_{split}")
    absent = [name for name in ("X_train", "y_train") if name not in arrays]
    if absent:
        names = _stored(path)
        raise DataError(f"{path.name} lacks {' and '.join(absent)}; it has {', '.join(names) or 'nothing'}")
    return arrays


def read_inputs(data: object) -> Array:
    """New inputs as one array: from memory, or ``X`` (else ``X_test``, ``X_train``, the only one) of an npz file."""
    if not isinstance(data, (str, Path)):
        return data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)
    path = Path(data)
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r} to predict")
    if not path.name.endswith(".npz"):
        raise DataError(f"{path.name!r} is no .npz; the run was trained on arrays: save the new rows as X in a .npz")
    names = _stored(path)
    chosen = next((name for name in ("X", "X_test", "X_train") if name in names), names[0] if len(names) == 1 else None)
    if chosen is None:
        raise DataError(f"{path.name} has no X (the new rows); it has {', '.join(names) or 'nothing'}")
    return open_npz(path, (chosen,))[chosen]


def _stored(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def open_npz(path: Path, wanted: Sequence[str]) -> dict[str, Array]:
    """The arrays of these names that the file has; raises DataError for damage, objects, and unbounded sizes."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST:
            raise DataError(f"{path.name} unfolds to {size / 2**30:.1f} GB; at most {LARGEST // 2**30} GB are read")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in wanted}
    except DataError:
        raise
    except ValueError as error:
        if "pickle" in str(error):
            raise DataError(
                f"{path.name} holds pickled Python objects, which are never loaded: save plain "
                "numbers or text instead "
                "(for instance X.astype('float32'), y.astype(str))"
            ) from error
        raise DataError(f"{path.name} cannot be read as .npz: {error}") from error
    except (zipfile.BadZipFile, EOFError, KeyError, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise DataError(f"{path.name} is damaged, cut short, or not an .npz file: {error}") from error
