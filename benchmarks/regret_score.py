"""Regret, its intervals, and the trials that random search needs: arithmetic on stored runs, nothing is trained."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence

__all__ = ["bootstrap", "equivalents", "regret"]

DRAWS = 2000


def regret(reference: float, found: float | None, trivial: float) -> float:
    """Return (reference - found) / (reference - trivial); a run that diverged is worth the trivial guess.

    >>> regret(0.9, 0.85, 0.5)
    0.125
    """
    found = trivial if found is None else found
    return (reference - found) / (reference - trivial)


def bootstrap(
    found: Mapping[str, Sequence[float]],
    references: Mapping[str, Sequence[float]],
    trivial: Mapping[str, float],
    *,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % interval of the mean regret: tasks are drawn, then seeds within each, references' seeds too."""
    draw = random.Random(seed)
    names, means = list(found), []
    for _ in range(DRAWS):
        regrets = []
        for name in draw.choices(names, k=len(names)):
            reference = statistics.fmean(draw.choices(references[name], k=len(references[name])))
            metric = statistics.fmean(draw.choices(found[name], k=len(found[name])))
            regrets.append(regret(reference, metric, trivial[name]))
        means.append(statistics.fmean(regrets))
    means.sort()
    return means[int(0.025 * DRAWS)], means[int(0.975 * DRAWS)]


def equivalents(trials: Sequence[tuple[float, float]], target: float, *, seed: int = 0, draws: int = 400) -> float:
    """Return how many random trials reach a test metric (higher is better) in half of all searches.

    `trials` are (validation, test) pairs; a search of n draws n of them without replacement and keeps the best by
    validation. Infinite where even all of them do not reach it.

    >>> equivalents([(0.1, 0.1), (0.2, 0.2)], 0.0)
    1
    """
    draw = random.Random(seed)
    orders = [draw.sample(list(trials), len(trials)) for _ in range(draws)]
    best = [(-math.inf, -math.inf)] * draws
    for n in range(1, len(trials) + 1):
        best = [max(kept, order[n - 1]) for kept, order in zip(best, orders, strict=True)]
        if statistics.median(test for _, test in best) >= target:
            return n
    return math.inf
