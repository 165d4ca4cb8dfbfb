"""A batch for every loss: what tests, pages and benchmarks run over. A new loss adds one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["EXAMPLES", "Example"]


@dataclass(frozen=True)
class Example:
    """How to call a loss: the module's arguments, and a batch ``(rows, size of logits) -> input, target``."""

    batch: Callable[[int, float], tuple[Tensor, Tensor]]
    arguments: dict[str, Any] = field(default_factory=dict)
    rows: bool = True  # reduction="none" gives one value per sample, and the mean is over samples
    empty: Callable[[Tensor], Tensor] | None = None  # target -> a target of which nothing takes part
    largest: float = 1e4  # the largest logits or values that have a finite loss in float64


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _labels(n: int, size: float) -> tuple[Tensor, Tensor]:
    return size * _randn(n, 4), torch.arange(n) % 4


def _values(n: int, size: float) -> tuple[Tensor, Tensor]:
    return size * _randn(n), size * _randn(n)


def _answers(n: int, size: float) -> tuple[Tensor, Tensor]:
    return size * _randn(n), (torch.arange(n) % 2).double()


def _images(n: int, size: float) -> tuple[Tensor, Tensor]:
    return size * _randn(n, 3, 4, 5), torch.arange(n * 20).view(n, 4, 5) % 3


def _masks(n: int, size: float) -> tuple[Tensor, Tensor]:
    return size * _randn(n, 4, 5), (torch.arange(n * 20).view(n, 4, 5) % 3 == 0).double()


def _views(n: int, size: float) -> tuple[Tensor, Tensor]:
    return size * _randn(n, 6), size * _randn(n, 6)


def _embeddings(n: int, size: float) -> tuple[Tensor, Tensor]:
    return size * _randn(n, 6), torch.arange(n) % 3


def _counts(n: int, size: float) -> tuple[Tensor, Tensor]:
    return size * _randn(n), torch.arange(n).double()


def _ignored(target: Tensor) -> Tensor:
    return torch.full_like(target, -100)


def _alone(target: Tensor) -> Tensor:
    return torch.arange(len(target))


_COUNTS = {"counts": torch.tensor([50, 20, 5, 1])}
EXAMPLES: dict[str, Example] = {
    "arcface_loss": Example(_embeddings, {"num_classes": 3, "embedding_dim": 6}, empty=_ignored),
    "asymmetric_loss": Example(_answers),
    "binary_cross_entropy_with_logits": Example(_answers),
    "boundary_loss": Example(_images, empty=_ignored),
    "contrastive_loss": Example(_embeddings, rows=False),
    "cosface_loss": Example(_embeddings, {"num_classes": 3, "embedding_dim": 6}, empty=_ignored),
    "cosine_embedding_loss": Example(_views),
    "cross_entropy": Example(_labels, empty=_ignored),
    "dice_loss": Example(_images, empty=_ignored),
    "feature_matching_loss": Example(_views),
    "focal_loss": Example(_answers),
    "focal_tversky_loss": Example(_images, empty=_ignored),
    "gaussian_nll_loss": Example(lambda n, s: (torch.stack([s * _randn(n), _randn(n)], 1), s * _randn(n))),
    "generalized_cross_entropy_loss": Example(_labels, empty=_ignored),
    "hinge_loss": Example(_answers),
    "huber_loss": Example(_values),
    "info_nce_loss": Example(_views),
    "jaccard_loss": Example(_images, empty=_ignored),
    "jensen_shannon_loss": Example(lambda n, s: (s * _randn(n, 4), s * _randn(n, 4))),
    "kl_div_loss": Example(lambda n, s: (s * _randn(n, 4), s * _randn(n, 4))),
    "l1_loss": Example(_values),
    "ldam_loss": Example(_labels, _COUNTS, empty=_ignored),
    "linear_cross_entropy": Example(_embeddings, {"in_features": 6, "num_classes": 3}, empty=_ignored),
    "log_cosh_loss": Example(_values),
    "logit_adjusted_loss": Example(_labels, _COUNTS, empty=_ignored),
    "lovasz_hinge_loss": Example(_masks, {"pooling": "image"}),
    "lovasz_loss": Example(_images, {"pooling": "image"}, empty=_ignored),
    "mse_loss": Example(_values),
    "multi_similarity_loss": Example(_embeddings),
    "nt_xent_loss": Example(_views),
    "poisson_nll_loss": Example(_counts, largest=30.0),
    "quantile_loss": Example(_values),
    "smooth_l1_loss": Example(_values),
    "softmax_focal_loss": Example(_labels, empty=_ignored),
    "supervised_contrastive_loss": Example(_embeddings, empty=_alone),
    "symmetric_cross_entropy_loss": Example(_labels, empty=_ignored),
    "triplet_loss": Example(_embeddings, rows=False, empty=_alone),
    "tversky_loss": Example(_images, empty=_ignored),
    "z_loss": Example(_labels, empty=_ignored, largest=1e4),
}
