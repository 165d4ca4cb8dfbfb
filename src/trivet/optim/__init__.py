"""Optimizers: each family in one file, with the mathematics at its top."""

from __future__ import annotations

import torch

from trivet.optim.adam import Adam, AdamW
from trivet.optim.base import ElementwiseOptimizer
from trivet.optim.groups import param_groups
from trivet.optim.lion import Lion
from trivet.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "ElementwiseOptimizer", "Lion", "catalogue", "param_groups"]


def catalogue() -> dict[str, type[torch.optim.Optimizer]]:
    """Return the class behind each name that a recipe may give."""
    ours = {cls.__name__: cls for cls in (Adam, AdamW, Lion, SGD)}
    theirs = ("Adagrad", "NAdam", "RAdam", "RMSprop")
    return ours | {name: getattr(torch.optim, name) for name in theirs}
