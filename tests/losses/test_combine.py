"""Sums of losses, and class weights."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from trivet.errors import InputError
from trivet.losses import CrossEntropyLoss, LDAMLoss
from trivet.losses.boundary import BoundaryLoss
from trivet.losses.combine import CombinedLoss
from trivet.losses.lovasz import LovaszLoss
from trivet.losses.weights import class_counts, class_weights


def double(progress: float) -> float:
    return 2 * progress


def test_a_sum_of_losses_is_the_weighted_sum_and_reports_its_parts() -> None:
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    loss = 2 * LovaszLoss() + nn.CrossEntropyLoss() + BoundaryLoss() * 0.5
    value = loss(logits, target)
    parts = {name: part.item() for name, part in loss.parts.items()}
    assert list(parts) == ["LovaszLoss", "CrossEntropyLoss", "BoundaryLoss"]
    assert parts["CrossEntropyLoss"] == pytest.approx(nn.functional.cross_entropy(logits, target).item())
    expected = 2 * parts["LovaszLoss"] + parts["CrossEntropyLoss"] + 0.5 * parts["BoundaryLoss"]
    assert value.item() == pytest.approx(expected)


def test_torchs_loss_may_stand_first_and_factors_multiply_out() -> None:
    loss = 3 * (CombinedLoss((1.0, nn.CrossEntropyLoss())) + 2 * LovaszLoss())
    assert loss.current_weights() == {"CrossEntropyLoss": 3.0, "LovaszLoss": 6.0}
    twice = LovaszLoss() + LovaszLoss(classes="all")
    assert list(twice.current_weights()) == ["LovaszLoss.1", "LovaszLoss.2"]


def test_weights_follow_progress_and_survive_pickling() -> None:
    loss = pickle.loads(pickle.dumps(3 * (LovaszLoss() + double * BoundaryLoss())))
    loss.progress = 0.25
    assert loss.current_weights() == {"LovaszLoss": 3.0, "BoundaryLoss": 1.5}


def test_only_numbers_and_functions_weigh() -> None:
    with pytest.raises(InputError, match="function of progress"):
        "two" * LovaszLoss()
    with pytest.raises(InputError, match="cannot add"):
        LovaszLoss() + 3


def test_balanced_weights_equal_scikit_learns() -> None:
    class_weight = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.repeat([0, 1, 2], [50, 7, 3])
    expected = class_weight.compute_class_weight("balanced", classes=np.arange(3), y=labels)
    counts = class_counts(torch.from_numpy(labels), 3)
    torch.testing.assert_close(class_weights("balanced", counts), torch.from_numpy(expected).float())


def test_effective_weights_run_from_equal_to_inverse_frequency() -> None:
    counts = torch.tensor([1000, 10, 1])
    torch.testing.assert_close(class_weights("effective:0", counts), torch.ones(3))
    inverse = 1 / counts.double()
    almost = class_weights("effective:0.99999999", counts)
    torch.testing.assert_close(almost, (inverse / inverse.sum() * 3).float(), rtol=1e-4, atol=1e-6)
    beta = 0.999
    paper = (1 - beta) / (1 - beta ** counts.double())
    torch.testing.assert_close(class_weights("effective:0.999", counts), (paper / paper.sum() * 3).float())


def test_an_absent_class_has_weight_zero() -> None:
    for scheme in ("balanced", "effective:0.9"):
        weight = class_weights(scheme, torch.tensor([5, 0, 5]))
        assert weight[1] == 0
        assert weight.isfinite().all()
    with pytest.raises(InputError, match="'effective:BETA'"):
        class_weights("efective:0.9", torch.tensor([1, 2]))


def test_weights_by_name_are_filled_in_from_counts_of_the_training_set() -> None:
    counts = torch.tensor([6, 3, 1])
    logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    loss = CrossEntropyLoss(weight="effective:0.9")
    with pytest.raises(InputError, match=r"loss\.fit\(counts\)"):
        loss(logits, target)
    weight = class_weights("effective:0.9", counts)
    expected = nn.functional.cross_entropy(logits, target, weight=weight)
    assert loss.fit(counts)(logits, target).item() == pytest.approx(expected.item())
    assert "weight" in loss.state_dict()
    margins = LDAMLoss().fit(counts)
    assert margins(logits, target).item() == LDAMLoss(counts=counts)(logits, target).item()
    with pytest.raises(InputError, match="class counts are missing"):
        LDAMLoss()(logits, target)
    with pytest.raises(InputError, match="'effective:BETA'"):
        CrossEntropyLoss(weight="balancd")
