"""The loss: does it fit the kind of task, the metric, the targets and the model's outputs?"""

from __future__ import annotations

from trivet.advice.lint.base import Setup, Severity, found, nice, rule
from trivet.advice.recommend.loss import HUBER_DELTA
from trivet.losses import catalogue
from trivet.recipes import Edit, Finding
from trivet.recipes.catalogue import loss_terms
from trivet.recipes.recipe import Part

PLAIN_ENTROPY = ("cross_entropy", "binary_cross_entropy_with_logits", "binary_cross_entropy", "nll_loss")
SQUARED = ("mse_loss",)
PROPER_METRICS = ("log_loss", "brier", "perplexity", "bits_per_character", "calibration_error")
ABSOLUTE_METRICS = ("mae", "median_absolute_error")
CLASS_BALANCED = ("balanced_accuracy", "macro_f1")
# Losses whose minimum is not the true probability: they move it on purpose.
BENT = (
    "focal_loss",
    "softmax_focal_loss",
    "hinge_loss",
    "logit_adjusted_loss",
    "ldam_loss",
    "asymmetric_loss",
    "generalized_cross_entropy_loss",
)

# Losses of regression whose outputs are the logarithm of a rate, or a mean and a variance.
MEANINGS = {"poisson_nll_loss", "gaussian_nll_loss"}


@rule("TV101", "the loss does not fit the kind of task", source="the shapes and meanings of each kind of task")
def misfit(s: Setup) -> Finding | None:
    """Every kind of task fixes what outputs and targets mean, and every loss what it takes: numbers, one logit, a
    logit per class, overlapping regions, vectors. A loss of another kind may run, by chance of shapes, and then
    learns something else: Dice on a table of numbers, squared error on logits.

    It happens when a recipe is carried from one task to another. Take the plain loss of the kind, or one of its
    family.
    """
    if s.kind is None or s.recipe is None or s.profile is None or s.kind.name in ("embedding", "language"):
        return None
    plain = dict(s.kind.plain_loss(s.profile.data.outputs))
    dense = s.targets is not None and s.targets.ndim >= 3
    usual = [term for _, term in loss_terms(str(plain["name"]))]
    strange = [term for _, term in loss_terms(s.loss_name) if term in catalogue() and not _fits(term, usual, dense)]
    if not strange:
        return None
    mine = catalogue()[strange[0]].kind
    return found(
        "TV101",
        "error" if s.start is not None and s.start.failed else "warning",
        f"{strange[0]} is a loss for {mine} outputs; a {s.kind.name} task starts from {plain['name']}.",
        Edit("loss", plain),
        {"loss": strange[0], "takes": str(mine), "kind": s.kind.name},
    )


@rule(
    "TV102", "the loss and the metric ask for different things", source="elicitability: Gneiting 2011", confidence=0.8
)
def misaligned(s: Setup) -> Finding | None:
    """What minimises the loss should be what the metric rewards. Squared error is minimised by the mean and absolute
    error by the median: for skewed targets these differ. A metric of probabilities (log loss) is won by losses whose
    minimum is the true probability; focal and re-weighted losses bend it on purpose.

    It happens when the loss is chosen by habit and the metric by the business. Take the loss that the metric is made
    of.
    """
    if s.profile is None or s.recipe is None:
        return None
    data, metric = s.profile.data, s.metric
    if metric in PROPER_METRICS and (
        s.loss_name in BENT or s.recipe.loss.get("weight") or s.recipe.loss.get("pos_weight")
    ):
        plain: Part = {"name": "cross_entropy"} if s.kind is None else dict(s.kind.plain_loss(data.outputs))
        what = s.loss_name if s.loss_name in BENT else f"{s.loss_name} with class weights"
        return found(
            "TV102",
            "warning",
            f"{metric} rewards true probabilities, and {what} bends them on purpose.",
            Edit("loss", plain),
            {"metric": metric, "loss": s.loss_name},
        )
    skew, tails = abs(data.target_skew or 0.0), data.residual_kurtosis or 0.0
    if metric in ABSOLUTE_METRICS and s.loss_name in SQUARED and (skew > 1 or tails > 3):
        delta = nice(max(0.05, 0.5 * (data.residual_scale or 1.0)))
        return found(
            "TV102",
            "warning",
            f"{metric} is won by the median, squared error aims at the mean, and this target is skewed.",
            Edit("loss", {"name": "huber_loss", "delta": delta}),
            {"metric": metric, "target skew": skew, "residual kurtosis": tails},
        )
    if metric in ("rmse", "r2") and s.loss_name in ("l1_loss", "quantile_loss") and skew > 1:
        return found(
            "TV102",
            "warning",
            f"{metric} is won by the mean, {s.loss_name} aims at a quantile, and this target is skewed.",
            Edit("loss", {"name": "mse_loss"}),
            {"metric": metric, "target skew": skew},
        )
    return None


