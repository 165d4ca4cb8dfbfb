"""What is learned: overfitting, a loss at odds with the metric, a class that is left out, decay that is too strong."""

from __future__ import annotations

import math

import numpy as np

from trivet.doctor.evidence import Evidence, median, running_median, tail
from trivet.doctor.rules.base import found, nice, rule, sure
from trivet.recipes import Edit, Finding


def _val(e: Evidence) -> tuple[np.ndarray, np.ndarray]:
    keep = np.isfinite(e.eval_loss)
    return e.eval_step[keep], running_median(e.eval_loss[keep], 3)


@rule("TV214", "overfitting", needs="loss eval_loss", explains="TV205")
def overfit(e: Evidence) -> Finding | None:
    """The validation loss turns and climbs while the training loss goes on falling."""
    at, val = _val(e)
    if val.size < 5:
        return None
    low = int(np.argmin(val))
    rise = val[-1] / val[low] - 1 if val[low] > 0 else math.nan
    gap = (val[-1] - e.final) / e.unit
    done = at[low] / max(at[-1], 1)
    falling = e.final < 0.9 * _train_at(e, at[low])
    if not (done < 0.7 and rise > 0.15 and gap > 0.15 and falling):
        return None
    metric = e.metric[np.isfinite(e.eval_loss)]
    lost = _metric_lost(metric)
    if lost is not None and lost <= 0:
        return None  # the metric holds: see TV215
    return found(
        "TV214",
        f"Validation loss has risen {rise:.0%} since step {at[low]:.0f} while training loss fell.",
        evidence={"lowest validation loss": float(val[low]), "last": float(val[-1]), "training loss": e.final},
        fix=Edit("epochs", nice(max(done, 0.05) * at[-1] / e.per_epoch))
        if e.per_epoch
        else (f"keep the weights of step {at[low]:.0f}; then ten times the weight decay, dropout, or more data"),
        refuted_by="another validation split keeps falling",
        confidence=sure(rise, 0.15, at=0.75),
        step=float(at[low]),
        severity="warning",
    )


def _train_at(e: Evidence, step: float) -> float:
    near = np.abs(e.step - step) <= max(1.0, 0.03 * float(e.step[-1]))
    return median(e.loss[near]) if near.any() else e.start


def _metric_lost(metric: np.ndarray) -> float | None:
    """Return how far the metric's level fell from its best level, above its own noise; None where it is unknown."""
    known = metric[np.isfinite(metric)]
    if known.size < 5:
        return None
    smooth = running_median(known, 5)
    noise = 1.4826 * median(np.abs(np.diff(known))) + 1e-12
    # Four hundredths of the level: a few rows of a small validation split.
    return float(smooth.max() - smooth[-3:].mean() - 0.5 * noise - 0.04 * abs(smooth.max()))


@rule("TV215", "loss and metric at odds", needs="loss eval_loss metric")
def conflict(e: Evidence) -> Finding | None:
    """Validation loss and metric point in different directions: the loss measures something else than what counts."""
    keep = np.isfinite(e.eval_loss) & np.isfinite(e.metric)
    loss, metric = e.eval_loss[keep], e.metric[keep]
    if loss.size < 8:
        return None
    val = running_median(loss, 3)
    low = int(np.argmin(val))
    rise = val[-1] / val[low] - 1 if val[low] > 0 else math.nan
    lost = _metric_lost(metric)
    rank = float(np.corrcoef(_ranks(-loss), _ranks(metric))[0, 1]) if metric.std() > 0 else 1.0
    over = rise > 0.25 and low < 0.7 * val.size and lost is not None and lost <= 0
    against = rank < -0.5 and val[-1] < 0.8 * val[0] and lost is not None and lost > 0
    if not (over or against):
        return None
    return found(
        "TV215",
        "Validation loss rises while the metric holds: confidence grows, not accuracy."
        if over
        else "The loss falls while the metric gets worse: it measures something else than what counts.",
        evidence={"rise of the validation loss": rise, "rank correlation": rank},
        fix=Edit("loss.label_smoothing", 0.1) if over and e.setting.classes else "choose the loss by the metric",
        refuted_by="loss and metric agree on another split",
        confidence=0.8,
        step=float(e.eval_step[keep][low]),
        severity="note" if over else "warning",
    )


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


