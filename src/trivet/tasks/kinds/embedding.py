"""Embedding: vectors in which rows of one class lie close, also for classes that training never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from trivet.errors import DataError, InputError
from trivet.tasks.kinds.base import Answers, Context, Kind, Known
from trivet.tasks.kinds.views import rows_of

if TYPE_CHECKING:
    from trivet.recipes.recipe import Part

__all__ = ["Embedding"]

FEATURES = 64
"""The size of the vectors of a reference model."""

TOGETHER = 4
"""Rows of a class that stand side by side in an epoch's order, so that a batch holds positive pairs."""


class Embedding(Kind):
    """The space itself is the product: for retrieval, verification, few examples. Validation and test hold other
    classes than training, since that is what the vectors are for.
    """

    name: ClassVar[str] = "embedding"
    unit: ClassVar[str] = "query"

    def shape_target(self, target: Tensor) -> Tensor:
        """Give labels the shape ``(batch,)`` in int64."""
        return target.long().reshape(-1)

    def check_targets(self, targets: Tensor, where: str) -> None:
        """Refuse splits without a pair of one class, or without a second class."""
        counts = torch.unique(targets, return_counts=True)[1]
        if len(counts) < 2 or int(counts.max()) < 2:
            raise DataError(
                f"the {where} labels have {len(counts)} classes, the largest of {int(counts.max())} rows; an embedding "
                "needs two classes or more, and two rows or more of some"
            )

    def groups(self, targets: Tensor) -> Tensor:
        """The classes themselves: none is torn apart by the splits."""
        return targets

    def order(self, targets: Tensor, generator: torch.Generator) -> Tensor:
        """A permutation in which rows of a class stand in runs of four, the runs shuffled."""
        shuffled = torch.randperm(len(targets), generator=generator)
        by_class: Tensor = shuffled[targets[shuffled].argsort(stable=True)]
        # A run begins with every fourth row of its class; runs keep their rows and change places.
        _, count = torch.unique_consecutive(targets[by_class], return_counts=True)
        within = torch.cat([torch.arange(int(size)) for size in count])
        run = ((within % TOGETHER) == 0).long().cumsum(0) - 1
        place = torch.randperm(int(run[-1]) + 1, generator=generator)
        order: Tensor = torch.index_select(by_class, 0, place[run].argsort(stable=True))
        return order

    def outputs(self, targets: Tensor) -> int:
        """The size of the vectors, which is free: 64 for the reference model."""
        return FEATURES

    def check_output(self, output: object, targets: Tensor, outputs: int) -> None:
        """Any ``(batch, features)`` will do."""
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(targets) or output.shape[1] < 2:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(f"the model's output for {len(targets)} rows is {shape}; an embedding is (rows, features)")

    def default_metric(self, targets: Tensor) -> str:
        """Mean average precision at R: the whole ranking of a query counts, not its first hit alone."""
        return "map_at_r"

    def plain_loss(self, outputs: int) -> Part:
        """Supervised contrast: every other row of the batch is a positive or a negative."""
        return {"name": "supervised_contrastive_loss"}

    def class_counts(self, targets: Tensor, outputs: int) -> Tensor:
        """Rows of each class that occurs."""
        counts: Tensor = torch.unique(targets, return_counts=True)[1]
        return counts

    def trivial(self, known: Known) -> tuple[str, Tensor]:
        """Random vectors, the same for equal data: the chance level."""
        generator = torch.Generator().manual_seed(0)
        return "random vectors", torch.randn(rows_of(known.unseen), 16, generator=generator)

    def simple(self, known: Known) -> tuple[str, Tensor] | None:
        """The inputs themselves: what the nearest rows are before anything was learned."""
        if not isinstance(known.unseen, Tensor) or not known.unseen.is_floating_point():
            return None
        return "raw inputs", known.unseen.flatten(1)

    def answers(self, outputs: Tensor, context: Context) -> Answers:
        """The unit vector of each row: ``feature_0``, ``feature_1``, ..."""
        unit = torch.nn.functional.normalize(outputs, dim=1).numpy()
        return {f"feature_{at}": unit[:, at] for at in range(unit.shape[1])}
