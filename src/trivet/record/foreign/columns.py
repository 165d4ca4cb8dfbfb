"""Which name of a log is the loss, the rate, the metric: read from the words in it, or told by the user."""

from __future__ import annotations

import re
from collections.abc import Mapping

from trivet.errors import RunError, unknown_name

ROLES = ("step", "epoch", "time", "loss", "lr", "grad_norm", "val_loss", "metric", "train_metric")
VALIDATION = ("val", "valid", "validation", "eval", "dev", "test", "heldout", "holdout")
HIGHER = (
    "accuracy", "acc", "auroc", "auc", "f1", "iou", "miou", "dice", "map", "r2", "bleu", "rouge", "mcc", "matthews",
    "spearman", "pearson", "recall", "precision", "psnr", "ssim", "ndcg", "mrr", "score", "reward", "kappa", "top1",
    "top5", "accuracytop1",
)  # fmt: skip
LOWER = ("perplexity", "ppl", "rmse", "mse", "mae", "mape", "error", "err", "wer", "cer", "fid", "bpc", "bpb", "rmsle")
_TRAIN = ("train", "training", "tr")
_STEP = ("step", "globalstep", "trainerglobalstep", "steps", "iteration", "iter", "iterations", "numupdates", "update")
_TIME = ("runtime", "walltime", "elapsed", "seconds", "timestamp", "time", "relativetime")
# Names that only look like one of the above: bookkeeping of trainers, and envelopes of exports.
_NEVER = re.compile(
    r"(runtime|per_second|samples|__min|__max|steps_per|total_flos|lossscale|loss_scale|best)", re.IGNORECASE
)


def words(name: str) -> list[str]:
    """Split a name into lower-case words.

    >>> words("train/lossEpoch"), words("lr-AdamW/pg1")
    (['train', 'loss', 'epoch'], ['lr', 'adam', 'w', 'pg1'])
    """
    return [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d*|\d+", name)]


def guess(counts: Mapping[str, int], given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the column for each role that has one; `given` overrules. Raises `RunError` for names that are not there.

    >>> guess({"epoch": 9, "loss": 9, "val_loss": 9, "val_acc": 9, "lr": 9})
    {'epoch': 'epoch', 'loss': 'loss', 'lr': 'lr', 'val_loss': 'val_loss', 'metric': 'val_acc'}
    """
    given = dict(given or {})
    for role, column in given.items():
        if role not in ROLES:
            raise unknown_name("role of a column", role, ROLES, error=RunError)
        if column not in counts:
            raise unknown_name("column", column, counts, error=RunError)
    taken: dict[str, str] = {}
    for role in ROLES:
        if role in given:
            taken[role] = given[role]
            continue
        free = [n for n, c in counts.items() if c and n not in given.values() and n not in taken.values()]
        scored = [(score, min(counts[n], 10**9), -len(n), n) for n in free if (score := _score(role, n)) > 0]
        if scored:
            taken[role] = max(scored)[3]
    return taken


def higher_is_better(name: str) -> bool:
    """Return whether larger values of a metric are better, by the words of its name.

    >>> higher_is_better("eval_accuracy"), higher_is_better("val/perplexity")
    (True, False)
    """
    return not any(word in LOWER or word == "loss" for word in words(name))


def _score(role: str, name: str) -> float:
    """Return how well a name fits a role; 0 for not at all."""
    split, joined = words(name), "".join(words(name))
    held_out = next((VALIDATION.index(w) for w in split if w in VALIDATION), None)
    if role == "step":
        return 10.0 - _STEP.index(joined) if joined in _STEP else 0.0
    if role == "epoch":
        return float(joined in ("epoch", "epochs", "trainepoch"))
    if role == "time":
        return 10.0 - _TIME.index(joined) if joined in _TIME else 0.0
    if _NEVER.search(name):
        return 0.0
    if role == "lr":
        rate = "lr" in split or ("learning" in split and "rate" in split) or joined == "learningrate"
        return (2.0 - ("group" in joined or "pg" in joined)) if rate else 0.0
    if role == "grad_norm":
        norm = joined in ("gradnorm", "gradientnorm", "totalnorm") or (
            any(w in ("grad", "gradient", "grads") for w in split) and "norm" in split
        )
        return 1.0 + ("total" in split) if norm else 0.0
    if role == "loss":
        if held_out is not None:
            return 0.0
        if "loss" in split or joined in ("nll", "objective", "cost") or joined.endswith("loss"):
            return 4.0 + 3 * (joined == "loss") + 2 * any(w in _TRAIN for w in split) - ("epoch" in split) * 0.5
        return 0.0
    if role == "val_loss":
        fits = held_out is not None and ("loss" in split or "nll" in split or joined.endswith("loss"))
        return 10.0 - held_out if fits and held_out is not None else 0.0
    known = next((HIGHER.index(w) for w in split if w in HIGHER), None)
    if known is None:
        known = next((len(HIGHER) + LOWER.index(w) for w in split if w in LOWER), None)
    if known is None or "loss" in split:
        return 0.0
    worth = 100.0 - known
    if role == "metric":
        return worth + 10 - held_out if held_out is not None else 0.0
    return worth if held_out is None else 0.0
