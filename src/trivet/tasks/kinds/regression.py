"""Regression: float targets ``(batch, outputs)``."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from trivet.errors import DataError, require
from trivet.tasks.kinds.base import Kind
from trivet.tasks.metrics import Metric

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

    def outputs(self, targets: Tensor) -> int:
        """One output per target column."""
        return int(targets.shape[1])

    def default_metric(self, targets: Tensor) -> str:
        """Root mean squared error: in the user's units, and what most people expect."""
        return "rmse"

    def trivial(self, targets: Tensor, rows: int, outputs: int, metric: Metric) -> tuple[str, Tensor]:
        """The median under the mean absolute error, the mean otherwise: each minimises its metric."""
        if metric.name == "mae":
            return "median", targets.double().quantile(0.5, dim=0).expand(rows, outputs)
        return "mean", targets.double().mean(dim=0).expand(rows, outputs)

    def simple(
        self, inputs: Tensor, targets: Tensor, unseen: Tensor, outputs: int, metric: Metric
    ) -> tuple[str, Tensor]:
        """Ridge regression, its strength chosen by leave-one-out on the fitted rows."""
        linear_model = require("sklearn.linear_model", "app")
        ridge = linear_model.RidgeCV(alphas=[0.01, 0.1, 1.0, 10.0, 100.0, 1000.0])
        ridge.fit(inputs.double().numpy(), targets.double().numpy())
        return "ridge regression", torch.from_numpy(ridge.predict(unseen.double().numpy())).reshape(-1, outputs)
