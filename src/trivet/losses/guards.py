"""Checks of what is given to a loss: the mistakes that train, silently and badly.

They read the data and so wait for a GPU: opt-in in training (:class:`Guarded`), always on in lint, which calls
:func:`check` with a loss, a model's output and a target, and makes findings of the problems.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from trivet.errors import DataError, InputError
from trivet.losses import problems as find
from trivet.losses.combine import CombinedLoss
from trivet.losses.contract import Loss, check_choice
from trivet.losses.problems import Problem

__all__ = ["Guarded", "Problem", "check", "inspect_batch"]

KINDS = ("regression", "binary", "multiclass", "region", "embedding", "views", "matching", "language")
PROBABILITIES = ("probabilities", "log_probabilities")  # what some losses of torch take instead of logits

_TORCH: dict[str, str] = {
    "BCELoss": "probabilities",
    "BCEWithLogitsLoss": "binary",
    "CrossEntropyLoss": "multiclass",
    "GaussianNLLLoss": "regression",
    "HuberLoss": "regression",
    "KLDivLoss": "log_probabilities",
    "L1Loss": "regression",
    "MSELoss": "regression",
    "MultiLabelSoftMarginLoss": "binary",
    "NLLLoss": "log_probabilities",
    "PoissonNLLLoss": "regression",
    "SmoothL1Loss": "regression",
    "SoftMarginLoss": "regression",
    "binary_cross_entropy": "probabilities",
    "kl_div": "log_probabilities",
    "nll_loss": "log_probabilities",
}


def check(loss: nn.Module | Callable[..., Tensor], input: Tensor, target: Tensor) -> list[Problem]:
    """Return what is wrong with an output and a target that are given to this loss.

    Args:
        loss: a loss of trivet or torch, as a module or a function, or a sum of such losses, whose terms are all
            looked at. A loss that is neither is only asked for numbers that are not finite.
        input: what the model gave, as the loss takes it.
        target: what it should have given.

    Each problem has a stable ``code``, a ``message`` and a ``fix`` in words, and ``evidence``: what was seen in
    numbers. The loss is not called, and a batch that it would refuse is no error here.

    >>> found = check(nn.CrossEntropyLoss(), torch.rand(8, 3).softmax(1), torch.arange(8) % 3)
    >>> found[0].code, round(found[0].evidence["floor"], 3)
    ('double-softmax', 0.551)
    """
    if isinstance(loss, Guarded):
        return check(loss.loss, input, target)
    if isinstance(loss, CombinedLoss):
        found = [problem for part in loss.losses for problem in check(part, input, target)]
        return list({(problem.code, problem.message): problem for problem in found}.values())
    kind = kind_of(loss)
    if kind is None:
        return find.not_finite(input, target)
    of_loss = loss if isinstance(loss, nn.Module) else None
    if _name(loss) in ("gaussian_nll_loss", "GaussianNLLLoss") and input.ndim == target.ndim + 1:
        input = input.select(1, 0)  # the means; log variances beside them
    weight = getattr(of_loss, "weight", None)
    found = inspect_batch(
        input,
        target,
        kind=kind,
        weight=weight if isinstance(weight, Tensor) else None,
        ignore_index=int(getattr(of_loss, "ignore_index", -100)),
        multilabel=bool(getattr(of_loss, "multilabel", False)),
        classes=_classes_owned(of_loss),
    )
    if _name(loss) == "info_nce_loss":
        found = [problem for problem in found if problem.code != "shape-mismatch"]
        found += find.two_views(input, target, queue=True)
    return found


def kind_of(loss: nn.Module | Callable[..., Tensor]) -> str | None:
    """Return what kind of input and target a loss takes; None where that is not known.

    >>> kind_of(nn.NLLLoss()), kind_of(nn.functional.cross_entropy), kind_of(print)
    ('log_probabilities', 'multiclass', None)
    """
    if isinstance(loss, Loss):
        return type(loss).kind
    if type(loss) in vars(nn.modules.loss).values():
        return _TORCH.get(type(loss).__name__)
    name = _name(loss)
    if getattr(loss, "__module__", "").startswith(("torch", "trivet")):
        return _TORCH.get(name) or _kinds().get(name)
    return None


@functools.cache
def _kinds() -> dict[str, str]:
    from trivet import losses  # the catalogue stands above this module

    return {name: part.kind for name, part in losses.catalogue().items()}


def _name(loss: nn.Module | Callable[..., Tensor]) -> str:
    if isinstance(loss, Loss):
        return type(loss).function.__name__
    return type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", "")


def _classes_owned(loss: nn.Module | None) -> int | None:
    """Return how many classes a loss has that owns its output layer."""
    for name in ("prototypes", "linear_weight"):
        if isinstance(owned := getattr(loss, name, None), Tensor):
            return len(owned)
    return None


def inspect_batch(
    input: Tensor,
    target: Tensor,
    *,
    kind: str,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    multilabel: bool = False,
    classes: int | None = None,
) -> list[Problem]:
    """Return what is wrong with a batch for a loss of this kind.

    Args:
        input: what the model gave: logits ``(batch, classes, ...)``, ``(batch, ...)`` for binary and regression,
            embeddings or hidden states ``(batch, features)``.
        target: what it should have given.
        kind: ``"regression"``, ``"binary"`` (sigmoid losses), ``"multiclass"`` (softmax losses), ``"region"``
            (overlap losses), ``"embedding"`` (vectors and labels), ``"views"`` (two vectors for each sample),
            ``"matching"`` (two sets of logits), ``"language"`` (hidden states and labels), and for torch's losses
            ``"probabilities"`` and ``"log_probabilities"``.
        weight: class weights ``(classes,)``.
        ignore_index: a label that takes no part.
        multilabel: region losses only: classes do not exclude each other.
        classes: how many classes the loss itself has, for embeddings and hidden states.

    >>> [p.code for p in inspect_batch(torch.rand(8, 3).softmax(1), torch.arange(8) % 3, kind="multiclass")]
    ['double-softmax']
    """
    check_choice("kind", kind, KINDS + PROBABILITIES)
    found = find.not_finite(input, target)
    if kind == "region":
        kind = "binary" if multilabel or input.shape[1] == 1 else "multiclass"
        if kind == "binary" and target.ndim == input.ndim - 1:
            target = target.unsqueeze(1)
            target = torch.where(target == ignore_index, 0, target)
    if kind == "log_probabilities":
        found += find.no_log_probabilities(input)
        return found + (_labels(input, target, weight, ignore_index) if not target.is_floating_point() else [])
    if kind == "multiclass":
        return found + _labels(input, target, weight, ignore_index) + find.softmax_applied(input)
    if kind in ("regression", "binary", "probabilities"):
        found += find.shapes(input, target)
        found += find.binary_range(target) if kind != "regression" else []
        found += find.sigmoid_applied(input) if kind == "binary" else []
        return found + (find.no_probabilities(input) if kind == "probabilities" else [])
    if kind == "views":
        return found + find.two_views(input, target, queue=False)
    if kind == "matching":
        return found + find.shapes(input, target) + find.softmax_applied(input)
    return found + _vectors(input, target, weight, ignore_index, classes, pairs=kind == "embedding")


def _labels(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> list[Problem]:
    classes = input.shape[1] if input.ndim > 1 else 1
    found = find.weight_length(weight, classes)
    if target.is_floating_point():
        return found + find.no_distribution(input, target)
    return found + find.label_range(target, classes, ignore_index) + find.label_shape(input, target)


def _vectors(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, classes: int | None, *, pairs: bool
) -> list[Problem]:
    """Look at labels of vectors: one each, of a class that the loss has, or with partners in the batch."""
    if target.shape != input.shape[:-1] or target.is_floating_point():
        return [
            Problem(
                "shape-mismatch",
                f"labels of {target.dtype} and shape {tuple(target.shape)} for vectors {tuple(input.shape)}",
                "give one integer label for each vector",
                {"input": str(tuple(input.shape)), "target": str(tuple(target.shape))},
            )
        ]
    if classes is not None:
        return find.weight_length(weight, classes) + find.label_range(target, classes, ignore_index)
    return find.no_pairs(target) if pairs else []


class Guarded(nn.Module):
    """A loss whose first batches are inspected; raises DataError, or warns, on the first problem.

    ``kind`` need only be given for losses that are neither trivet's nor torch's; see :func:`inspect_batch`.

    >>> Guarded(nn.MSELoss())(torch.zeros(4, 1), torch.zeros(4))
    Traceback (most recent call last):
    trivet.errors.DataError: accidental-broadcast: input (4, 1) and target (4,) would broadcast to (4, 4): ...
    """

    def __init__(
        self, loss: nn.Module, *, kind: str | None = None, batches: int = 3, on_problem: str = "raise"
    ) -> None:
        super().__init__()
        check_choice("on_problem", on_problem, ("raise", "warn"))
        if kind is None and not isinstance(loss, CombinedLoss) and kind_of(loss) is None:
            raise InputError(
                f"{type(loss).__name__} is no loss of trivet or torch; give kind=, one of {', '.join(KINDS)}"
            )
        self.loss, self.kind, self.batches, self.on_problem = loss, kind, batches, on_problem
        self.seen = 0

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        if self.seen < self.batches:
            self.seen += 1
            for problem in self._found(input, target):
                message = f"{problem.code}: {problem.message}; {problem.fix}"
                if self.on_problem == "raise":
                    raise DataError(message)
                warnings.warn(message, stacklevel=2)
        given = (input, target) if sample_weight is None else (input, target, sample_weight)
        value: Tensor = self.loss(*given)
        return value

    def _found(self, input: Tensor, target: Tensor) -> list[Problem]:
        if self.kind is None:
            return check(self.loss, input, target)
        weight = getattr(self.loss, "weight", None)
        return inspect_batch(
            input,
            target,
            kind=self.kind,
            weight=weight if isinstance(weight, Tensor) else None,
            ignore_index=getattr(self.loss, "ignore_index", -100),
        )