@rule(
    "TV103",
    "plain cross entropy under heavy imbalance",
    source="King and Zeng 2001; Menon et al. 2021",
    confidence=0.75,
)
def imbalance(s: Setup) -> Finding | None:
    """With classes of very different size, plain cross entropy gives up the small ones: they hardly move the mean.
    That is right for log loss and for accuracy, and wrong for a metric that counts every class the same.

    It happens whenever classes are counted by rows. Adjust the logits by the class shares, weigh the classes, or,
    with two classes, keep the loss and tune the decision threshold on validation data (`fit` does).
    """
    if s.loss_name not in PLAIN_ENTROPY or (s.recipe is not None and s.recipe.loss.get("weight")):
        return None
    counts = _counts(s)
    if counts is None or getattr(s.loss, "weight", None) is not None or getattr(s.loss, "pos_weight", None) is not None:
        return None
    present = [count for count in counts if count > 0]
    if len(present) < 2 or (ratio := max(present) / min(present)) < 10:
        return None
    evidence: dict[str, float | int | str] = {
        "largest over smallest class": ratio,
        "rows of the smallest": min(present),
    }
    if s.kind is not None and (s.kind.decides or s.metric not in CLASS_BALANCED):
        words = "keep the loss and tune the decision threshold on validation data (fit does this)"
        words = words if s.kind.decides else "judge by balanced_accuracy if every class counts the same"
        return found("TV103", "note", f"The largest class is {ratio:.0f} times the smallest.", words, evidence)
    counted: dict[str, object] = {"name": "logit_adjusted_loss", "counts": [max(int(c), 1) for c in counts]}
    fix = s.edit("loss", counted, "add log(class share) to the logits in the loss, or weigh the classes")
    severity: Severity = "warning" if s.kind is not None or len(present) > 2 else "note"
    judged = f" and {s.metric} counts every class the same" if s.metric in CLASS_BALANCED else ""
    return found(
        "TV103",
        severity,
        f"The largest class is {ratio:.0f} times the smallest{judged}.",
        fix,
        evidence,
        refuted_by="the metric is log loss or accuracy",
    )


@rule("TV104", "squared error with outliers", source="Huber 1964", confidence=0.8)
def outliers(s: Setup) -> Finding | None:
    """The square of a large residual is very large: a few rows own the loss and its gradient, and the fit follows
    them. The tails are measured on the residuals of a robust linear fit, so tails that inputs explain do not count.

    It happens with prices, durations and sensors that fail. Take Huber's loss, squared near zero and linear beyond,
    unless the rare large values are what matters.
    """
    if s.loss_name not in SQUARED:
        return None
    if s.profile is not None and s.profile.data.residual_kurtosis is not None:
        kurtosis, share = s.profile.data.residual_kurtosis, s.profile.data.outlier_share or 0.0
        scale = s.profile.data.residual_scale or 1.0
    elif s.targets is not None and s.targets.is_floating_point() and s.targets.numel() >= 64:
        y = s.targets.detach().double().flatten()
        centred = y - y.median()
        scale = max(1.4826 * float(centred.abs().median()), 1e-12)
        share = float((centred.abs() > 10 * scale).double().mean())
        kurtosis = float((y - y.mean()).pow(4).mean() / y.var().clamp_min(1e-24).pow(2)) - 3
        if share == 0 or share > 0.1:
            return None
    else:
        return None
    if kurtosis < 20:
        return None
    severity: Severity = "warning" if share >= 0.005 or s.profile is None else "note"
    delta = nice(HUBER_DELTA * max(scale, 0.05)) if s.profile is not None else nice(HUBER_DELTA * scale)
    return found(
        "TV104",
        severity,
        f"{share:.2%} of the rows lie far out (excess kurtosis {kurtosis:.0f}) and squared error follows them.",
        s.edit("loss", {"name": "huber_loss", "delta": delta}, f"use HuberLoss(delta={delta:g})"),
        {"residual kurtosis": kurtosis, "outlier share": share},
        refuted_by="the metric is rmse and the rare large values are what matters",
    )


@rule("TV105", "softmax or sigmoid applied twice", source="the definition of the loss", confidence=0.98)
def activated_twice(s: Setup) -> Finding | None:
    """Losses of logits apply softmax or sigmoid themselves. If the model ends with one already, the loss sees
    numbers between 0 and 1 as logits: gradients shrink, and the loss cannot fall below a floor far above zero.
    Lint checks that outputs stay in [0, 1] for stretched inputs too, so it is not chance.

    It happens because a model is meant to give probabilities. Remove the last activation and apply it only when
    predicting.
    """
    if s.start is None or not s.start.output:
        return None
    problem = s.problem("double-softmax", "probabilities-for-logits")
    if problem is None or (problem.code == "double-softmax" and s.start.output != "probabilities"):
        return None
    return found(
        "TV105", "error", problem.message[0].upper() + problem.message[1:] + ".", problem.fix, problem.evidence
    )


