"""From a binary logit to a probability and a yes or no: calibrated on validation rows, stored with the run."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import torch
from torch import Tensor

from trivet.tasks.metrics import METRICS, Metric

__all__ = ["Decision", "fit_decision"]

Counts = tuple[Tensor, Tensor, Tensor, Tensor]


def _f1(hit: Tensor, alarm: Tensor, miss: Tensor) -> Tensor:
    return 2 * hit / (2 * hit + alarm + miss).clamp_min(1e-12)


# True and false positives, false and true negatives -> what a threshold is chosen by.
_BY: dict[str, Callable[[Counts], Tensor]] = {
    "accuracy": lambda c: (c[0] + c[3]) / sum(c),
    "balanced_accuracy": lambda c: 0.5 * (c[0] / (c[0] + c[2]) + c[3] / (c[1] + c[3])),
    "f1": lambda c: _f1(c[0], c[1], c[2]),
    "macro_f1": lambda c: 0.5 * (_f1(c[0], c[1], c[2]) + _f1(c[3], c[2], c[1])),
}
# A metric that needs no threshold is served by the decision that lies closest to it: on the ROC curve Youden's index
# (balanced accuracy), on the precision-recall curve F1, for probabilities the fewest errors.
_NEAREST = {"auroc": "balanced_accuracy", "average_precision": "f1", "log_loss": "accuracy"}


class Decision(msgspec.Struct, frozen=True):
    """Class 1 when its calibrated probability is at least `threshold`.

    The probability is `sigmoid(slope * logit + shift)`; `by` names what the threshold makes largest. `log_loss` is
    that of the validation rows before and after the calibration, in nats.
    """

    threshold: float = 0.5
    slope: float = 1.0
    shift: float = 0.0
    by: str = "accuracy"
    log_loss: tuple[float, float] = (math.nan, math.nan)

    def probability(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities of class 1 for raw logits of any shape."""
        return torch.sigmoid(self.slope * logits.double() + self.shift)

    def apply(self, logits: Tensor, metric: Metric) -> Tensor:
        """Logits as `metric` is to see them: above 0 means class 1 for a decision, calibrated for the log loss.

        Calibration keeps the order, so a ranking metric sees the raw logits; so does a metric of the user's own.
        """
        ours = METRICS.get((metric.name, "binary"))
        if ours is None or metric.function is not ours.function:
            return logits
        calibrated = self.slope * logits.double() + self.shift
        if metric.name in _BY:
            # Half a float's spacing: a probability that equals the threshold counts as class 1.
            return calibrated - math.log(self.threshold / (1 - self.threshold)) + 1e-12
        return calibrated if metric.name == "log_loss" else logits


def fit_decision(logits: Tensor, targets: Tensor, metric: Metric) -> Decision:
    """Calibrate on validation rows, then choose the threshold that makes the expected metric largest.

    Calibration is a logistic regression on the logit (Platt 1999) with his smoothed targets, `(n1 + 1) / (n1 + 2)`
    and `1 / (n0 + 2)`, which keep it finite on separated classes. The expected metric under the calibrated
    probabilities `p`, with `sum p[p >= t]` true positives and so on, is chosen by instead of the counted one: with
    a hundred validation rows the counted one follows single rows. For accuracy this gives 1/2, for balanced accuracy
    the share of class 1, for F1 half of the F1 reached (Lipton, Elkan and Narayanaswamy 2014).

    Logits `(rows,)` or `(rows, 1)`, targets 0 or 1. A slope that is not positive (logits that say nothing or the
    contrary) leaves the logits uncalibrated.

    >>> logits = torch.tensor([-4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0])
    >>> from trivet.tasks.metrics import metric_for
    >>> fit_decision(logits, (logits > 0).float(), metric_for("accuracy", "binary")).by
    'accuracy'
    """
    z, y = logits.detach().cpu().double().flatten(), targets.cpu().double().flatten()
    by = _NEAREST.get(metric.name, metric.name)
    by = by if by in _BY else "accuracy"
    slope, shift = _platt(z, y)
    before, after = (_log_loss(z, y), _log_loss(slope * z + shift, y))
    chosen = Decision(0.5, slope, shift, by, (before, after))
    return msgspec.structs.replace(chosen, threshold=_threshold(chosen.probability(z), by))


def _platt(z: Tensor, y: Tensor, steps: int = 100) -> tuple[float, float]:
    """Slope and shift by Newton's method; (1, 0) where the logits do not order the classes."""
    ones, zeros = float(y.sum()), float((1 - y).sum())
    goal = torch.where(y > 0, (ones + 1) / (ones + 2), 1 / (zeros + 2)).double()
    spread = max(float(z.std(correction=0)), 1e-12)
    features = torch.stack([(z - z.mean()) / spread, torch.ones_like(z)], dim=1)
    weights = torch.zeros(2, dtype=torch.float64)
    for _ in range(steps):
        p = torch.sigmoid(features @ weights)
        gradient = features.T @ (p - goal)
        # The small ridge keeps the curvature invertible when every probability is at its end.
        curvature = features.T @ (features * (p * (1 - p)).unsqueeze(1)) + 1e-9 * torch.eye(2, dtype=torch.float64)
        step = torch.linalg.solve(curvature, gradient)
        # Damped: far from the optimum a full Newton step of a logistic regression can overshoot.
        weights = weights - step * min(1.0, 2.0 / max(float(step.abs().max()), 1e-12))
        if float(step.abs().max()) < 1e-10:
            break
    slope, shift = float(weights[0]) / spread, float(weights[1] - weights[0] * z.mean() / spread)
    return (slope, shift) if slope > 0 and math.isfinite(slope) and math.isfinite(shift) else (1.0, 0.0)


def _log_loss(z: Tensor, y: Tensor) -> float:
    return float(torch.nn.functional.binary_cross_entropy_with_logits(z, y))


def _threshold(p: Tensor, by: str) -> float:
    """The threshold with the largest expected metric; halfway to the next lower probability, within (0, 1)."""
    ordered = p.sort(descending=True).values
    hit, alarm = ordered.cumsum(0), (1 - ordered).cumsum(0)
    miss, clear = hit[-1] - hit, alarm[-1] - alarm
    value = _BY[by]((hit, alarm, miss, clear))
    last_of_tie = torch.cat([ordered[1:] != ordered[:-1], torch.tensor([True])])
    best = int(torch.where(last_of_tie, value.nan_to_num(-1.0), -1.0).argmax())
    below = float(ordered[best + 1]) if best + 1 < len(ordered) else 0.0
    return min(max((float(ordered[best]) + below) / 2, 1e-6), 1 - 1e-6)
