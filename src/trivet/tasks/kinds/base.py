"""What a kind of task must say about itself; each kind is one small class in a file of this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from trivet.errors import InputError, unknown_name
from trivet.tasks.decision import Decision
from trivet.tasks.metrics import Metric

if TYPE_CHECKING:
    from trivet.recipes.recipe import Part

__all__ = ["KINDS", "Answers", "Context", "Inputs", "Kind", "Known", "kind_named"]

Inputs = Tensor | tuple[Tensor, ...]
"""All inputs of a split, as tensors."""

Answers = dict[str, NDArray[Any]]
"""What a prediction says, column by column; every column has one entry per row."""


@dataclass(frozen=True)
class Known:
    """What a baseline is fitted on and asked about.

    ``inputs`` and ``targets`` are the rows of training and validation, ``unseen`` the inputs of the test split.
    ``matrix`` gives what a linear model sees of inputs: a float tensor or a SciPy sparse matrix ``(rows, columns)``;
    ``words`` names that view where it is more than the numbers themselves (``"TF-IDF"``).
    """

    inputs: Inputs
    targets: Tensor
    unseen: Inputs
    outputs: int
    metric: Metric
    matrix: Callable[[Inputs], Any]
    words: str = ""


@dataclass(frozen=True)
class Context:
    """What outputs mean: the classes' names, the decisions made on validation, the target's units, the inputs."""

    inputs: Inputs
    classes: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    target_scale: tuple[float, float] | None = None


class Kind(ABC):
    """The shapes, checks, default metric, plain loss, baselines and answers of one kind of task.

    Targets and outputs have fixed shapes per kind, so that a loss never broadcasts by accident:

    | kind | targets | outputs |
    |---|---|---|
    | regression, counts, binary, multilabel | float ``(batch, k)`` | ``(batch, k)``: numbers, log rates, logits |
    | multiclass | int64 ``(batch,)`` | logits ``(batch, classes)`` |
    | segmentation | float ``(batch, 1, h, w)`` or int64 ``(batch, h, w)`` | logits ``(batch, 1 or classes, h, w)`` |
    | language | int64 ``(batch, length)`` | logits ``(batch, symbols, length)`` |
    | embedding | int64 ``(batch,)`` | vectors ``(batch, features)`` |
    | distillation | float ``(batch, 1 + classes)``: label, teacher's logits | logits ``(batch, classes)`` |

    Facts, rules and lint ask a kind, never its name: `class_counts` (how often each class occurs, in the unit of
    the loss: rows, labels, pixels or symbols; None where there are no classes), `numbers` (the target as real
    numbers ``(rows, k)`` whose tails may be measured; None where it is none), `classifies`, `multi_hot`
    (columns that are 0 or 1), `plain_loss`, `decides` (a threshold is tuned afterwards) and `unit` (what a row is).
    """

    name: ClassVar[str]
    classifies: ClassVar[bool] = False
    """One label per row out of a closed set that every split shares."""
    an_output_per_class: ClassVar[bool] = False
    """The model has one output for each class, those that no row shows among them."""
    multi_hot: ClassVar[bool] = False
    decides: ClassVar[bool] = False
    unit: ClassVar[str] = "row"

    @abstractmethod
    def shape_target(self, target: Tensor) -> Tensor:
        """Give a batch of targets the kind's dtype and shape."""

    @abstractmethod
    def check_targets(self, targets: Tensor, where: str) -> None:
        """Raise DataError when shaped targets cannot be learned or judged; ``where`` names the split."""

    def check_values(self, values: Tensor, where: str) -> None:  # noqa: B027 - most kinds take what is shaped well
        """Raise DataError for targets in the user's own units that are of another kind."""

    def scale(self, values: Tensor) -> tuple[float, float] | None:
        """``(mean, std)`` that readers standardise the training targets by, or None; metrics put them back."""
        return None

    def check_labels(self, targets: Tensor, outputs: int, where: str) -> None:  # noqa: B027 - most kinds have no labels
        """Raise DataError for a label that the outputs have no place for."""

    @abstractmethod
    def outputs(self, targets: Tensor) -> int:
        """The size of the model's output that these targets need."""

    @abstractmethod
    def default_metric(self, targets: Tensor) -> str:
        """The metric that suits the targets when the user names none."""

    @abstractmethod
    def plain_loss(self, outputs: int) -> Part:
        """The loss part of a recipe (``{"name": ...}``) from which every recommendation starts."""

    # -- facts ------------------------------------------------------------------------------------

    def class_counts(self, targets: Tensor, outputs: int) -> Tensor | None:
        """How often each class occurs ``(classes,)``, or None where there are no classes."""
        return None

    def numbers(self, targets: Tensor) -> Tensor | None:
        """The target as numbers ``(rows, k)`` whose tails say something, or None."""
        return None

    # -- splits and batches -----------------------------------------------------------------------

    def strata(self, targets: Tensor) -> Tensor | None:
        """Integer labels to stratify the splits by, or None for a plain random split."""
        return None

    def groups(self, targets: Tensor) -> Tensor | None:
        """Integer labels of groups that must not be torn apart by the splits, or None."""
        return None

    def order(self, targets: Tensor, generator: torch.Generator) -> Tensor:
        """The order of the training rows in one epoch: a permutation."""
        return torch.randperm(len(targets), generator=generator)

    # -- outputs ----------------------------------------------------------------------------------

    def output_shape(self, targets: Tensor, outputs: int) -> tuple[int, ...]:
        """The shape of the output for a batch with these targets."""
        return (len(targets), outputs)

    def check_output(self, output: object, targets: Tensor, outputs: int) -> None:
        """Raise InputError unless a model's output fits a batch with these targets."""
        rows, wanted = len(targets), self.output_shape(targets, outputs)
        if not isinstance(output, Tensor):
            raise InputError(
                f"the model returned {type(output).__name__}; a {self.name} task needs one tensor of outputs"
            )
        if tuple(output.shape) != wanted:
            hint = f": end the model with {outputs} output{'s' * (outputs > 1)}" if len(wanted) == 2 else ""
            raise InputError(
                f"the model's output for {rows} rows has shape {tuple(output.shape)}; this {self.name} task "
                f"needs {wanted}{hint}"
            )

    # -- baselines and decisions ------------------------------------------------------------------

    def trivial(self, known: Known) -> tuple[str, Tensor] | None:
        """Name and outputs of the best prediction that ignores the input, or None where there is none."""
        return None

    def simple(self, known: Known) -> tuple[str, Tensor] | None:
        """Name and outputs on the unseen rows of a model that is fitted in seconds, or None."""
        return None

    def fit_decisions(self, outputs: Tensor, targets: Tensor, metric: Metric) -> tuple[Decision, ...]:
        """Calibration and threshold of each yes-or-no output, chosen on validation rows; empty where there is none."""
        return ()

    def decide(self, outputs: Tensor, decisions: tuple[Decision, ...], metric: Metric) -> Tensor:
        """Outputs as the metric is to see them once the decisions are made."""
        return outputs

    def answers(self, outputs: Tensor, context: Context) -> Answers:
        """What the outputs say in the user's own words and units."""
        raise InputError(f"a {self.name} run has no predictions to write yet; call its model instead")


KINDS: dict[str, Kind] = {}


def kind_named(name: str) -> Kind:
    """Find a kind of task by its name; raises InputError with the nearest offered."""
    if name not in KINDS:
        raise unknown_name("kind of task", name, KINDS, error=InputError)
    return KINDS[name]
