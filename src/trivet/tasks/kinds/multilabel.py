"""Multilabel: several yes-or-no labels per row; targets and logits are ``(batch, labels)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.tasks.decision import Decision, fit_decision
from trivet.tasks.kinds.base import Answers, Context, Kind, Known
from trivet.tasks.kinds.views import logistic_regression, named, rows_of
from trivet.tasks.metrics import METRICS, Metric

if TYPE_CHECKING:
    from trivet.recipes.recipe import Part

__all__ = ["Multilabel"]

# What each label's threshold makes largest, by the metric of all labels together.
SERVED_BY = {"macro_f1": "f1", "micro_f1": "f1", "exact_match": "accuracy", "log_loss": "log_loss", "auroc": "auroc"}


class Multilabel(Kind):
    """Any number of labels may hold for a row; one logit and one threshold for each."""

    name: ClassVar[str] = "multilabel"
    multi_hot: ClassVar[bool] = True
    decides: ClassVar[bool] = True

    def shape_target(self, target: Tensor) -> Tensor:
        """Give ``(batch, labels)`` float32."""
        return target.float().reshape(len(target), -1)

    def check_targets(self, targets: Tensor, where: str) -> None:
        """Refuse values other than 0 and 1, and in training a label that no row has, or every row."""
        strange = targets[(targets != 0) & (targets != 1)]
        if len(strange):
            raise DataError(
                f"the {where} target of a multilabel task must be 0 or 1 in every column; it has {float(strange[0]):g}"
            )
        if where != "train" or not len(targets):
            return
        share = targets.mean(dim=0)
        dull = torch.nonzero((share == 0) | (share == 1)).flatten().tolist()
        if dull:
            value = int(share[dull[0]])
            raise DataError(f"label {dull[0]} is {value} in every training row; leave that target column out")

    def outputs(self, targets: Tensor) -> int:
        """One logit per label."""
        return int(targets.shape[1])

    def default_metric(self, targets: Tensor) -> str:
        """Mean average precision: every label counts alike, and no threshold is involved."""
        return "mean_average_precision"

    def plain_loss(self, outputs: int) -> Part:
        """Cross entropy on each logit."""
        return {"name": "binary_cross_entropy_with_logits"}

    def class_counts(self, targets: Tensor, outputs: int) -> Tensor:
        """Rows that have each label."""
        return targets.sum(dim=0).long()

    def trivial(self, known: Known) -> tuple[str, Tensor]:
        """The log odds of each label for every row."""
        share = known.targets.double().mean(dim=0).clamp(1e-6, 1 - 1e-6)
        return "label frequencies", share.logit().expand(rows_of(known.unseen), known.outputs)

    def simple(self, known: Known) -> tuple[str, Tensor]:
        """A logistic regression for each label."""
        weight = "balanced" if known.metric.name == "macro_f1" else None
        columns = [logistic_regression(known, label.long(), weight) for label in known.targets.T]
        return named("logistic regressions", known), torch.stack(columns, dim=1)

    def fit_decisions(self, outputs: Tensor, targets: Tensor, metric: Metric) -> tuple[Decision, ...]:
        """A calibration and a threshold for each label; none moves where the validation rows lack a class."""
        by = METRICS[SERVED_BY.get(metric.name, "average_precision"), "binary"]
        return tuple(
            fit_decision(logit, label, by) if 0 < float(label.mean()) < 1 else Decision()
            for logit, label in zip(outputs.T, targets.T, strict=True)
        )

    def decide(self, outputs: Tensor, decisions: tuple[Decision, ...], metric: Metric) -> Tensor:
        """Logits above 0 where a label's own threshold says yes; rankings see the raw logits."""
        ours = METRICS.get((metric.name, self.name))
        if not decisions or ours is None or ours.function is not metric.function:
            return outputs
        by = METRICS[SERVED_BY.get(metric.name, "average_precision"), "binary"]
        columns = [decision.apply(logit, by) for decision, logit in zip(decisions, outputs.T, strict=True)]
        return torch.stack([column.double() for column in columns], dim=1)

    def answers(self, outputs: Tensor, context: Context) -> Answers:
        """Each label's 0 or 1 under its own name, by its threshold, and its calibrated probability."""
        said: Answers = {}
        for at, name in enumerate(context.classes):
            decision = context.decisions[at] if context.decisions else Decision()
            probability = decision.probability(outputs[:, at])
            said[name] = (probability >= decision.threshold).long().numpy()
            said[f"probability of {name}"] = probability.numpy()
        return said
