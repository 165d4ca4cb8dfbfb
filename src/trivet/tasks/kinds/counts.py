"""Counts: float targets ``(batch, outputs)`` of whole numbers from 0; outputs are logarithms of rates."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from trivet.errors import DataError, require
from trivet.tasks.kinds.base import Answers, Context, Kind, Known
from trivet.tasks.kinds.views import numbered, numpy_matrix, rows_of

if TYPE_CHECKING:
    from trivet.recipes.recipe import Part

__all__ = ["Counts"]


class Counts(Kind):
    """How many: visits, defects, nuclei. The model predicts the logarithm of the expected count.

    Large counts differ more than small ones, which a Poisson likelihood expects and squared error does not.
    """

    name: ClassVar[str] = "counts"

    def shape_target(self, target: Tensor) -> Tensor:
        """Give ``(batch,)`` the shape ``(batch, 1)``, in float32."""
        target = target.float()
        return target.unsqueeze(-1) if target.ndim == 1 else target

    def check_targets(self, targets: Tensor, where: str) -> None:
        """Refuse what is negative or not finite, and a constant count where it is to be learned."""
        broken = targets[~torch.isfinite(targets) | (targets < 0)]
        if len(broken):
            raise DataError(_no_counts(broken, where))
        if where == "train" and len(targets) and bool((targets == targets[0]).all()):
            raise DataError(f"the target is constant ({float(targets.flatten()[0]):g}); there is nothing to learn")

    def check_values(self, values: Tensor, where: str) -> None:
        """Refuse numbers with a fraction."""
        broken = values[values != values.round()]
        if len(broken):
            raise DataError(_no_counts(broken, where))

    def scale(self, values: Tensor) -> tuple[float, float]:
        """Counts are divided by their mean: the log rates that fit then lie around 0, where a fresh model starts."""
        return 0.0, float(values.mean()) or 1.0

    def outputs(self, targets: Tensor) -> int:
        """One log rate per target column."""
        return int(targets.shape[1])

    def default_metric(self, targets: Tensor) -> str:
        """The Poisson deviance: it asks of every count what its size lets one ask."""
        return "poisson_deviance"

    def plain_loss(self, outputs: int) -> Part:
        """The Poisson likelihood of a log rate."""
        return {"name": "poisson_nll_loss"}

    def numbers(self, targets: Tensor) -> Tensor:
        """``log(1 + count)``: on that scale the size of the counts does not look like a heavy tail."""
        return targets.log1p()

    def trivial(self, known: Known) -> tuple[str, Tensor]:
        """The mean count for every row, the median under the mean absolute error; 0 would have no logarithm."""
        targets = known.targets.double()
        middle = targets.quantile(0.5, dim=0) if known.metric.name == "mae" else targets.mean(dim=0)
        name = "median count" if known.metric.name == "mae" else "mean count"
        return name, middle.clamp_min(1e-3).log().expand(rows_of(known.unseen), known.outputs)

    def simple(self, known: Known) -> tuple[str, Tensor]:
        """A generalised linear model with Poisson likelihood, one for each target column."""
        linear_model = require("sklearn.linear_model", "app")
        inputs, unseen = (numpy_matrix(known.matrix(part)) for part in (known.inputs, known.unseen))
        columns = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for target in known.targets.double().numpy().T:
                model = linear_model.PoissonRegressor(alpha=1e-2, max_iter=300).fit(inputs, target)
                columns.append(torch.from_numpy(unseen @ model.coef_ + model.intercept_))
        # A linear log rate is exponentiated: one strange row must not become infinite.
        return "Poisson regression", torch.stack(columns, dim=1).clamp(-30, 30)

    def answers(self, outputs: Tensor, context: Context) -> Answers:
        """``prediction``, the expected count."""
        _, mean = context.target_scale or (0.0, 1.0)
        return numbered("prediction", (outputs.double().exp() * mean).numpy())


def _no_counts(broken: Tensor, where: str) -> str:
    return (
        f"the {where} target has {len(broken)} values that are no counts, such as {float(broken[0]):g}; a counts task "
        "needs 0, 1, 2, ...: try kind='regression'"
    )
