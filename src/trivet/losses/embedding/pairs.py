"""Embedding losses on pairs and triplets with labels: contrastive, triplet, multi-similarity, cosine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.losses.contract import check_choice, reduce, widen
from trivet.losses.embedding.blocks import Pairs, stream_pairs
from trivet.losses.embedding.gather import gather_rows, mean_over_processes, rows_before
from trivet.losses.embedding.geometry import check_embeddings, distance, unit

__all__ = ["contrastive_loss", "cosine_embedding_loss", "multi_similarity_loss", "triplet_loss"]

Score = Callable[[Tensor, Tensor], Tensor]
Rule = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _all_pairs(
    input: Tensor,
    target: Tensor,
    score: Score,
    rule: Rule,
    *,
    gather: bool,
    reduction: str,
    empty: str,
    sample_weight: Tensor | None,
) -> Tensor:
    """Reduce each term by its own count: anchor's mean (none), sum, or weighted mean over counts."""
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    everyone = gather_rows(input) if gather else input
    labels = gather_rows(target) if gather else target
    start = rows_before(len(input), input.device) if gather else 0
    terms, counts = stream_pairs(input, everyone, Pairs(target, labels, start, score, rule))
    weight = input.new_ones(len(input)) if sample_weight is None else sample_weight.to(input.dtype)
    if reduction == "none":
        return reduce((terms / counts.clamp_min(1)).sum(1), weight, reduction="none", empty=empty)
    if reduction == "sum":
        return reduce(terms.sum(1), weight, reduction="sum", empty=empty)
    normalizer = weight @ counts
    normalizer = mean_over_processes(normalizer) if gather else normalizer
    means = (weight @ terms) / torch.where(normalizer == 0, 1, normalizer)
    return torch.where((normalizer == 0).all() & (empty == "nan"), torch.nan, means.sum())


