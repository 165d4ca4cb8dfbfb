"""Metrics agree with scikit-learn, ties included, and never score a broken model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trivet.tasks.metrics import METRICS, bootstrap_interval, metric_for

pytestmark = pytest.mark.app

sklearn = pytest.importorskip("sklearn.metrics")


def labels_and_scores(seed: int, levels: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 40)
    y[:2] = [0, 1]
    return y, rng.integers(0, levels, 40) / levels - 0.5  # few levels: many ties


@given(seed=st.integers(0, 10_000), levels=st.integers(1, 30))
def test_binary_ranking_metrics_agree_with_scikit_learn_on_ties(seed: int, levels: int) -> None:
    y, scores = labels_and_scores(seed, levels)
    outputs, targets = torch.tensor(scores).unsqueeze(1), torch.tensor(y).float().unsqueeze(1)
    assert metric_for("auroc", "binary")(outputs, targets) == pytest.approx(sklearn.roc_auc_score(y, scores))
    expected = sklearn.average_precision_score(y, scores)
    assert metric_for("average_precision", "binary")(outputs, targets) == pytest.approx(expected)


@given(seed=st.integers(0, 10_000), classes=st.integers(3, 6))
def test_multiclass_metrics_agree_with_scikit_learn(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, 60)])
    logits = rng.normal(size=(len(y), classes))
    outputs, targets = torch.tensor(logits), torch.tensor(y)
    predicted, p = logits.argmax(1), np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = {
        "accuracy": sklearn.accuracy_score(y, predicted),
        "balanced_accuracy": sklearn.balanced_accuracy_score(y, predicted),
        "macro_f1": sklearn.f1_score(y, predicted, average="macro"),
        "log_loss": sklearn.log_loss(y, p),
        "auroc": sklearn.roc_auc_score(y, p, multi_class="ovr", average="macro"),
    }
    for name, value in expected.items():
        assert metric_for(name, "multiclass")(outputs, targets) == pytest.approx(value), name


@given(seed=st.integers(0, 10_000))
def test_regression_metrics_agree_with_scikit_learn_in_the_targets_own_units(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, p = rng.normal(size=50), rng.normal(size=50)
    mean, std = 1000.0, 250.0
    outputs, targets = torch.tensor(p).unsqueeze(1), torch.tensor(y).unsqueeze(1)
    true, predicted = y * std + mean, p * std + mean
    expected = {
        "rmse": math.sqrt(sklearn.mean_squared_error(true, predicted)),
        "mae": sklearn.mean_absolute_error(true, predicted),
        "r2": sklearn.r2_score(true, predicted),
    }
    for name, value in expected.items():
        assert metric_for(name, "regression").in_units((mean, std))(outputs, targets) == pytest.approx(value), name


@pytest.mark.parametrize(("name", "kind"), sorted(METRICS))
def test_a_broken_model_never_scores(name: str, kind: str) -> None:
    metric = METRICS[name, kind]
    width = 3 if kind == "multiclass" else 1
    outputs = torch.full((6, width), float("nan"))
    targets = torch.tensor([0, 1, 0, 1, 0, 1])
    targets = targets if kind == "multiclass" else targets.float().unsqueeze(1)
    value = metric(outputs, targets)
    assert math.isnan(value)
    assert not metric.better(value, -1e9 if metric.higher_is_better else 1e9)
    assert metric.better(0.0, value)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    metric, covered = metric_for("accuracy", "binary"), 0
    generator = torch.Generator().manual_seed(0)
    for repeat in range(100):
        right = torch.rand(150, generator=generator) < 0.8
        outputs, targets = torch.where(right, 1.0, -1.0).unsqueeze(1), torch.ones(150, 1)
        low, high = bootstrap_interval(metric, outputs, targets, seed=repeat, resamples=200)
        covered += low <= 0.8 <= high
    # 95 of 100 expected; fewer than 86 has a probability below 1e-3.
    assert covered >= 86
