"""Module forms; the margin losses own their class prototypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trivet.losses.contract import Loss
from trivet.losses.embedding.pairs import (
    contrastive_loss,
    cosine_embedding_loss,
    multi_similarity_loss,
    triplet_loss,
)
from trivet.losses.embedding.softmax import (
    arcface_loss,
    cosface_loss,
    info_nce_loss,
    nt_xent_loss,
    supervised_contrastive_loss,
)


class ContrastiveLoss(Loss, function=contrastive_loss, kind="embedding"): ...


class TripletLoss(Loss, function=triplet_loss, kind="embedding"): ...


class MultiSimilarityLoss(Loss, function=multi_similarity_loss, kind="embedding"): ...


class NTXentLoss(Loss, function=nt_xent_loss, kind="views"): ...


class InfoNCELoss(Loss, function=info_nce_loss, kind="views"): ...


class SupervisedContrastiveLoss(Loss, function=supervised_contrastive_loss, kind="embedding"): ...


class CosineEmbeddingLoss(Loss, function=cosine_embedding_loss, kind="views"): ...


def _prototypes(num_classes: int, embedding_dim: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_classes, embedding_dim)))


class ArcFaceLoss(Loss, function=arcface_loss, kind="embedding"):
    """:func:`arcface_loss` with its prototypes; give ``loss.parameters()`` to the optimizer too."""

    prototypes: Tensor

    def __init__(self, num_classes: int, embedding_dim: int, **hyperparameters: object) -> None:
        super().__init__(prototypes=_prototypes(num_classes, embedding_dim), **hyperparameters)


class CosFaceLoss(Loss, function=cosface_loss, kind="embedding"):
    """:func:`cosface_loss` with its prototypes; give ``loss.parameters()`` to the optimizer too."""

    prototypes: Tensor

    def __init__(self, num_classes: int, embedding_dim: int, **hyperparameters: object) -> None:
        super().__init__(prototypes=_prototypes(num_classes, embedding_dim), **hyperparameters)
