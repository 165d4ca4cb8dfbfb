"""Regression: float targets ``(batch, outputs)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from trivet.errors import DataError, require
from trivet.tasks.kinds.base import Answers, Context, Kind, Known
from trivet.tasks.kinds.views import numbered, numpy_matrix, rows_of

if TYPE_CHECKING:
    from trivet.recipes.recipe import Part

__all__ = ["Regression"]


class Regression(Kind):
    """A number to predict; judged by the root mean squared error unless the user says otherwise."""

    name: ClassVar[str] = "regression"

    def shape_target(self, target: Tensor) -> Tensor:
        """Give ``(batch,)`` the shape ``(batch, 1)``, in float32 unless it is float64."""
        target = target if target.dtype == torch.float64 else target.float()
        return target.unsqueeze(-1) if target.ndim == 1 else target

    def check_targets(self, targets: Tensor, where: str) -> None:
        """Refuse targets that are not finite, and constant ones where they are to be learned."""
        broken = int((~torch.isfinite(targets)).sum())
        if broken:
            raise DataError(
                f"the {where} target has {broken} NaN or infinite values; every target must be a finite number"
            )
        if where == "train" and len(targets) and bool((targets == targets[0]).all()):
            raise DataError(f"the target is constant ({float(targets.flatten()[0]):g}); there is nothing to learn")

    def scale(self, values: Tensor) -> tuple[float, float]:
        """Mean and standard deviation of the training targets; a constant one was refused before."""
        return float(values.mean()), float(values.std(correction=0)) or 1.0

    def outputs(self, targets: Tensor) -> int:
        """One output per target column."""
        return int(targets.shape[1])

    def default_metric(self, targets: Tensor) -> str:
        """Root mean squared error: in the user's units, and what most people expect."""
        return "rmse"

    def plain_loss(self, outputs: int) -> Part:
        """Squared error."""
        return {"name": "mse_loss"}

    def numbers(self, targets: Tensor) -> Tensor:
        """The targets themselves."""
        return targets

    def trivial(self, known: Known) -> tuple[str, Tensor]:
        """The median under the mean absolute error, the mean otherwise: each minimises its metric."""
        targets, rows = known.targets.double(), rows_of(known.unseen)
        if known.metric.name == "mae":
            return "median", targets.quantile(0.5, dim=0).expand(rows, known.outputs)
        return "mean", targets.mean(dim=0).expand(rows, known.outputs)

    def simple(self, known: Known) -> tuple[str, Tensor]:
        """Ridge regression, its strength chosen by leave-one-out on the fitted rows."""
        linear_model = require("sklearn.linear_model", "app")
        ridge = linear_model.RidgeCV(alphas=[0.01, 0.1, 1.0, 10.0, 100.0, 1000.0])
        ridge.fit(numpy_matrix(known.matrix(known.inputs)), known.targets.double().numpy())
        predicted = ridge.predict(numpy_matrix(known.matrix(known.unseen)))
        return "ridge regression", torch.from_numpy(predicted).reshape(-1, known.outputs)

    def answers(self, outputs: Tensor, context: Context) -> Answers:
        """``prediction`` (``prediction_0``, ... for several), in the target's own units."""
        mean, std = context.target_scale or (0.0, 1.0)
        values = (outputs.double() * std + mean).numpy()
        return numbered("prediction", values)
