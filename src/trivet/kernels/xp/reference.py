"""`xp` on tensors: the executable specification. Plain numbers are taken too, and give tensors of no dimension."""

from __future__ import annotations

import torch
from torch import Tensor

Value = Tensor | float


def _tensor(x: Value) -> Tensor:
    return x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)


def abs(x: Value) -> Tensor:
    return torch.abs(_tensor(x))


def exp(x: Value) -> Tensor:
    return torch.exp(_tensor(x))


def log(x: Value) -> Tensor:
    return torch.log(_tensor(x))


def log1p(x: Value) -> Tensor:
    return torch.log1p(_tensor(x))


def maximum(x: Value, y: Value) -> Tensor:
    return torch.maximum(*_pair(x, y))


def minimum(x: Value, y: Value) -> Tensor:
    return torch.minimum(*_pair(x, y))


def pow(x: Value, y: Value) -> Tensor:
    return torch.pow(_tensor(x), y)


def sigmoid(x: Value) -> Tensor:
    return torch.sigmoid(_tensor(x))


def sign(x: Value) -> Tensor:
    return torch.sign(_tensor(x))


def softplus(x: Value) -> Tensor:
    # torch's own softplus becomes x above a threshold, which loses digits in float64. This one has a slope at 0 too.
    wide = _tensor(x)
    return torch.logaddexp(wide, torch.zeros_like(wide))


def sqrt(x: Value) -> Tensor:
    return torch.sqrt(_tensor(x))


def tanh(x: Value) -> Tensor:
    return torch.tanh(_tensor(x))


def where(condition: Tensor, x: Value, y: Value) -> Tensor:
    return torch.where(condition, x, y)


def _pair(x: Value, y: Value) -> tuple[Tensor, Tensor]:
    """Return both as tensors; a number takes the other's type, as in torch's own arithmetic."""
    if isinstance(x, Tensor):
        return x, y if isinstance(y, Tensor) else torch.full_like(x, y)
    return (torch.full_like(y, x), y) if isinstance(y, Tensor) else (_tensor(x), _tensor(y))
