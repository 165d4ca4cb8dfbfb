"""Cross entropy for one of C classes: labels or probabilities, class weights, smoothing."""

from __future__ import annotations

import torch
from torch import Tensor

from trivet.errors import DataError, InputError
from trivet.losses.contract import Loss, check_choice, check_labels, reduce, widen
from trivet.losses.odds import log_odds_against

__all__ = ["CrossEntropyLoss", "cross_entropy"]


def cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    convention: str = "torch",
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Negative log likelihood of the true class under the softmax of the logits.

    For labels y, and for probabilities t, with class weights w and smoothing :math:`\epsilon` over C classes:

    .. math:: \ell = -(1 - \epsilon)\, w_y \log p_y - \frac{\epsilon}{C} \sum_k w_k \log p_k, \qquad
              \ell = -\sum_k w_k \bigl((1 - \epsilon)\, t_k + \tfrac{\epsilon}{C}\bigr) \log p_k

    A masked class (a logit of -inf) takes no part: its share of a target or of the smoothing is dropped,
    where torch gives infinity or NaN.

    Args:
        input: logits ``(batch, classes, ...)``.
        target: labels ``(batch, ...)``, or probabilities of input's shape.
        weight: class weights ``(classes,)``.
        ignore_index: a label that takes no part.
        label_smoothing: :math:`\epsilon` in [0, 1].
        convention: what the mean divides by. ``"torch"``: by the weights :math:`w_y` of the labels that take
            part, by the number of rows for probabilities. ``"keras"``: by the number of rows in both cases.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``: ``(batch, ...)``.
        empty: value when every label is ignored, ``"zero"`` or ``"nan"`` (torch's).
        sample_weight: weight of each sample ``(batch,)`` or row ``(batch, ...)``; the mean divides by them
            too.

    >>> round(cross_entropy(torch.zeros(2, 4), torch.tensor([0, -100])).item(), 4)  # log 4
    1.3863
    """
    check_choice("convention", convention, ("torch", "keras"))
    if not 0 <= label_smoothing <= 1:
        raise InputError(f"label_smoothing={label_smoothing}; allowed is a number in [0, 1]")
    if input.ndim < 2:
        raise DataError(f"input has shape {tuple(input.shape)}; allowed are logits (batch, classes, ...)")
    classes = input.shape[1]
    if weight is not None and weight.shape != (classes,):
        raise DataError(f"class weights of shape {tuple(weight.shape)}; allowed is ({classes},)")
    logits = widen(input).movedim(1, -1).reshape(-1, classes)
    by_class = logits.new_ones(classes) if weight is None else weight.to(logits.dtype)
    shape = input.shape[:1] + input.shape[2:]
    if target.is_floating_point():
        if target.shape != input.shape:
            raise DataError(f"probabilities {tuple(target.shape)}; allowed is input's shape {tuple(input.shape)}")
        soft = target.to(logits.dtype).movedim(1, -1).reshape(-1, classes)
        soft = soft * (1 - label_smoothing) + label_smoothing / classes
        values, rows = _expected(logits, soft * by_class), logits.new_ones(len(logits))
        count = rows
    else:
        if target.shape != shape:
            raise DataError(f"labels {tuple(target.shape)} for input {tuple(input.shape)}; allowed is {tuple(shape)}")
        check_labels(target, classes, ignore_index)
        kept = target.reshape(-1) != ignore_index
        label = torch.where(kept, target.reshape(-1), 0)
        odds = log_odds_against(logits, label)
        own = by_class[label]
        values = (1 - label_smoothing) * own * torch.logaddexp(odds, torch.zeros_like(odds))
        if label_smoothing:
            values = values + _expected(logits, (label_smoothing / classes * by_class).expand_as(logits))
        rows = kept.to(logits.dtype)
        count = rows * own if convention == "torch" else rows
    if sample_weight is not None:
        missing = (1,) * (len(shape) - sample_weight.ndim)
        every = sample_weight.reshape(sample_weight.shape + missing).expand(shape).reshape(-1)
        rows, count = rows * every.to(rows.dtype), count * every.to(rows.dtype)
    result = reduce(values, rows, reduction=reduction, empty=empty, normalizer=count.sum())
    return result.view(shape) if reduction == "none" else result


def _expected(logits: Tensor, share: Tensor) -> Tensor:
    """Return the sum over classes of share times -log p; a class masked by -inf has no share."""
    log_p = torch.log_softmax(logits, 1).clamp_min(torch.finfo(logits.dtype).min)
    return -(torch.where(logits == -torch.inf, 0, share) * log_p).sum(1)


class CrossEntropyLoss(Loss, function=cross_entropy): ...
