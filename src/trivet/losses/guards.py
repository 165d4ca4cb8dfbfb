"""Checks of what is given to a loss: the mistakes that train, silently and badly.

They read the data and so wait for a GPU: opt-in in training (:class:`Guarded`), always on in lint.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trivet.errors import DataError
from trivet.losses.contract import check_choice

__all__ = ["Guarded", "Problem", "inspect_batch"]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a batch: a stable code, what was seen (with numbers), and what to do."""

    code: str
    message: str
    fix: str


def inspect_batch(
    input: Tensor,
    target: Tensor,
    *,
    kind: str,
    weight: Tensor | None = None,
    ignore_index: int = -100,
) -> list[Problem]:
    """Return what is wrong with a batch for a loss that takes logits.

    Args:
        input: what the model gave: logits ``(batch, classes, ...)``, ``(batch, ...)`` for binary and
            regression.
        target: what it should have given.
        kind: ``"binary"`` (sigmoid losses), ``"multiclass"`` (softmax losses), or ``"regression"``.
        weight: class weights ``(classes,)``.
        ignore_index: a label that takes no part.

    >>> [p.code for p in inspect_batch(torch.rand(8, 3).softmax(1), torch.arange(8) % 3, kind="multiclass")]
    ['double-softmax']
    """
    check_choice("kind", kind, ("binary", "multiclass", "regression"))
    problems = _not_finite(input, target)
    problems += _shapes(input, target) if kind != "multiclass" else _classes(input, target, weight, ignore_index)
    if kind == "multiclass":
        problems += _softmax_applied(input)
    elif kind == "binary":
        problems += _sigmoid_applied(input) + _target_range(target)
    return problems


def _not_finite(input: Tensor, target: Tensor) -> list[Problem]:
    problems = []
    for name, tensor in (("input", input), ("target", target)):
        bad = int(tensor.isnan().sum()) + (int(tensor.isinf().sum()) if name == "target" else 0)
        if bad:
            problems.append(
                Problem(
                    f"{name}-not-finite",
                    f"{bad} of {tensor.numel()} values of {name} are NaN or infinite",
                    "look for missing values in the data, or a learning rate that is too high",
                )
            )
    return problems