@rule("TV217", "a class that is left out", needs="loss recalls", explains="TV215 TV205")
def minority(e: Evidence) -> Finding | None:
    """A rare class is seldom or never named: the mean loss is small without it, so nothing pulls towards it."""
    recalls = next((r for r in reversed(e.recalls) if r), ())
    shares = np.array(e.setting.class_shares) if e.setting.class_shares else _seen(e)
    late = np.array(recalls) if recalls else _recalls(e)
    if late.size < 2 or shares.size != late.size:
        return None
    classes = late.size
    rare = np.flatnonzero((shares < 0.5 / classes) & np.isfinite(late))
    if not rare.size:
        return None
    worst = rare[int(np.argmin(late[rare]))]
    top = float(np.nanmax(late[shares >= 0.5 / classes], initial=0.0))
    # Recalls come from validation rows, where a class may be less rare than in training.
    behind = top - late[worst]
    if top < 0.85 or not (late[worst] < 0.35 or (behind > 0.15 and shares[worst] < 0.2 / classes)):
        return None
    return found(
        "TV217",
        f"Class {worst} ({shares[worst]:.1%} of the data) is found {late[worst]:.0%} of the time, the common ones "
        f"{top:.0%}.",
        evidence={"recall": float(late[worst]), "share": float(shares[worst]), "recall of the best class": top},
        fix=Edit("loss.weight", [nice(float(1 / max(s, 1e-4) / classes)) for s in shares])
        if e.setting.classes and classes > 2
        else "judge by balanced accuracy or F1, tune the threshold on validation, or weight the rare class",
        refuted_by="the class cannot be told from the others by any model",
        confidence=sure(behind, 0.15, at=0.7),
        step=float(e.step[-1]),
        severity="warning",
    )


def _seen(e: Evidence) -> np.ndarray:
    counts = np.array([np.nansum(e.number(f"seen.{k}")) for k in range(_classes(e))])
    shares: np.ndarray = counts / max(counts.sum(), 1)
    return shares


def _recalls(e: Evidence) -> np.ndarray:
    late = e.probe_step >= 0.5 * e.probe_step[-1] if e.probe_step.size else np.zeros(0, dtype=bool)
    values = []
    for k in range(_classes(e)):
        seen, hit = np.nansum(e.number(f"seen.{k}")[late]), np.nansum(e.number(f"hit.{k}")[late])
        values.append(hit / seen if seen >= 5 else math.nan)
    return np.array(values)


def _classes(e: Evidence) -> int:
    return sum(name.startswith("seen.") for name in e.numbers)


@rule("TV222", "weight decay that wins", needs="probes weight setting", explains="TV203 TV205 TV206 TV210 TV221 TV231")
def decay(e: Evidence) -> Finding | None:
    """Decay pulls the weights to zero faster than the gradients can hold them."""
    wd = e.setting.weight_decay or 0.0
    if wd <= 0 or e.gained > 0.8:
        return None
    total = np.sqrt(np.nansum(e.layer("weight") ** 2, axis=1))
    if total.size < 4 or not total[0] > 0:
        return None
    shrunk = float(total[-1] / total[0])
    if shrunk > 0.5:
        return None
    return found(
        "TV222",
        f"The weights have shrunk to {shrunk:.0%} of their norm: weight decay {wd:g} outweighs the gradients.",
        evidence={
            "norm, share of the first": shrunk,
            "weight decay": wd,
            "in the gradient (L2)": str(e.setting.coupled),
        },
        fix=Edit("optimizer.weight_decay", nice(wd / 10))
        if not e.setting.coupled
        else "AdamW instead of Adam (decay beside the step, not in the gradient), weight_decay = 0.01, none on norms",
        refuted_by="the metric is no better with a tenth of the decay",
        confidence=sure(0.5, shrunk, at=0.7),
        step=float(e.probe_step[-1]),
    )


