"""Losses on embeddings: the space itself is the product."""

from __future__ import annotations

from trivet.losses.embedding.modules import (
    ArcFaceLoss,
    ContrastiveLoss,
    CosFaceLoss,
    CosineEmbeddingLoss,
    InfoNCELoss,
    MultiSimilarityLoss,
    NTXentLoss,
    SupervisedContrastiveLoss,
    TripletLoss,
)
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

__all__ = [
    "ArcFaceLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CosineEmbeddingLoss",
    "InfoNCELoss",
    "MultiSimilarityLoss",
    "NTXentLoss",
    "SupervisedContrastiveLoss",
    "TripletLoss",
    "arcface_loss",
    "contrastive_loss",
    "cosface_loss",
    "cosine_embedding_loss",
    "info_nce_loss",
    "multi_similarity_loss",
    "nt_xent_loss",
    "supervised_contrastive_loss",
    "triplet_loss",
]
