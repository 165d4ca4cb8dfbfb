"""Where frameworks disagree about a loss of one name: what each does, how to ask for it, and by how much it differs.

The numbers are computed when asked for, on one small batch, so that no page can say what the code no longer does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trivet.losses.examples import EXAMPLES, Example

__all__ = ["CONVENTIONS", "Convention", "batch", "differences", "value"]

ROWS, SEED = 9, 3  # of the first seeds, the one on which all differences show


@dataclass(frozen=True)
class Convention:
    """One reading of a loss: whose it is, the keywords that ask for it, and what is different.

    ``given`` holds what must be set for the difference to show (class weights, smoothing); it is given to both sides.
    No keywords means that the framework agrees with the default up to what ``says`` names. ``on`` names a loss whose
    batch is taken where the loss's own would not show the difference.
    """

    framework: str
    says: str
    keywords: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    on: str = ""


_WEIGHT = torch.tensor([1.0, 2.0, 3.0, 4.0])

_MONAI = Convention(
    "MONAI",
    "its sum adds up the classes too, and its mean does not divide by class weights (else no difference)",
    {"convention": "monai"},
    {"reduction": "sum"},
)

CONVENTIONS: dict[str, tuple[Convention, ...]] = {
    "arcface_loss": (
        Convention(
            "pytorch-metric-learning",
            "takes the margin in degrees; its default of 28.6 is 0.5 radians",
            {"convention": "pml"},
            {"margin": 28.6},
        ),
    ),
    "asymmetric_loss": (Convention("the authors' code, timm", "adds up: there is no mean", {"reduction": "sum"}),),
    "binary_cross_entropy_with_logits": (
        Convention("torch, MONAI", "no smoothing of their own; the same without it"),
        Convention(
            "segmentation-models-pytorch",
            "smoothing moves both targets by its full size, not by half of it",
            {"convention": "smp"},
            {"label_smoothing": 0.1},
        ),
        Convention(
            "timm",
            "smoothing is spread over the labels of a row",
            {"convention": "timm"},
            {"label_smoothing": 0.1},
        ),
    ),
    "boundary_loss": (
        Convention(
            "the authors' code",
            "averages over the classes that count as well, where the paper adds them up",
            {"convention": "authors"},
        ),
    ),
    "contrastive_loss": (
        Convention(
            "pytorch-metric-learning",
            "unit vectors, distances not squared; positive and negative pairs averaged apart, those of 0 left out",
            {"convention": "pml"},
        ),
    ),
    "cosine_embedding_loss": (
        Convention("torch", "adds 1e-12 to squared lengths; the same to 1e-6 for vectors longer than 1e-3"),
        Convention("Keras", "CosineSimilarity is the negative cosine: the same gradient, a value lower by 1"),
    ),
    "cross_entropy": (
        Convention(
            "Keras",
            "class weights act as sample weights: the mean divides by the number of rows, not by their weights",
            {"convention": "keras"},
            {"weight": _WEIGHT},
        ),
        Convention(
            "Keras, smoothed",
            "smoothing does not touch class weights: each row's smoothed loss is weighted by its label's class",
            {"convention": "keras"},
            {"weight": _WEIGHT, "label_smoothing": 0.1},
        ),
    ),
    "dice_loss": (
        _MONAI,
        Convention("V-Net", "squares the probabilities in the denominator", {"convention": "vnet"}),
        Convention(
            "segmentation-models-pytorch",
            "pools the batch, no smoothing, a class absent from the target counts as 0 in the mean",
            {"convention": "smp"},
        ),
        Convention(
            "optax",
            "the halved form, in which the smoothing counts twice",
            {"convention": "optax"},
            {"smooth": 1.0},
        ),
        Convention("kornia", "one ratio for all classes of an image", {"convention": "kornia", "smooth": 0.0}),
        Convention("Keras", "one ratio for all classes of the batch", {"convention": "keras", "smooth": 1e-7}),
    ),
    "focal_loss": (
        Convention("torchvision, MONAI, Keras (binary)", "no difference: alpha on positives, 1 - alpha on negatives"),
        Convention("Keras (categorical)", "alpha multiplies both sides", {"convention": "keras"}),
        Convention("Keras (binary) and MONAI, defaults", "no alpha unless it is asked for", {"alpha": None}),
        Convention(
            "the paper's training, Detectron, torchvision's detectors",
            "the mean divides by the number of positives, not of elements",
            {"convention": "retinanet"},
        ),
        Convention(
            "MONAI",
            "its sum adds up the means over space",
            {"convention": "monai"},
            {"reduction": "sum"},
            on="lovasz_hinge_loss",
        ),
    ),
    "focal_tversky_loss": (
        Convention(
            "segmentation-models-pytorch",
            "pools the batch, and gamma is the power of the mean over classes",
            {"convention": "smp"},
            {"gamma": 2.0},
        ),
    ),
    "generalized_cross_entropy_loss": (Convention("Keras", "another default, q=0.5", {"q": 0.5}),),
    "hinge_loss": (Convention("Keras, scikit-learn", "no difference; labels are -1 and 1 there, 0 and 1 here"),),
    "huber_loss": (
        Convention("torch, Keras, optax", "no difference; it is delta times their Smooth L1 of beta = delta"),
    ),
    "info_nce_loss": (Convention("lightly", "another default temperature, 0.5", {"temperature": 0.5}),),
    "jaccard_loss": (
        Convention(
            "segmentation-models-pytorch",
            "pools the batch, no smoothing, a class absent from the target counts as 0 in the mean",
            {"convention": "smp"},
            {"smooth": 1.0},
        ),
        Convention(
            "MONAI (DiceLoss with jaccard=True)",
            "half of the smoothing; its sum adds up the classes too, and its mean does not divide by class weights",
            {"convention": "monai"},
            {"smooth": 1.0},
        ),
    ),
    "kl_div_loss": (
        Convention(
            "Liger",
            "does not multiply by the squared temperature",
            {"convention": "liger"},
            {"temperature": 2.0},
        ),
        Convention(
            "torch",
            "its mean divides by the number of classes too; no squared temperature",
            {"convention": "torch"},
            {"temperature": 2.0},
        ),
    ),
    "log_cosh_loss": (Convention("Keras, optax", "no difference"),),
    "mse_loss": (Convention("optax", "l2_loss is half of it", {"convention": "optax"}),),
    "multi_similarity_loss": (
        Convention("pytorch-metric-learning", "base 0.5 and no mining of its own", {"convention": "pml"}),
    ),
    "nt_xent_loss": (
        Convention("lightly, MONAI", "no difference: temperature 0.5"),
        Convention("pytorch-metric-learning, optax", "another default temperature, 0.07", {"temperature": 0.07}),
    ),
    "poisson_nll_loss": (
        Convention(
            "Keras",
            "takes rates, not their logarithms, and keeps the logarithm finite by 1e-7",
            {"log_input": False, "eps": 1e-7},
        ),
    ),
    "softmax_focal_loss": (
        Convention(
            "Keras (categorical)",
            "the mean divides by the number of rows; alpha is one weight for every class",
            {"convention": "keras", "weight": torch.full((4,), 0.25)},
        ),
        Convention(
            "MONAI, kornia",
            "the mean divides by rows times classes; alpha weighs every class but the first, which has 1 - alpha",
            {"convention": "monai", "weight": torch.tensor([0.75, 0.25, 0.25, 0.25])},
        ),
        Convention(
            "MONAI, summed",
            "adds up the means over space",
            {"convention": "monai"},
            {"reduction": "sum"},
            on="dice_loss",
        ),
        Convention(
            "AdeelH's (torch.hub)",
            "one alpha for each class, and the mean divides by the number of rows",
            {"convention": "keras"},
            {"weight": _WEIGHT},
        ),
    ),
    "supervised_contrastive_loss": (
        Convention(
            "pytorch-metric-learning (NTXentLoss)",
            "leaves the anchor's other positives out of the denominator and averages over positive pairs",
            {"denominator": "negatives"},
        ),
    ),
    "symmetric_cross_entropy_loss": (
        Convention("the authors' code", "takes the logarithm of 0 to be that of 1e-4", {"log_zero": math.log(1e-4)}),
    ),
    "triplet_loss": (
        Convention(
            "pytorch-metric-learning",
            "unit vectors, the mean over triplets that are not zero; its default margin is 0.05",
            {"convention": "pml", "margin": 0.05},
        ),
        Convention(
            "Hermans et al.",
            "the mean over triplets that are not zero",
            {"convention": "nonzero"},
            {"margin": 0.2},
        ),
        Convention(
            "TensorFlow Addons",
            "a positive pair without a semi-hard negative takes the farthest one",
            {"convention": "tensorflow"},
            {"mining": "semi_hard"},
        ),
    ),
    "tversky_loss": (
        Convention(
            "segmentation-models-pytorch",
            "pools the batch, no smoothing, a class absent from the target counts as 0 in the mean",
            {"convention": "smp"},
            {"alpha": 0.3, "beta": 0.7},
        ),
        Convention(
            "Keras",
            "one ratio for the whole batch; alpha prices what is missed, whatever its documentation says",
            {"convention": "keras", "smooth": 1e-7},
            {"alpha": 0.3, "beta": 0.7},
        ),
        _MONAI,
    ),
}


def batch(name: str, on: str = "") -> tuple[Tensor, Tensor]:
    """Return the batch of a loss's numbers: nine rows in float64, drawn with seed 3; or that of the loss ``on``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        input, target = EXAMPLES[on or name].batch(ROWS, 1.0)
    return (input.abs(), target) if name == "poisson_nll_loss" else (input, target)


