"""Losses: what error matters. All take logits, ``input`` before ``target``, and share one contract."""

from __future__ import annotations

from trivet.losses.binary import (
    BCEWithLogitsLoss,
    FocalLoss,
    binary_cross_entropy_with_logits,
    focal_loss,
)
from trivet.losses.boundary import BoundaryLoss, boundary_loss, signed_distance
from trivet.losses.categorical import CrossEntropyLoss, cross_entropy
from trivet.losses.combine import CombinedLoss
from trivet.losses.contract import Loss
from trivet.losses.distillation import (
    FeatureMatchingLoss,
    JensenShannonLoss,
    KLDivLoss,
    feature_matching_loss,
    jensen_shannon_loss,
    kl_div_loss,
)
from trivet.losses.embedding import (
    ArcFaceLoss,
    ContrastiveLoss,
    CosFaceLoss,
    CosineEmbeddingLoss,
    InfoNCELoss,
    MultiSimilarityLoss,
    NTXentLoss,
    SupervisedContrastiveLoss,
    TripletLoss,
    arcface_loss,
    contrastive_loss,
    cosface_loss,
    cosine_embedding_loss,
    info_nce_loss,
    multi_similarity_loss,
    nt_xent_loss,
    supervised_contrastive_loss,
    triplet_loss,
)
from trivet.losses.guards import Guarded, Problem, check, inspect_batch
from trivet.losses.language import LinearCrossEntropyLoss, ZLoss, linear_cross_entropy, next_token, z_loss
from trivet.losses.likelihood import GaussianNLLLoss, PoissonNLLLoss, gaussian_nll_loss, poisson_nll_loss
from trivet.losses.lovasz import LovaszHingeLoss, LovaszLoss, lovasz_hinge_loss, lovasz_loss
from trivet.losses.odds import (
    GeneralizedCrossEntropyLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    SoftmaxFocalLoss,
    SymmetricCrossEntropyLoss,
    generalized_cross_entropy_loss,
    ldam_loss,
    logit_adjusted_loss,
    softmax_focal_loss,
    symmetric_cross_entropy_loss,
)
from trivet.losses.outliers import (
    L1Loss,
    LogCoshLoss,
    QuantileLoss,
    SmoothL1Loss,
    l1_loss,
    log_cosh_loss,
    quantile_loss,
    smooth_l1_loss,
)
from trivet.losses.overlap import (
    DiceLoss,
    FocalTverskyLoss,
    JaccardLoss,
    TverskyLoss,
    dice_loss,
    focal_tversky_loss,
    jaccard_loss,
    tversky_loss,
)
from trivet.losses.portraits import Portrait, portrait
from trivet.losses.squares import HuberLoss, MSELoss, huber_loss, mse_loss
from trivet.losses.weights import class_counts, class_weights
from trivet.losses.yes_no import AsymmetricLoss, HingeLoss, asymmetric_loss, hinge_loss

__all__ = [
    "ArcFaceLoss",
    "AsymmetricLoss",
    "BCEWithLogitsLoss",
    "BoundaryLoss",
    "CombinedLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "DiceLoss",
    "FeatureMatchingLoss",
    "FocalLoss",
    "FocalTverskyLoss",
    "GaussianNLLLoss",
    "GeneralizedCrossEntropyLoss",
    "Guarded",
    "HingeLoss",
    "HuberLoss",
    "InfoNCELoss",
    "JaccardLoss",
    "JensenShannonLoss",
    "KLDivLoss",
    "L1Loss",
    "LDAMLoss",
    "LinearCrossEntropyLoss",
    "LogCoshLoss",
    "LogitAdjustedLoss",
    "Loss",
    "LovaszHingeLoss",
    "LovaszLoss",
    "MSELoss",
    "MultiSimilarityLoss",
    "NTXentLoss",
    "PoissonNLLLoss",
    "Portrait",
    "Problem",
    "QuantileLoss",
    "SmoothL1Loss",
    "SoftmaxFocalLoss",
    "SupervisedContrastiveLoss",
    "SymmetricCrossEntropyLoss",
    "TripletLoss",
    "TverskyLoss",
    "ZLoss",
    "arcface_loss",
    "asymmetric_loss",
    "binary_cross_entropy_with_logits",
    "boundary_loss",
    "catalogue",
    "check",
    "class_counts",
    "class_weights",
    "contrastive_loss",
    "cosface_loss",
    "cosine_embedding_loss",
    "cross_entropy",
    "dice_loss",
    "feature_matching_loss",
    "focal_loss",
    "focal_tversky_loss",
    "gaussian_nll_loss",
    "generalized_cross_entropy_loss",
    "hinge_loss",
    "huber_loss",
    "info_nce_loss",
    "inspect_batch",
    "jaccard_loss",
    "jensen_shannon_loss",
    "kl_div_loss",
    "l1_loss",
    "ldam_loss",
    "linear_cross_entropy",
    "log_cosh_loss",
    "logit_adjusted_loss",
    "lovasz_hinge_loss",
    "lovasz_loss",
    "mse_loss",
    "multi_similarity_loss",
    "next_token",
    "nt_xent_loss",
    "poisson_nll_loss",
    "portrait",
    "quantile_loss",
    "signed_distance",
    "smooth_l1_loss",
    "softmax_focal_loss",
    "supervised_contrastive_loss",
    "symmetric_cross_entropy_loss",
    "triplet_loss",
    "tversky_loss",
    "z_loss",
]


def catalogue() -> dict[str, type[Loss]]:
    """Return every loss: the name of its function, and its module class.

    >>> catalogue()["triplet_loss"].__name__
    'TripletLoss'
    """
    parts = [part for part in map(globals().get, __all__) if isinstance(part, type) and issubclass(part, Loss)]
    return {part.function.__name__: part for part in parts if part is not Loss}
