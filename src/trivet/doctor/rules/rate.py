"""The learning rate: too high, too low, swinging, fading, without warmup, too high for trained weights."""

from __future__ import annotations

import math

import numpy as np

from trivet.doctor.evidence import Evidence, head, median, running_median, tail
from trivet.doctor.rules.base import found, nice, rule, sure
from trivet.recipes import Edit, Finding


def _lower(e: Evidence, factor: float) -> Edit | str:
    rate = e.top_rate
    return Edit("optimizer.lr", nice(rate / factor)) if math.isfinite(rate) else f"divide the rate by {factor:g}"


@rule(
    "TV202",
    "a rate that is too high",
    needs="loss",
    explains="TV204 TV205 TV208 TV209 TV210 TV212 TV213 TV221 TV231",
)
def too_high(e: Evidence) -> Finding | None:
    """Steps overshoot: the loss jumps up in the first steps and does not come back, or ends in NaN."""
    peak = float(np.max(e.finite_loss)) if e.finite_loss.size else math.nan
    broke = e.reason == "diverged" or not np.isfinite(e.loss).all()
    base = max(e.start, e.prior) if e.unit > 0 else e.start
    rose = peak / base if base > 0 else math.nan
    early = e.early_update
    stuck = e.gained < 0.1
    last = e.final / base if base > 0 else math.nan
    grown = e.start > 3 * e.prior  # the start itself is off: that is initialisation or scale, unless it grew since
    if broke:
        sure_of_it = 0.93 if rose > 1.5 or early > 0.05 else 0.75
    elif rose > 3 and last > 0.9:
        sure_of_it = sure(rose, 3, at=0.75)
    elif stuck and early > 0.15 and not (grown and e.final < 0.7 * e.start):
        sure_of_it = sure(early, 0.15, at=0.7)
    elif early > 0.1 and rose > 2.5 and e.learned < 0.35:
        sure_of_it = 0.75
    elif "update" not in e.has and last > 1.2 and e.loss.size >= 20:
        sure_of_it = sure(last, 1.2, at=0.7)
    else:
        return None
    over = max(early / 0.02, 3.0) if math.isfinite(early) else 10.0
    at = int(np.argmax(np.where(np.isfinite(e.loss), e.loss, np.inf)))
    return found(
        "TV202",
        "The rate is too high: steps overshoot, and the loss does not come back.",
        evidence={"start": e.start, "peak": peak, "end": e.final, "prior": e.prior, "update per step at first": early},
        fix=_lower(e, min(over, 100.0)),
        refuted_by="the loss behaves the same with a third of the rate",
        confidence=sure_of_it,
        step=float(e.step[at]),
    )


@rule("TV203", "a rate that is too low", needs="loss", explains="TV205 TV221 TV231")
def too_low(e: Evidence) -> Finding | None:
    """Weights hardly move although gradients are alive: the loss falls slowly and steadily, far from done."""
    if e.gained > 0.5 or e.loss.size < 8:
        return None
    moved, turn = e.moved, median(e.number("turn"))
    if math.isfinite(moved):
        alive = np.nanmedian(e.layer("grad")) > 0 if np.isfinite(e.layer("grad")).any() else False
        still = moved < 0.05 or (moved < 0.12 and turn > 0.3 and e.gained < 0.35)
        # At a flat spot there is little gradient to follow: that is another finding.
        if not alive or not still:
            return None
        over = 0.5 / max(moved, 1e-6)
        confidence = sure(0.05, max(moved, 1e-9), at=0.7)
    else:
        # From the loss alone: a fall that is straight, significant and tiny.
        fell = (e.start - e.final) / e.unit
        if not (0 < fell < 0.3 and e.drift(0.7) > 4 and e.constant_rate and _straight(e)):
            return None
        over, confidence = 10.0, 0.65
    rate = e.top_rate
    factor = float(np.clip(over, 3, 1000))
    return found(
        "TV203",
        "The rate is too low: the weights hardly move, and most of the loss is still there.",
        evidence={"weights moved by (share of their norm)": moved, "learned": e.gained, "rate": rate},
        fix=Edit("optimizer.lr", nice(rate * factor)) if math.isfinite(rate) else "multiply the rate by 10",
        refuted_by="ten times the rate does not make the loss fall faster",
        confidence=confidence,
        step=float(e.step[-1]),
    )


def _straight(e: Evidence) -> bool:
    """Whether the second half falls about as fast as the first: nothing has been used up yet."""
    smooth = e.smooth
    middle = smooth.size // 2
    first, second = smooth[0] - smooth[middle], smooth[middle] - smooth[-1]
    return bool(first > 0 and second > 0.5 * first)


