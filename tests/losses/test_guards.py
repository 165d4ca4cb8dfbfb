"""Each mistake that trains silently is named, by kind of loss; a right batch of any loss has no problem."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trivet import losses
from trivet.errors import DataError, InputError
from trivet.losses import CombinedLoss, Guarded, check, inspect_batch
from trivet.losses.examples import EXAMPLES
from trivet.losses.guards import KINDS, kind_of


@pytest.mark.parametrize(
    ("code", "input", "target", "keywords"),
    [
        ("double-softmax", torch.randn(9, 4).softmax(1), torch.arange(9) % 4, {"kind": "multiclass"}),
        ("target-out-of-range", torch.randn(9, 4), torch.arange(9), {"kind": "multiclass"}),
        (
            "weight-length",
            torch.randn(9, 4),
            torch.arange(9) % 4,
            {"kind": "multiclass", "weight": torch.ones(3)},
        ),
        ("target-column", torch.randn(9, 4), torch.zeros(9, 1).long(), {"kind": "multiclass"}),
        ("shape-mismatch", torch.randn(2, 4, 5, 5), torch.zeros(2, 5).long(), {"kind": "multiclass"}),
        ("shape-mismatch", torch.randn(9, 4), torch.zeros(9), {"kind": "multiclass"}),
        ("target-no-distribution", torch.randn(9, 4), torch.ones(9, 4), {"kind": "multiclass"}),
        ("target-no-distribution", torch.randn(9, 4), torch.randn(9, 4), {"kind": "multiclass"}),
        ("target-out-of-range", torch.randn(9, 4), torch.full((9,), -1), {"kind": "multiclass"}),
        ("probabilities-for-logits", torch.rand(20), torch.ones(20), {"kind": "binary"}),
        ("target-out-of-range", torch.randn(20), torch.full((20,), 2.0), {"kind": "binary"}),
        ("accidental-broadcast", torch.randn(20, 1), torch.ones(20), {"kind": "regression"}),
        ("shape-mismatch", torch.randn(20, 3), torch.ones(20), {"kind": "regression"}),
        ("target-not-finite", torch.randn(3), torch.tensor([0, 1, torch.nan]), {"kind": "regression"}),
    ],
)
def test_each_mistake_is_named(code: str, input: torch.Tensor, target: torch.Tensor, keywords: dict) -> None:
    assert [problem.code for problem in inspect_batch(input, target, **keywords)] == [code]


def test_right_batches_have_no_problem() -> None:
    assert not inspect_batch(torch.randn(9, 4), torch.arange(9) % 4, kind="multiclass")
    assert not inspect_batch(torch.randn(9, 4), torch.randn(9, 4).softmax(1), kind="multiclass")
    assert not inspect_batch(torch.randn(20), torch.ones(20), kind="binary")
    assert not inspect_batch(torch.randn(20, 1), torch.randn(20, 1), kind="regression")


def test_guarded_looks_at_the_first_batches_only() -> None:
    loss = Guarded(nn.MSELoss(), kind="regression", batches=1)
    loss(torch.zeros(4), torch.zeros(4))
    with pytest.warns(UserWarning, match="size"):
        loss(torch.zeros(4, 1), torch.zeros(4))  # torch's own warning; ours no longer looks
    with pytest.raises(DataError, match="accidental-broadcast"):
        Guarded(nn.MSELoss(), kind="regression")(torch.zeros(4, 1), torch.zeros(4))
    warner = Guarded(nn.CrossEntropyLoss(), kind="multiclass", on_problem="warn")
    with pytest.warns(UserWarning, match="double-softmax"):
        warner(torch.randn(9, 4).softmax(1), torch.arange(9) % 4)


def test_an_own_loss_must_say_its_kind_to_be_guarded() -> None:
    class Own(nn.Module):
        def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return (input - target).abs().amax()

    with pytest.raises(InputError, match="Own is no loss of trivet or torch; give kind="):
        Guarded(Own())
    assert Guarded(Own(), kind="regression")(torch.zeros(3), torch.ones(3)).item() == 1
    assert check(Own(), torch.zeros(4, 1), torch.zeros(4)) == []
    assert [p.code for p in check(Own(), torch.tensor([torch.nan]), torch.zeros(1))] == ["input-not-finite"]


@pytest.mark.parametrize("name", losses.catalogue())
def test_a_right_batch_of_any_loss_has_no_problem_and_a_nan_is_seen(name: str) -> None:
    example = EXAMPLES[name]
    torch.manual_seed(0)
    x, t = example.batch(12, 1.0)
    loss = losses.catalogue()[name](**example.arguments)
    assert kind_of(loss) in KINDS
    assert check(loss, x, t) == []
    assert check(losses.catalogue()[name].function, x, t) == []
    if example.empty:
        assert {p.code for p in check(loss, x, example.empty(t))} <= {"no-pairs"}
    x.view(-1)[0] = torch.nan
    assert "input-not-finite" in [p.code for p in check(loss, x, t)]


LOGITS, LABELS = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 4
VECTORS = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("code", "loss", "input", "target"),
    [
        ("double-softmax", losses.CrossEntropyLoss(), LOGITS.softmax(1), LABELS),
        ("double-softmax", nn.CrossEntropyLoss(), LOGITS.softmax(1), LABELS),
        ("double-softmax", F.cross_entropy, LOGITS.softmax(1), LABELS),
        ("double-softmax", losses.cross_entropy, LOGITS.softmax(1), LABELS),
        ("double-softmax", losses.DiceLoss(), LOGITS.softmax(1), LABELS),
        ("double-softmax", losses.KLDivLoss(), LOGITS.softmax(1), LOGITS),
        ("weight-length", losses.SoftmaxFocalLoss(weight=torch.ones(3)), LOGITS, LABELS),
        ("weight-length", nn.CrossEntropyLoss(weight=torch.ones(5)), LOGITS, LABELS),
        ("target-out-of-range", losses.LinearCrossEntropyLoss(6, 3), VECTORS, LABELS),
        ("target-out-of-range", losses.ArcFaceLoss(3, 6), VECTORS, LABELS),
        ("shape-mismatch", losses.CosFaceLoss(4, 6), VECTORS, LABELS[:, None]),
        ("shape-mismatch", losses.NTXentLoss(), VECTORS, VECTORS[:6]),
        ("shape-mismatch", losses.InfoNCELoss(), VECTORS, VECTORS[:6]),
        ("no-pairs", losses.TripletLoss(), VECTORS, torch.arange(12)),
        ("no-pairs", losses.SupervisedContrastiveLoss(), VECTORS, torch.zeros(12).long()),
        ("accidental-broadcast", losses.GaussianNLLLoss(), torch.randn(12, 2, 1), torch.zeros(12, 12)),
        ("accidental-broadcast", F.mse_loss, torch.randn(12, 1), torch.zeros(12)),
        ("probabilities-for-logits", losses.FocalLoss(), LOGITS.sigmoid(), (LOGITS > 0).float()),
        ("probabilities-for-logits", losses.DiceLoss(multilabel=True), LOGITS.sigmoid(), (LOGITS > 0).float()),
        ("target-out-of-range", losses.BCEWithLogitsLoss(), LOGITS, (LOGITS > 0).float() * 2 - 1),
        ("logits-for-probabilities", nn.BCELoss(), LOGITS, (LOGITS > 0).float()),
        ("logits-for-log-probabilities", nn.NLLLoss(), LOGITS, LABELS),
        ("logits-for-log-probabilities", nn.KLDivLoss(), LOGITS, LOGITS.softmax(1)),
        ("double-softmax", losses.DiceLoss() + losses.CrossEntropyLoss(), LOGITS.softmax(1), LABELS),
    ],
)
def test_a_loss_is_asked_for_the_mistakes_of_its_kind(
    code: str, loss: nn.Module, input: torch.Tensor, target: torch.Tensor
) -> None:
    (problem,) = check(loss, input, target)
    assert problem.code == code
    assert problem.fix
    assert problem.evidence, "what was seen is there as numbers, not in words alone"
    assert all(isinstance(seen, (int, float, str)) for seen in problem.evidence.values())


def test_keys_beyond_the_queries_are_a_queue_and_log_probabilities_are_right() -> None:
    assert check(losses.InfoNCELoss(), VECTORS[:6], VECTORS) == []
    assert check(nn.NLLLoss(), LOGITS.log_softmax(1), LABELS) == []
    assert check(nn.BCELoss(), LOGITS.sigmoid(), (LOGITS > 0).float()) == []


def test_each_term_of_a_sum_is_looked_at_once() -> None:
    both = CombinedLoss((1.0, losses.CrossEntropyLoss()), (0.1, losses.ZLoss()))
    assert len(check(both, LOGITS.softmax(1), LABELS)) == 1
    with pytest.raises(DataError, match="double-softmax"):
        Guarded(both)(LOGITS.softmax(1), LABELS)


def test_looking_changes_nothing_and_calls_nothing() -> None:
    class Counting(losses.CrossEntropyLoss):
        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            raise AssertionError("the loss was called")

    x = LOGITS.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(Counting(), x, LABELS) == []
    assert torch.equal(x.detach(), LOGITS)