@rule(
    "TV106", "logits given to a loss of probabilities", source="torch.nn.BCELoss, NLLLoss, KLDivLoss", confidence=0.98
)
def not_activated(s: Setup) -> Finding | None:
    """Some losses of torch take probabilities (BCELoss) or their logarithms (NLLLoss, KLDivLoss). Given raw outputs
    they fail, or return numbers that mean nothing and may fall below zero.

    It happens when the last activation is removed and the loss is kept. Take the loss of logits: it is exact where
    the other one rounds.
    """
    problem = s.problem("logits-for-probabilities", "logits-for-log-probabilities")
    if problem is None:
        return None
    return found(
        "TV106", "error", problem.message[0].upper() + problem.message[1:] + ".", problem.fix, problem.evidence
    )


@rule("TV107", "targets out of range", source="the definition of the loss", confidence=0.98)
def target_range(s: Setup) -> Finding | None:
    """Labels must be 0 to classes - 1, yes-or-no targets lie in [0, 1], soft targets add up to 1. Others raise an
    error deep in a kernel at best, and train towards nonsense at worst.

    It happens with labels that begin at 1, with -1 for "no", and with one output too few. Number the labels anew or
    widen the last layer.
    """
    problem = s.problem("target-out-of-range", "target-no-distribution")
    if problem is None:
        return None
    return found(
        "TV107", "error", problem.message[0].upper() + problem.message[1:] + ".", problem.fix, problem.evidence
    )


@rule("TV108", "output and target do not have the same shape", source="torch's broadcasting rules", confidence=0.98)
def shapes(s: Setup) -> Finding | None:
    """An output (batch, 1) and a target (batch,) broadcast to (batch, batch): every prediction is compared with every
    target. Training runs, the loss falls a little, and the model learns the mean.

    It happens in nearly every first regression. Give both the same shape.
    """
    problem = s.problem("accidental-broadcast", "shape-mismatch", "target-column")
    if problem is None or (s.recipe is not None and problem.code == "accidental-broadcast"):
        return None  # trivet's own loop aligns the two
    if s.start is not None and not s.start.failed and problem.code != "accidental-broadcast":
        return None  # the loss takes it
    return found(
        "TV108", "error", problem.message[0].upper() + problem.message[1:] + ".", problem.fix, problem.evidence
    )


@rule("TV109", "class weights of the wrong length", source="the definition of the loss", confidence=0.99)
def weights(s: Setup) -> Finding | None:
    """There must be one weight for each class.

    It happens when a class is added, or a recipe is carried to another data set. Compute the weights anew, from the
    training rows.
    """
    problem = s.problem("weight-length")
    if problem is None:
        return None
    fix = s.edit("loss.weight", None, problem.fix)
    return found("TV109", "error", problem.message[0].upper() + problem.message[1:] + ".", fix, problem.evidence)


@rule(
    "TV110", "label smoothing under a metric of probabilities", source="Müller et al. 2019, section 2", confidence=0.85
)
def smoothing(s: Setup) -> Finding | None:
    """Label smoothing teaches the model to be less sure than it could be. Accuracy may gain; log loss, perplexity and
    calibration on clean labels lose, because the minimum is no longer the true probability.

    It happens when a recipe for accuracy is reused. Set it to 0, or calibrate on validation data afterwards.
    """
    amount = getattr(s.loss, "label_smoothing", 0.0) if s.recipe is None else s.recipe.loss.get("label_smoothing", 0.0)
    if s.metric not in PROPER_METRICS or not isinstance(amount, int | float) or amount <= 0:
        return None
    return found(
        "TV110",
        "warning",
        f"Labels are smoothed by {amount:g}, and {s.metric} rewards true probabilities.",
        s.edit("loss.label_smoothing", None, "set label_smoothing to 0"),
        {"label_smoothing": float(amount)},
    )


def _fits(term: str, usual: list[str], dense: bool) -> bool:
    """Return whether a loss takes what one of a kind's usual losses takes; region losses need a target per pixel."""
    mine = catalogue()[term].kind
    if term in usual or mine == "matching":
        return True
    if mine == "region":
        return dense
    if term in MEANINGS or not MEANINGS.isdisjoint(usual):  # alike in shape, not in what an output means
        return term == "gaussian_nll_loss" and "mse_loss" in usual
    return mine in {catalogue()[other].kind for other in usual}


def _counts(s: Setup) -> list[float] | None:
    if s.profile is not None:
        return [float(count) for count in s.profile.data.class_counts] or None
    if s.targets is None or s.targets.is_floating_point() or s.targets.numel() < 64 or s.targets.ndim != 1:
        return None
    return [float(count) for count in s.targets.detach().flatten().clamp_min(0).bincount()]
