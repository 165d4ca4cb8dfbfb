"""Losses between a student and a teacher: Kullback-Leibler, Jensen-Shannon, and features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.losses.contract import Loss, check_choice, reduce, widen
from trivet.losses.embedding.geometry import unit
from trivet.losses.mixture import mixture_divergence
from trivet.losses.odds import cross_entropy_rule
from trivet.losses.rowwise import Form, row_loss

__all__ = [
    "FeatureMatchingLoss",
    "JensenShannonLoss",
    "KLDivLoss",
    "feature_matching_loss",
    "jensen_shannon_loss",
    "kl_div_loss",
]


def _check(input: Tensor, target: Tensor) -> None:
    if input.shape != target.shape or input.ndim < 2:
        raise DataError(
            f"input {tuple(input.shape)} and target {tuple(target.shape)}; allowed are the logits of student "
            "and teacher, both (batch, classes, ...)"
        )


def _row_weight(input: Tensor, mask: Tensor | None, sample_weight: Tensor | None) -> Tensor | None:
    if mask is None:
        return sample_weight
    kept = mask.expand(input.shape[:1] + input.shape[2:]).to(widen(input).dtype)
    if sample_weight is None:
        return kept
    missing = (1,) * (kept.ndim - sample_weight.ndim)
    return kept * sample_weight.to(kept.dtype).reshape(sample_weight.shape + missing)


def kl_div_loss(
    input: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    convention: str = "paper",
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    backend: str = "auto",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Knowledge distillation: the divergence of the student from the teacher, both softened by a
    temperature.

    .. math:: \ell = T^2 \sum_k q_k (\log q_k - \log p_k), \qquad p = \mathrm{softmax}(z / T),\;
              q = \mathrm{softmax}(z^{\text{teacher}} / T)

    Both arguments are logits: torch's ``kl_div`` takes log probabilities, and gives NaN where one is -inf;
    here a masked class (-inf in both) takes no part.

    When: a small model should answer as a large one does, usually added to the cross entropy of the labels.
    When not: a teacher worse than the labels; teachers that exclude classes which the student must know.
    Cost: one pass over the logits for value and gradient together; no memory but the gradient.

    Args:
        input: student logits ``(batch, classes, ...)``.
        target: teacher logits ``(batch, classes, ...)``.
        temperature: :math:`T`.
        convention: ``"paper"``: times :math:`T^2`, so that gradients keep their size, mean over rows (torch's
            ``batchmean``). ``"liger"``: without :math:`T^2`. ``"torch"``: as torch's ``reduction="mean"``,
            which divides by the number of classes too, without :math:`T^2`.
        mask: True where a row takes part ``(batch, ...)``.
        reduction: ``"mean"`` over weighted rows, ``"sum"``, ``"none"``: ``(batch, ...)``.
        empty: value when no row takes part, ``"zero"`` or ``"nan"``.
        backend: ``"auto"``, ``"torch"`` or ``"cpu"``; see :func:`cross_entropy`.
        sample_weight: weight of each row ``(batch,)`` or ``(batch, ...)``.

    >>> student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])
    >>> round(kl_div_loss(student, teacher).item(), 4)
    0.1109

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2.
    """
    check_choice("convention", convention, ("paper", "liger", "torch"))
    _check(input, target)
    factor = {"paper": temperature**2, "liger": 1.0, "torch": 1 / input.shape[1]}[convention]
    if convention == "torch" and reduction != "mean":
        factor = 1.0
    return row_loss(
        Form(cross_entropy_rule, matrix="teacher", scale=1 / temperature), input, target, times=factor,
        sample_weight=_row_weight(input, mask, sample_weight), reduction=reduction, empty=empty, backend=backend,
    )  # fmt: skip


