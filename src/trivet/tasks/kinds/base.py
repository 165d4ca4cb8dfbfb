"""What a kind of task must say about itself; each kind is one small class in a file of this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from trivet.errors import InputError, unknown_name
from trivet.tasks.metrics import Metric

__all__ = ["KINDS", "Kind", "kind_named"]


class Kind(ABC):
    """The shapes, checks, default metric and baselines of one kind of task.

    Targets and outputs have fixed shapes per kind, so that a loss never broadcasts by accident:
    ``regression`` and ``binary`` targets are float ``(batch, outputs)`` like the model's output,
    ``multiclass`` targets are int64 ``(batch,)`` against logits ``(batch, classes)``.
    """

    name: ClassVar[str]
    classifies: ClassVar[bool] = False

    @abstractmethod
    def shape_target(self, target: Tensor) -> Tensor:
        """Give a batch of targets the kind's dtype and shape."""

    @abstractmethod
    def check_targets(self, targets: Tensor, where: str) -> None:
        """Raise DataError when shaped targets cannot be learned or judged; ``where`` names the split."""

    @abstractmethod
    def outputs(self, targets: Tensor) -> int:
        """The size of the model's output that these targets need."""

    @abstractmethod
    def default_metric(self, targets: Tensor) -> str:
        """The metric that suits the targets when the user names none."""

    def strata(self, targets: Tensor) -> Tensor | None:
        """Integer labels to stratify the splits by, or None for a plain random split."""
        return None

    def check_output(self, output: object, rows: int, outputs: int) -> None:
        """Raise InputError unless a model's output for ``rows`` rows is ``(rows, outputs)``."""
        if not isinstance(output, Tensor):
            raise InputError(
                f"the model returned {type(output).__name__}; a {self.name} task needs one tensor of outputs"
            )
        if tuple(output.shape) != (rows, outputs):
            raise InputError(
                f"the model's output for {rows} rows has shape {tuple(output.shape)}; this {self.name} task "
                f"needs ({rows}, {outputs}): end the model with {outputs} output{'s' * (outputs > 1)}"
            )

    def trivial(self, targets: Tensor, rows: int, outputs: int, metric: Metric) -> tuple[str, Tensor] | None:
        """Name and outputs of the best prediction that ignores the input, or None where there is none."""
        return None

    def simple(
        self, inputs: Tensor, targets: Tensor, unseen: Tensor, outputs: int, metric: Metric
    ) -> tuple[str, Tensor] | None:
        """Name and outputs on ``unseen`` of a linear model fitted on ``(rows, features)`` inputs, or None."""
        return None


KINDS: dict[str, Kind] = {}


def kind_named(name: str) -> Kind:
    """Find a kind of task by its name; raises InputError with the nearest offered."""
    if name not in KINDS:
        raise unknown_name("kind of task", name, KINDS, error=InputError)
    return KINDS[name]
