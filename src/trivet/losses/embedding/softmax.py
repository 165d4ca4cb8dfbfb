"""Embedding losses of the softmax family: pull the positive out of a crowd of negatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.losses.contract import check_choice, check_class_weights, check_labels, check_positive, reduce, widen
from trivet.losses.embedding.blocks import Contrast, Pairs, stream_pairs
from trivet.losses.embedding.gather import gather_rows, mean_over_processes, rows_before
from trivet.losses.embedding.geometry import check_embeddings, unit
from trivet.losses.streaming import stream

__all__ = ["arcface_loss", "cosface_loss", "info_nce_loss", "nt_xent_loss", "supervised_contrastive_loss"]


def _finish(
    x: Tensor,
    y: Tensor,
    positive: Tensor,
    excluded: Tensor,
    weight: Tensor,
    *,
    softplus: bool,
    reduction: str,
    empty: str,
    gather: bool = False,
) -> Tensor:
    """Walk the pairs and reduce; the mean divides by the rows' weights (of every process with ``gather``)."""
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    weight = weight.to(x.dtype)
    plan = Contrast(excluded, softplus)
    if reduction == "none":
        rows = stream(plan, x, y, positive, weight=None)
        return reduce(rows, weight, reduction="none", empty=empty)
    total = stream(plan, x, y, positive, weight=weight)
    count = mean_over_processes(weight.sum()) if gather else weight.sum()
    return reduce(total, reduction=reduction, empty=empty, normalizer=count)


def _weights(sample_weight: Tensor | None, like: Tensor) -> Tensor:
    return like.new_ones(len(like)) if sample_weight is None else sample_weight.to(like.dtype)


def nt_xent_loss(
    input: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    gather: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Normalised temperature-scaled cross entropy between two views of a batch (SimCLR).

    With the 2N unit vectors :math:`z` of both views, :math:`j` the other view of :math:`i`:

    .. math:: \ell_i = -\log \frac{e^{z_i \cdot z_j / \tau}}{\sum_{k \ne i} e^{z_i \cdot z_k / \tau}}

    The positive is kept apart from its crowd, so a loss of 1e-12 is 1e-12 and not a difference of two logarithms.

    When: there are no labels but two views of each sample, and batches are large (256 and more): negatives are the
      rest of the batch.
    When not: small batches; batches in which many samples are of one kind and would repel each other.
    Cost: three products of (2N, D) and (D, 2N) in blocks, at most 1.2 times their time where measured; the
      similarity matrix is never stored: O(N D) memory and a block of 4 MB.

    Args:
        input: the first view ``(batch, features)``, of any length; a zero row has zero gradient.
        target: the second view ``(batch, features)``; gradients flow into it too.
        temperature: :math:`\tau`; a tensor may be learned. 0.5 as in SimCLR's CIFAR runs and lightly; PML
            has 0.07.
        gather: score against the views of every process; gradients equal a single process's (see
            ``gather.py``).
        reduction: ``"mean"`` over weighted pairs, ``"sum"``, or ``"none"``: ``(batch,)``, both directions
            averaged.
        empty: value of an empty batch, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each pair ``(batch,)``.

    >>> views = torch.eye(2)
    >>> round(nt_xent_loss(views, views, temperature=1.0).item(), 4)  # log(1 + 2/e)
    0.5514

    Source: Chen et al. 2020, "A simple framework for contrastive learning", eq. 1.
    """
    check_embeddings(input, target, labels=False)
    if len(input) != len(target):
        raise DataError(f"input has {len(input)} rows and target {len(target)}; two views have equal numbers")
    check_positive("temperature", temperature)
    views = unit(torch.cat([widen(input), widen(target)]))
    count = len(input)
    everyone = gather_rows(views) if gather else views
    start = rows_before(2 * count, views.device) if gather else 0
    partner = views.roll(count, 0)
    scaled = views / temperature
    weight = _weights(sample_weight, views[:count]).repeat(2) / 2
    result = _finish(
        scaled,
        everyone,
        (scaled * partner).sum(1),
        torch.arange(start, start + 2 * count, device=views.device),
        weight,
        softplus=False,
        reduction=reduction,
        empty=empty,
        gather=gather,
    )
    return result.view(2, count).sum(0) if reduction == "none" else result


def info_nce_loss(
    input: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    symmetric: bool = False,
    normalize: bool = True,
    gather: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Contrast each query with its own key among all keys (MoCo, CLIP).

    .. math:: \ell_i = -\log \frac{e^{q_i \cdot k_i / \tau}}{\sum_j e^{q_i \cdot k_j / \tau}}

    When: each query has one key: image and text (``symmetric=True``), question and answer, a view and a queue.
    When not: several keys of the batch are right for a query; with labels take :func:`supervised_contrastive_loss`.
    Cost: three products of queries and keys in blocks (six with ``symmetric``); O(N D) memory and a block of 4 MB.

    Args:
        input: queries ``(batch, features)``.
        target: keys ``(keys, features)``, the i-th for the i-th query; keys beyond the batch are negatives
            (a queue).
        temperature: :math:`\tau`; a tensor may be learned. 0.07 as in MoCo.
        symmetric: average with the loss of the keys as queries (CLIP); needs as many keys as queries.
        normalize: scale queries and keys to unit length.
        gather: score against the keys of every process; gradients equal a single process's.
        reduction: ``"mean"`` over weighted queries, ``"sum"`` or ``"none"``: ``(batch,)``.
        empty: value of an empty batch, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each query ``(batch,)``.

    >>> query = torch.eye(2)
    >>> round(info_nce_loss(query, query, temperature=1.0).item(), 4)  # log(1 + 1/e)
    0.3133

    Source: van den Oord et al. 2018, "Representation learning with contrastive predictive coding", eq. 4.
    """
    check_embeddings(input, target, labels=False)
    check_positive("temperature", temperature)
    queries, keys = widen(input), widen(target)
    if len(keys) < len(queries) or (symmetric and len(keys) != len(queries)):
        raise DataError(
            f"{len(queries)} queries and {len(keys)} keys: each query needs its own key"
            + (", and with symmetric=True each key a query" if symmetric else "")
        )
    if normalize:
        queries, keys = unit(queries), unit(keys)
    weight = _weights(sample_weight, queries)

    def one_way(x: Tensor, y: Tensor) -> Tensor:
        everyone = gather_rows(y) if gather else y
        start = rows_before(len(y), y.device) if gather else 0
        own = torch.arange(start, start + len(x), device=x.device)
        scaled = x / temperature
        positive = (scaled * y[: len(x)]).sum(1)
        return _finish(
            scaled, everyone, positive, own, weight,
            softplus=True, reduction=reduction, empty=empty, gather=gather,
        )  # fmt: skip

    if not symmetric:
        return one_way(queries, keys)
    return (one_way(queries, keys) + one_way(keys, queries)) / 2


