"""What a run is about and how it came out, as files in its directory."""

from __future__ import annotations

import msgspec

from trivet.tasks.decision import Decision


class TaskCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is run on, and how to make the task again (`task.json`).

    `source` is what the reader was given, with the words beside it in `given` (target, kind, metric, model); it is
    empty for a task made in Python, which only Python can make again. With `own_recipe` the user gave the recipe, and
    its rate is not looked for; without `race` the recommended recipe runs unopposed.
    """

    name: str
    kind: str
    source: str
    metric: str
    seed: int
    rows: dict[str, int]
    given: dict[str, str] = {}
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    budget: float | None = None
    own_recipe: bool = False
    race: bool = True


class Baseline(msgspec.Struct, frozen=True):
    """A contender without a recipe, judged on the same test split by the same metric.

    `ahead` is the 95 % bootstrap interval of how far the run is ahead of it on the same rows, positive for better;
    None where the baseline's metric is not defined.
    """

    name: str
    value: float
    ahead: tuple[float, float] | None = None


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """The task's metric on the test split, with a 95 % bootstrap interval, beside validation and baselines."""

    name: str
    test: float
    interval: tuple[float, float]
    val: float
    higher_is_better: bool
    baselines: tuple[Baseline, ...] = ()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict of a run (`result.json`); `overhead` is the loop's and record's share of the training time.

    `decision` says how a binary run's logits become probabilities and a yes or no, `decisions` how each label's do.
    """

    metric: Judged
    verdict: str
    test_rows: int
    step: int
    steps: int
    best_step: int
    reason: str
    seconds: float
    overhead: float
    decision: Decision | None = None
    decisions: tuple[Decision, ...] = ()
