"""Metrics of counts, labels, regions, text and retrieval agree with scikit-learn, torchmetrics and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trivet.tasks.metrics import METRICS, bootstrap_interval, metric_for

pytestmark = pytest.mark.app

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def test_counts_are_judged_as_by_scikit_learn() -> None:
    log_rates, counts = torch.randn(200, 1), torch.poisson(torch.rand(200, 1) * 6)
    rates = log_rates.double().exp().numpy()
    value = metric_for("poisson_deviance", "counts")(log_rates, counts)
    assert value == pytest.approx(sklearn_metrics.mean_poisson_deviance(counts.numpy(), rates), rel=1e-9)
    share = metric_for("deviance_explained", "counts")(log_rates, counts)
    assert share == pytest.approx(sklearn_metrics.d2_tweedie_score(counts.numpy(), rates, power=1), rel=1e-6)
    mae = metric_for("mae", "counts")(log_rates, counts)
    assert mae == pytest.approx(sklearn_metrics.mean_absolute_error(counts.numpy(), rates), rel=1e-9)


def test_scaled_counts_are_judged_in_whole_numbers() -> None:
    log_rates, counts = torch.randn(50, 1).double(), torch.poisson(torch.full((50, 1), 30.0))
    plain = metric_for("poisson_deviance", "counts")
    scaled = plain.in_units((0.0, 30.0))
    assert scaled(log_rates - math.log(30), counts / 30) == pytest.approx(plain(log_rates, counts), rel=1e-6)


def test_labels_are_judged_as_by_scikit_learn() -> None:
    logits, targets = torch.randn(150, 5).round(decimals=1), (torch.rand(150, 5) < 0.3).float()
    decided = (logits > 0).numpy()
    for name, expected in {
        "macro_f1": sklearn_metrics.f1_score(targets, decided, average="macro"),
        "micro_f1": sklearn_metrics.f1_score(targets, decided, average="micro"),
        "exact_match": sklearn_metrics.accuracy_score(targets, decided),
        "mean_average_precision": sklearn_metrics.average_precision_score(targets, logits, average="macro"),
        "auroc": sklearn_metrics.roc_auc_score(targets, logits, average="macro"),
    }.items():
        assert metric_for(name, "multilabel")(logits, targets) == pytest.approx(expected, rel=1e-9), name


@pytest.mark.parametrize("classes", [1, 3])
def test_regions_are_judged_as_by_torchmetrics(classes: int) -> None:
    from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex

    logits = torch.randn(6, classes, 9, 7)
    labels = torch.randint(0, max(classes, 2), (6, 9, 7))
    decided = (logits[:, 0] > 0).long() if classes == 1 else logits.argmax(dim=1)
    jaccard = MulticlassJaccardIndex(max(classes, 2), average="none")(decided, labels)
    dice = MulticlassF1Score(max(classes, 2), average="none")(decided, labels)
    counted = slice(1, 2) if classes == 1 else slice(0, classes)
    assert metric_for("iou", "segmentation")(logits, labels) == pytest.approx(float(jaccard[counted].mean()), rel=1e-5)
    assert metric_for("dice", "segmentation")(logits, labels) == pytest.approx(float(dice[counted].mean()), rel=1e-5)


def test_a_void_pixel_takes_no_part() -> None:
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    iou = metric_for("iou", "segmentation")
    void = labels.clone()
    void[:, 0] = -100
    assert iou(logits, void) == pytest.approx(iou(logits[:, :, 1:], labels[:, 1:]))


def test_the_next_symbol_is_judged_as_by_torchmetrics() -> None:
    from torchmetrics.text import Perplexity

    logits, ids = torch.randn(5, 11, 8), torch.randint(0, 11, (5, 8))
    expected = float(Perplexity()(logits.transpose(1, 2), ids))
    assert metric_for("perplexity", "language")(logits, ids) == pytest.approx(expected, rel=1e-5)
    bits = metric_for("bits_per_character", "language")(logits, ids)
    assert bits == pytest.approx(math.log2(expected), rel=1e-5)


def test_retrieval_agrees_with_brute_force() -> None:
    vectors, labels = torch.randn(60, 4), torch.randint(0, 9, (60,))
    labels[0] = 99  # a class of one: no query
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    recalled, precise = [], []
    for query in range(60):
        others = [row for row in range(60) if row != query]
        same = sum(int(labels[row] == labels[query]) for row in others)
        if not same:
            continue
        others.sort(key=lambda row: -float(unit[row] @ unit[query]))
        hits = [float(labels[row] == labels[query]) for row in others[:same]]
        recalled.append(hits[0])
        precise.append(sum(hit * sum(hits[: at + 1]) / (at + 1) for at, hit in enumerate(hits)) / same)
    assert metric_for("recall_at_1", "embedding")(vectors, labels) == pytest.approx(np.mean(recalled))
    assert metric_for("map_at_r", "embedding")(vectors, labels) == pytest.approx(np.mean(precise))


def test_drawing_rows_is_the_same_as_judging_the_drawn_outputs() -> None:
    # Every metric that is a function of row vectors; retrieval searches a fixed set, so its rows are its definition.
    batches = {
        "segmentation": (torch.randn(8, 2, 5, 5), torch.randint(0, 2, (8, 5, 5))),
        "language": (torch.randn(8, 6, 5), torch.randint(0, 6, (8, 5))),
        "multilabel": (torch.randn(8, 3), (torch.rand(8, 3) < 0.5).float()),
    }
    drawn = torch.tensor([0, 0, 3, 5, 7, 7, 2, 1])
    found = 0
    for (_, kind), metric in METRICS.items():
        if metric.rows is not None and kind in batches:
            outputs, targets = batches[kind]
            value = metric.resampled(outputs, targets)(drawn)
            assert value == pytest.approx(metric(outputs[drawn], targets[drawn])), metric.name
            found += 1
    assert found >= 8


def test_a_broken_model_never_scores() -> None:
    outputs, targets = torch.randn(8, 2, 5, 5), torch.randint(0, 2, (8, 5, 5))
    outputs[3, 0, 2, 2] = math.nan
    metric = metric_for("iou", "segmentation")
    assert math.isnan(metric(outputs, targets))
    assert math.isnan(bootstrap_interval(metric, outputs, targets, resamples=5)[0])
