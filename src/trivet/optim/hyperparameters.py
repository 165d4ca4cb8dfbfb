"""Hyperparameters that many optimizers have, and the check of their ranges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from trivet.errors import InputError, unknown_name

__all__ = ["Convention", "check_common", "one_of", "own_rates"]

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


def own_rates(groups: Sequence[dict[str, Any]], default: object) -> None:
    """Give each of several groups a tensor of its own where their rates are one tensor.

    A schedule writes into a tensor in place: where groups share it, all get the rate of the last one (torch 2.13). A
    single group keeps the tensor that it was given, as in torch.
    """
    holders = Counter(id(group.get("lr")) for group in groups)
    for group in groups if len(groups) > 1 else ():
        rate = group.get("lr")
        if isinstance(rate, Tensor) and (holders[id(rate)] > 1 or rate is default):
            group["lr"] = rate.detach().clone()


def one_of(what: str, given: str, allowed: Iterable[str]) -> None:
    """Raise `InputError` with the nearest name unless `given` is allowed."""
    if given not in (names := tuple(allowed)):
        raise unknown_name(what, given, names)
