"""Embedding losses against the eager formula in float64, written here again without blocks or tricks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trivet.errors import DataError, InputError
from trivet.losses import embedding, streaming


def _batch(n: int = 24, d: int = 5, classes: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(classes, (n,), generator=generator)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walk in blocks of 16 rows, so that a batch of 24 is more than one and the last is ragged."""
    monkeypatch.setattr(streaming.row_blocks, "__defaults__", (1,))


def nt_xent(a: Tensor, b: Tensor, tau: float) -> Tensor:
    z = F.normalize(torch.cat([a, b]))
    s = (z @ z.T / tau).fill_diagonal_(-torch.inf)
    return F.cross_entropy(s, torch.arange(len(z)).roll(len(a)))


def sup_con(x: Tensor, y: Tensor, tau: float) -> Tensor:
    z = F.normalize(x)
    s = (z @ z.T / tau).fill_diagonal_(-torch.inf)
    log_p = s - s.logsumexp(1, keepdim=True)
    rows = []
    for i in range(len(x)):
        peers = [j for j in range(len(x)) if j != i and y[j] == y[i]]
        if peers:
            rows.append(-log_p[i, peers].mean())
    return torch.stack(rows).mean()


def triplets(x: Tensor, y: Tensor, margin: float, mining: str) -> Tensor:
    n = len(x)
    d = (x[:, None] - x[None] + torch.eye(n)[..., None]).norm(dim=-1)  # no 0 on the unused diagonal
    out = []
    for a in range(n):
        positives = [p for p in range(n) if p != a and y[p] == y[a]]
        negatives = [q for q in range(n) if y[q] != y[a]]
        if not positives or not negatives:
            continue
        if mining == "hard":
            out.append((d[a, positives].max() - d[a, negatives].min() + margin).relu())
        for p in positives if mining != "hard" else []:
            if mining == "all":
                out += [(d[a, p] - d[a, q] + margin).relu() for q in negatives]
            else:
                farther = [q for q in negatives if d[a, q] > d[a, p]]
                nearest = min((d[a, q] for q in farther), default=d[a, p] + margin)
                out.append((d[a, p] - nearest + margin).relu())
    return torch.stack(out).mean()


def contrastive(x: Tensor, y: Tensor, margin: float) -> Tensor:
    out = []
    for i in range(len(x)):
        for j in range(i):
            d = (x[i] - x[j]).norm()
            out.append(0.5 * d**2 if y[i] == y[j] else 0.5 * (margin - d).relu() ** 2)
    return torch.stack(out).mean()


def multi_similarity(x: Tensor, y: Tensor, epsilon: float | None) -> Tensor:
    z, rows = F.normalize(x), []
    s = z @ z.T
    for i in range(len(x)):
        p = [s[i, j] for j in range(len(x)) if j != i and y[j] == y[i]]
        n = [s[i, j] for j in range(len(x)) if y[j] != y[i]]
        if epsilon is not None:
            p, n = [v for v in p if n and v - epsilon < max(n)], [v for v in n if p and v + epsilon > min(p)]
        pull = sum(((-2 * (v - 1)).exp() for v in p), torch.zeros(()))
        push = sum(((50 * (v - 1)).exp() for v in n), torch.zeros(()))
        rows.append(torch.log1p(pull) / 2 + torch.log1p(push) / 50)
    return torch.stack(rows).mean()


