"""Segmentation: a class for every pixel; targets are int64 ``(batch, height, width)``, below 0 where nothing counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.tasks.kinds.base import Answers, Context, Kind, Known
from trivet.tasks.kinds.views import rows_of

if TYPE_CHECKING:
    from trivet.recipes.recipe import Part

__all__ = ["Segmentation"]

LEVELS = 64
"""Into how many levels the brightness of a pixel is cut for the simple baseline."""


class Segmentation(Kind):
    """Which pixels are what. Logits are ``(batch, classes, height, width)``, two classes for a yes-or-no mask.

    A model of the user's own with one logit per pixel is judged too: its targets are float ``(batch, 1, h, w)``.
    """

    name: ClassVar[str] = "segmentation"
    unit: ClassVar[str] = "image"
    an_output_per_class: ClassVar[bool] = True

    def shape_target(self, target: Tensor) -> Tensor:
        """Labels ``(batch, h, w)`` as int64; float ``(batch, 1, h, w)`` stays for models with one logit."""
        if target.ndim == 4 and target.shape[1] == 1 and target.is_floating_point():
            return target
        return (target.squeeze(1) if target.ndim == 4 else target).long()

    def check_targets(self, targets: Tensor, where: str) -> None:
        """Refuse what is no map, and masks of one class where they are to be learned."""
        if targets.ndim not in (3, 4):
            raise DataError(f"the {where} target has shape {tuple(targets.shape)}; masks are (images, height, width)")
        if where != "train":
            return
        present = torch.unique(targets[targets >= 0])
        if len(present) < 2:
            raise DataError(f"the masks hold one class only ({present.tolist()}); there is nothing to tell apart")

    def check_labels(self, targets: Tensor, outputs: int, where: str) -> None:
        """Refuse labels beyond the training masks' palette."""
        highest = int(targets.max())
        if highest >= max(outputs, 2):
            raise DataError(f"the {where} masks have label {highest}; the palette of training ends at {outputs - 1}")

    def outputs(self, targets: Tensor) -> int:
        """One logit per class, or one in all for float targets."""
        return 1 if targets.ndim == 4 else int(targets.max()) + 1

    def default_metric(self, targets: Tensor) -> str:
        """Intersection over union: a large background cannot hide a missed object, as it does in pixel accuracy."""
        return "iou"

    def plain_loss(self, outputs: int) -> Part:
        """Cross entropy for every pixel, plus Dice for every class of an image."""
        if outputs == 1:
            return {"name": "binary_cross_entropy_with_logits + dice_loss"}
        return {"name": "cross_entropy + dice_loss"}

    def class_counts(self, targets: Tensor, outputs: int) -> Tensor:
        """Pixels of each class."""
        return torch.bincount(targets[targets >= 0].long().flatten(), minlength=max(outputs, 2))

    def output_shape(self, targets: Tensor, outputs: int) -> tuple[int, ...]:
        """``(batch, classes, height, width)``."""
        return (len(targets), outputs, *targets.shape[-2:])

    def trivial(self, known: Known) -> tuple[str, Tensor]:
        """The largest class everywhere: its overlap with everything else is nothing."""
        prior = self.class_counts(known.targets, known.outputs).double()
        return "largest class everywhere", _everywhere((prior / prior.sum()).log().float(), known)

    def simple(self, known: Known) -> tuple[str, Tensor] | None:
        """The likeliest class of a pixel's brightness: the best threshold, for two classes and one object tone."""
        inputs, unseen = known.inputs, known.unseen
        if isinstance(inputs, tuple) or isinstance(unseen, tuple) or inputs.ndim != 4 or known.outputs == 1:
            return None
        gray, labels = inputs.mean(dim=1), known.targets
        # Quantiles of a sample: all pixels of a set would be sorted for nothing.
        sample = gray.flatten()[:: max(1, gray.numel() // 100_000)]
        edges = torch.quantile(sample, torch.linspace(0, 1, LEVELS + 1)[1:-1])
        edges = torch.unique(edges)
        levels, counted = torch.bucketize(gray, edges), labels >= 0
        joint = levels[counted] * known.outputs + labels[counted]
        table = torch.bincount(joint, minlength=(len(edges) + 1) * known.outputs).reshape(-1, known.outputs) + 1e-3
        scores = (table / table.sum(dim=1, keepdim=True)).log()
        found = scores[torch.bucketize(unseen.mean(dim=1), edges)]
        return "likeliest class of a brightness", found.permute(0, 3, 1, 2).float()

    def answers(self, outputs: Tensor, context: Context) -> Answers:
        """``mask``: the number of each pixel's class; and each class's share of the image."""
        mask = (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(dim=1)
        said: Answers = {"mask": mask.numpy().astype("uint8" if outputs.shape[1] < 256 else "int32")}
        for at, name in enumerate(context.classes):
            said[f"share of {name}"] = (mask == at).double().mean(dim=(1, 2)).numpy()
        return said


def _everywhere(scores: Tensor, known: Known) -> Tensor:
    scores = scores[1:] - scores[:1] if known.outputs == 1 else scores
    return scores.view(1, -1, 1, 1).expand(rows_of(known.unseen), -1, *known.targets.shape[-2:])