def jensen_shannon_loss(
    input: Tensor,
    target: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    backend: str = "auto",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Generalised Jensen-Shannon divergence between teacher and student: bounded, where KL is not.

    .. math:: \ell = \beta\, \mathrm{KL}(q \,\|\, m) + (1 - \beta)\, \mathrm{KL}(p \,\|\, m),
              \qquad m = \beta q + (1 - \beta) p

    with the student :math:`p` and the teacher :math:`q`. At :math:`\beta = 0` it is :math:`\mathrm{KL}(q \|
    p)`, at 1
    :math:`\mathrm{KL}(p \| q)`, the limits of :math:`\ell / \beta` and :math:`\ell / (1 - \beta)` (Liger's
    reading).

    When: student and teacher may be far apart (a language model on its own samples), or agreement of several views
      is wanted: no row can cost more than log 2.
    When not: the start of a distillation from nothing: where the two do not overlap its gradient vanishes, and KL's
      does not.
    Cost: one pass over both logits for value and gradient together, about 3 times cross entropy's time (two
      exponentials and two logarithms for each class); no memory but the gradient.

    Args:
        input: student logits ``(batch, classes, ...)``.
        target: teacher logits ``(batch, classes, ...)``.
        beta: weight of the teacher in the mixture, in [0, 1].
        temperature: divides both logits.
        mask: True where a row takes part ``(batch, ...)``.
        reduction: ``"mean"`` over weighted rows, ``"sum"``, ``"none"``: ``(batch, ...)``.
        empty: value when no row takes part, ``"zero"`` or ``"nan"``.
        backend: ``"auto"``, ``"torch"`` or ``"cpu"`` (not for beta 0 and 1); see :func:`cross_entropy`.
        sample_weight: weight of each row ``(batch,)`` or ``(batch, ...)``.

    >>> apart = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])
    >>> round(jensen_shannon_loss(*apart).item(), 4)  # log 2
    0.6931

    Source: Agarwal et al. 2024, "On-policy distillation of language models", eq. 1.
    """
    if not 0 <= beta <= 1:
        raise DataError(f"beta={beta}; allowed is a mixture weight in [0, 1]")
    _check(input, target)
    return mixture_divergence(
        input, target, _row_weight(input, mask, sample_weight), beta=beta, temperature=temperature,
        reduction=reduction, empty=empty, backend=backend,
    )  # fmt: skip


def feature_matching_loss(
    input: Tensor | Sequence[Tensor],
    target: Tensor | Sequence[Tensor],
    *,
    distance: str = "squared",
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Match intermediate features of student and teacher, layer by layer; layers count equally.

    Per sample and layer: ``"squared"``, the mean of :math:`(x - y)^2` (FitNets up to the factor 1/2);
    ``"absolute"``, the mean of :math:`|x - y|` (pix2pixHD); ``"cosine"``, :math:`1 - \cos(x, y)`;
    ``"attention"``, the squared distance of the unit maps :math:`\sum_c x_c^2` over positions (attention
    transfer: channels may differ).

    When: a teacher's layers should guide a student's, or real and generated images should look alike inside a
      network.
    When not: features of unlike scale or shape without a projection; alone, where the labels are the task.
    Cost: one pass over each layer's features; memory: a few copies of the largest layer.

    Args:
        input: features of the student ``(batch, channels, ...)``, or a sequence of them.
        target: features of the teacher, of the same shapes.
        distance: ``"squared"``, ``"absolute"``, ``"cosine"`` or ``"attention"``.
        reduction: ``"mean"`` over weighted samples, ``"sum"``, ``"none"``: ``(batch,)``.
        empty: value of an empty batch, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)``.

    >>> feature_matching_loss(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]])).item()
    2.0

    Source: Romero et al. 2015, "FitNets", eq. 3; Zagoruyko and Komodakis 2017, "Attention transfer", eq. 2.
    """
    check_choice("distance", distance, ("squared", "absolute", "cosine", "attention"))
    ours = [input] if isinstance(input, Tensor) else list(input)
    theirs = [target] if isinstance(target, Tensor) else list(target)
    if len(ours) != len(theirs) or not ours:
        raise DataError(f"{len(ours)} layers of the student and {len(theirs)} of the teacher; allowed is one to one")
    layers = [_features(widen(x), widen(y), distance) for x, y in zip(ours, theirs, strict=True)]
    return reduce(torch.stack(layers).mean(0), sample_weight, reduction=reduction, empty=empty)


def _features(x: Tensor, y: Tensor, distance: str) -> Tensor:
    if distance == "attention":
        x, y = x.square().sum(1), y.square().sum(1)
    if x.shape != y.shape:
        raise DataError(
            f"features {tuple(x.shape)} of the student and {tuple(y.shape)} of the teacher; project the "
            "student's to equal shapes, or take distance='attention', which needs equal positions only"
        )
    x, y = x.flatten(1), y.flatten(1)
    if distance == "attention":
        return (unit(x) - unit(y)).square().sum(1)
    if distance == "cosine":
        return 1 - (unit(x) * unit(y)).sum(1)
    return (x - y).square().mean(1) if distance == "squared" else (x - y).abs().mean(1)


class KLDivLoss(Loss, function=kl_div_loss, kind="matching"): ...


class JensenShannonLoss(Loss, function=jensen_shannon_loss, kind="matching"): ...


class FeatureMatchingLoss(Loss, function=feature_matching_loss, kind="matching"): ...