def supervised_contrastive_loss(
    input: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    denominator: str = "all",
    gather: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Contrast each embedding's class with everything else (SupCon, the form with the sum outside the log).

    .. math:: \ell_i = -\frac{1}{|P_i|} \sum_{p \in P_i}
              \log \frac{e^{z_i \cdot z_p / \tau}}{\sum_{k \ne i} e^{z_i \cdot z_k / \tau}}

    With one positive each this is NT-Xent.

    When: labels are known and the embedding is the product, or is trained before a linear classifier.
    When not: noisy labels, or one sample per class in a batch: an anchor without a positive takes no part.
    Cost: three products of (N, D) and (D, N) in blocks: the mean similarity to the positives is one product with
      the class sum. O(N D) memory and a block of 4 MB.

    Args:
        input: embeddings ``(batch, features)``, of any length.
        target: integer labels ``(batch,)``.
        temperature: :math:`\tau`, 0.1 in the paper; a tensor may be learned.
        denominator: ``"all"`` (paper), or ``"negatives"``: the other positives of the anchor are left out of
            the denominator and the mean is over positive pairs, as pytorch-metric-learning's NTXentLoss does
            it.
        gather: score against the embeddings of every process; gradients equal a single process's.
        reduction: ``"mean"`` over weighted anchors that have a positive, ``"sum"``, ``"none"``: ``(batch,)``.
        empty: value when no anchor has a positive, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each anchor ``(batch,)``.

    >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> round(supervised_contrastive_loss(z, torch.tensor([0, 0, 1]), temperature=1.0).item(), 4)
    0.3133

    Source: Khosla et al. 2020, "Supervised contrastive learning", eq. 2.
    """
    check_embeddings(input, target, labels=True)
    check_choice("denominator", denominator, ("all", "negatives"))
    check_positive("temperature", temperature)
    own = unit(widen(input))
    everyone = gather_rows(own) if gather else own
    labels = gather_rows(target) if gather else target
    start = rows_before(len(own), own.device) if gather else 0
    index = torch.arange(start, start + len(own), device=own.device)
    weight = _weights(sample_weight, own)
    scaled = own / temperature
    if denominator == "negatives":
        pairs = Pairs(target, labels, start, _dot, _each_positive_among_negatives)
        terms, counts = (part[:, 0] for part in stream_pairs(scaled, everyone, pairs))
        if reduction == "none":
            return weight * terms / counts.clamp_min(1)
        total = (weight * counts).sum()
        total = mean_over_processes(total) if gather else total
        return reduce(terms, weight, reduction=reduction, empty=empty, normalizer=total)

    _, group, size = torch.unique(labels, return_inverse=True, return_counts=True)
    sums = everyone.new_zeros(len(size), own.shape[1]).index_add(0, group, everyone)
    positives = size[group[index]] - 1
    positive = (scaled * (sums[group[index]] - own)).sum(1) / positives.clamp_min(1)
    return _finish(
        scaled, everyone, positive, index, weight * (positives > 0),
        softplus=False, reduction=reduction, empty=empty, gather=gather,
    )  # fmt: skip


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return x @ y.T


def _each_positive_among_negatives(score: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    crowd = torch.logsumexp(score.masked_fill(~negative, -torch.inf), 1, keepdim=True)
    gap = torch.where(positive, crowd - score, -torch.inf)
    terms = torch.logaddexp(gap, torch.zeros_like(gap)).sum(1, keepdim=True)
    return terms, positive.sum(1, keepdim=True).to(score.dtype)


def _margin_softmax(
    input: Tensor,
    target: Tensor,
    prototypes: Tensor,
    scale: float,
    angle: float,
    gap: float,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    empty: str,
    sample_weight: Tensor | None,
) -> Tensor:
    check_embeddings(input, target, labels=True)
    x, classes = unit(widen(input)), unit(widen(prototypes))
    check_labels(target, len(classes), ignore_index)
    check_class_weights(weight, len(classes))
    check_positive("scale", scale)
    kept = target != ignore_index
    label = torch.where(kept, target, 0)
    own = classes[label]
    cosine = (x * own).sum(1, keepdim=True)
    # The sine is the length of what is left of the prototype: sqrt(1 - cos^2) has an infinite slope at cos =
    # 1.
    sine = torch.linalg.vector_norm(own - cosine * x, dim=1)
    cosine = cosine[:, 0]
    beyond = cosine <= -math.cos(angle)
    moved = math.cos(angle) * cosine - math.sin(angle) * sine
    moved = torch.where(beyond, cosine - angle * math.sin(angle), moved) - gap
    rows = _weights(sample_weight, x) * kept
    if weight is not None:
        rows = rows * weight.to(x.dtype)[label]
    return _finish(x * scale, classes, moved * scale, label, rows, softplus=True, reduction=reduction, empty=empty)


def arcface_loss(
    input: Tensor,
    target: Tensor,
    *,
    prototypes: Tensor,
    scale: float = 64.0,
    margin: float = 0.5,
    convention: str = "paper",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Additive angular margin softmax: the angle to the own class must be ``margin`` smaller than it is.

    .. math:: \ell = -\log \frac{e^{s \cos(\theta_y + m)}}
              {e^{s \cos(\theta_y + m)} + \sum_{k \ne y} e^{s \cos\theta_k}}

    and :math:`\cos\theta_y - m \sin m` where :math:`\theta_y + m > \pi`, as the authors' code has it.

    The gradient is finite at :math:`\theta_y = 0`, where peers give NaN or infinity.

    When: identities are to be told apart that training never saw (faces, products), and many labelled ones are
      there to train on.
    When not: few samples per class or noisy labels; a large margin from the start may not converge.
    Cost: three products of (N, D) and (D, C), the classes walked in blocks; O((N + C) D) memory and a block.

    Args:
        input: embeddings ``(batch, features)``, of any length.
        target: integer labels ``(batch,)``.
        prototypes: one learned vector per class ``(classes, features)``, of any length.
        scale: :math:`s`, the inverse temperature.
        margin: :math:`m`, in radians; 0.5 radians are 28.6 degrees.
        convention: ``"paper"``, or ``"pml"``: ``margin`` is in degrees, as pytorch-metric-learning takes it.
        weight: class weights ``(classes,)``; the mean divides by the weights of the labels.
        ignore_index: a label that takes no part.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``: ``(batch,)``.
        empty: value of a batch without a label, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each row ``(batch,)``.

    >>> x = torch.eye(2)
    >>> value = arcface_loss(x, torch.tensor([0, 1]), prototypes=x, scale=1.0)
    >>> round(value.item(), 4)  # log(1 + exp(-cos 0.5))
    0.3477

    Source: Deng et al. 2019, "ArcFace", eq. 3.
    """
    check_choice("convention", convention, ("paper", "pml"))
    angle = math.radians(margin) if convention == "pml" else margin
    return _margin_softmax(
        input, target, prototypes, scale, angle, 0.0, weight, ignore_index, reduction, empty, sample_weight
    )


def cosface_loss(
    input: Tensor,
    target: Tensor,
    *,
    prototypes: Tensor,
    scale: float = 64.0,
    margin: float = 0.35,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Large margin cosine softmax: the cosine to the own class must be ``margin`` larger than it is.

    .. math:: \ell = -\log \frac{e^{s (\cos\theta_y - m)}}
              {e^{s (\cos\theta_y - m)} + \sum_{k \ne y} e^{s \cos\theta_k}}

    When: the same tasks as ArcFace, and a little easier to train: the margin does not depend on the angle.
    When not: few samples per class or noisy labels.
    Cost: three products of (N, D) and (D, C), the classes walked in blocks; O((N + C) D) memory and a block.

    Arguments as for :func:`arcface_loss`, with ``margin`` a difference of cosines.

    >>> x = torch.eye(2)
    >>> value = cosface_loss(x, torch.tensor([0, 1]), prototypes=x, scale=1.0)
    >>> round(value.item(), 4)  # log(1 + exp(-0.65))
    0.4201

    Source: Wang et al. 2018, "CosFace", eq. 4.
    """
    return _margin_softmax(
        input, target, prototypes, scale, 0.0, margin, weight, ignore_index, reduction, empty, sample_weight
    )
