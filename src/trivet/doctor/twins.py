"""What one run cannot show: a comparison with its twin decides it. Metrics are judged, never values of the loss."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from trivet.doctor.rules.base import found
from trivet.recipes import Edit, Finding, Recipe
from trivet.record import Record

# Standard deviations between seeds that a twin has to be ahead by: less than this is luck.
AHEAD = 2.0


def local_minimum(runs: Sequence[Record], noisier: Sequence[Record]) -> Finding | None:
    """Return a finding when twins with more noise (a kick to the weights, a smaller batch, a higher rate) end better.

    `runs` are seeds of the recipe as it is, `noisier` seeds of its twin; two of each at least. Better means by more
    than two standard deviations between seeds. Where a run ends in a worse place than noise would have found, the
    noise of its own steps was too small to leave it.
    """
    ahead, spread = _ahead(runs, noisier)
    if not ahead > AHEAD * spread:
        return None
    return found(
        "TV240",
        "More noise ends in a better place: the recipe stays where its first steps led.",
        evidence={"ahead": ahead, "standard deviation between seeds": spread, "seeds": len(runs)},
        fix="halve the batch or double the rate in the first half of the run, and decay after it",
        refuted_by="the difference goes away with more seeds",
        confidence=_sureness(ahead, spread),
        severity="warning",
    )


def bad_dynamics(runs: Sequence[Record], repaired: Sequence[Record], recipe: Recipe, repair: Recipe) -> Finding | None:
    """Return a finding when the same model learns with a repaired recipe: not the model was to blame.

    The evidence names every field of the recipe that differs.
    """
    ahead, spread = _ahead(runs, repaired)
    edits = recipe.differences(repair)
    if not (edits and ahead > AHEAD * spread):
        return None
    fix: Edit | str = edits[0] if len(edits) == 1 else "; ".join(str(edit) for edit in edits)
    return found(
        "TV241",
        "The same model learns with another recipe, so the recipe was at fault and not the model.",
        evidence={"ahead": ahead, "standard deviation between seeds": spread, "fields changed": len(edits)},
        fix=fix,
        refuted_by="the difference goes away with more seeds",
        confidence=_sureness(ahead, spread),
    )


def final_metric(record: Record) -> float:
    """Return the metric of the weights a run would keep, made so that higher is better; NaN where there is none."""
    best = record.best()
    evals = [e for e in record.evals if e.split == "val" and math.isfinite(e.metric)]
    if best is None and not evals:
        return math.nan
    higher = record.start is None or record.start.higher_is_better
    pick = max if higher else min
    value = best.metric if best is not None else pick(e.metric for e in evals)
    return value if higher else -value


def _ahead(runs: Sequence[Record], twins: Sequence[Record]) -> tuple[float, float]:
    """Return how far twins are ahead on average, and the standard deviation between seeds; NaN from too few."""
    one = [v for v in map(final_metric, runs) if math.isfinite(v)]
    other = [v for v in map(final_metric, twins) if math.isfinite(v)]
    if len(one) < 2 or len(other) < 2:
        return math.nan, math.nan
    spread = math.sqrt((statistics.variance(one) + statistics.variance(other)) / 2)
    return statistics.mean(other) - statistics.mean(one), spread


def _sureness(ahead: float, spread: float) -> float:
    return min(0.95, 0.7 + 0.05 * (ahead / spread - AHEAD)) if spread > 0 else 0.95
