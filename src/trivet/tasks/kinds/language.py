"""Language modelling: the next symbol at every position; targets are int64 ``(batch, length)``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.tasks.kinds.base import Answers, Context, Kind, Known
from trivet.tasks.kinds.views import rows_of

if TYPE_CHECKING:
    from trivet.recipes.recipe import Part

__all__ = ["Language"]


class Language(Kind):
    """Predict each symbol of a text from those before it. Logits are ``(batch, symbols, length)``, as losses take them.

    A target below 0 takes no part.
    """

    name: ClassVar[str] = "language"
    unit: ClassVar[str] = "text"
    an_output_per_class: ClassVar[bool] = True

    def shape_target(self, target: Tensor) -> Tensor:
        """Give ``(batch, length)`` int64."""
        return target.long()

    def check_targets(self, targets: Tensor, where: str) -> None:
        """Refuse what is no batch of texts."""
        if targets.ndim != 2:
            raise DataError(f"the {where} target has shape {tuple(targets.shape)}; next symbols are (texts, length)")
        if where == "train" and len(torch.unique(targets)) < 2:
            raise DataError("the text is one symbol repeated; there is nothing to learn")

    def check_labels(self, targets: Tensor, outputs: int, where: str) -> None:
        """Refuse symbols that the model has no logit for."""
        if int(targets.max()) >= outputs:
            raise DataError(f"the {where} text has symbol {int(targets.max())}; the model knows 0 to {outputs - 1}")

    def outputs(self, targets: Tensor) -> int:
        """One logit per symbol."""
        return int(targets.max()) + 1

    def default_metric(self, targets: Tensor) -> str:
        """Bits per character: comparable between models, and with any compressor."""
        return "bits_per_character"

    def plain_loss(self, outputs: int) -> Part:
        """Cross entropy at every position."""
        return {"name": "cross_entropy"}

    def class_counts(self, targets: Tensor, outputs: int) -> Tensor:
        """How often each symbol occurs."""
        return torch.bincount(targets[targets >= 0].flatten(), minlength=outputs)

    def output_shape(self, targets: Tensor, outputs: int) -> tuple[int, ...]:
        """``(batch, symbols, length)``."""
        return (len(targets), outputs, targets.shape[1])

    def trivial(self, known: Known) -> tuple[str, Tensor]:
        """The frequency of every symbol, whatever came before."""
        counts = self.class_counts(known.targets, known.outputs).double() + 0.5
        rows = rows_of(known.unseen)
        length = known.targets.shape[1]
        return "symbol frequencies", (counts / counts.sum()).log().float().view(1, -1, 1).expand(rows, -1, length)

    def simple(self, known: Known) -> tuple[str, Tensor] | None:
        """The frequency of every symbol after the one before it (bigrams), half a count added to each pair."""
        if isinstance(known.inputs, tuple) or isinstance(known.unseen, tuple):
            return None
        counted = known.targets >= 0
        joint = known.inputs.long()[counted] * known.outputs + known.targets[counted]
        table = torch.bincount(joint, minlength=known.outputs**2).reshape(known.outputs, -1).double() + 0.5
        scores = (table / table.sum(dim=1, keepdim=True)).log().float()
        return "bigrams", scores[known.unseen.long()].transpose(1, 2)

    def answers(self, outputs: Tensor, context: Context) -> Answers:
        """For each text its ``bits_per_character``, and the likeliest ``next`` symbol with its ``probability``."""
        assert isinstance(context.inputs, Tensor)
        ids = context.inputs.long()
        lengths = (ids != 0).long().cumsum(dim=1).argmax(dim=1) + 1  # 0 fills a text up to the longest
        surprise = torch.nn.functional.cross_entropy(outputs[:, :, :-1], ids[:, 1:], reduction="none").double()
        inside = torch.arange(1, ids.shape[1]) < lengths.unsqueeze(1)
        bits = (surprise * inside).sum(dim=1) / inside.sum(dim=1) / math.log(2)
        last = outputs[torch.arange(len(outputs)), :, lengths - 1].double().softmax(dim=1)
        probability, chosen = last.max(dim=1)
        symbols = np.asarray(context.classes, dtype=object)
        return {
            "bits_per_character": bits.numpy(),
            "next": symbols[chosen.numpy()],
            "probability": probability.numpy(),
        }
