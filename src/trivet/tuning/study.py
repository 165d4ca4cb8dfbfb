"""A study: many runs of a few contenders, compared on the task's own metric over paired seeds.

The rule is the same wherever trivet judges. Of two contenders with the same seeds, the differences per seed have a mean
and a 95 % Student interval. Where that interval lies within half a seed standard deviation of zero the two *tie*, and
the simpler recipe is kept; otherwise an interval on one side of zero is *better* or *worse*, and one that holds
zero leaves the question *undecided*: more seeds are needed, not more hope.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from trivet.errors import unknown_name
from trivet.recipes import Recipe
from trivet.recipes.build import base_lr
from trivet.tuning.sensitivity import GoodRates, good_rates, mean_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Attempt", "Contender", "Difference", "Study", "Trial", "difference", "interval_of_mean"]

TIE = 0.5  # of a seed standard deviation
Verdict = Literal["better", "worse", "tie", "undecided"]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one contender; `metric` and `train_metric` are None where it diverged.

    `curve` holds (optimizer step, validation metric) of each evaluation; `test_metric` is there where it was asked for.
    `update_ratio` is the median, over parameters and over some twenty steps, of update to weight. A probe is a run at
    `lr_times` the contender's rate or `batch_times` its batch size: see `Study.good_rates`.
    """

    contender: str
    seed: int
    metric: float | None
    train_metric: float | None = None
    test_metric: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    steps: int = 0
    seconds_per_step: float = 0.0
    update_ratio: float | None = None
    lr_times: float = 1.0
    batch_times: float = 1.0

    @property
    def is_probe(self) -> bool:
        """Whether this run was made at another rate or batch size than the contender's own."""
        return self.lr_times != 1.0 or self.batch_times != 1.0


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One trial of a search: its parameters, the metric of each of its short runs, and how it ended.

    `state` is "finished", "cut" (its first short run was not among the better ones), "diverged" or "running".
    """

    number: int
    parameters: dict[str, str | float]
    origin: str
    state: str
    scores: tuple[float, ...] = ()


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe under a name, with what the optimizer keeps for each trainable parameter, in bytes."""

    name: str
    recipe: Recipe
    state_bytes_per_parameter: float = 0.0

    def settings(self) -> int:
        """Return how many settings the recipe makes: of two that tie, the one with fewer is the simpler."""
        return sum(len(value) if isinstance(value, dict) else 1 for value in self.recipe.as_dict().values())


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How `second` stands to `first`: the mean of the paired differences, signed so that above 0 `second` is better.

    `seed_sd` is the standard deviation over seeds, pooled over both; `simpler` is the name to keep in a tie.
    `seeds_needed` estimates how many seeds would settle an undecided question, at the mean and spread seen.
    """

    first: str
    second: str
    mean: float
    interval: tuple[float, float]
    seed_sd: float
    verdict: Verdict
    simpler: str
    seeds_needed: int | None = None

    def __str__(self) -> str:
        low, high = self.interval
        numbers = (
            f"{self.mean:+.3g}, 95 % interval {low:+.3g} to {high:+.3g}, seed standard deviation {self.seed_sd:.2g}"
        )
        match self.verdict:
            case "tie":
                return f"{self.first} and {self.second} tie ({numbers}): keep the simpler, {self.simpler}"
            case "undecided":
                more = f"; about {self.seeds_needed} seeds would settle it" if self.seeds_needed else ""
                return f"{self.first} or {self.second}: undecided ({numbers}){more}"
            case verdict:
                return f"{self.second} is {verdict} than {self.first} ({numbers})"


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """Contenders and their trials on one task; `split` is where the metric was taken ("val" or "test").

    `trivial` is the test metric of the guess that ignores the input, where a sensitivity is measured against it. A
    search also leaves its `attempts`, the `choice` between its finalists, and `notes` that a person should read.
    """

    task: str
    metric: str
    higher_is_better: bool
    split: str
    contenders: tuple[Contender, ...]
    trials: tuple[Trial, ...]
    trivial: float | None = None
    attempts: tuple[Attempt, ...] = ()
    choice: str = ""
    notes: tuple[str, ...] = ()

    def of(self, name: str) -> tuple[Trial, ...]:
        """Return one contender's trials at its own rate and batch size, by seed."""
        names = [contender.name for contender in self.contenders]
        if name not in names:
            raise unknown_name("contender", name, names)
        own = (t for t in self.trials if t.contender == name and not t.is_probe)
        return tuple(sorted(own, key=lambda trial: trial.seed))

    def scores(self, name: str) -> list[float]:
        """Return one contender's metric by seed; a run that diverged is infinitely bad."""
        bad = -math.inf if self.higher_is_better else math.inf
        return [bad if trial.metric is None else trial.metric for trial in self.of(name)]

    def difference(self, first: str, second: str) -> Difference:
        """Compare two contenders over the seeds that both have."""
        settings = {c.name: (c.settings(), c.state_bytes_per_parameter) for c in self.contenders}
        shared = {t.seed for t in self.of(first)} & {t.seed for t in self.of(second)}
        ours, theirs = (
            [score for trial, score in zip(self.of(name), self.scores(name), strict=True) if trial.seed in shared]
            for name in (first, second)
        )
        simpler = second if settings[second] < settings[first] else first
        return difference(ours, theirs, (first, second), simpler, higher_is_better=self.higher_is_better)

    def differences(self) -> tuple[Difference, ...]:
        """Compare every later contender with the first."""
        first, *others = (contender.name for contender in self.contenders)
        return tuple(self.difference(first, other) for other in others)

    def target(self) -> float:
        """Return the metric that half of every contender's runs reach: what steps to a target are counted to."""
        worst, middle = (min, statistics.median_low) if self.higher_is_better else (max, statistics.median_high)
        return worst(middle(self.scores(contender.name)) for contender in self.contenders)

    def steps_to_target(self, name: str) -> float | None:
        """Return the median number of steps until a contender's validation metric reaches the target, or None."""
        target, sign = self.target(), 1 if self.higher_is_better else -1
        firsts = [
            next((float(step) for step, value in trial.curve if sign * value >= sign * target), math.inf)
            for trial in self.of(name)
        ]
        median = statistics.median_low(firsts) if firsts else math.inf
        return median if math.isfinite(median) else None

    def good_rates(self, name: str) -> GoodRates | None:
        """Return the range of rates about a contender's own that do about as well as its best, where it was probed."""
        own = self.scores(name)
        return good_rates(
            [trial for trial in self.trials if trial.contender == name],
            higher_is_better=self.higher_is_better,
            trivial=self.trivial,
            seed_sd=statistics.stdev(own) if len(own) > 1 and all(map(math.isfinite, own)) else 0.0,
        )

    def batch_effects(self, name: str) -> dict[float, float]:
        """Return how much better (above 0) or worse the metric gets at each probed multiple of the batch size."""
        probed = [t for t in self.trials if t.contender == name and t.batch_times != 1.0]
        seeds = {trial.seed for trial in probed}
        own = [trial for trial in self.of(name) if trial.seed in seeds]
        means = mean_by(((trial.batch_times, trial) for trial in (*own, *probed)), self.higher_is_better)
        return {times: mean - means[1.0] for times, mean in sorted(means.items()) if times != 1.0 and 1.0 in means}

    def best(self) -> str:
        """Return the contender to use: a search's choice, else the best mean or the simplest of those that tie."""
        if self.choice:
            return self.choice
        names = [contender.name for contender in self.contenders]
        sign = 1 if self.higher_is_better else -1
        top = max(names, key=lambda name: sign * statistics.fmean(self.scores(name)))
        ties = [d.simpler for name in names if name != top and (d := self.difference(top, name)).verdict == "tie"]
        size = {c.name: (c.settings(), c.state_bytes_per_parameter) for c in self.contenders}
        return min([top, *ties], key=size.__getitem__)

    def recipe(self) -> Recipe:
        """Return the recipe of the contender to use."""
        name = self.best()
        return next(contender.recipe for contender in self.contenders if contender.name == name)

    def __str__(self) -> str:
        from trivet.tuning.table import study_table

        return study_table(self)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"

    def plot(self) -> Figure:
        """Draw each seed's metric with its mean and interval, the learning curves, and what other rates give."""
        from trivet.figures.contenders import contenders

        names = [contender.name for contender in self.contenders]
        return contenders(
            names,
            [self.scores(name) for name in names],
            [interval_of_mean(self.scores(name)) for name in names],
            [[trial.curve for trial in self.of(name)] for name in names],
            metric=self.metric,
            rates=[self._at_rates(contender) for contender in self.contenders],
        )

    def _at_rates(self, contender: Contender) -> dict[float, float]:
        """Return the mean metric at each rate that was tried around a contender's own; nothing where none was."""
        runs = [t for t in self.trials if t.contender == contender.name and t.batch_times == 1.0]
        seeds = {trial.seed for trial in runs if trial.is_probe}
        sign = 1 if self.higher_is_better else -1
        means = mean_by(((trial.lr_times, trial) for trial in runs if trial.seed in seeds), self.higher_is_better)
        return {base_lr(contender.recipe) * times: sign * mean for times, mean in means.items()}


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % Student interval of the mean; unbounded for fewer than two values.

    >>> low, high = interval_of_mean([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return -math.inf, math.inf
    from scipy.special import stdtrit

    mean = statistics.fmean(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def difference(
    ours: Sequence[float],
    theirs: Sequence[float],
    names: tuple[str, str],
    simpler: str,
    *,
    higher_is_better: bool,
) -> Difference:
    """Compare paired scores of two contenders; scores may be infinite where a run diverged.

    >>> difference([0.80, 0.82, 0.81], [0.90, 0.92, 0.91], ("a", "b"), "a", higher_is_better=True).verdict
    'better'
    """
    sign = 1 if higher_is_better else -1
    lost = [sum(not math.isfinite(score) for score in scores) for scores in (ours, theirs)]

    def said(mean: float, interval: tuple[float, float], sd: float, verdict: Verdict, need: int | None) -> Difference:
        first, second = names
        return Difference(
            first=first, second=second, mean=mean, interval=interval, seed_sd=sd, verdict=verdict,
            simpler=simpler, seeds_needed=need,
        )  # fmt: skip

    everywhere = (-math.inf, math.inf)
    if any(lost):
        verdict: Verdict = "undecided" if lost[0] == lost[1] else "worse" if lost[1] > lost[0] else "better"
        return said(math.nan, everywhere, math.nan, verdict, None)
    paired = [sign * (b - a) for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(paired)
    if len(paired) < 2:
        return said(mean, everywhere, math.nan, "undecided", None)
    low, high = interval_of_mean(paired)
    sd = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / 2)
    if -TIE * sd <= low and high <= TIE * sd:
        return said(mean, (low, high), sd, "tie", None)
    if low > 0 or high < 0:
        return said(mean, (low, high), sd, "better" if low > 0 else "worse", None)
    return said(mean, (low, high), sd, "undecided", _seeds_needed(mean, statistics.stdev(paired), sd))


def _seeds_needed(mean: float, spread: float, sd: float) -> int | None:
    """Return how many seeds make the interval leave zero, or fit into the tie, at this mean and spread."""
    half = max(abs(mean), TIE * sd - abs(mean))
    if half <= 0:
        return None
    needed = math.ceil((1.96 * spread / half) ** 2) + 1
    return needed if needed <= 1000 else None
