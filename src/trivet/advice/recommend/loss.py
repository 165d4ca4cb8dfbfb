"""Which loss: what error matters, given the kind of task, its metric and its data."""

from __future__ import annotations

from trivet.facts import Profile
from trivet.recipes import Advice, Edit, Recipe

# Asymptotic relative efficiency 95 % on normal residuals: Huber 1964, Annals of Mathematical Statistics 35.
HUBER_DELTA = 1.345
BALANCED_METRICS = {"balanced_accuracy", "macro_f1"}
ABSOLUTE_METRICS = {"mae", "median_absolute_error"}


# Why a kind's plain loss is where every choice starts, by the kind.
PLAIN = {
    "regression": "The target is a number and the mean is what squared error estimates.",
    "counts": "The target counts something: a Poisson likelihood of the log rate keeps predictions positive and lets "
    "large counts vary more than small ones.",
    "binary": "Two classes: cross entropy on one logit is proper (its minimum is the true probability), and the "
    "decision threshold is set afterwards on validation data.",
    "multilabel": "Labels that do not exclude each other: cross entropy on each logit is proper label by label, and "
    "each label's threshold is set afterwards on validation data.",
    "segmentation": "Cross entropy on every pixel is proper and has a gradient everywhere; Dice adds what it lacks, "
    "the overlap of each class however few its pixels.",
    "language": "The next symbol out of all: cross entropy at every position is the likelihood that the metric reads.",
    "embedding": "Each row is drawn to all rows of its class in the batch and pushed from all others, by cosine, as "
    "the metric ranks; batches are drawn so that every row has positives.",
    "multiclass": "One class of several: cross entropy on logits is proper, so its minimum is the true class "
    "probabilities.",
}


def plain(profile: Profile, recipe: Recipe) -> tuple[Advice, ...]:
    """The proper loss of the kind is where every choice starts."""
    return (
        Advice(
            Edit("loss", dict(recipe.loss)),
            PLAIN[profile.kind],
            {"kind": profile.kind, "metric": profile.metric},
            "maximum likelihood",
            0.8,
        ),
    )


def absolute_error(profile: Profile, recipe: Recipe) -> tuple[Advice, ...] | None:
    """A metric of absolute error is minimised by the median, not by the mean."""
    if profile.kind != "regression" or profile.metric not in ABSOLUTE_METRICS:
        return None
    scale = profile.data.residual_scale or 1.0
    delta = round(max(0.05, 0.5 * scale), 3)
    return (
        Advice(
            Edit("loss", {"name": "huber_loss", "delta": delta}),
            f"The metric is {profile.metric}, which the conditional median minimises. A Huber loss with a small delta "
            "is absolute error with a smooth bottom, so gradients shrink near the optimum.",
            {"residual scale (target sd)": scale},
            "Huber 1964",
            0.75,
            {"mse_loss": "it estimates the mean, and large residuals would dominate"},
        ),
    )


def heavy_tails(profile: Profile, recipe: Recipe) -> tuple[Advice, ...] | None:
    """Residual tails far beyond a Laplace distribution's: a few rows would own most of the squared error."""
    data = profile.data
    if recipe.loss["name"] != "mse_loss" or data.residual_kurtosis is None or data.outlier_share is None:
        return None
    if data.residual_kurtosis < 20 or data.outlier_share < 0.005:
        return None
    delta = round(HUBER_DELTA * max(data.residual_scale or 1.0, 0.05), 3)
    return (
        Advice(
            Edit("loss", {"name": "huber_loss", "delta": delta}),
            "The residuals of a robust linear fit have tails far heavier than a normal distribution's, so squared "
            "error would follow a few rows. Huber is squared error for the others and linear for these.",
            {"residual kurtosis": data.residual_kurtosis, "outlier share": data.outlier_share},
            "Huber 1964; delta = 1.345 robust standard deviations",
            0.7,
            {
                "mse_loss": "a few rows would carry most of the loss",
                "l1_loss": "it wastes the well-behaved rows",
            },
        ),
    )


def imbalance(profile: Profile, recipe: Recipe) -> tuple[Advice, ...] | None:
    """A balanced metric on unbalanced classes: weight the classes so that the loss counts as the metric does."""
    data = profile.data
    if profile.kind != "multiclass" or profile.metric not in BALANCED_METRICS or (data.imbalance or 1) < 1.5:
        return None
    counts = [max(count, 1) for count in data.class_counts]
    mean = sum(counts) / len(counts)
    # Square-root weights: between the plain loss (no weights) and full inverse frequency, which overfits rare rows.
    power = 1.0 if (data.imbalance or 1) < 10 else 0.5
    weights = [(mean / count) ** power for count in counts]
    scale = sum(w * c for w, c in zip(weights, counts, strict=True)) / sum(counts)
    return (
        Advice(
            Edit("loss", {"name": "cross_entropy", "weight": [round(w / scale, 4) for w in weights]}),
            f"The classes differ in size and the metric ({profile.metric}) counts every class the same; "
            "weights make the loss do so too"
            + (", by the square root of the frequencies because the rarest class is small." if power < 1 else "."),
            {"imbalance": data.imbalance or 1.0, "smallest share": data.minority_share or 0.0},
            "King & Zeng 2001 (weights); square root as a compromise is a prior of this project",
            0.65,
            {"plain cross_entropy": "it would trade the small classes for the large one"},
        ),
    )


def threshold_afterwards(profile: Profile, recipe: Recipe) -> tuple[Advice, ...] | None:
    """Imbalanced binary tasks: keep the plain loss; ranking metrics and a tuned threshold do the rest."""
    share = profile.data.minority_share
    if profile.kind != "binary" or share is None or share > 0.25:
        return None
    return (
        Advice(
            Edit("loss", {"name": "binary_cross_entropy_with_logits"}),
            f"One class holds {share:.1%} of the rows. The plain loss keeps probabilities honest and the decision "
            "threshold, tuned on validation data, handles the imbalance.",
            {"smallest share": share, "rows of it": min(profile.data.class_counts)},
            "Elkan 2001, The foundations of cost-sensitive learning",
            0.7,
            {
                "class weights": "they move the threshold and spoil the probabilities, for the same ranking",
                "focal_loss": "a candidate for a search, seldom better than a tuned threshold",
            },
        ),
    )


def smoothing(profile: Profile, recipe: Recipe) -> tuple[Advice, ...] | None:
    """A network that can memorise its images becomes overconfident; a little smoothing holds it back."""
    layers = profile.model.layers
    if profile.kind != "multiclass" or "weight" in recipe.loss or not layers.get("convolution"):
        return None
    if profile.model.pretrained or profile.data.outputs < 5 or profile.metric == "log_loss":
        return None
    return (
        Advice(
            Edit("loss.label_smoothing", 0.1),
            "A convolutional network trained from scratch fits its training images exactly; smoothing the labels "
            "stops it from growing logits without end.",
            {"classes": profile.data.outputs, "parameters": profile.model.parameters},
            "Szegedy et al. 2016; timm's default for image classification",
            0.6,
            {"none": "usually slightly worse accuracy from scratch, though better calibrated"},
        ),
    )


RULES = (plain, absolute_error, heavy_tails, imbalance, threshold_afterwards, smoothing)
