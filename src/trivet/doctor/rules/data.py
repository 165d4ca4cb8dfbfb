"""Data that makes training hard: outliers under a squared loss, units of the target, units of the inputs."""

from __future__ import annotations

import math

import numpy as np

from trivet.doctor.evidence import Evidence, median, tail
from trivet.doctor.rules.base import found, rule, sure
from trivet.recipes import Edit, Finding


@rule(
    "TV218",
    "outliers under a squared loss",
    needs="probes number:outlier_mass number:is_mse",
    explains="TV213 TV205 TV203 TV219 TV221 TV223 TV231 TV214 TV215",
)
def outliers(e: Evidence) -> Finding | None:
    """A few samples carry most of the squared error: the fit follows them instead of the rest."""
    if median(e.number("is_mse")) != 1:
        return None
    share = e.number("outlier_share")
    loss = tail(e.finite_loss, 0.6)
    # Most batches hold none of them: what counts is how much of all error the batches with one make up.
    high = loss > 8 * np.median(loss)
    typical = float(loss[high].sum() / max(loss.sum(), 1e-300))
    part = float(np.nanmean(share))
    seen = np.nanmax(np.where(share > 0, e.number("outlier_mass"), 0.0), initial=0.0)
    within = np.nanmean(e.number("outlier_mass")) > 0.4  # large batches hold some each
    missed = not np.nanmax(share) > 0  # no probed batch held one
    rare = typical > 0.5 and high.sum() >= 3 and high.mean() < 0.5 and (seen > 0.6 or missed)
    if not (rare or within) or part > 0.08:
        return None
    typical = max(typical, float(np.nanmean(e.number("outlier_mass"))))
    return found(
        "TV218",
        f"{part:.1%} of the samples carry {typical:.0%} of the squared error.",
        evidence={"share of samples": part, "share of the squared error": typical},
        fix=Edit("loss", {"name": "huber_loss", "delta": 1.0}),
        refuted_by="the rare large targets are what matters (then model them, do not damp them)",
        confidence=sure(typical / max(1 - typical, 1e-3), 1.0, at=0.75),
        step=float(e.probe_step[-1]),
        severity="warning",
    )


@rule(
    "TV219",
    "a target in large units",
    needs="probes setting",
    explains="TV202 TV203 TV204 TV205 TV207 TV211 TV221 TV225 TV231 TV206 TV210",
)
def target_scale(e: Evidence) -> Finding | None:
    """The targets are far from anything a fresh model can give: training is spent on the scale."""
    std, mean = e.setting.target_std, e.setting.target_mean
    if std is None or mean is None or e.setting.classes is not None or not std > 0 or e.gained > 0.35:
        return None
    spread, centre = e.number("out_std")[0], e.number("out_mean")[0]
    units = std / spread if math.isfinite(spread) and spread > 0 else math.nan
    off = abs(mean - centre) / std if math.isfinite(centre) else math.nan
    if not (off > 2 or (units > 30 and std > 5)):
        return None
    return found(
        "TV219",
        f"Targets have mean {mean:.3g} and standard deviation {std:.3g}; the first outputs have {centre:.3g} and "
        f"{spread:.3g}.",
        evidence={"target std": std, "target mean": mean, "output std at first": float(spread), "learned": e.gained},
        fix="standardise the target, (y - mean) / std from the training split, and undo it in predictions",
        refuted_by="the run learns as slowly with a standardised target",
        confidence=sure(max(off / 2, units / 30), 1.0, at=0.8),
        step=float(e.probe_step[0]),
    )


@rule(
    "TV220",
    "inputs in raw units",
    needs="probes setting",
    explains="TV202 TV203 TV204 TV205 TV207 TV208 TV209 TV211 TV212 TV221 TV231 TV206 TV210 TV213",
)
def raw_inputs(e: Evidence) -> Finding | None:
    """Features of very different size: one rate is too high for the large ones and too low for the small ones."""
    rms, spread = e.setting.input_rms or 0.0, e.setting.input_spread or 0.0
    normed = bool(e.setting.kinds) and "BatchNorm" in e.setting.kinds[0]
    if not ((spread > 30 and rms > 5) or rms > 20) or normed or e.learned > 0.9:
        return None
    return found(
        "TV220",
        f"Inputs are in raw units: size {rms:.3g}, and the largest feature varies {spread:.3g} times as much as the "
        "middle one.",
        evidence={"input rms": rms, "largest over median spread": spread, "learned": e.gained},
        fix="standardise each feature with the mean and standard deviation of the training split",
        refuted_by="the run learns no better on standardised inputs",
        confidence=sure(max(spread / 30, rms / 20), 1.0, at=0.8),
        step=float(e.probe_step[0]),
    )