def _shapes(input: Tensor, target: Tensor) -> list[Problem]:
    if input.shape == target.shape:
        return []
    try:
        shape = torch.broadcast_shapes(input.shape, target.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return [
            Problem(
                "shape-mismatch",
                f"input {tuple(input.shape)} and target {tuple(target.shape)} do not fit",
                "give target the shape of input",
            )
        ]
    return [
        Problem(
            "accidental-broadcast",
            f"input {tuple(input.shape)} and target {tuple(target.shape)} would broadcast to {tuple(shape)}: "
            "every prediction is compared with every target",
            "squeeze the last axis of input, or unsqueeze target",
        )
    ]


def _classes(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> list[Problem]:
    problems, classes = [], input.shape[1] if input.ndim > 1 else 1
    if weight is not None and weight.shape != (classes,):
        problems.append(
            Problem(
                "weight-length",
                f"class weights of shape {tuple(weight.shape)} for {classes} classes",
                f"give {classes} weights, one for each class",
            )
        )
    if target.is_floating_point():
        return problems + _probabilities(input, target)
    labels = target[target != ignore_index]
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= classes:
        problems.append(
            Problem(
                "target-out-of-range",
                f"labels run from {low} to {high}; the model has {classes} outputs",
                f"number the classes from 0 to {classes - 1}, or widen the last layer",
            )
        )
    if target.shape == (len(input), 1) and input.ndim == 2:
        problems.append(Problem("target-column", f"labels of shape {tuple(target.shape)}", "squeeze the last axis"))
    elif target.shape != input.shape[:1] + input.shape[2:]:
        problems.append(
            Problem(
                "shape-mismatch",
                f"labels of shape {tuple(target.shape)} for logits of shape {tuple(input.shape)}",
                "give one label for each position: input's shape without its second axis, the classes",
            )
        )
    return problems


def _probabilities(input: Tensor, target: Tensor) -> list[Problem]:
    """Look at a target of floating type: it must be a distribution over the classes for each position."""
    if target.shape != input.shape:
        return [
            Problem(
                "shape-mismatch",
                f"probabilities of shape {tuple(target.shape)} for logits of shape {tuple(input.shape)}",
                "give target the shape of input; labels must be integers: target.long()",
            )
        ]
    wide = target.detach().float()
    if not wide.numel() or (bool((wide >= 0).all()) and bool(((wide.sum(1) - 1).abs() < 1e-2).all())):
        return []
    return [
        Problem(
            "target-no-distribution",
            f"target holds numbers from {wide.min():g} to {wide.max():g}, and rows add up to "
            f"{wide.sum(1).min():g} to {wide.sum(1).max():g}",
            "give probabilities that add up to 1 over the classes, or integer labels",
        )
    ]


def _softmax_applied(input: Tensor) -> list[Problem]:
    if input.ndim < 2 or input.shape[1] < 2 or not input.numel():
        return []
    wide = input.detach().float()
    if bool((wide >= 0).all()) and bool(((wide.sum(1) - 1).abs() < 1e-2).all()):
        return [
            Problem(
                "double-softmax",
                "every row of input is a probability distribution: softmax was applied, and the loss "
                f"applies it again; with {input.shape[1]} classes the loss cannot fall below "
                f"{torch.log1p((input.shape[1] - 1) * torch.exp(torch.tensor(-1.0))):.3f}",
                "remove the softmax at the end of the model",
            )
        ]
    return []


def _sigmoid_applied(input: Tensor) -> list[Problem]:
    wide = input.detach().float()
    if wide.numel() >= 8 and bool(((wide >= 0) & (wide <= 1)).all()):
        return [
            Problem(
                "probabilities-for-logits",
                f"all {wide.numel()} values of input lie in [{wide.min():.3f}, {wide.max():.3f}]: "
                "sigmoid was applied, and the loss applies it again: predictions stay in [0.5, 0.73]",
                "remove the sigmoid at the end of the model",
            )
        ]
    return []


def _target_range(target: Tensor) -> list[Problem]:
    low, high = (float(target.min()), float(target.max())) if target.numel() else (0.0, 0.0)
    if low < 0 or high > 1:
        return [
            Problem(
                "target-out-of-range",
                f"binary targets run from {low:g} to {high:g}",
                "give targets in [0, 1]: 0 and 1, or probabilities",
            )
        ]
    return []


class Guarded(nn.Module):
    """A loss whose first batches are inspected; raises DataError, or warns, on the first problem.

    >>> Guarded(nn.MSELoss(), kind="regression")(torch.zeros(4, 1), torch.zeros(4))
    Traceback (most recent call last):
    trivet.errors.DataError: accidental-broadcast: input (4, 1) and target (4,) would broadcast to (4, 4): ...
    """

    def __init__(self, loss: nn.Module, *, kind: str, batches: int = 3, on_problem: str = "raise") -> None:
        super().__init__()
        check_choice("on_problem", on_problem, ("raise", "warn"))
        self.loss, self.kind, self.batches, self.on_problem = loss, kind, batches, on_problem
        self.seen = 0

    def forward(self, input: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        if self.seen < self.batches:
            self.seen += 1
            weight = getattr(self.loss, "weight", None)
            ignore_index = getattr(self.loss, "ignore_index", -100)
            for problem in inspect_batch(
                input,
                target,
                kind=self.kind,
                weight=weight if isinstance(weight, Tensor) else None,
                ignore_index=ignore_index,
            ):
                message = f"{problem.code}: {problem.message}; {problem.fix}"
                if self.on_problem == "raise":
                    raise DataError(message)
                warnings.warn(message, stacklevel=2)
        given = (input, target) if sample_weight is None else (input, target, sample_weight)
        value: Tensor = self.loss(*given)
        return value
