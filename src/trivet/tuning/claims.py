"""What a comparison of optimizers at one shared rate says, and what is left of it once each has its own."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trivet.recipes.build import base_lr

if TYPE_CHECKING:
    from trivet.tuning.study import Contender, Study

__all__ = ["optimizer_claims"]

# What is left of a lead at a shared rate, by the verdict at rates of their own.
LEFT = {
    "better": "The lead stays.",
    "worse": "The order turns round: the lead was the rate's.",
    "tie": "The lead is gone: it was the rate's.",
    "undecided": "Nothing certain is left of the lead.",
}


def optimizer_claims(study: Study) -> list[str]:
    """Explain a study whose contenders differ in their optimizers alone, at a shared rate and at rates of their own.

    Which contenders belong together is read from their recipes. Empty where no two optimizers share a rate.
    """
    lines = []
    for shared, tuned in _families(study):
        leader, loser = _ends(study, shared)
        lines.append(f"At the shared rate {base_lr(leader.recipe):g}: {study.difference(loser.name, leader.name)}.")
        lines += _distance(study, leader, loser)
        own = [next((one for one in tuned if _optimizer(one) == _optimizer(end)), None) for end in (leader, loser)]
        if own[0] is not None and own[1] is not None:
            found = study.difference(own[1].name, own[0].name)
            lines.append(f"Each at its own rate: {found}. {LEFT[found.verdict]}")
            best, _ = _ends(study, tuned)
            if best not in own:
                lines.append(f"The best mean of all at its own rate has {best.name}.")
    return lines


def _families(study: Study) -> Iterator[tuple[list[Contender], list[Contender]]]:
    """Yield (contenders that share a rate, the same optimizers at other rates) among recipes alike in all else."""
    alike: dict[str, list[Contender]] = {}
    for contender in study.contenders:
        rest = {key: value for key, value in contender.recipe.as_dict().items() if key != "optimizer"}
        alike.setdefault(repr(rest), []).append(contender)
    for family in alike.values():
        rates: dict[float, list[Contender]] = {}
        for contender in family:
            rates.setdefault(base_lr(contender.recipe), []).append(contender)
        shared = max(rates.values(), key=len)
        if len({_optimizer(contender) for contender in shared}) > 1:
            yield shared, [contender for contender in family if contender not in shared]


def _optimizer(contender: Contender) -> str:
    return repr({key: value for key, value in contender.recipe.optimizer.items() if key != "lr"})


def _ends(study: Study, among: list[Contender]) -> tuple[Contender, Contender]:
    """Return the best and the worst by the mean metric."""
    sign = 1 if study.higher_is_better else -1
    ranked = sorted(among, key=lambda contender: sign * statistics.fmean(study.scores(contender.name)))
    return ranked[-1], ranked[0]


def _distance(study: Study, *contenders: Contender) -> list[str]:
    """Say how far the same rate moves the parameters under different optimizers."""
    moved = {}
    for contender in contenders:
        ratios = [trial.update_ratio for trial in study.of(contender.name) if trial.update_ratio is not None]
        if ratios and min(ratios) > 0:
            moved[contender.name] = statistics.median(ratios)
    if len(moved) < 2 or not all(map(math.isfinite, moved.values())):
        return []
    (far, most), (near, least) = sorted(moved.items(), key=lambda item: -item[1])
    return [
        f"The same rate is not the same distance: the median step changed a parameter by {most:.2g} of its size "
        f"under {far} and by {least:.2g} under {near}, {most / least:.2g} times less."
    ]
