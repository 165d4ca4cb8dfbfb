"""Hyperparameters that many optimizers have, and the check of their ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import Tensor

from trivet.errors import InputError, unknown_name

__all__ = ["Convention", "check_common", "one_of"]

Convention = Literal["torch", "keras", "optax", "paper"]


def check_common(group: Mapping[str, Any]) -> None:
    """Raise `InputError` for numbers that most optimizers have, out of their range."""
    if isinstance(group.get("lr"), Tensor) and group["lr"].numel() != 1:
        raise InputError(f"lr is a tensor of {group['lr'].numel()} elements; it must have one")
    for name in ("lr", "eps", "weight_decay"):
        if name in group and not isinstance(group[name], tuple) and not float(group[name]) >= 0:
            raise InputError(f"{name} = {group[name]} must be at least 0")
    for beta in group.get("betas", ()):
        if not 0 <= float(beta) < 1:
            raise InputError(f"betas = {tuple(group['betas'])} must each lie in [0, 1)")


def one_of(what: str, given: str, allowed: Iterable[str]) -> None:
    """Raise `InputError` with the nearest name unless `given` is allowed."""
    if given not in (names := tuple(allowed)):
        raise unknown_name(what, given, names)
