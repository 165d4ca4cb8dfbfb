"""Classification: one of two classes by one logit, one of many by one logit each."""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from torch import Tensor

from trivet.errors import DataError, require
from trivet.tasks.kinds.base import Kind
from trivet.tasks.metrics import Metric

__all__ = ["Binary", "Multiclass"]

# Metrics that count every class alike: their linear baseline weighs the classes, or it would be a straw man.
CLASS_BALANCED = ("balanced_accuracy", "macro_f1", "f1")


class _Classification(Kind):
    classifies: ClassVar[bool] = True

    def check_targets(self, targets: Tensor, where: str) -> None:
        """Refuse training labels other than 0, 1, 2, ..., and a single class."""
        if where != "train":
            return
        labels = self.strata(targets)
        if len(labels) and int(labels.min()) < 0:
            raise DataError(f"class labels must be 0, 1, 2, ...; the smallest is {int(labels.min())}")
        counts = torch.bincount(labels)
        present = torch.nonzero(counts).flatten().tolist()
        if len(present) < 2:
            raise DataError(f"the target has one class only ({present}); a {self.name} task needs at least two")
        if len(present) < len(counts):
            missing = next(c for c in range(len(counts)) if c not in present)
            raise DataError(f"class labels must be 0 to {len(counts) - 1} without gaps; no training row has {missing}")

    def strata(self, targets: Tensor) -> Tensor:
        """The labels themselves."""
        return targets.flatten().long()

    def _log_prior(self, targets: Tensor, outputs: int) -> Tensor:
        counts = torch.bincount(self.strata(targets), minlength=max(outputs, 2)).double()
        return (counts / counts.sum()).log()

    def _linear_logits(self, inputs: Tensor, targets: Tensor, unseen: Tensor, metric: Metric) -> Tensor:
        linear_model = require("sklearn.linear_model", "app")
        weight = "balanced" if metric.name in CLASS_BALANCED else None
        iterations = 1000 if inputs.numel() < 4_000_000 else 60
        model = linear_model.LogisticRegression(C=1.0, max_iter=iterations, class_weight=weight)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(inputs.float().numpy(), self.strata(targets).numpy())
        return torch.from_numpy(model.decision_function(unseen.float().numpy())).double()


class Binary(_Classification):
    """One of two classes; targets are float ``(batch, 1)`` with 1 for the second class."""

    name: ClassVar[str] = "binary"

    def shape_target(self, target: Tensor) -> Tensor:
        """Give ``(batch,)`` labels the shape ``(batch, 1)`` in float32."""
        return target.float().reshape(-1, 1)

    def check_targets(self, targets: Tensor, where: str) -> None:
        """Refuse labels other than 0 and 1."""
        strange = targets[(targets != 0) & (targets != 1)]
        if len(strange):
            raise DataError(
                f"the {where} target of a binary task must be 0 or 1; it has {float(strange[0]):g}; "
                "try kind='multiclass' or kind='regression'"
            )
        super().check_targets(targets, where)

    def outputs(self, targets: Tensor) -> int:
        """One logit."""
        return 1

    def default_metric(self, targets: Tensor) -> str:
        """Area under the ROC curve; average precision when the rarer class is below 10 %.

        Both judge the ranking and need no threshold, so the threshold can be tuned afterwards on its own.
        Under heavy imbalance the ROC curve hardly sees false alarms, the precision-recall curve does (Saito
        and Rehmsmeier 2015).
        """
        share = float(targets.double().mean())
        return "average_precision" if min(share, 1 - share) < 0.1 else "auroc"

    def trivial(self, targets: Tensor, rows: int, outputs: int, metric: Metric) -> tuple[str, Tensor]:
        """The log odds of the training labels for every row: decides for the majority, ranks nothing."""
        prior = self._log_prior(targets, outputs)
        return "majority class", (prior[1] - prior[0]).expand(rows, 1)

    def simple(
        self, inputs: Tensor, targets: Tensor, unseen: Tensor, outputs: int, metric: Metric
    ) -> tuple[str, Tensor]:
        """Logistic regression."""
        return "logistic regression", self._linear_logits(inputs, targets, unseen, metric).reshape(-1, 1)


class Multiclass(_Classification):
    """One of many classes; targets are int64 ``(batch,)``."""

    name: ClassVar[str] = "multiclass"

    def shape_target(self, target: Tensor) -> Tensor:
        """Give labels the shape ``(batch,)`` in int64."""
        return target.long().reshape(-1)

    def outputs(self, targets: Tensor) -> int:
        """One logit per class."""
        return int(targets.max()) + 1

    def default_metric(self, targets: Tensor) -> str:
        """Accuracy; balanced accuracy when the largest class is more than three times the smallest."""
        counts = torch.bincount(self.strata(targets))
        return "balanced_accuracy" if int(counts.max()) > 3 * int(counts.min()) else "accuracy"

    def trivial(self, targets: Tensor, rows: int, outputs: int, metric: Metric) -> tuple[str, Tensor]:
        """The log share of every class for every row: decides for the majority, ranks nothing."""
        return "majority class", self._log_prior(targets, outputs).expand(rows, outputs)

    def simple(
        self, inputs: Tensor, targets: Tensor, unseen: Tensor, outputs: int, metric: Metric
    ) -> tuple[str, Tensor]:
        """Multinomial logistic regression (linear softmax)."""
        logits = self._linear_logits(inputs, targets, unseen, metric)
        # With two classes scikit-learn gives one column, the log odds of the second.
        return "linear softmax", torch.stack([-logits / 2, logits / 2], dim=1) if logits.ndim == 1 else logits
