"""All random number generators that a training run can touch, as plain data."""

from __future__ import annotations

import random
from typing import TypeAlias

import numpy as np
import torch

Data: TypeAlias = dict[str, object]


class RandomState:
    """The state of Python's, NumPy's and torch's generators (the accelerators' included), taken when made.

    >>> import torch
    >>> state = RandomState()
    >>> drawn = torch.rand(3)
    >>> state.restore()
    >>> torch.equal(torch.rand(3), drawn)
    True
    """

    def __init__(self, data: Data | None = None) -> None:
        self.data: Data = _take() if data is None else data

    def restore(self) -> None:
        """Set every generator back to this state."""
        version, internal, gauss = self.data["python"]  # type: ignore[misc]
        random.setstate((version, tuple(internal), gauss))  # type: ignore[has-type]
        name, keys, position, has_gauss, cached = self.data["numpy"]  # type: ignore[misc]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # type: ignore[has-type]
        torch.set_rng_state(self.data["torch"])  # type: ignore[arg-type]
        if self.data["cuda"]:
            torch.cuda.set_rng_state_all(self.data["cuda"])  # type: ignore[arg-type]


def _take() -> Data:
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        # Only tensors, numbers, strings and lists: this goes into checkpoints that are read without pickled code.
        "python": [version, list(internal), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
