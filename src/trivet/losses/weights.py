"""Class weights from class counts: balanced, and the effective number of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from trivet.errors import InputError

__all__ = ["class_counts", "class_weights"]


def class_counts(target: Tensor, num_classes: int, *, ignore_index: int = -100) -> Tensor:
    """Return how often each class occurs ``(num_classes,)``.

    >>> class_counts(torch.tensor([0, 2, 2, -100]), 3)
    tensor([1, 0, 2])
    """
    labels = target[target != ignore_index]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise InputError(f"labels from {int(labels.min())} to {int(labels.max())}; allowed are 0 to {num_classes - 1}")
    return torch.bincount(labels.reshape(-1), minlength=num_classes)


def class_weights(scheme: str, counts: Tensor) -> Tensor:
    r"""Return class weights ``(classes,)`` in float32 from counts of the *training* labels.

    ``"balanced"``: :math:`n / (C\, n_c)`, as scikit-learn. ``"effective:0.999"`` with :math:`\beta = 0.999`:
    :math:`(1 - \beta) / (1 - \beta^{n_c})`, scaled to sum to C. A class that does not occur has weight 0: no
    finite weight would balance it.

    >>> class_weights("balanced", torch.tensor([90, 10]))
    tensor([0.5556, 5.0000])
    >>> class_weights("effective:0.99", torch.tensor([90, 10]))
    tensor([0.2768, 1.7232])

    Source: Cui et al. 2019, "Class-balanced loss based on effective number of samples", eq. 3.
    """
    number = counts.double()
    name, _, beta = scheme.partition(":")
    if scheme == "balanced":
        weight = number.sum() / (len(number) * number)
    elif name == "effective" and _fraction(beta) is not None:
        base = torch.tensor(_fraction(beta), dtype=torch.float64)
        weight = (1 - base) / -torch.expm1(number * base.log()) if base > 0 else torch.ones_like(number)
        weight = torch.where(number == 0, 0, weight)
        weight = weight * len(number) / weight.sum()
    else:
        raise InputError(
            f"class weights {scheme!r}; allowed are a tensor, 'balanced' and 'effective:BETA', BETA in [0, 1)"
        )
    return torch.where(number == 0, 0, weight).float()


def _fraction(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 1 else None