def contrastive_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    convention: str = "paper",
    gather: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Pull pairs of one class together and push others ``margin`` apart.

    .. math:: \ell_{ij} = \tfrac12 d_{ij}^2 \text{ (same class)}, \qquad
              \ell_{ij} = \tfrac12 [m - d_{ij}]_+^2 \text{ (other class)}

    with the euclidean distance :math:`d`, over all pairs :math:`i \ne j`. Distances come from differences, so near
    duplicates are exact; at distance 0 the gradient is 0.

    When: pairs are what is known (same or not) and distances should mean something.
    When not: many classes in a batch, where nearly all pairs are negatives beyond the margin and teach nothing: a
      softmax loss hears the hard ones.
    Cost: O(N^2 D) time in blocks, O(N D) memory and one block.

    Args:
        input: embeddings ``(batch, features)``.
        target: integer labels ``(batch,)``.
        margin: :math:`m`, a distance.
        convention: ``"paper"``: as above, mean over all pairs. ``"pml"`` (pytorch-metric-learning): unit
            vectors,
            :math:`d` and :math:`[m - d]_+` not squared, positive and negative pairs averaged apart over those
            that are not zero, then added.
        gather: pair with the embeddings of every process; gradients equal a single process's.
        reduction: ``"mean"`` over pairs, weighted by anchor; ``"sum"`` over pairs, each seen from both ends;
            ``"none"``: each anchor's mean ``(batch,)``.
        empty: value without any pair, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each anchor ``(batch,)``.

    >>> x = torch.tensor([[0.0], [0.6], [1.0]])
    >>> round(contrastive_loss(x, torch.tensor([0, 0, 1])).item(), 4)  # (0.36/2 + 0 + 0.36/2) / 3
    0.12

    Source: Hadsell et al. 2006, "Dimensionality reduction by learning an invariant mapping", eq. 4.
    """
    check_choice("convention", convention, ("paper", "pml"))
    check_embeddings(input, target, labels=True)
    x = widen(input)
    x, rule = (x, _hadsell) if convention == "paper" else (unit(x), _hadsell_unsquared)
    return _all_pairs(
        x, target, distance("euclidean"), partial(rule, margin=margin),
        gather=gather, reduction=reduction, empty=empty, sample_weight=sample_weight,
    )  # fmt: skip


def _hadsell(d: Tensor, positive: Tensor, negative: Tensor, *, margin: float) -> tuple[Tensor, Tensor]:
    pull = torch.where(positive, d, 0).square()
    push = torch.where(negative, margin - d, 0).relu().square()
    count = (positive | negative).sum(1, keepdim=True).to(d.dtype)
    return 0.5 * (pull + push).sum(1, keepdim=True), count


def _hadsell_unsquared(d: Tensor, positive: Tensor, negative: Tensor, *, margin: float) -> tuple[Tensor, Tensor]:
    pull, push = torch.where(positive, d, 0), torch.where(negative, margin - d, 0).relu()
    terms = torch.stack([pull.sum(1), push.sum(1)], 1)
    return terms, torch.stack([(pull > 0).sum(1), (push > 0).sum(1)], 1).to(d.dtype)


def triplet_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    mining: str = "all",
    distance: str = "euclidean",
    convention: str = "paper",
    gather: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Each anchor lies closer to its own class than to another, by ``margin``.

    .. math:: \ell_{apn} = [d_{ap} - d_{an} + m]_+

    Mined inside the batch: ``"all"`` triplets; ``"hard"``, per anchor the farthest positive and the nearest
    negative; ``"semi_hard"``, per positive pair the nearest negative that is farther than the positive
    (:math:`d_{ap} < d_{an} < d_{ap} + m`).

    When: an order of distances is wanted (retrieval, re-identification), with several samples of each class in a
      batch.
    When not: random batches of many classes, which hold no positive pair. ``"hard"`` learns fastest and collapses
      on noisy labels or too high a rate; begin with ``"semi_hard"`` there.
    Cost: all triplets in O(N^2 (D + log N)), not O(N^3): with an anchor's negatives sorted, the sum over them is a
      running sum read at :math:`d_{ap} + m`. Memory O(N D) and one block.

    Args:
        input: embeddings ``(batch, features)``.
        target: integer labels ``(batch,)``.
        margin: :math:`m` in units of the distance; 1 as in torch (PML 0.05, FaceNet 0.2 on squared
            distances).
        mining: ``"all"``, ``"semi_hard"`` or ``"hard"``.
        distance: ``"euclidean"``, ``"squared"`` (euclidean), or ``"cosine"`` (1 - cosine).
        convention: ``"paper"``: the mean is over all mined triplets. ``"nonzero"``: over those with a loss.
            ``"pml"`` (pytorch-metric-learning): that, of unit vectors. ``"tensorflow"`` (semi-hard only): a
            positive pair without a semi-hard negative takes the farthest one; the mean is over positive
            pairs.
        gather: mine among the embeddings of every process; gradients equal a single process's.
        reduction: ``"mean"`` over triplets, weighted by anchor; ``"sum"``; ``"none"``: each anchor's mean
            ``(batch,)``.
        empty: value without any triplet, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each anchor ``(batch,)``.

    >>> x = torch.tensor([[0.0], [1.0], [1.5]])
    >>> triplet_loss(x, torch.tensor([0, 0, 1])).item()  # ([1 - 1.5 + 1] + [1 - 0.5 + 1]) / 2
    1.0

    Source: Schroff et al. 2015, "FaceNet", eq. 1; Hermans et al. 2017, "In defense of the triplet loss", eq.
    5.
    """
    check_choice("mining", mining, tuple(_MINING))
    check_choice("convention", convention, ("paper", "nonzero", "pml", "tensorflow"))
    if convention == "tensorflow" and mining != "semi_hard":
        raise DataError(f"convention='tensorflow' with mining={mining!r}; it is a form of mining='semi_hard'")
    check_embeddings(input, target, labels=True)
    x = unit(widen(input)) if distance == "cosine" or convention == "pml" else widen(input)
    over = "nonzero" if convention == "pml" else convention
    rule = partial(_MINING[mining], margin=margin, convention=over)
    return _all_pairs(
        x, target, _distance(distance), rule,
        gather=gather, reduction=reduction, empty=empty, sample_weight=sample_weight,
    )  # fmt: skip


