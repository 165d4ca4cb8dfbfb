"""The one contract of every loss: reductions, what an empty batch gives, how a mean is normalised."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from trivet.errors import DataError, InputError, unknown_name
from trivet.losses.combine import CombinedLoss, Weight, terms_of
from trivet.losses.weights import class_weights

__all__ = [
    "Empty",
    "Kind",
    "Loss",
    "Reduction",
    "check_choice",
    "check_class_weights",
    "check_labels",
    "check_positive",
    "reduce",
    "widen",
]

Reduction = Literal["mean", "sum", "none"]
Kind = Literal["regression", "binary", "multiclass", "region", "embedding", "views", "matching", "language"]
Empty = Literal["zero", "nan"]


def check_choice(what: str, given: str, allowed: tuple[str, ...]) -> None:
    """Raise InputError unless ``given`` is one of ``allowed``; the message offers the nearest."""
    if given not in allowed:
        raise unknown_name(what, given, allowed)


def check_labels(label: Tensor, classes: int, ignore_index: int) -> None:
    """Raise DataError for a label that is no class; left out on a GPU, which the check would wait for."""
    if label.device.type != "cpu" or torch.compiler.is_compiling() or not label.numel():
        return
    kept = label[label != ignore_index]
    low, high = (int(kept.min()), int(kept.max())) if kept.numel() else (0, 0)
    if low < 0 or high >= classes:
        raise DataError(f"labels from {low} to {high}; allowed are 0 to {classes - 1} and ignore_index={ignore_index}")


def check_class_weights(weight: Tensor | None, classes: int) -> None:
    """Raise DataError unless there is one weight for each class."""
    if weight is not None and weight.shape != (classes,):
        raise DataError(f"class weights of shape {tuple(weight.shape)}; allowed is ({classes},), one for each class")


def check_positive(name: str, value: float | Tensor) -> None:
    """Raise InputError unless a number is above 0; a tensor is learned, and not asked (that would wait for a GPU)."""
    if not isinstance(value, Tensor) and not 0 < value < float("inf"):
        raise InputError(f"{name}={value}; allowed is a finite number above 0")


def widen(tensor: Tensor) -> Tensor:
    """Return the tensor in the type that losses compute in: float64 stays, everything narrower is float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def reduce(
    values: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    empty: str = "zero",
    normalizer: Tensor | None = None,
) -> Tensor:
    r"""Reduce weighted values: ``w v`` (none), :math:`\sum w v` (sum), :math:`\sum w v / Z` (mean).

    The normaliser :math:`Z` is :math:`\sum w` unless given. A value whose weight is 0 takes no part: it may
    be infinite or NaN. When :math:`Z = 0` nothing takes part, and the mean is a zero that is connected to
    the graph (``empty="zero"``) or NaN (``empty="nan"``, torch's habit).

    >>> reduce(torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([1.0, 1.0, 0.0])).item()
    2.0
    """
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    check_choice("empty", empty, ("zero", "nan"))
    if weight is not None:
        weight = weight.to(values.dtype)
        values = torch.where(weight != 0, values, 0) * weight
    if reduction == "none":
        return values
    total = values.sum()
    if reduction == "sum":
        return total
    if normalizer is None:
        normalizer = total.new_tensor(float(values.numel())) if weight is None else weight.sum()
    if empty == "zero":
        normalizer = torch.where(normalizer == 0, 1, normalizer)
    return total / normalizer


class Loss(nn.Module):
    """A loss with its hyperparameters: ``forward(input, target, sample_weight=None)`` calls ``function``.

    A subclass names its function once, ``class FocalLoss(Loss, function=focal_loss, kind="binary")``, and takes the
    function's keywords as its own. ``kind`` says what input and target are, for guards and pictures. Losses add and
    scale: ``2 * DiceLoss() + CrossEntropyLoss()``.
    """

    function: ClassVar[Callable[..., Tensor]]
    kind: ClassVar[Kind]

    def __init_subclass__(
        cls, *, function: Callable[..., Tensor] | None = None, kind: Kind | None = None, **keywords: Any
    ) -> None:
        super().__init_subclass__(**keywords)
        if kind is not None:
            cls.kind = kind
        if function is None:
            return
        cls.function = staticmethod(function)
        cls.__doc__ = cls.__doc__ or f"Module form of :func:`{function.__name__}`, which explains it."
        signature = inspect.Signature(list(cls._hyperparameters().values()))
        setattr(cls, "__signature__", signature)  # noqa: B010 - not an attribute that a type checker knows

    @classmethod
    def _hyperparameters(cls) -> dict[str, inspect.Parameter]:
        parameters = inspect.signature(cls.function).parameters
        per_call = ("input", "target", "sample_weight")
        keyword = inspect.Parameter.KEYWORD_ONLY
        return {name: p.replace(kind=keyword) for name, p in parameters.items() if name not in per_call}

    def __init__(self, **hyperparameters: Any) -> None:
        super().__init__()
        allowed = self._hyperparameters()
        for name in hyperparameters:
            if name not in allowed:
                raise unknown_name(f"hyperparameter of {type(self).__name__}", name, allowed)
        missing = [n for n, p in allowed.items() if p.default is p.empty and n not in hyperparameters]
        if missing:
            raise InputError(f"{type(self).__name__} also needs {', '.join(missing)}")
        self.hyperparameters = tuple(allowed)
        for name, parameter in allowed.items():
            value = hyperparameters.get(name, parameter.default)
            self._keep(name, value)
        if isinstance(scheme := hyperparameters.get("weight"), str):
            class_weights(scheme, torch.ones(2))  # a name that is not known is refused here, not at the first batch

    def _keep(self, name: str, value: object) -> None:
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self.register_buffer(name, value)
        else:
            setattr(self, name, value)

    def fit(self, counts: Tensor) -> Self:
        """Fill in what depends on the training labels: ``counts``, and class weights given by name.

        Args:
            counts: how often each class occurs in the training set ``(classes,)``; see ``class_counts``.

        >>> from trivet.losses import CrossEntropyLoss
        >>> CrossEntropyLoss(weight="balanced").fit(torch.tensor([90, 10])).weight
        tensor([0.5556, 5.0000])
        """
        if isinstance(scheme := getattr(self, "weight", None), str):
            del self.weight
            self._keep("weight", class_weights(scheme, counts))
        if getattr(self, "counts", counts) is None:
            del self.counts
            self._keep("counts", counts)
        return self

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        keywords = {name: getattr(self, name) for name in self.hyperparameters}
        if isinstance(scheme := keywords.get("weight"), str):
            raise InputError(f"weight={scheme!r} without class counts; call loss.fit(counts) with those of training")
        return type(self).function(input, target, sample_weight=sample_weight, **keywords)

    def __add__(self, other: nn.Module) -> CombinedLoss:
        return CombinedLoss((1.0, self)) + other

    def __radd__(self, other: nn.Module) -> CombinedLoss:
        return CombinedLoss(*terms_of(other)) + self

    def __mul__(self, factor: Weight) -> CombinedLoss:
        return CombinedLoss((factor, self))

    __rmul__ = __mul__

    def extra_repr(self) -> str:
        """Show the hyperparameters that differ from their defaults."""
        differing = []
        for name, parameter in self._hyperparameters().items():
            value = getattr(self, name)
            if isinstance(value, Tensor):
                differing.append(f"{name}=tensor{tuple(value.shape)}")
            elif value != parameter.default:
                differing.append(f"{name}={value!r}")
        return ", ".join(differing)
