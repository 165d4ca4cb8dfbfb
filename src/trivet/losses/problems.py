"""What can be wrong with a batch: one small function for each kind of mistake, each with what it saw in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Problem"]

Evidence = dict[str, float | int | str]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a batch: a stable name, what was seen in words and as numbers, and what to do."""

    code: str
    message: str
    fix: str
    evidence: Evidence = field(default_factory=dict)


def not_finite(input: Tensor, target: Tensor | None) -> list[Problem]:
    """Find NaN in the input (a logit may be infinite: that masks a class), and NaN or infinity in the target."""
    problems = []
    for name, tensor in (("input", input), ("target", target)):
        if tensor is None:
            continue
        bad = int(tensor.isnan().sum()) + (int(tensor.isinf().sum()) if name == "target" else 0)
        if bad:
            problems.append(
                Problem(
                    f"{name}-not-finite",
                    f"{bad} of {tensor.numel()} values of {name} are NaN or infinite",
                    "look for missing values in the data, or a learning rate that is too high",
                    {"bad": bad, "values": tensor.numel()},
                )
            )
    return problems


def shapes(input: Tensor, target: Tensor) -> list[Problem]:
    """Find a target of another shape than the input, where the two are compared one by one."""
    if input.shape == target.shape:
        return []
    given, wanted = tuple(target.shape), tuple(input.shape)
    seen: Evidence = {"input": str(wanted), "target": str(given)}
    try:
        shape = torch.broadcast_shapes(input.shape, target.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return [
            Problem(
                "shape-mismatch",
                f"input {wanted} and target {given} do not fit",
                "give target the shape of input",
                seen,
            )
        ]
    return [
        Problem(
            "accidental-broadcast",
            f"input {wanted} and target {given} would broadcast to {tuple(shape)}: "
            "every prediction is compared with every target",
            "squeeze the last axis of input, or unsqueeze target",
            {**seen, "broadcast": str(tuple(shape))},
        )
    ]


def weight_length(weight: Tensor | None, classes: int) -> list[Problem]:
    """Find class weights that are not one for each class."""
    if weight is None or weight.shape == (classes,):
        return []
    return [
        Problem(
            "weight-length",
            f"class weights of shape {tuple(weight.shape)} for {classes} classes",
            f"give {classes} weights, one for each class",
            {"weights": weight.numel(), "classes": classes},
        )
    ]


def label_range(target: Tensor, classes: int, ignore_index: int) -> list[Problem]:
    """Find labels that are no class."""
    labels = target[target != ignore_index]
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low >= 0 and high < classes:
        return []
    return [
        Problem(
            "target-out-of-range",
            f"labels run from {low} to {high}; the model has {classes} outputs",
            f"number the classes from 0 to {classes - 1}, or widen the last layer",
            {"lowest": low, "highest": high, "classes": classes},
        )
    ]


def label_shape(input: Tensor, target: Tensor) -> list[Problem]:
    """Find labels that are not one for each position of logits ``(batch, classes, ...)``."""
    seen: Evidence = {"input": str(tuple(input.shape)), "target": str(tuple(target.shape))}
    if target.shape == (len(input), 1) and input.ndim == 2:
        return [Problem("target-column", f"labels of shape {tuple(target.shape)}", "squeeze the last axis", seen)]
    if target.shape == input.shape[:1] + input.shape[2:]:
        return []
    return [
        Problem(
            "shape-mismatch",
            f"labels of shape {tuple(target.shape)} for logits of shape {tuple(input.shape)}",
            "give one label for each position: input's shape without its second axis, the classes",
            seen,
        )
    ]


def no_distribution(input: Tensor, target: Tensor) -> list[Problem]:
    """Find a target of floating type that is no distribution over the classes."""
    if target.shape != input.shape:
        return [
            Problem(
                "shape-mismatch",
                f"probabilities of shape {tuple(target.shape)} for logits of shape {tuple(input.shape)}",
                "give target the shape of input; labels must be integers: target.long()",
                {"input": str(tuple(input.shape)), "target": str(tuple(target.shape))},
            )
        ]
    if not target.numel() or _adds_up(target):
        return []
    wide = target.detach().float()
    low, high, least, most = float(wide.min()), float(wide.max()), float(wide.sum(1).min()), float(wide.sum(1).max())
    return [
        Problem(
            "target-no-distribution",
            f"target holds numbers from {low:g} to {high:g}, and rows add up to {least:g} to {most:g}",
            "give probabilities that add up to 1 over the classes, or integer labels",
            {"lowest": low, "highest": high, "least_sum": least, "largest_sum": most},
        )
    ]


def _adds_up(tensor: Tensor) -> bool:
    wide = tensor.detach().float()
    return bool((wide >= 0).all()) and bool(((wide.sum(1) - 1).abs() < 1e-2).all())


def softmax_applied(input: Tensor) -> list[Problem]:
    """Find logits that are probabilities already: softmax would be applied twice."""
    if input.ndim < 2 or input.shape[1] < 2 or not input.numel() or not _adds_up(input):
        return []
    classes = input.shape[1]
    floor = math.log1p((classes - 1) * math.exp(-1))
    return [
        Problem(
            "double-softmax",
            "every row of input is a probability distribution: softmax was applied, and the loss applies it again; "
            f"with {classes} classes cross entropy cannot fall below {floor:.3f}",
            "remove the softmax at the end of the model",
            {"classes": classes, "floor": floor},
        )
    ]


def sigmoid_applied(input: Tensor) -> list[Problem]:
    """Find logits that all lie in [0, 1]: sigmoid would be applied twice."""
    wide = input.detach().float()
    if wide.numel() < 8 or not bool(((wide >= 0) & (wide <= 1)).all()):
        return []
    low, high = float(wide.min()), float(wide.max())
    return [
        Problem(
            "probabilities-for-logits",
            f"all {wide.numel()} values of input lie in [{low:.3f}, {high:.3f}]: "
            "sigmoid was applied, and the loss applies it again: predictions stay in [0.5, 0.73]",
            "remove the sigmoid at the end of the model",
            {"lowest": low, "highest": high, "values": wide.numel()},
        )
    ]


def binary_range(target: Tensor) -> list[Problem]:
    """Find yes-or-no targets outside [0, 1]."""
    low, high = (float(target.min()), float(target.max())) if target.numel() else (0.0, 0.0)
    if low >= 0 and high <= 1:
        return []
    return [
        Problem(
            "target-out-of-range",
            f"binary targets run from {low:g} to {high:g}",
            "give targets in [0, 1]: 0 and 1, or probabilities",
            {"lowest": low, "highest": high},
        )
    ]


def no_probabilities(input: Tensor) -> list[Problem]:
    """Find an input outside [0, 1] given to a loss that takes probabilities, such as torch's `BCELoss`."""
    wide = input.detach().float()
    low, high = (float(wide.min()), float(wide.max())) if wide.numel() else (0.0, 0.0)
    if low >= 0 and high <= 1:
        return []
    return [
        Problem(
            "logits-for-probabilities",
            f"input runs from {low:g} to {high:g}, and this loss takes probabilities",
            "take the loss of logits instead: binary_cross_entropy_with_logits",
            {"lowest": low, "highest": high},
        )
    ]


def no_log_probabilities(input: Tensor) -> list[Problem]:
    """Find an input that is no logarithm of a distribution, given to a loss such as torch's `NLLLoss`."""
    if input.ndim < 2 or not input.numel() or _adds_up(input.detach().float().exp()):
        return []
    total = input.detach().float().exp().sum(1)
    return [
        Problem(
            "logits-for-log-probabilities",
            f"the exponentials of a row of input add up to {float(total.min()):g} to {float(total.max()):g}, not to 1: "
            "this loss takes log probabilities",
            "take the loss of logits instead: cross_entropy or kl_div_loss",
            {"least_sum": float(total.min()), "largest_sum": float(total.max())},
        )
    ]


def no_pairs(target: Tensor) -> list[Problem]:
    """Find labels among which no pair is alike, or none differs: a loss over pairs learns nothing from them."""
    if target.ndim != 1 or len(target) < 2:
        return []
    classes = len(torch.unique(target))
    if 1 < classes < len(target):
        return []
    what = "no two samples of the batch share a label" if classes > 1 else "all samples of the batch share one label"
    return [
        Problem(
            "no-pairs",
            f"{what} ({len(target)} samples): there is nothing to pull together, or nothing to push apart",
            "draw batches of a few classes with several samples each",
            {"samples": len(target), "classes": classes},
        )
    ]


def two_views(input: Tensor, target: Tensor, *, queue: bool) -> list[Problem]:
    """Find two views that are not ``(batch, features)`` each."""
    fits = input.ndim == target.ndim == 2 and input.shape[1] == target.shape[1]
    if fits and (len(input) == len(target) or (queue and len(target) > len(input))):
        return []
    return [
        Problem(
            "shape-mismatch",
            f"views of shapes {tuple(input.shape)} and {tuple(target.shape)}",
            "give both views as (batch, features), row by row of the same samples",
            {"input": str(tuple(input.shape)), "target": str(tuple(target.shape))},
        )
    ]
