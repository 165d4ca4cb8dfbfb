"""Every disagreement between frameworks, against the other framework's own formula written out here."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trivet import losses
from trivet.errors import InputError
from trivet.losses.conventions import CONVENTIONS, SEED, Convention, batch, differences, value
from trivet.losses.examples import EXAMPLES
from trivet.recipes.catalogue import page

Formula = Callable[[Tensor, Tensor], Tensor]
WEIGHT = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)


def _one_hot(t: Tensor, classes: int) -> Tensor:
    return F.one_hot(t, classes).movedim(-1, 1).double()


def _prototypes() -> Tensor:
    torch.manual_seed(SEED)
    example = EXAMPLES["arcface_loss"]
    return losses.ArcFaceLoss(**example.arguments).prototypes.detach().double()


def arcface_of_degrees(x: Tensor, t: Tensor) -> Tensor:
    cosine = F.normalize(x) @ F.normalize(_prototypes()).T
    moved = torch.cos(torch.acos(cosine) + math.radians(28.6))
    own = _one_hot(t, 3).bool()
    return F.cross_entropy(64 * torch.where(own, moved, cosine), t)


def bce_of_smp(x: Tensor, t: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, (1 - t) * 0.1 + t * (1 - 0.1))


def bce_of_timm(x: Tensor, t: Tensor) -> Tensor:
    off = 0.1 / x.shape[-1]
    return F.binary_cross_entropy_with_logits(x, (1 - 0.1) * t + off)


def boundary_of_the_authors(x: Tensor, t: Tensor) -> Tensor:
    foreground = slice(1, None)  # their "idc"
    maps = losses.signed_distance(_one_hot(t, 3).bool())
    return (x.softmax(1)[:, foreground] * maps[:, foreground]).mean()


def contrastive_of_pml(x: Tensor, t: Tensor) -> Tensor:
    d = torch.cdist(F.normalize(x), F.normalize(x))
    pairs = ~torch.eye(len(t), dtype=torch.bool)
    same = t[:, None] == t
    pull, push = d[same & pairs], (1 - d[~same]).relu()
    parts = [part[part > 0].mean() for part in (pull, push) if (part > 0).any()]
    return sum(parts, torch.zeros(()))


def cross_entropy_of_keras(x: Tensor, t: Tensor) -> Tensor:
    return (WEIGHT[t] * F.cross_entropy(x, t, reduction="none")).mean()


def dice_of_vnet(x: Tensor, t: Tensor) -> Tensor:
    p, y = x.softmax(1).flatten(2), _one_hot(t, 3).flatten(2)
    return 1 - ((2 * (p * y).sum(2) + 1e-5) / ((p * p).sum(2) + (y * y).sum(2) + 1e-5)).mean()


def dice_of_smp(x: Tensor, t: Tensor) -> Tensor:
    p, y = (v.transpose(0, 1).flatten(1) for v in (x.softmax(1), _one_hot(t, 3)))
    return ((1 - 2 * (p * y).sum(1) / (p + y).sum(1).clamp_min(1e-7)) * (y.sum(1) > 0)).mean()


def dice_of_optax(x: Tensor, t: Tensor) -> Tensor:
    p, y = x.softmax(1).flatten(2), _one_hot(t, 3).flatten(2)
    intersection, alpha = (p * y).sum(2), 0.5
    bottom = intersection + alpha * (p * (1 - y)).sum(2) + alpha * ((1 - p) * y).sum(2)
    return (1 - (intersection + 1) / (bottom + 1)).mean()


def focal_of_keras(x: Tensor, t: Tensor) -> Tensor:
    p = x.sigmoid()
    right = torch.where(t > 0, p, 1 - p)
    return (-0.25 * (1 - right) ** 2 * right.log()).mean()


def _focal_terms(x: Tensor, t: Tensor, alpha: float | None = 0.25) -> Tensor:
    right = torch.where(t > 0, x.sigmoid(), 1 - x.sigmoid())
    share = torch.ones_like(x) if alpha is None else torch.where(t > 0, alpha, 1 - alpha)
    return -share * (1 - right) ** 2 * right.log()


def asymmetric_of_timm(x: Tensor, t: Tensor) -> Tensor:
    p = x.sigmoid()
    no = (1 - p + 0.05).clamp(max=1)
    right = p * t + no * (1 - t)
    log_right = t * torch.log(p.clamp(min=1e-8)) + (1 - t) * torch.log(no.clamp(min=1e-8))
    return -(log_right * (1 - right) ** (1 * t + 4 * (1 - t))).sum()


def symmetric_of_the_authors(x: Tensor, t: Tensor) -> Tensor:
    p, labels = x.softmax(1).clamp(1e-7, 1.0), _one_hot(t, 4).clamp(1e-4, 1.0)
    return 0.1 * F.cross_entropy(x, t) + 1.0 * -(p * labels.log()).sum(1).mean()


def dice_of_monai(x: Tensor, t: Tensor, smooth: float = 1e-5) -> Tensor:
    """Return the loss of each image and class, as its ``reduction="none"`` has it."""
    p, y = x.softmax(1).flatten(2), _one_hot(t, 3).flatten(2)
    return 1 - (2 * (p * y).sum(2) + smooth) / ((p + y).sum(2) + smooth)


def jaccard_of_monai(x: Tensor, t: Tensor) -> Tensor:
    p, y = x.softmax(1).flatten(2), _one_hot(t, 3).flatten(2)
    shared = (p * y).sum(2)
    return 1 - (2 * shared + 1) / (2 * ((p + y).sum(2) - shared) + 1)


def tversky_of_keras(x: Tensor, t: Tensor) -> Tensor:
    p, y = x.softmax(1), _one_hot(t, 3)
    shared, called_false_positive, called_false_negative = (p * y).sum(), ((1 - p) * y).sum(), (p * (1 - y)).sum()
    return 1 - shared / (shared + 0.3 * called_false_positive + 0.7 * called_false_negative + 1e-7)


def _pooled(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return shared, predicted and true mass of each class over the whole batch."""
    p, y = (v.transpose(0, 1).flatten(1) for v in (x.softmax(1), _one_hot(t, 3)))
    return (p * y).sum(1), p.sum(1), y.sum(1)


