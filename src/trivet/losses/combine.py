"""Sums of losses that report their parts: ``2 * DiceLoss() + CrossEntropyLoss()``."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from trivet.errors import InputError

__all__ = ["CombinedLoss", "Weight"]

Weight = float | Callable[[float], float]


class CombinedLoss(nn.Module):
    r"""Weighted sum of losses of one input and target: :math:`\sum_k \lambda_k(t)\, \ell_k`.

    A weight is a number or a function of progress :math:`t` in [0, 1], such as a schedule. After a call,
    ``parts`` holds each loss's own value (detached, unweighted). Losses may be trivet's, torch's, or any
    module of ``(input, target)``. With ``reduction="none"`` the shapes must agree.

    >>> import torch
    >>> from trivet.losses.boundary import BoundaryLoss
    >>> from trivet.losses.lovasz import LovaszLoss
    >>> loss = LovaszLoss() + (lambda t: 0.1 * t) * BoundaryLoss()
    >>> loss.progress = 0.5
    >>> value = loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
    >>> {name: round(part.item(), 3) for name, part in loss.parts.items()}
    {'LovaszLoss': 0.5, 'BoundaryLoss': 0.25}
    >>> round(value.item(), 4)  # 0.5 + 0.1 * 0.5 * 0.25
    0.5125
    """

    def __init__(self, *terms: tuple[Weight, nn.Module], progress: float = 0.0) -> None:
        super().__init__()
        for weight, _ in terms:
            if not callable(weight) and not isinstance(weight, (int, float)):
                raise InputError(f"a weight of {weight!r}; allowed is a number or a function of progress (a schedule)")
        self.weights = [weight for weight, _ in terms]
        self.losses = nn.ModuleList(loss for _, loss in terms)
        self.progress = progress
        self.parts: dict[str, Tensor] = {}

    def names(self) -> list[str]:
        """Return one name for each loss: its class, numbered where the class occurs twice."""
        kinds = [type(loss).__name__ for loss in self.losses]
        return [
            kind if kinds.count(kind) == 1 else f"{kind}.{kinds[: i + 1].count(kind)}" for i, kind in enumerate(kinds)
        ]

    def current_weights(self) -> dict[str, float]:
        """Return each loss's weight at the present progress."""
        values = [weight(self.progress) if callable(weight) else float(weight) for weight in self.weights]
        return dict(zip(self.names(), values, strict=True))

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        given = (input, target) if sample_weight is None else (input, target, sample_weight)
        weights = self.current_weights()
        values = {name: loss(*given) for name, loss in zip(weights, self.losses, strict=True)}
        self.parts = {name: value.detach() for name, value in values.items()}
        return cast(Tensor, sum(weights[name] * value for name, value in values.items()))

    def __add__(self, other: nn.Module) -> CombinedLoss:
        return CombinedLoss(*self._terms(), *terms_of(other), progress=self.progress)

    def __radd__(self, other: nn.Module) -> CombinedLoss:
        return CombinedLoss(*terms_of(other), *self._terms(), progress=self.progress)

    def __mul__(self, factor: Weight) -> CombinedLoss:
        return CombinedLoss(*((_product(factor, w), loss) for w, loss in self._terms()), progress=self.progress)

    __rmul__ = __mul__

    def _terms(self) -> list[tuple[Weight, nn.Module]]:
        return list(zip(self.weights, self.losses, strict=True))

    def extra_repr(self) -> str:
        """Show the weights, in the order of the losses."""
        return f"weights={self.weights}"


def terms_of(loss: nn.Module) -> list[tuple[Weight, nn.Module]]:
    """Return the terms of a sum, or the loss itself with weight 1."""
    if isinstance(loss, CombinedLoss):
        return loss._terms()
    if not isinstance(loss, nn.Module):
        raise InputError(f"cannot add {loss!r} to a loss; allowed are losses, which are modules")
    return [(1.0, loss)]


def _product(a: Weight, b: Weight) -> Weight:
    if not callable(a) and not callable(b):
        return a * b
    return _Product(a, b)


class _Product:
    """The product of two weights, one or both of them functions of progress; a class, so that it pickles."""

    def __init__(self, a: Weight, b: Weight) -> None:
        self.factors = (a, b)

    def __call__(self, progress: float) -> float:
        a, b = (factor(progress) if callable(factor) else factor for factor in self.factors)
        return a * b

    def __repr__(self) -> str:
        return " * ".join(map(repr, self.factors))