_distance = distance  # triplet_loss takes an argument of that name


def _sorted_negatives(d: Tensor, negative: Tensor) -> Tensor:
    return torch.where(negative, d, torch.inf).sort(1).values


def _all_triplets(
    d: Tensor, positive: Tensor, negative: Tensor, *, margin: float, convention: str
) -> tuple[Tensor, Tensor]:
    reach = torch.where(positive, d + margin, 0)
    near = _sorted_negatives(d, negative)
    # How many negatives lie within reach of each positive, and the sum of their distances.
    within = torch.searchsorted(near.detach(), reach.detach())
    finite = torch.where(near.isfinite(), near, 0)
    sums = torch.nn.functional.pad(finite.double().cumsum(1), (1, 0))  # a float32 running sum would cancel
    within = torch.where(positive, within, 0)
    terms = (within * reach.double() - sums.gather(1, within)).sum(1, keepdim=True).to(d.dtype)
    count = within if convention == "nonzero" else positive * negative.sum(1, keepdim=True)
    return terms, count.sum(1, keepdim=True).to(d.dtype)


def _semi_hard_triplets(
    d: Tensor, positive: Tensor, negative: Tensor, *, margin: float, convention: str
) -> tuple[Tensor, Tensor]:
    near = _sorted_negatives(d, negative)
    after = torch.searchsorted(near.detach(), d.detach().contiguous(), right=True)
    chosen = near.gather(1, after.clamp_max(d.shape[1] - 1)) if d.shape[1] else d
    found = (after < negative.sum(1, keepdim=True)) & chosen.isfinite()
    if convention == "tensorflow":
        farthest = torch.where(negative, d, -torch.inf).amax(1, keepdim=True)
        chosen = torch.where(found, chosen, farthest)
        found = negative.any(1, keepdim=True)
    taken = positive & found
    loss = torch.where(taken, d - torch.where(taken, chosen, 0) + margin, 0).relu()
    count = loss > 0 if convention == "nonzero" else positive & negative.any(1, keepdim=True)
    return loss.sum(1, keepdim=True), count.sum(1, keepdim=True).to(d.dtype)


def _hard_triplets(
    d: Tensor, positive: Tensor, negative: Tensor, *, margin: float, convention: str
) -> tuple[Tensor, Tensor]:
    valid = positive.any(1) & negative.any(1)
    far = torch.where(positive, d, -torch.inf).amax(1)
    near = torch.where(negative, d, torch.inf).amin(1)
    loss = torch.where(valid, torch.where(valid, far, 0) - torch.where(valid, near, 0) + margin, 0).relu()
    count = loss > 0 if convention == "nonzero" else valid
    return loss[:, None], count[:, None].to(d.dtype)


_MINING: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "all": _all_triplets,
    "semi_hard": _semi_hard_triplets,
    "hard": _hard_triplets,
}