def tversky_of_smp(x: Tensor, t: Tensor) -> Tensor:
    shared, predicted, true = _pooled(x, t)
    index = shared / (shared + 0.3 * (predicted - shared) + 0.7 * (true - shared))
    return ((1 - index) * (true > 0)).mean()


def jaccard_of_smp(x: Tensor, t: Tensor) -> Tensor:
    shared, predicted, true = _pooled(x, t)
    return ((1 - shared / (predicted + true - shared)) * (true > 0)).mean()


def focal_of_monai(x: Tensor, t: Tensor) -> Tensor:
    log_p, alpha = x.log_softmax(1), torch.tensor([0.75, 0.25, 0.25, 0.25], dtype=torch.float64)
    return (-alpha * (1 - log_p.exp()) ** 2 * log_p * _one_hot(t, 4)).mean()


def generalized_of_keras(x: Tensor, t: Tensor) -> Tensor:
    return ((1 - x.softmax(1).gather(1, t[:, None]) ** 0.5) / 0.5).mean()


def info_nce_of_lightly(x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(F.normalize(x) @ F.normalize(y).T / 0.5, torch.arange(len(x)))


def kl_of_liger(x: Tensor, y: Tensor) -> Tensor:
    p, q = (x / 2).log_softmax(1), (y / 2).log_softmax(1)
    return F.kl_div(p, q, log_target=True, reduction="batchmean")


def kl_of_torch(x: Tensor, y: Tensor) -> Tensor:
    p, q = (x / 2).log_softmax(1), (y / 2).log_softmax(1)
    return (q.exp() * (q - p)).mean()


def mse_of_optax(x: Tensor, t: Tensor) -> Tensor:
    return (0.5 * (x - t) ** 2).mean()


def multi_similarity_of_pml(x: Tensor, t: Tensor) -> Tensor:
    s, same = F.normalize(x) @ F.normalize(x).T, t[:, None] == t
    positive = (same & ~torch.eye(len(t), dtype=torch.bool)).double()
    pull = torch.log1p((positive * torch.exp(-2 * (s - 0.5))).sum(1)) / 2
    push = torch.log1p(((~same).double() * torch.exp(50 * (s - 0.5))).sum(1)) / 50
    return (pull + push).mean()


def nt_xent_of_pml(x: Tensor, y: Tensor) -> Tensor:
    z = F.normalize(torch.cat([x, y]))
    s = (z @ z.T / 0.07).fill_diagonal_(-torch.inf)
    return F.cross_entropy(s, torch.arange(len(z)).roll(len(x)))


def poisson_of_keras(x: Tensor, t: Tensor) -> Tensor:
    return (x - t * torch.log(x + 1e-7)).mean()


def sup_con_of_pml(x: Tensor, t: Tensor) -> Tensor:
    s, terms = F.normalize(x) @ F.normalize(x).T / 0.1, []
    for i in range(len(t)):
        negatives = s[i][t != t[i]]
        for j in range(len(t)):
            if j != i and t[j] == t[i]:
                terms.append(-(s[i, j] - torch.logsumexp(torch.cat([s[i, j][None], negatives]), 0)))
    return torch.stack(terms).mean()


def _triplets(d: Tensor, t: Tensor, margin: float) -> Tensor:
    n = len(t)
    hinges = [
        (d[a, p] - d[a, q] + margin).relu()
        for a in range(n) for p in range(n) for q in range(n)
        if a != p and t[a] == t[p] and t[q] != t[a]
    ]  # fmt: skip
    return torch.stack(hinges)


def triplet_of_pml(x: Tensor, t: Tensor) -> Tensor:
    z = F.normalize(x)
    hinges = _triplets((z[:, None] - z).norm(dim=-1), t, 0.05)
    return hinges[hinges > 0].mean()


def triplet_of_hermans(x: Tensor, t: Tensor) -> Tensor:
    hinges = _triplets((x[:, None] - x).norm(dim=-1), t, 0.2)
    return hinges[hinges > 0].mean()


def triplet_of_tensorflow(x: Tensor, t: Tensor) -> Tensor:
    d, hinges = (x[:, None] - x).norm(dim=-1), []
    for a in range(len(t)):
        for p in range(len(t)):
            if a != p and t[a] == t[p]:
                away = d[a][t != t[a]]
                outside = away[away > d[a, p]]
                hinges.append((d[a, p] - (outside.min() if len(outside) else away.max()) + 1).relu())
    return torch.stack(hinges).mean()


ORACLES: dict[tuple[str, str], Formula] = {
    ("arcface_loss", "pytorch-metric-learning"): arcface_of_degrees,
    ("binary_cross_entropy_with_logits", "torch, MONAI"): F.binary_cross_entropy_with_logits,
    ("binary_cross_entropy_with_logits", "segmentation-models-pytorch"): bce_of_smp,
    ("binary_cross_entropy_with_logits", "timm"): bce_of_timm,
    ("boundary_loss", "the authors' code"): boundary_of_the_authors,
    ("contrastive_loss", "pytorch-metric-learning"): contrastive_of_pml,
    ("cosine_embedding_loss", "torch"): lambda x, y: F.cosine_embedding_loss(x, y, torch.ones(len(x))),
    ("cosine_embedding_loss", "Keras"): lambda x, y: 1 + (-(F.normalize(x) * F.normalize(y)).sum(1)).mean(),
    ("cross_entropy", "Keras"): cross_entropy_of_keras,
    ("asymmetric_loss", "the authors' code, timm"): asymmetric_of_timm,
    ("dice_loss", "MONAI"): lambda x, t: dice_of_monai(x, t).sum(),
    ("tversky_loss", "MONAI"): lambda x, t: dice_of_monai(x, t, smooth=2e-5).sum(),
    ("tversky_loss", "Keras"): tversky_of_keras,
    ("jaccard_loss", "MONAI (DiceLoss with jaccard=True)"): lambda x, t: jaccard_of_monai(x, t).mean(),
    ("hinge_loss", "Keras, scikit-learn"): lambda x, t: (1 - torch.where(t > 0, 1, -1) * x).clamp_min(0).mean(),
    ("log_cosh_loss", "Keras, optax"): lambda x, t: (x - t + F.softplus(-2 * (x - t)) - math.log(2)).mean(),
    ("symmetric_cross_entropy_loss", "the authors' code"): symmetric_of_the_authors,
    ("dice_loss", "V-Net"): dice_of_vnet,
    ("dice_loss", "segmentation-models-pytorch"): dice_of_smp,
    ("dice_loss", "optax"): dice_of_optax,
    ("focal_loss", "torchvision, MONAI, Keras (binary)"): lambda x, t: (
        (0.25 * t + 0.75 * (1 - t))
        * (1 - torch.where(t > 0, x.sigmoid(), 1 - x.sigmoid())) ** 2
        * F.binary_cross_entropy_with_logits(x, t, reduction="none")
    ).mean(),
    ("focal_loss", "Keras (categorical)"): focal_of_keras,
    ("focal_loss", "Keras (binary) and MONAI, defaults"): lambda x, t: _focal_terms(x, t, None).mean(),
    ("focal_loss", "the paper's training, Detectron, torchvision's detectors"): lambda x, t: (
        _focal_terms(x, t).sum() / max(1, int(t.sum()))
    ),
    ("focal_loss", "MONAI"): lambda x, t: _focal_terms(x, t).mean(2).sum(),
    ("focal_tversky_loss", "segmentation-models-pytorch"): lambda x, t: tversky_of_smp(x, t) ** 2,
    ("jaccard_loss", "segmentation-models-pytorch"): jaccard_of_smp,
    ("softmax_focal_loss", "Keras (categorical)"): lambda x, t: (
        (-0.25 * (1 - x.softmax(1)) ** 2 * x.log_softmax(1) * _one_hot(t, 4)).sum(1).mean()
    ),
    ("softmax_focal_loss", "MONAI, kornia"): focal_of_monai,
    ("softmax_focal_loss", "MONAI, summed"): lambda x, t: (
        (-((1 - x.softmax(1)) ** 2) * x.log_softmax(1) * _one_hot(t, 3)).mean((2, 3)).sum()
    ),
    ("softmax_focal_loss", "AdeelH's (torch.hub)"): lambda x, t: (
        (1 - x.softmax(1).gather(1, t[:, None])[:, 0]) ** 2 * F.cross_entropy(x, t, WEIGHT, reduction="none")
    ).mean(),
    ("tversky_loss", "segmentation-models-pytorch"): tversky_of_smp,
    ("cross_entropy", "Keras, smoothed"): lambda x, t: (
        WEIGHT[t] * -((0.9 * _one_hot(t, 4) + 0.1 / 4) * x.log_softmax(1)).sum(1)
    ).mean(),
    ("dice_loss", "kornia"): lambda x, t: (
        1 - 2 * (x.softmax(1) * _one_hot(t, 3)).sum((1, 2, 3)) / ((x.softmax(1) + _one_hot(t, 3)).sum((1, 2, 3)) + 1e-8)
    ).mean(),
    ("dice_loss", "Keras"): lambda x, t: (
        1 - (2 * (x.softmax(1) * _one_hot(t, 3)).sum() + 1e-7) / ((x.softmax(1) + _one_hot(t, 3)).sum() + 1e-7)
    ),
    ("generalized_cross_entropy_loss", "Keras"): generalized_of_keras,
    ("huber_loss", "torch, Keras, optax"): F.huber_loss,
    ("info_nce_loss", "lightly"): info_nce_of_lightly,
    ("kl_div_loss", "Liger"): kl_of_liger,
    ("kl_div_loss", "torch"): kl_of_torch,
    ("mse_loss", "optax"): mse_of_optax,
    ("multi_similarity_loss", "pytorch-metric-learning"): multi_similarity_of_pml,
    ("nt_xent_loss", "lightly, MONAI"): lambda x, y: F.cross_entropy(
        (F.normalize(torch.cat([x, y])) @ F.normalize(torch.cat([x, y])).T / 0.5).fill_diagonal_(-torch.inf),
        torch.arange(2 * len(x)).roll(len(x)),
    ),
    ("nt_xent_loss", "pytorch-metric-learning, optax"): nt_xent_of_pml,
    ("poisson_nll_loss", "Keras"): poisson_of_keras,
    ("supervised_contrastive_loss", "pytorch-metric-learning (NTXentLoss)"): sup_con_of_pml,
    ("triplet_loss", "pytorch-metric-learning"): triplet_of_pml,
    ("triplet_loss", "Hermans et al."): triplet_of_hermans,
    ("triplet_loss", "TensorFlow Addons"): triplet_of_tensorflow,
}
TABLE = {(name, entry.framework): entry for name, entries in CONVENTIONS.items() for entry in entries}


def test_monai_multiplies_by_class_weights_and_divides_by_the_number_of_classes() -> None:
    x, t = batch("dice_loss")
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found = losses.dice_loss(x, t, weight=weight, convention="monai")
    assert found.item() == pytest.approx((dice_of_monai(x, t) * weight).mean().item())
    paper = losses.dice_loss(x, t, weight=weight)
    assert paper.item() == pytest.approx((dice_of_monai(x, t) * weight).sum(1).mean().item() / 6)


def test_focal_loss_over_the_positives_leaves_out_what_takes_no_part() -> None:
    x, t = batch("focal_loss", "lovasz_hinge_loss")
    keep, weight = torch.rand(x.shape) < 0.6, torch.rand(len(x), dtype=torch.float64)
    found = losses.focal_loss(x, t, convention="retinanet", mask=keep, sample_weight=weight)
    each = weight[:, None, None] * keep
    assert found.item() == pytest.approx(((each * _focal_terms(x, t)).sum() / (each * t).sum().clamp_min(1)).item())
    none = losses.focal_loss(x, torch.zeros_like(t), convention="retinanet")
    assert none.item() == pytest.approx(_focal_terms(x, 0 * t).sum().item()), "without a positive it is the sum"
    for empty in ("zero", "nan"):
        gone = losses.focal_loss(x, t, convention="retinanet", mask=torch.zeros_like(keep), empty=empty)
        assert gone.isnan() if empty == "nan" else gone.item() == 0
    by_map = losses.focal_loss(x, t, convention="monai", mask=keep, reduction="sum")
    kept = keep.sum(2).clamp_min(1)
    assert by_map.item() == pytest.approx(((keep * _focal_terms(x, t)).sum(2) / kept).sum().item())


def test_every_convention_has_a_formula_of_that_framework() -> None:
    assert set(TABLE) == set(ORACLES)


@pytest.mark.parametrize("key", TABLE, ids=" of ".join)
def test_a_convention_gives_that_frameworks_number(key: tuple[str, str]) -> None:
    name, convention = key[0], TABLE[key]
    found = value(name, convention.on, **convention.given, **convention.keywords)
    assert found == pytest.approx(
        ORACLES[key](*batch(name, convention.on)).item(), rel=1e-7 if "Keras" in key[1] else 1e-9
    )
    if convention.keywords:
        assert abs(found / value(name, convention.on, **convention.given) - 1) > 1e-3, (
            "the numbers shown would be alike"
        )


@pytest.mark.parametrize("name", losses.catalogue())
def test_every_convention_that_a_loss_takes_is_in_the_table(name: str) -> None:
    if "convention" not in losses.catalogue()[name]._hyperparameters():
        return
    with pytest.raises(InputError, match="unknown convention") as refused:
        value(name, convention="?")
    allowed = set(str(refused.value).rpartition("Allowed: ")[2].split(", "))
    default = losses.catalogue()[name]._hyperparameters()["convention"].default
    shown = {entry.keywords["convention"] for entry in CONVENTIONS[name] if "convention" in entry.keywords}
    assert shown == allowed - {default}


def test_the_page_of_a_loss_says_the_differences_in_numbers() -> None:
    text = differences("kl_div_loss")
    assert f"{value('kl_div_loss', temperature=2.0, convention='liger'):.4g}" in text
    assert "convention='liger'" in text
    assert differences("l1_loss") == ""
    shown = page("kl_div_loss")
    assert shown.endswith(text)
    assert ".. math::" in shown, "the page of a module is that of its function"


def test_asking_for_a_difference_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    differences("arcface_loss")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_convention_is_one_reading_with_a_sentence() -> None:
    assert all(isinstance(entry, Convention) and entry.says[0].islower() for entry in TABLE.values() if entry.keywords)
