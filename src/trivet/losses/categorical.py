"""Cross entropy for one of C classes: labels or probabilities, class weights, smoothing."""

from __future__ import annotations

import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.losses.contract import Loss, check_choice, check_class_weights, reduce
from trivet.losses.odds import cross_entropy_rule
from trivet.losses.rowwise import Form, row_loss

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
    backend: str = "auto",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Negative log likelihood of the true class under the softmax of the logits.

    For labels y, and for probabilities t, with class weights w and smoothing :math:`\epsilon` over C classes:

    .. math:: \ell = -(1 - \epsilon)\, w_y \log p_y - \frac{\epsilon}{C} \sum_k w_k \log p_k, \qquad
              \ell = -\sum_k w_k \bigl((1 - \epsilon)\, t_k + \tfrac{\epsilon}{C}\bigr) \log p_k

    A masked class (a logit of -inf) takes no part: its share of a target or of the smoothing is dropped,
    where torch gives infinity or NaN.

    When: one of C classes, when probabilities or the most likely class are wanted. The default; with ``weight``
      where mistakes on rare classes cost more.
    When not: classes that do not exclude each other (:func:`binary_cross_entropy_with_logits`), many wrong labels
      (:func:`generalized_cross_entropy_loss`), outputs that are probabilities already.
    Cost: one pass over the logits for value and gradient together; no memory but the gradient.

    Args:
        input: logits ``(batch, classes, ...)``.
        target: labels ``(batch, ...)``, or probabilities of input's shape.
        weight: class weights ``(classes,)``.
        ignore_index: a label that takes no part.
        label_smoothing: :math:`\epsilon` in [0, 1].
        convention: what the mean divides by. ``"torch"``: by the weights :math:`w_y` of the labels that take
            part, by the number of rows for probabilities. ``"keras"``: by the number of rows in both cases, and
            smoothing does not change what a class weighs: :math:`w_y` multiplies the smoothed loss of its row (for
            probabilities y is the largest).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``: ``(batch, ...)``.
        empty: value when every label is ignored, ``"zero"`` or ``"nan"`` (torch's).
        backend: ``"auto"`` takes the kernel where there is one, ``"torch"`` never, ``"cpu"`` and
            ``"triton"`` (GPU) always: they raise BackendError where they cannot.
        sample_weight: weight of each sample ``(batch,)`` or row ``(batch, ...)``; the mean divides by them
            too.

    >>> import torch
    >>> round(cross_entropy(torch.zeros(2, 4), torch.tensor([0, -100])).item(), 4)  # log 4
    1.3863

    Source: Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs".
    """
    check_choice("convention", convention, ("torch", "keras"))
    if not 0 <= label_smoothing <= 1:
        raise InputError(f"label_smoothing={label_smoothing}; allowed is a number in [0, 1]")
    soft = target.is_floating_point()
    rows_first = convention == "keras" and weight is not None and (soft or label_smoothing > 0)
    form = Form(
        cross_entropy_rule, matrix="shares" if soft else "", smoothing=label_smoothing,
        weight=None if rows_first else weight,
    )  # fmt: skip
    result = row_loss(
        form, input, target, ignore_index=ignore_index, by_weight=convention == "torch",
        reduction="none" if rows_first else reduction, empty=empty,
        sample_weight=None if rows_first else sample_weight, backend=backend,
    )  # fmt: skip
    if not rows_first or weight is None:
        return result
    check_class_weights(weight, input.shape[1])
    label = target.argmax(1) if soft else target
    kept = label != ignore_index
    part = kept.to(result.dtype)
    if sample_weight is not None:
        part = part * sample_weight.reshape(sample_weight.shape + (1,) * (label.ndim - sample_weight.ndim))
    own = part * weight.to(result.dtype)[torch.where(kept, label, 0)]
    return reduce(result, own, reduction=reduction, empty=empty, normalizer=part.sum())


class CrossEntropyLoss(Loss, function=cross_entropy, kind="multiclass"): ...