def value(name: str, on: str = "", **keywords: object) -> float:
    """Return a loss's value on its batch, or on another loss's.

    >>> round(value("mse_loss"), 4) == round(2 * value("mse_loss", convention="optax"), 4)
    True
    """
    from trivet import losses  # the catalogue stands above this table

    example: Example = EXAMPLES[name]
    kind = losses.catalogue()[name]
    if "backend" in kind._hyperparameters():
        keywords.setdefault("backend", "torch")  # nine rows are no reason to compile a kernel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        loss = kind(**{**example.arguments, **keywords}).double()
    with torch.no_grad():
        return float(loss(*batch(name, on)))


def differences(name: str) -> str:
    """Return a loss's disagreements between frameworks in words and numbers; empty where none is known.

    >>> print(differences("mse_loss"))
    Where frameworks differ (values on nine rows drawn with seed 3):
    <BLANKLINE>
    - optax: l2_loss is half of it: 0.5578 instead of 1.116 (convention='optax')
    """
    lines = [_line(name, convention) for convention in CONVENTIONS.get(name, ())]
    return (
        f"Where frameworks differ (values on nine rows drawn with seed {SEED}):\n\n" + "\n".join(lines) if lines else ""
    )


def _line(name: str, convention: Convention) -> str:
    said = f"- {convention.framework}: {convention.says}"
    if not convention.keywords:
        return said
    ours = value(name, convention.on, **convention.given)
    theirs = value(name, convention.on, **{**convention.given, **convention.keywords})
    asked, given = (_written(part) for part in (convention.keywords, convention.given))
    return f"{said}: {theirs:.4g} instead of {ours:.4g}" + (f" for {given}" if given else "") + f" ({asked})"


def _written(keywords: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={_short(value)}" for key, value in keywords.items())


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value.tolist()) if isinstance(value, Tensor) else repr(value)