def arcface(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    cosine = F.normalize(x) @ F.normalize(w).T
    own = cosine.gather(1, y[:, None])
    moved = torch.where(own.acos() + 0.5 > math.pi, own - 0.5 * math.sin(0.5), torch.cos(own.acos() + 0.5))
    return F.cross_entropy(8 * cosine.scatter(1, y[:, None], moved), y)


def cosface(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    cosine = F.normalize(x) @ F.normalize(w).T
    return F.cross_entropy(8 * (cosine - 0.35 * F.one_hot(y, len(w)).double()), y)


PROTOTYPES = torch.randn(4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
OTHER_VIEW = torch.randn(24, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "nt_xent": (
        lambda x, y: embedding.nt_xent_loss(x, OTHER_VIEW.to(x.dtype)),
        lambda x, y: nt_xent(x, OTHER_VIEW, 0.5),
    ),
    "info_nce": (
        lambda x, y: embedding.info_nce_loss(x, OTHER_VIEW.to(x.dtype), temperature=0.2),
        lambda x, y: F.cross_entropy(F.normalize(x) @ F.normalize(OTHER_VIEW).T / 0.2, torch.arange(len(x))),
    ),
    "info_nce symmetric": (
        lambda x, y: embedding.info_nce_loss(x, OTHER_VIEW.to(x.dtype), symmetric=True, normalize=False),
        lambda x, y: sum(
            F.cross_entropy(s, torch.arange(len(x))) / 2 for s in (x @ OTHER_VIEW.T / 0.07, OTHER_VIEW @ x.T / 0.07)
        ),
    ),
    "sup_con": (
        lambda x, y: embedding.supervised_contrastive_loss(x, y),
        lambda x, y: sup_con(x, y, 0.1),
    ),
    "triplet all": (
        lambda x, y: embedding.triplet_loss(x, y),
        lambda x, y: triplets(x, y, 1.0, "all"),
    ),
    "triplet hard": (
        lambda x, y: embedding.triplet_loss(x, y, mining="hard", margin=0.3),
        lambda x, y: triplets(x, y, 0.3, "hard"),
    ),
    "triplet semi_hard": (
        lambda x, y: embedding.triplet_loss(x, y, mining="semi_hard"),
        lambda x, y: triplets(x, y, 1.0, "semi_hard"),
    ),
    "contrastive": (
        lambda x, y: embedding.contrastive_loss(x, y, margin=2.0),
        lambda x, y: contrastive(x, y, 2.0),
    ),
    "multi_similarity": (
        lambda x, y: embedding.multi_similarity_loss(x, y),
        lambda x, y: multi_similarity(x, y, 0.1),
    ),
    "multi_similarity all pairs": (
        lambda x, y: embedding.multi_similarity_loss(x, y, epsilon=None),
        lambda x, y: multi_similarity(x, y, None),
    ),
    "arcface": (
        lambda x, y: embedding.arcface_loss(x, y, prototypes=PROTOTYPES.to(x.dtype), scale=8.0),
        lambda x, y: arcface(x, y, PROTOTYPES),
    ),
    "cosface": (
        lambda x, y: embedding.cosface_loss(x, y, prototypes=PROTOTYPES.to(x.dtype), scale=8.0),
        lambda x, y: cosface(x, y, PROTOTYPES),
    ),
    "cosine": (
        lambda x, y: embedding.cosine_embedding_loss(x, OTHER_VIEW.to(x.dtype), (y % 2) * 2 - 1, margin=0.1),
        lambda x, y: F.cosine_embedding_loss(x, OTHER_VIEW, (y % 2) * 2 - 1, margin=0.1),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_equal_the_plain_formula(name: str) -> None:
    ours, plain = CASES[name]
    x, y = _batch()
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    value, expected = ours(a, y), plain(b, y)
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(value, a)[0], torch.autograd.grad(expected, b)[0], rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
def test_narrow_types_follow_the_float64_reference(name: str, dtype: torch.dtype, tolerance: float) -> None:
    ours, plain = CASES[name]
    x, y = _batch(dtype=dtype)  # the reference sees the same rounded numbers; other operands round once more
    a, b = x.clone().requires_grad_(), x.double().requires_grad_()
    value, expected = ours(a, y), plain(b, y)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=tolerance)
    gradient, wanted = torch.autograd.grad(value, a)[0], torch.autograd.grad(expected, b)[0]
    assert gradient.dtype == dtype
    assert (gradient.double() - wanted).norm() <= 3 * tolerance * wanted.norm()


@pytest.mark.parametrize("name", CASES)
def test_second_gradient_equals_the_plain_formula(name: str) -> None:
    ours, plain = CASES[name]
    x, y = _batch()
    direction = torch.randn_like(x)
    twice = []
    for function in (ours, plain):
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(function(leaf, y), leaf, create_graph=True)
        (second,) = torch.autograd.grad((first * direction).sum(), leaf)
        twice.append((first.detach(), second))
    torch.testing.assert_close(twice[0], twice[1], rtol=1e-7, atol=1e-9)


def test_second_gradient_of_rows_is_exact_in_both_views() -> None:
    a, b = torch.randn(2, 4, 3, dtype=torch.float64).unbind()
    a.requires_grad_(), b.requires_grad_()
    for loss in (embedding.nt_xent_loss, embedding.info_nce_loss):
        rows = partial(loss, temperature=0.5, reduction="none")
        assert torch.autograd.gradcheck(rows, (a, b))
        assert torch.autograd.gradgradcheck(rows, (a, b))


@pytest.mark.parametrize("name", CASES)
def test_rows_with_weight_zero_leave_the_mean(name: str) -> None:
    x, y = _batch()
    if "pair" in name or name.startswith(("triplet", "contrastive", "nt_xent")):
        pytest.skip("another normaliser than the rows")
    keep = torch.rand(len(x)) > 0.4
    weigh = _with_keywords(name)
    rows = weigh(x, y, reduction="none", sample_weight=None)
    assert rows.shape == (24,)
    if name == "sup_con":
        keep = keep & torch.tensor([(y == label).sum() > 1 for label in y])
    mean = weigh(x, y, reduction="mean", sample_weight=keep.double())
    assert mean.item() == pytest.approx(rows[keep].mean().item())
    assert weigh(x, y, reduction="sum", sample_weight=None).item() == pytest.approx(rows.sum().item())


def _with_keywords(name: str) -> Callable[..., Tensor]:
    e = embedding
    calls: dict[str, Callable[..., Tensor]] = {
        "info_nce": lambda x, y, **k: e.info_nce_loss(x, OTHER_VIEW, **k),
        "info_nce symmetric": lambda x, y, **k: e.info_nce_loss(x, OTHER_VIEW, symmetric=True, **k),
        "sup_con": lambda x, y, **k: e.supervised_contrastive_loss(x, y, **k),
        "multi_similarity": lambda x, y, **k: e.multi_similarity_loss(x, y, **k),
        "multi_similarity all pairs": lambda x, y, **k: e.multi_similarity_loss(x, y, epsilon=None, **k),
        "arcface": lambda x, y, **k: e.arcface_loss(x, y, prototypes=PROTOTYPES, **k),
        "cosface": lambda x, y, **k: e.cosface_loss(x, y, prototypes=PROTOTYPES, **k),
        "cosine": lambda x, y, **k: e.cosine_embedding_loss(x, OTHER_VIEW, **k),
    }
    return calls[name]


def test_nt_xent_rows_average_to_the_mean() -> None:
    x, _ = _batch()
    rows = embedding.nt_xent_loss(x, OTHER_VIEW, reduction="none")
    assert rows.shape == (24,)
    assert rows.mean().item() == pytest.approx(embedding.nt_xent_loss(x, OTHER_VIEW).item())


def test_sup_con_with_one_positive_is_nt_xent() -> None:
    a, b = torch.randn(2, 9, 4)
    labels = torch.arange(9).repeat(2)
    both = torch.cat([a, b])
    expected = embedding.nt_xent_loss(a, b, temperature=0.1)
    for denominator in ("all", "negatives"):
        value = embedding.supervised_contrastive_loss(both, labels, denominator=denominator)
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_nt_xent_at_a_cosine_gap_of_1_1_has_the_true_gradient_where_pml_has_zero() -> None:
    # pytorch-metric-learning 2.8.1 at T = 0.01 in float32: loss 87.3 and gradient 0; true: 110 and -100.
    gap = torch.tensor(1.1, requires_grad=True)
    anchor = torch.tensor([[1.0, 0.0, 0.0]])
    positive = torch.stack([-gap + 1, torch.zeros(()), (1 - (1 - gap) ** 2).sqrt()])[None]
    value = embedding.info_nce_loss(anchor, torch.cat([positive, anchor]), temperature=0.01)
    assert value.item() == pytest.approx(110.0, rel=1e-5)
    assert torch.autograd.grad(value, gap)[0].item() == pytest.approx(100.0, rel=1e-4)


def test_a_tiny_loss_is_not_a_difference_of_large_logarithms() -> None:
    x = torch.eye(2)
    value = embedding.info_nce_loss(x, x, temperature=1 / 30)
    assert value.item() == pytest.approx(math.log1p(math.exp(-30.0)), rel=1e-4)  # 9.4e-14


@pytest.mark.parametrize("name", CASES)
def test_zero_vectors_and_duplicates_have_finite_gradients(name: str) -> None:
    ours, _ = CASES[name]
    x, y = _batch(dtype=torch.float32)
    x[0] = 0
    x[3] = x[4] = x[5]
    x[6] *= 1e-30
    x[7] = PROTOTYPES[y[7]].float() * 3  # arcface: angle 0 to its own class
    x.requires_grad_()
    value = ours(x, y)
    assert value.isfinite()
    gradient = torch.autograd.grad(value, x)[0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize("empty", ["zero", "nan"])
def test_a_batch_without_pairs_is_empty(empty: str) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    alone = torch.arange(3)
    losses = [
        embedding.supervised_contrastive_loss(x, alone, empty=empty),
        embedding.triplet_loss(x, alone, empty=empty),
        embedding.triplet_loss(x, alone * 0, mining="hard", empty=empty),
        embedding.nt_xent_loss(x[:0], x[:0], empty=empty),
        embedding.info_nce_loss(x[:0], x[:0], empty=empty),
        embedding.contrastive_loss(x[:0], alone[:0], empty=empty),
        embedding.multi_similarity_loss(x[:0], alone[:0], empty=empty),
        embedding.arcface_loss(x, alone * 0 - 100, prototypes=torch.eye(4), empty=empty),
    ]
    for value in losses:
        assert value.isnan() if empty == "nan" else value.item() == 0
        gradient = torch.autograd.grad(value, x)[0]
        assert empty == "nan" or gradient.abs().max() == 0


def test_conventions_of_pytorch_metric_learning() -> None:
    # Two unit positives at distance sqrt(2) - and a negative: averages over non-zero pairs, added, not
    # squared.
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]], dtype=torch.float64)
    y = torch.tensor([0, 0, 1])
    value = embedding.contrastive_loss(x, y, margin=1.5, convention="pml")
    assert value.item() == pytest.approx(math.sqrt(2) + 1.5 - math.sqrt(2))
    degrees = embedding.arcface_loss(x, y, prototypes=x[:2], margin=28.64788975654116, convention="pml")
    assert degrees.item() == pytest.approx(embedding.arcface_loss(x, y, prototypes=x[:2]).item())
    pml = embedding.multi_similarity_loss(x, y, convention="pml")
    assert pml.item() == pytest.approx(embedding.multi_similarity_loss(x, y, base=0.5, epsilon=None).item())


def test_semi_hard_of_tensorflow_takes_the_farthest_negative_where_none_is_semi_hard() -> None:
    x = torch.tensor([[0.0], [5.0], [1.0], [2.0]])
    y = torch.tensor([0, 0, 1, 2])
    value = embedding.triplet_loss(x, y, mining="semi_hard", convention="tensorflow")
    # anchor 0: negatives at 1 and 2, farthest 2: 5 - 2 + 1; anchor 1: negatives at 4 and 3: 5 - 4 + 1
    assert value.item() == pytest.approx((4 + 2) / 2)


def test_nonzero_triplets_are_those_with_a_loss() -> None:
    x, y = torch.tensor([[0.0], [1.0], [1.5], [9.0]]), torch.tensor([0, 0, 1, 1])
    every = triplets(x, y, 1.0, "all")
    losses = embedding.triplet_loss(x, y, reduction="sum").item()
    active = embedding.triplet_loss(x, y, convention="nonzero").item()
    assert losses == pytest.approx(every.item() * 8)
    assert active > every.item()
    assert losses / active == pytest.approx(round(losses / active))


def test_a_learned_temperature_gets_its_gradient() -> None:
    a, b = torch.randn(2, 6, 4, dtype=torch.float64).unbind()
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: embedding.nt_xent_loss(a, b, temperature=t), tau)
    assert torch.autograd.gradcheck(lambda t: embedding.info_nce_loss(a, b, temperature=t), tau)


def test_per_sample_gradients_through_func_agree_with_autograd() -> None:
    x, y = _batch()
    gradient = torch.func.grad(lambda x: embedding.triplet_loss(x, y))(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(embedding.triplet_loss(leaf, y), leaf)[0])
    gradient = torch.func.grad(lambda x: embedding.nt_xent_loss(x, OTHER_VIEW))(x)
    torch.testing.assert_close(gradient, torch.autograd.grad(embedding.nt_xent_loss(leaf, OTHER_VIEW), leaf)[0])


def test_modules_hold_prototypes_and_show_what_differs() -> None:
    head = embedding.ArcFaceLoss(3, 5, scale=16.0)
    assert [tuple(p.shape) for p in head.parameters()] == [(3, 5)]
    assert "scale=16.0" in repr(head)
    x = torch.randn(4, 5)
    head(x, torch.tensor([0, 1, 2, 0])).backward()
    assert head.prototypes.grad.isfinite().all()
    with pytest.raises(ValueError, match="did you mean 'margin'"):
        embedding.TripletLoss(margn=2.0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    x = torch.randn(4, 5)
    with pytest.raises(DataError, match="integer labels"):
        embedding.triplet_loss(x, torch.zeros(4))
    with pytest.raises(DataError, match="own key"):
        embedding.info_nce_loss(x, x[:2])
    with pytest.raises(DataError, match="allowed are 0 to 1"):
        embedding.arcface_loss(x, torch.tensor([0, 1, 2, 0]), prototypes=torch.randn(2, 5))


def test_numbers_that_make_no_sense_are_refused() -> None:
    x, y = torch.randn(4, 5), torch.tensor([0, 0, 1, 1])
    for loss, target in (
        (embedding.nt_xent_loss, x),
        (embedding.info_nce_loss, x),
        (embedding.supervised_contrastive_loss, y),
    ):
        for temperature in (0.0, -1.0, math.inf):
            with pytest.raises(InputError, match="temperature"):
                loss(x, target, temperature=temperature)
    with pytest.raises(InputError, match="scale=0"):
        embedding.cosface_loss(x, y, prototypes=torch.randn(2, 5), scale=0.0)
    with pytest.raises(DataError, match=r"allowed is \(2,\)"):
        embedding.arcface_loss(x, y, prototypes=torch.randn(2, 5), weight=torch.ones(3))