def multi_similarity_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 1.0,
    epsilon: float | None = 0.1,
    convention: str = "paper",
    gather: bool = False,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Weigh every pair by its own similarity and by its neighbours'.

    .. math:: \ell_i = \tfrac1\alpha \log\Bigl(1 + \sum_{p} e^{-\alpha (s_{ip} - \lambda)}\Bigr)
              + \tfrac1\beta \log\Bigl(1 + \sum_{n} e^{\beta (s_{in} - \lambda)}\Bigr)

    With cosines :math:`s`, over the pairs that are hard: :math:`s_{ip} < \max_n s_{in} + \varepsilon` and
    :math:`s_{in} > \min_p s_{ip} - \varepsilon`.

    When: retrieval among many fine classes, with several samples of each class in a batch.
    When not: noisy labels: the hardest pairs weigh most.
    Cost: O(N^2 D) time in blocks, O(N D) memory and one block.

    Args:
        input: embeddings ``(batch, features)``, of any length.
        target: integer labels ``(batch,)``.
        alpha: sharpness on positives.
        beta: sharpness on negatives.
        base: :math:`\lambda`, a cosine.
        epsilon: :math:`\varepsilon` of the mining, a cosine; None takes all pairs.
        convention: ``"paper"``, or ``"pml"`` (pytorch-metric-learning's loss without its miner): ``base``
            0.5 and ``epsilon`` None, whatever is given.
        gather: pair with the embeddings of every process; gradients equal a single process's.
        reduction: ``"mean"`` over weighted anchors, ``"sum"``, ``"none"``: ``(batch,)``.
        empty: value of an empty batch, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each anchor ``(batch,)``.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> round(multi_similarity_loss(x, torch.tensor([0, 0, 1]), epsilon=None).item(), 4)
    0.231

    Source: Wang et al. 2019, "Multi-similarity loss with general pair weighting", eq. 11 to 15.
    """
    check_choice("convention", convention, ("paper", "pml"))
    check_embeddings(input, target, labels=True)
    if convention == "pml":
        base, epsilon = 0.5, None
    rule = partial(_multi_similarity, alpha=alpha, beta=beta, base=base, epsilon=epsilon)
    return _all_pairs(
        unit(widen(input)), target, _dot, rule,
        gather=gather, reduction=reduction, empty=empty, sample_weight=sample_weight,
    )  # fmt: skip


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return x @ y.T


def _multi_similarity(
    s: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    alpha: float,
    beta: float,
    base: float,
    epsilon: float | None,
) -> tuple[Tensor, Tensor]:
    if epsilon is not None and s.shape[1]:
        hardest_negative = torch.where(negative, s, -torch.inf).amax(1, keepdim=True)
        hardest_positive = torch.where(positive, s, torch.inf).amin(1, keepdim=True)
        # "Not easy" instead of "hard": a NaN compares false, and must not be mined away.
        positive = positive & ~(s >= hardest_negative + epsilon)
        negative = negative & ~(s <= hardest_positive - epsilon)
    pull = _log1p_sum_exp(torch.where(positive, -alpha * (s - base), -torch.inf)) / alpha
    push = _log1p_sum_exp(torch.where(negative, beta * (s - base), -torch.inf)) / beta
    return (pull + push)[:, None], s.new_ones(len(s), 1)


def _log1p_sum_exp(x: Tensor) -> Tensor:
    return torch.logsumexp(torch.nn.functional.pad(x, (0, 1)), 1)


def cosine_embedding_loss(
    input: Tensor,
    target: Tensor,
    label: Tensor | None = None,
    *,
    margin: float = 0.0,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Angle between two vectors: equal where ``label`` is 1, at least ``margin`` apart where it is -1.

    .. math:: \ell = 1 - \cos(x, y) \text{ where } l = 1, \qquad [\cos(x, y) - m]_+ \text{ where } l = -1

    Called as torch's ``cosine_embedding_loss(input1, input2, target)``. Torch adds 1e-12 to the squared
    lengths, and its cosine of short vectors is wrong by that; here a zero vector has cosine 0 and zero
    gradient.

    When: pairs are given and only directions count (two views, feature regression).
    When not: positives alone without a stop-gradient or another term: one constant vector satisfies it.
    Cost: O(N D), a few copies of the vectors.

    Args:
        input: vectors ``(batch, features)``.
        target: vectors ``(batch, features)``.
        label: 1 or -1 ``(batch,)``; all 1 when None (feature regression, as in BYOL).
        margin: :math:`m`, a cosine.
        reduction: ``"mean"`` over weighted rows, ``"sum"``, ``"none"``: ``(batch,)``.
        empty: value of an empty batch, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each row ``(batch,)``.

    >>> cosine_embedding_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).item()
    1.0

    Source: torch.nn.CosineEmbeddingLoss; all positive: Grill et al. 2020, "Bootstrap your own latent", eq. 2 (half
    of it).
    """
    check_embeddings(input, target, labels=False)
    cosine = (unit(widen(input)) * unit(widen(target))).sum(1)
    values = 1 - cosine
    if label is not None:
        values = torch.where(label > 0, values, (cosine - margin).relu())
    return reduce(values, sample_weight, reduction=reduction, empty=empty)
