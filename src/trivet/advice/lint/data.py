"""The data: numbers that are none, units, rows that are in two splits, and splits too small to judge by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from trivet.advice.lint.base import Setup, Severity, finite, found, rule
from trivet.recipes import Finding

UNBOUNDED = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "log_cosh_loss", "gaussian_nll_loss")


@rule(
    "TV112", "NaN or infinity in the data", source="IEEE 754: NaN spreads to every weight in one step", confidence=1.0
)
def not_finite(s: Setup) -> Finding | None:
    """A single NaN in a batch makes the loss NaN, and one optimizer step later every weight.

    It happens with missing values, logarithms of zero and divisions by a constant column's spread. Impute, or drop
    the rows.
    """
    for name, part in (("inputs", s.inputs), ("targets", s.targets)):
        for tensor in part if isinstance(part, tuple | list) else (part,):
            if isinstance(tensor, Tensor) and not finite(tensor):
                bad = int((~torch.isfinite(tensor)).sum())
                rows = int((~torch.isfinite(tensor.reshape(len(tensor), -1))).any(dim=1).sum())
                return found(
                    "TV112",
                    "error",
                    f"{bad} of {tensor.numel()} values of the {name} are NaN or infinite, in {rows} rows.",
                    "impute these values or drop the rows before training",
                    {"bad": bad, "rows": rows},
                )
    return None


@rule("TV113", "inputs in raw units", source="LeCun et al. 1998, Efficient BackProp, section 4.3", confidence=0.85)
def raw_inputs(s: Setup) -> Finding | None:
    """A feature in thousands beside one in hundredths makes the loss a ravine: one rate is too high for the one and
    too low for the other. Very large inputs push the first layer into saturation.

    It happens with raw tables and with images of 0 to 255. Standardise each feature by the training split, or let
    the model begin with a normalisation.
    """
    x = s.inputs[0] if isinstance(s.inputs, tuple | list) else s.inputs
    if x is None or not x.is_floating_point() or x.ndim < 2 or len(x) < 4 or not finite(x):
        return None
    first = next((m for m in s.model.modules() if not list(m.children())), None) if s.model is not None else None
    if isinstance(first, _BatchNorm) or "Norm" in type(first).__name__:
        return None
    wide = x.detach().float()
    rms = float(wide.square().mean().sqrt())
    spread = 1.0
    if x.ndim == 2 and x.shape[1] > 1:
        each = wide.std(dim=0)
        each = each[each > 0]
        spread = float(each.max() / each.median()) if len(each) > 1 else 1.0
    if not (rms > 20 or (spread > 30 and rms > 5)):
        return None
    return found(
        "TV113",
        "warning",
        f"Inputs have size {rms:.3g}, and the widest feature varies {spread:.3g} times as much as the middle one.",
        "standardise each feature with the mean and standard deviation of the training split",
        {"input rms": rms, "largest over median spread": spread},
        refuted_by="the model normalises its inputs itself",
    )


@rule("TV114", "a target far from what a fresh model gives", source="LeCun et al. 1998, section 4.3", confidence=0.85)
def target_scale(s: Setup) -> Finding | None:
    """A fresh model's outputs lie near 0 with a spread near 1. Targets around 200,000 are reached only after many
    steps, with gradients that are as large as the target; tiny targets give gradients that vanish.

    It happens with prices and counts in raw units. Standardise the target by the training split and undo it when
    predicting.
    """
    y = s.targets
    if s.loss_name not in UNBOUNDED or y is None or not y.is_floating_point() or y.numel() < 8 or not finite(y):
        return None
    mean, std = float(y.float().mean()), float(y.float().std())
    spread = max(s.start.output_std or 1.0, 1.0) if s.start is not None else 1.0
    if std > 0 and abs(mean) < 10 * max(spread, std) and 0.01 < std < 30 * spread and abs(mean) < 30 * spread:
        return None
    return found(
        "TV114",
        "warning",
        f"Targets have mean {mean:.3g} and standard deviation {std:.3g}.",
        "standardise the target, (y - mean) / std from the training split, and undo it in predictions",
        {"target mean": mean, "target std": std, "output std at first": spread},
        refuted_by="the model's last layer starts at the target's mean and scale",
    )


@rule("TV115", "the same rows in two splits", source="Kapoor and Narayanan 2023, Leakage", confidence=0.9)
def duplicates(s: Setup) -> Finding | None:
    """Rows of validation or test whose inputs also occur in training are remembered, not predicted: scores there
    flatter, and choices made on validation are wrong.

    It happens when rows were copied, or when several rows belong to one patient or house. Remove the duplicates, or
    split by group (`--group COLUMN`).
    """
    if s.profile is None:
        return None
    share = max(s.profile.data.shared_with_val or 0.0, s.profile.data.shared_with_test or 0.0)
    if share < 0.01:
        return None
    severity: Severity = "warning" if share >= 0.05 else "note"
    return found(
        "TV115",
        severity,
        f"{share:.1%} of the rows of a held-out split have inputs that also occur in training.",
        "remove the duplicates, or split by a column that names the group: --group COLUMN",
        {"shared share": share},
        refuted_by="equal inputs are separate observations (few distinct values per column)",
    )


@rule("TV116", "a validation split too small for the metric", source="binomial standard error", confidence=0.95)
def tiny_validation(s: Setup) -> Finding | None:
    """A share measured on n rows has a standard error of up to sqrt(0.25 / n): 11 points for 20 rows, 5 for 100.
    Differences below that are noise, and choosing by them is choosing by luck.

    It happens with small data. Use cross-validation, several seeds, or a larger share of the data for validation.
    """
    if s.val_rows is None or s.val_rows >= 100:
        return None
    error = (0.25 / s.val_rows) ** 0.5
    return found(
        "TV116",
        "warning" if s.val_rows < 20 else "note",
        f"Validation has {s.val_rows} rows: a share measured there is uncertain by {error:.0%}.",
        "judge by several seeds (trivet compare), and take small differences for noise",
        {"validation rows": s.val_rows, "standard error": error},
    )


@rule("TV118", "a batch larger than the data", source="arithmetic", confidence=1.0)
def batch_size(s: Setup) -> Finding | None:
    """A batch holds at most all training rows: then every epoch is one step, the noise that helps generalisation is
    gone, and a run of 20 epochs has 20 steps.

    It happens when a recipe is carried to smaller data. Take a smaller batch, and scale the rate with it.
    """
    if s.recipe is None or s.rows is None or s.batch_size is None or s.batch_size <= s.rows:
        return None
    fit = 1 << max(0, (s.rows // 20).bit_length() - 1)
    return found(
        "TV118",
        "warning",
        f"The batch holds {s.batch_size} rows and the training split has {s.rows}.",
        s.edit("batch_size", max(fit, 8), "take a smaller batch"),
        {"batch": s.batch_size, "rows": s.rows},
    )


@rule(
    "TV117", "splits that are not alike", source="Lopez-Paz and Oquab 2017, classifier two-sample tests", confidence=0.8
)
def drift(s: Setup) -> Finding | None:
    """A small model tells rows of a held-out split from training rows: the splits differ, so a score on one says less
    about the other.

    It happens with data ordered by time, place or patient. If rows are alike in the end, split at random; if the
    future is what is to be predicted, let validation differ as test does (`--time COLUMN`).
    """
    data = s.profile.data if s.profile is not None else None
    if data is None or data.drift_error is None:
        return None
    auc = max(data.drift_val or 0.5, data.drift_test or 0.5)
    if auc - 0.5 < max(0.1, 4 * data.drift_error):
        return None
    return found(
        "TV117",
        "warning" if auc > 0.75 else "note",
        f"A model tells a held-out split from training: AUC {auc:.2f} (chance 0.5, error {data.drift_error:.2f}).",
        "split at random, or by time so that validation differs from training as test does",
        {"auc": auc, "standard error by chance": data.drift_error},
        refuted_by="the splits differ on purpose, and validation stands for what will come",
    )


@rule(
    "TV111",
    "labels that are doubtful",
    source="Northcutt et al. 2021, Confident Learning; measured here",
    confidence=0.6,
)
def label_noise(s: Setup) -> Finding | None:
    """Neighbours and a linear model agree on another label for many rows. Cross entropy has no bound: late in a run it
    spends itself on rows that are labelled wrong, and remembers them.

    It happens with labels from crowds, rules or other models. Look at these rows; take generalised cross entropy or
    label smoothing, and stop early.
    """
    data = s.profile.data if s.profile is not None else None
    if data is None or data.label_noise is None or s.loss_name not in ("cross_entropy",):
        return None
    error = data.label_noise_error or 0.0
    if data.label_noise - 2 * error < 0.08 or (s.recipe is not None and s.recipe.loss.get("label_smoothing")):
        return None
    return found(
        "TV111",
        "note",
        f"About {data.label_noise:.0%} of the labels are contradicted by their neighbours and by a linear model.",
        s.edit("loss", {"name": "generalized_cross_entropy_loss"}, "use trivet.losses.GeneralizedCrossEntropyLoss()"),
        {"contradicted": data.label_noise, "standard error": error},
        refuted_by="the classes overlap in the inputs; labels are right",
    )
