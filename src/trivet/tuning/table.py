"""A study as a table for the terminal, with the verdicts in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trivet.tuning.claims import optimizer_claims

if TYPE_CHECKING:
    from trivet.tuning.study import Contender, Study

HEAD = (
    "contender",
    "mean",
    "95 % interval",
    "seed sd",
    "train - held out",
    "steps to target",
    "ms/step",
    "state B/par",
)


def study_table(study: Study) -> str:
    """Return the numbers of every contender, then one sentence for each comparison with the first."""
    arrow = "higher is better" if study.higher_is_better else "lower is better"
    seeds = len({trial.seed for trial in study.trials})
    where = {"val": "validation", "test": "test"}[study.split]
    rows = [HEAD, *(_row(study, contender) for contender in study.contenders)]
    lines = [f"{study.task}: {study.metric} on the {where} split ({arrow}), {seeds} paired seeds", ""]
    lines += _aligned(rows)
    lines += ["", f"The target is {study.target():.4g}, which half of every contender's runs reach."]
    lines += [str(found) for found in study.differences()]
    lines += _sensitivity(study)
    lines += ["", *claims] if (claims := optimizer_claims(study)) else []
    lines += _search(study)
    return "\n".join(lines)


def _sensitivity(study: Study) -> list[str]:
    """How wide the range of good rates is, and what other batch sizes do, where contenders were probed."""
    rows = [("contender", "good rates", "batch size, change of the mean metric")]
    for contender in study.contenders:
        found, effects = study.good_rates(contender.name), study.batch_effects(contender.name)
        told = ", ".join(
            f"{times:.2g} times: {f'{effect:+.2g}' if math.isfinite(effect) else 'diverged'}"
            for times, effect in effects.items()
        )
        rows += (
            [(contender.name, str(found) if found is not None else "none that learns", told or "-")]
            if found or effects
            else []
        )
    return ["", *_aligned(rows)] if len(rows) > 1 else []


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _search(study: Study) -> list[str]:
    """What a search did before its final, and how it ended."""
    if not study.attempts:
        return []
    states = [attempt.state for attempt in study.attempts]
    said = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return ["", f"{len(states)} trials in short runs: {said}.", *(f"- {note}" for note in study.notes)]


def _row(study: Study, contender: Contender) -> tuple[str, ...]:
    from trivet.tuning.study import interval_of_mean

    trials, scores = study.of(contender.name), study.scores(contender.name)
    lost = sum(not math.isfinite(score) for score in scores)
    state = f"{contender.state_bytes_per_parameter:.1f}"
    speed = f"{1e3 * statistics.median(trial.seconds_per_step for trial in trials):.2f}" if trials else "-"
    if lost or not scores:
        return (contender.name, f"diverged in {lost} of {len(scores)}", "-", "-", "-", "-", speed, state)
    low, high = interval_of_mean(scores)
    gaps = [t.train_metric - t.metric for t in trials if t.train_metric is not None and t.metric is not None]
    reached = study.steps_to_target(contender.name)
    return (
        contender.name,
        f"{statistics.fmean(scores):.4g}",
        f"{low:.4g} to {high:.4g}" if math.isfinite(low) else "-",
        f"{statistics.stdev(scores):.2g}" if len(scores) > 1 else "-",
        f"{statistics.fmean(gaps):+.3g}" if gaps else "-",
        f"{reached:.0f}" if reached is not None else "not reached",
        speed,
        state,
    )
