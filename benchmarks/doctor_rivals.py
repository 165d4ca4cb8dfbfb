"""Other tools' published rules and thresholds, applied to the same records.

Each is re-implemented from its source or documentation as far as a record holds what it asks for: AutoTrainer
(`monitor.py`), SageMaker Debugger's tensor rules with and without its Overfit rule, DeepDiagnosis (`callbacks.py`),
UMLAUT, and KillLossSpike. They say whether something is wrong, so they are scored on recall and false alarms alone.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from trivet.doctor.evidence import Evidence, as_evidence
from trivet.record import Record


def autotrainer(e: Evidence) -> bool:
    """Vanishing, exploding, dying, oscillating or slow, or a loss of 1000; classification only."""
    grad, dead = e.layer("grad"), e.layer("dead")
    rows = [row[np.isfinite(row)] for row in grad]
    vanish = any(len(r) > 1 and r[-1] > 0 and r[0] / r[-1] < 1e-3 and r[0] < 1e-4 for r in rows)
    explode = bool((np.nan_to_num(grad) > 70).any())
    dying = bool((np.nan_to_num(dead) >= 0.7).any())
    late = e.metric[int(0.3 * e.metric.size) :]
    swings = np.abs(np.diff(late)) >= 0.03 if late.size > 1 else np.zeros(0)
    slow = late.size > 1 and bool(np.abs(late[-1] - late[0]) < 0.01 and late[-1] < 0.7)
    lost = not np.isfinite(e.loss).all() or bool((e.loss >= 1e3).any())
    return bool(vanish or explode or dying or lost or slow or (swings.size and swings.mean() >= 0.2 and late[-1] < 0.7))


def debugger(e: Evidence) -> bool:
    """Tiny gradients, dead or saturated activations, or a ratio of update to weight outside its range."""
    grad, update = e.layer("grad"), e.layer("update")
    vanish = bool((np.nan_to_num(grad, nan=1.0) < 1e-7).any())
    ratio = bool((np.nan_to_num(update, nan=1e-3) > 10).any() or (np.nan_to_num(update, nan=1e-3) < 1e-8).any())
    dead = bool((np.nan_to_num(e.layer("dead")) > 0.5).any())
    saturated = bool((np.nan_to_num(e.layer("saturated")) > 0.5).any())
    return vanish or ratio or dead or saturated or not np.isfinite(e.loss).all()


def debugger_overfit(e: Evidence) -> bool:
    """The tensor rules, and (validation - training) / training above 0.1 once."""
    pairs = [(v, e.loss[np.searchsorted(e.step, s) - 1]) for v, s in zip(e.eval_loss, e.eval_step, strict=True)]
    return debugger(e) or any(t > 0 and (v - t) / t > 0.1 for v, t in pairs)


def deepdiagnosis(e: Evidence) -> bool:
    """70 % zeros, saturation, tiny gradients, twenty equal accuracies, or update ratios outside [1e-5, 1e-1]."""
    last = e.layer("dead")[-1:] if e.probe_step.size else np.zeros((0, 0))
    ratio = e.layer("update")
    mean = np.nanmedian(ratio) if np.isfinite(ratio).any() else 1e-3
    still = e.metric.size >= 20 and bool((np.abs(np.diff(e.metric[-20:])) < 1e-9).all())
    tiny = bool((np.nan_to_num(e.layer("grad"), nan=1.0) < 1e-7).any())
    return bool(
        (np.nan_to_num(last) >= 0.7).any()
        or (np.nan_to_num(e.layer("saturated")) > 0.5).any()
        or tiny
        or still
        or not 1e-5 <= mean <= 1e-1
        or not np.isfinite(e.loss).all()
    )


def umlaut(e: Evidence) -> bool:
    """A rate above 0.01 or below 1e-7, inputs beyond [-1, 1], or a validation loss that rose while training's fell."""
    rates = e.lr[np.isfinite(e.lr)]
    pairs = [(v, e.loss[np.searchsorted(e.step, s) - 1]) for v, s in zip(e.eval_loss, e.eval_step, strict=True)]
    rose = any(b[0] > a[0] and b[1] <= a[1] for a, b in itertools.pairwise(pairs))
    return bool(rose or (rates.size and (rates.max() > 0.01 or rates.max() < 1e-7)) or (e.setting.input_rms or 0) > 1)


def kill_loss_spike(e: Evidence) -> bool:
    """The loss is at least twice its window's mean, five times in a row."""
    run = 0
    for k in range(20, e.loss.size):
        mean = float(np.mean(e.loss[k - 20 : k]))
        run = run + 1 if math.isfinite(mean) and e.loss[k] >= 2 * mean else 0
        if run >= 5:
            return True
    return False


RIVALS = {
    "AutoTrainer": autotrainer,
    "SageMaker Debugger, tensors": debugger,
    "SageMaker Debugger with Overfit": debugger_overfit,
    "DeepDiagnosis": deepdiagnosis,
    "UMLAUT": umlaut,
    "KillLossSpike": kill_loss_spike,
}


def table(runs: list[tuple[str, Record]]) -> dict[str, dict[str, float]]:
    """Return recall and false alarms of every rival over labelled records."""
    columns = [(label, as_evidence(record)) for label, record in runs]
    result = {}
    with np.errstate(all="ignore"):
        for name, rule in RIVALS.items():
            alarms = [(label == "healthy", rule(e)) for label, e in columns]
            healthy, sick = [a for h, a in alarms if h], [a for h, a in alarms if not h]
            result[name] = {
                "recall": round(sum(sick) / max(1, len(sick)), 4),
                "false alarms": round(sum(healthy) / max(1, len(healthy)), 4),
            }
    return result