@rule("TV204", "oscillation", needs="loss probes update", explains="TV205 TV214")
def oscillation(e: Evidence) -> Finding | None:
    """The steps are as long as the valley is wide: the loss swings around a level well above what it has touched."""
    late, turn = e.late_update, median(tail(e.number("turn"), 0.5))
    last = tail(e.finite_loss, 0.4)
    if last.size < 10 or not e.constant_rate:
        return None
    swing = (np.percentile(last, 90) - np.percentile(last, 10)) / e.unit
    level = median(last) / e.unit
    touched = float(np.percentile(e.finite_loss, 5)) / e.unit
    stalled = e.drift(0.5) < 2
    if not (late > 0.02 and stalled and level > 0.1 and (swing > 0.25 or turn < -0.1 or late > 0.1)):
        return None
    if level < 1.15 * touched and swing < 0.3:
        return None
    return found(
        "TV204",
        "The loss swings instead of settling: late steps are still too long.",
        evidence={"update per step, late": late, "swing (share of the prior's loss)": swing, "turn": turn},
        fix=Edit("schedule", "warmup(0.05) >> cosine(floor=0.01)") if late < 0.05 else _lower(e, min(late / 0.005, 30)),
        refuted_by="the swing stays as wide with half the rate (then it is the noise of small batches)",
        confidence=sure(late, 0.02, at=0.65),
        step=float(e.step[-1]),
    )


@rule("TV205", "a plateau", needs="loss")
def plateau(e: Evidence) -> Finding | None:
    """The loss stands still at a constant rate, above zero: noise of the steps holds it there, or it has converged."""
    drift = e.drift(0.5)
    if not (math.isfinite(drift) and abs(drift) < 1.5 and e.constant_rate and e.loss.size >= 30):
        return None
    if e.gained > 0.9 or e.gained < 0.1:
        return None
    return found(
        "TV205",
        "The loss has stood still for half the run while the rate stayed as it was.",
        evidence={"fall over the last half (standard errors)": drift, "learned": e.gained},
        fix=Edit("schedule", "warmup(0.05) >> cosine(floor=0.01)"),
        refuted_by="a tenth of the rate from here on does not lower the loss (it has converged)",
        confidence=0.6,
        step=float(e.step[e.step.size // 2]),
        severity="note",
    )


@rule("TV212", "no warmup", needs="loss lr", explains="TV213")
def no_warmup(e: Evidence) -> Finding | None:
    """The first full steps throw the model out of its starting range; part of the run goes into coming back."""
    n = e.finite_loss.size
    rates = e.lr[np.isfinite(e.lr)]
    if n < 40 or not rates.size or rates[0] < 0.5 * rates.max():
        return None
    first = head(e.finite_loss, 0.1)
    base = max(e.start, e.prior)
    peak = float(np.max(first))
    below = np.flatnonzero(e.smooth < base)
    back = (below[below > int(np.argmax(first))][:1] / n) if below.size else np.array([])
    if not (base > 0 and peak > 2 * base and back.size and 0.05 < back[0] < 0.9):
        return None
    return found(
        "TV212",
        f"The first steps at the full rate threw the loss up {peak / base:.1f}-fold; coming back took {back[0]:.0%} of "
        "the run.",
        evidence={"start": e.start, "peak": peak, "share of the run lost": float(back[0])},
        fix=Edit("schedule", "warmup(0.1) >> cosine(floor=0.01)"),
        refuted_by="the same rise happens with 10 % of the steps as warmup",
        confidence=sure(peak / base, 2, at=0.65),
        step=float(e.step[int(np.argmax(first))]),
        severity="warning",
    )


@rule("TV223", "fine-tuning that forgets", needs="loss prior", explains="TV202 TV204 TV212 TV207 TV214 TV208")
def forgets(e: Evidence) -> Finding | None:
    """The loss began far below what a constant would have (the weights knew something), and the first steps lost it."""
    if not (0 < e.start < 0.6 * e.prior):
        return None
    after = e.finite_loss[: max(10, e.finite_loss.size // 2)]
    # The level, not single losses: rare batches may lie far above it.
    worst = float(np.max(running_median(after, max(3, after.size // 15))))
    if worst < 2.5 * e.start or e.final < 1.1 * e.start:
        return None
    early = e.early_update
    return found(
        "TV223",
        f"The model began at {e.start / e.prior:.0%} of the loss of a constant, so it was trained before; the first "
        "steps undid that.",
        evidence={"start": e.start, "prior": e.prior, "peak": worst, "update per step at first": early},
        fix=_lower(e, float(np.clip(early / 1e-3, 10, 100)) if math.isfinite(early) else 10),
        refuted_by="the loss rises as far with a hundredth of the rate (the new data is unlike the old)",
        confidence=sure(worst / e.start, 3, at=0.8),
        step=float(e.step[int(np.argmax(after))]),
    )


@rule("TV230", "Adagrad's vanishing rate", needs="probes update setting", explains="TV203 TV205 TV231")
def fading(e: Evidence) -> Finding | None:
    """Adagrad divides by the sum of all squared gradients: its steps shrink for ever, and training stops half way."""
    if "Adagrad" not in e.setting.optimizer or e.learned > 0.5 or e.total_update.size < 6:
        return None
    early, late = e.early_update, e.late_update
    if not (late < 0.5 * early and (e.drift(0.5) > 1.5 or median(e.number("turn")) > 0.3)):
        return None
    return found(
        "TV230",
        "Adagrad's steps have shrunk while there was still something to learn.",
        evidence={"update per step, early": early, "late": late, "learned": e.gained},
        fix=Edit("optimizer.name", "AdamW"),
        refuted_by="three times the rate does not lower the loss at the end",
        confidence=sure(0.5 * early, max(late, 1e-30), at=0.7),
        step=float(e.probe_step[-1]),
        severity="warning",
    )
