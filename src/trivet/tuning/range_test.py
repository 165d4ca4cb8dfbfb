"""Reading the curves of a range test: where the loss falls, where it breaks, and whether the sweeps agree."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

from trivet.tuning.lr_range import LRRange

# The loss counts as broken when it is this much above its lowest value, in units of the drop from its start.
BREAK = 0.5
# Without at least this relative drop nothing was learnt at any rate, and no rate can be told from another.
LEAST_DROP = 0.02


def judge(rates: Sequence[float], curves: Sequence[Sequence[float]], current: float) -> LRRange:
    """Read an interval and a pick off the curves of several sweeps (raw losses; a short one broke off)."""
    smooth = [_smooth(curve) for curve in curves]
    length = min(len(curve) for curve in smooth)
    picks = [found for curve in smooth if (found := _read(rates, curve)) is not None]
    nothing = LRRange(
        low=rates[0],
        high=rates[-1],
        pick=current,
        confidence=0.0,
        abstained=True,
        reason="",
        rates=tuple(rates),
        losses=tuple(tuple(curve) for curve in smooth),
    )

    def abstain(reason: str) -> LRRange:
        return msgspec.structs.replace(nothing, reason=reason)

    if length < 5:
        return abstain(f"the loss was not finite after {length} steps of the sweep, at its lowest rates")
    if len(picks) * 2 <= len(curves):
        return abstain("the loss did not fall at any rate")
    lows, mids, highs = (statistics.median(column) for column in zip(*((a, b, c) for a, b, c, _ in picks), strict=True))
    picked = min(max(mids, lows), highs)
    edges = [edge for *_, edge in picks if edge is not None]
    spread = max(b for _, b, _, _ in picks) / min(b for _, b, _, _ in picks)
    if spread > 30:
        return abstain(f"the sweeps disagree by a factor of {spread:.0f}")
    agreement = max(0.0, 1 - math.log10(spread) / 1.5) * len(picks) / len(curves)
    return msgspec.structs.replace(
        nothing,
        low=lows,
        high=highs,
        pick=float(f"{picked:.2g}"),
        confidence=round(agreement, 2),
        abstained=False,
        reason=f"{len(picks)} of {len(curves)} sweeps agree within a factor of {spread:.1f}",
        edge=statistics.median(edges) if len(edges) * 2 > len(curves) else None,
    )


def _smooth(losses: Sequence[float], decay: float = 0.85) -> list[float]:
    """Average exponentially, without bias at the start; a value that is not finite ends the curve."""
    average, smooth = 0.0, []
    for i, value in enumerate(losses, 1):
        if not math.isfinite(value):
            break
        average = decay * average + (1 - decay) * value
        smooth.append(average / (1 - decay**i))
    return smooth


def _read(rates: Sequence[float], curve: Sequence[float]) -> tuple[float, float, float, float | None] | None:
    """Return (low, pick, high, edge) of one smoothed curve, or None where the loss never fell."""
    start = statistics.median(curve[: max(3, len(curve) // 10)])
    bottom = min(range(len(curve)), key=curve.__getitem__)
    drop = start - curve[bottom]
    if drop <= LEAST_DROP * abs(start) or bottom < 3:
        return None
    edge = next((rates[i] for i in range(bottom, len(curve)) if curve[i] > curve[bottom] + BREAK * drop), None)
    falling = next(i for i in range(bottom + 1) if curve[i] < start - 0.1 * drop)
    low = rates[falling]
    high = min(rates[bottom], edge / 2 if edge is not None else math.inf)
    pick = min(rates[bottom] / 10, edge / 4 if edge is not None else math.inf)
    return low, max(low, pick), max(low, high), edge
