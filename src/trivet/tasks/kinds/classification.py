"""Classification: one of two classes by one logit, one of many by one logit each."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.tasks.decision import Decision, fit_decision
from trivet.tasks.kinds.base import Answers, Context, Kind, Known
from trivet.tasks.kinds.views import logistic_regression, named, names_of, rows_of
from trivet.tasks.metrics import Metric

if TYPE_CHECKING:
    from trivet.recipes.recipe import Part

__all__ = ["Binary", "Multiclass"]

FEW_COLUMNS = 20
"""A prediction lists the probability of every class up to this many."""

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

    def class_counts(self, targets: Tensor, outputs: int) -> Tensor:
        """Rows of each class."""
        return torch.bincount(self.strata(targets), minlength=max(outputs, 2))

    def _log_prior(self, known: Known) -> Tensor:
        counts = self.class_counts(known.targets, known.outputs).double()
        return (counts / counts.sum()).log()

    def _linear(self, known: Known) -> Tensor:
        weight = "balanced" if known.metric.name in CLASS_BALANCED else None
        return logistic_regression(known, self.strata(known.targets), weight)


class Binary(_Classification):
    """One of two classes; targets are float ``(batch, 1)`` with 1 for the second class."""

    name: ClassVar[str] = "binary"
    decides: ClassVar[bool] = True

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

    def plain_loss(self, outputs: int) -> Part:
        """Cross entropy on one logit."""
        return {"name": "binary_cross_entropy_with_logits"}

    def trivial(self, known: Known) -> tuple[str, Tensor]:
        """The log odds of the training labels for every row: decides for the majority, ranks nothing."""
        prior = self._log_prior(known)
        return "majority class", (prior[1] - prior[0]).expand(rows_of(known.unseen), 1)

    def simple(self, known: Known) -> tuple[str, Tensor]:
        """Logistic regression."""
        return named("logistic regression", known), self._linear(known).reshape(-1, 1)

    def fit_decisions(self, outputs: Tensor, targets: Tensor, metric: Metric) -> tuple[Decision, ...]:
        """One calibration and threshold."""
        return (fit_decision(outputs, targets, metric),)

    def decide(self, outputs: Tensor, decisions: tuple[Decision, ...], metric: Metric) -> Tensor:
        """Logits above 0 where the decision is yes."""
        return decisions[0].apply(outputs, metric) if decisions else outputs

    def answers(self, outputs: Tensor, context: Context) -> Answers:
        """``prediction`` (a class) by the run's threshold, and the calibrated ``probability`` of the second class."""
        decision = context.decisions[0] if context.decisions else Decision()
        probability = decision.probability(outputs.flatten())
        chosen = (probability >= decision.threshold).long()
        return {
            "prediction": names_of(context.classes, chosen),
            f"probability of {context.classes[1]}": probability.numpy(),
        }


class Multiclass(_Classification):
    """One of many classes; targets are int64 ``(batch,)``."""

    name: ClassVar[str] = "multiclass"
    an_output_per_class: ClassVar[bool] = True

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

    def plain_loss(self, outputs: int) -> Part:
        """Cross entropy on logits."""
        return {"name": "cross_entropy"}

    def trivial(self, known: Known) -> tuple[str, Tensor]:
        """The log share of every class for every row: decides for the majority, ranks nothing."""
        return "majority class", self._log_prior(known).expand(rows_of(known.unseen), known.outputs)

    def simple(self, known: Known) -> tuple[str, Tensor]:
        """Multinomial logistic regression (linear softmax)."""
        logits = self._linear(known)
        # With two classes scikit-learn gives one column, the log odds of the second.
        logits = torch.stack([-logits / 2, logits / 2], dim=1) if logits.ndim == 1 else logits
        return named("linear softmax", known), logits

    def answers(self, outputs: Tensor, context: Context) -> Answers:
        """``prediction`` (a class), its ``probability``, and up to twenty classes' probabilities each."""
        shares = outputs.double().softmax(dim=1)
        best, chosen = shares.max(dim=1)
        said = {"prediction": names_of(context.classes, chosen), "probability": best.numpy()}
        if len(context.classes) <= FEW_COLUMNS:
            said |= {f"probability of {name}": shares[:, at].numpy() for at, name in enumerate(context.classes)}
        return said
