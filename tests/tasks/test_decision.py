"""Probabilities are calibrated and the threshold chosen on validation rows, against scikit-learn and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trivet.tasks.decision import Decision, fit_decision
from trivet.tasks.metrics import bootstrap_difference, metric_for


def rows(n: int, share: float = 0.2, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that are too sure of themselves: `scale` times the log odds under which the labels are drawn."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(n, generator=generator, dtype=torch.float64) * 1.5 + math.log(share / (1 - share))
    labels = (torch.rand(n, generator=generator, dtype=torch.float64) < torch.sigmoid(true)).double()
    return scale * true + 1.0, labels, true


def metric(name: str = "auroc") -> object:
    return metric_for(name, "binary")


def test_the_calibration_is_a_logistic_regression_on_the_logit() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    logits, labels, _ = rows(20_000)
    found = fit_decision(logits, labels, metric("log_loss"))
    reference = linear_model.LogisticRegression(C=math.inf, tol=1e-10).fit(logits.numpy()[:, None], labels.numpy())
    # Platt's smoothed targets move the fit by about 1 / rows of the smaller class.
    assert found.slope == pytest.approx(reference.coef_[0, 0], rel=2e-3)
    assert found.shift == pytest.approx(reference.intercept_[0], abs=5e-3)
    assert found.slope == pytest.approx(1 / 3, rel=0.05)
    assert found.log_loss[1] < found.log_loss[0]


@pytest.mark.parametrize(
    ("name", "by", "best"),
    [
        ("accuracy", "accuracy", lambda share, f: 0.5),
        ("log_loss", "accuracy", lambda share, f: 0.5),
        ("balanced_accuracy", "balanced_accuracy", lambda share, f: share),
        ("auroc", "balanced_accuracy", lambda share, f: share),
        ("f1", "f1", lambda share, f: f / 2),
        ("average_precision", "f1", lambda share, f: f / 2),
    ],
)
def test_the_threshold_is_the_one_that_theory_gives(name: str, by: str, best: object) -> None:
    logits, labels, _ = rows(20_000)
    found = fit_decision(logits, labels, metric(name))
    f1 = metric_for("f1", "binary")
    reached = f1(Decision(found.threshold, found.slope, found.shift).apply(logits, f1), labels)
    assert found.by == by
    # Between 20,000 rows' probabilities lies less than 0.001; the labels' noise enters through the calibration.
    assert found.threshold == pytest.approx(best(float(labels.mean()), reached), abs=0.02)


@pytest.mark.parametrize("name", ["balanced_accuracy", "f1", "macro_f1"])
def test_a_tuned_threshold_does_better_on_other_rows_than_one_half(name: str) -> None:
    logits, labels, _ = rows(4000, share=0.05)
    chosen = fit_decision(logits[:2000], labels[:2000], metric(name))
    judge = metric_for(name, "binary")
    tuned = judge(chosen.apply(logits[2000:], judge), labels[2000:])
    assert tuned > judge(logits[2000:] - 1.0, labels[2000:]) + 0.03


def test_rankings_and_metrics_of_the_user_see_the_raw_logits() -> None:
    logits, _, _ = rows(200)
    chosen = Decision(0.3, 0.5, 0.1)
    assert chosen.apply(logits, metric_for("auroc", "binary")) is logits

    def accuracy(outputs: Tensor, targets: Tensor) -> float:
        return 0.0

    assert chosen.apply(logits, metric_for(accuracy, "binary")) is logits


def test_a_probability_at_the_threshold_is_class_one() -> None:
    judge = metric_for("accuracy", "binary")
    for threshold in (0.1, 0.5, 0.9):
        logit = torch.tensor([math.log(threshold / (1 - threshold))], dtype=torch.float64)
        assert judge(Decision(threshold).apply(logit, judge), torch.tensor([1.0])) == 1.0


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        ([1e4, 2e4, -1e4, -2e4], [1, 1, 0, 0]),  # separated, and far out
        ([-1.0, -2.0, 1.0, 2.0], [1, 1, 0, 0]),  # the wrong way round
        ([0.0, 0.0, 0.0, 0.0], [1, 0, 1, 0]),  # nothing learned
        ([1.0, 2.0, 3.0, 4.0], [1, 1, 1, 1]),  # one class alone
    ],
)
def test_odd_validation_rows_give_finite_decisions_in_order(logits: list[float], labels: list[int]) -> None:
    for name in ("accuracy", "balanced_accuracy", "f1", "macro_f1", "log_loss"):
        found = fit_decision(torch.tensor(logits), torch.tensor(labels), metric(name))
        assert 0 < found.threshold < 1
        assert found.slope > 0
        assert math.isfinite(found.shift)


def test_the_difference_of_equal_outputs_is_nothing_and_its_sign_follows_the_metric() -> None:
    targets = torch.arange(40.0)
    noise = torch.randn(40, generator=torch.Generator().manual_seed(0))
    for name, sign in (("rmse", 1), ("r2", 1)):
        judge = metric_for(name, "regression")
        assert bootstrap_difference(judge, targets + noise, targets + noise, targets) == (0.0, 0.0)
        low, high = bootstrap_difference(judge, targets + 0.1 * noise, targets + noise, targets)
        assert 0 < sign * low < sign * high


def test_paired_differences_are_narrower_than_the_intervals_of_either() -> None:
    from trivet.tasks.metrics import bootstrap_interval

    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(200, generator=generator)
    hard = 3 * torch.rand(200, generator=generator) * torch.randn(200, generator=generator)
    judge = metric_for("rmse", "regression")
    ours, theirs = targets + hard, targets + 1.1 * hard
    low, high = bootstrap_difference(judge, ours, theirs, targets)
    wide_low, wide_high = bootstrap_interval(judge, ours, targets)
    assert low > 0
    assert high - low < 0.2 * (wide_high - wide_low)
