"""Judge a trained model: the task's metric on the test split with an interval, beside what it must beat."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trivet.errors import InputError
from trivet.figures.style import number
from trivet.record import Baseline, Judged, Result
from trivet.tasks import KINDS, Decision, bootstrap_difference
from trivet.training import predict_outputs

if TYPE_CHECKING:
    from trivet.tasks import Task
    from trivet.training import Outcome

__all__ = ["judge", "verdict"]


def judge(task: Task, outcome: Outcome, seed: int = 0, device: str = "cpu") -> Result:
    """Judge a run's best weights on the test split; decisions (thresholds, calibration) are made on validation.

    Raises `InputError` where the metric is not defined on the test rows.
    """
    outputs, targets = predict_outputs(outcome.model, task.test, device=device)
    kind = KINDS[task.kind]
    decisions: tuple[Decision, ...] = ()
    if kind.decides:
        decisions = kind.fit_decisions(*predict_outputs(outcome.model, task.val, device=device), task.metric)
        outputs = kind.decide(outputs, decisions, task.metric)
    test = task.metric(outputs, targets)
    if not math.isfinite(test):
        raise InputError(
            f"{task.metric.name} is {test} on the {len(task.test)} test rows, so there is no verdict: it may need more "
            "rows of each class, or another metric"
        )
    baselines = []
    for known in task.baselines():
        if math.isfinite(known.value):
            ahead = bootstrap_difference(task.metric, outputs, known.outputs, targets, seed=seed)
            baselines.append(Baseline(known.name, known.value, ahead if math.isfinite(ahead[0]) else None))
    metric = Judged(
        name=task.metric.name,
        test=test,
        interval=task.interval(outputs, targets, seed=seed),
        val=outcome.metric,
        higher_is_better=task.metric.higher_is_better,
        baselines=tuple(baselines),
    )
    return Result(
        metric=metric,
        verdict=verdict(metric),
        test_rows=len(task.test),
        step=outcome.step,
        steps=outcome.steps,
        best_step=outcome.best_step,
        reason=outcome.reason,
        seconds=round(outcome.seconds, 2),
        overhead=round(outcome.overhead, 4),
        decision=decisions[0] if len(decisions) == 1 else None,
        decisions=decisions if len(decisions) > 1 else (),
    )


def verdict(metric: Judged) -> str:
    """Say how the metric stands against each baseline; a difference whose interval holds zero is no difference."""
    sign = 1 if metric.higher_is_better else -1
    said = [f"{number(metric.test)} on the test split."]
    for baseline in metric.baselines:
        ahead = sign * (metric.test - baseline.value)
        low, high = baseline.ahead or (-math.inf, math.inf)
        how = f"{'ahead' if ahead >= 0 else 'behind'} by {number(abs(ahead), 2)}"
        interval = f"{number(low, 2)} to {number(high, 2)}"
        word = "Better than" if low > 0 else "Worse than" if high < 0 else "Too close to call against"
        said.append(f"{word} {baseline.name} ({number(baseline.value)}): {how} (95 % interval {interval}).")
    return " ".join(said)