@rule("TV213", "a spike", needs="loss")
def spike(e: Evidence) -> Finding | None:
    """One or a few losses lie far above their neighbours: a batch that is unlike the others, or a step too far."""
    loss = e.loss
    n = loss.size
    if n < 40:
        return None
    finite = np.where(np.isfinite(loss), loss, np.nan)
    level = running_median(finite, 21)
    away = finite - level
    spread = 1.4826 * running_median(np.abs(away), 61) + 1e-3 * e.unit
    height = np.where(np.arange(n) >= max(10, n // 20), away / spread, 0.0)
    high = (height > 20) & (finite > 3 * level) & (finite > 1.3 * max(e.start, e.unit))
    count = int(np.nansum(high))
    # Heavy-tailed batches give many peaks; a spike is rare.
    if count == 0 or count > max(3, 0.02 * n):
        return None
    at = int(np.nanargmax(np.where(high, height, -np.inf)))
    norms = e.grad_norm
    if np.isfinite(norms).any() and math.isfinite(norms[at]) and norms[at] < 5 * median(norms):
        return None
    return found(
        "TV213",
        f"The loss jumped to {loss[at]:.3g} at step {e.step[at]:.0f}, from a level of {level[at]:.3g}.",
        evidence={"height in robust deviations": float(height[at]), "spikes": count},
        fix=Edit("clip", {"norm": nice(2 * median(norms)) if np.isfinite(norms).any() else 1.0}),
        refuted_by="the same batch gives the same loss before and after (it is hard, not harmful)",
        confidence=0.8,
        step=float(e.step[at]),
        severity="warning",
    )


@rule(
    "TV221", "labels that the inputs do not explain", needs="loss eval_loss prior", explains="TV214 TV205 TV215 TV231"
)
def unlearnable(e: Evidence) -> Finding | None:
    """The training loss falls (the model memorises), but validation never gets better than a constant."""
    _, val = _val(e)
    if val.size < 4 or not e.prior > 0:
        return None
    best = float(val.min()) / e.prior
    recalls = next((np.array(r) for r in reversed(e.recalls) if r), np.zeros(0))
    told = float(np.nanmean(recalls)) - 1 / recalls.size if recalls.size else math.nan
    if e.start > 3 * e.prior or e.late_update > 0.1 or told > 0.2:
        return None  # where classes are told apart, the labels do follow from the inputs
    # Small splits have a prior of their own; classes that are not told apart weigh more than the exact level.
    memory = e.gained > 0.1 and best > (0.8 if told < 0.1 else 0.93)
    if not (memory or (told < 0.1 and e.gained > 0.3)):
        return None
    return found(
        "TV221",
        "Training loss falls, but validation was never better than a constant: what is learned does not carry over.",
        evidence={"best validation loss over a constant's": best, "learned on training data": e.gained},
        fix="look at a few rows and their labels; compare with a run on permuted labels (if it does as well, the "
        "labels do not follow from the inputs)",
        refuted_by="a simple model (linear, nearest neighbour) beats the constant on the same split",
        confidence=sure(best - 0.9, 0.03, at=0.75),
        step=float(e.step[-1]),
    )


@rule("TV231", "nothing learned", needs="loss prior")
def nothing(e: Evidence) -> Finding | None:
    """The loss stays that of a constant though updates are of healthy size: the inputs say nothing to this model."""
    still = e.gained < 0.05 or (e.learned < 0.15 and e.drift(0.5) < 1.5)
    if not still or e.loss.size < 30 or e.start > 3 * e.prior:
        return None
    late = median(tail(e.total_update, 0.5))
    if not math.isfinite(late):
        return None
    return found(
        "TV231",
        "After all these steps the loss is still that of a constant output.",
        evidence={"learned": e.gained, "update per step": late},
        fix="try to overfit 20 rows: if that fails the model or the loss is at fault, else the labels or the inputs",
        refuted_by="the loss begins to fall with more steps",
        confidence=0.7,
        step=float(e.step[-1]),
    )
