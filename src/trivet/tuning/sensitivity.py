"""How much a contender's result hangs on its rate and its batch size: runs around its own setting."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from trivet.recipes import Edit, Recipe
from trivet.recipes.build import base_lr

if TYPE_CHECKING:
    from trivet.tuning.study import Trial

__all__ = ["BATCHES", "RATES", "SEEDS", "GoodRates", "good_rates", "probes"]

# What a contender's rate and its batch size are multiplied by, one at a time, with nothing else changed.
RATES = (1 / 9, 1 / 3, 3.0, 9.0)
BATCHES = (1 / 4, 4.0)
SEEDS = 2  # for each of them

# A rate is good where it keeps this share of what the best one gains over the guess that ignores the input.
KEPT = 0.95


class GoodRates(msgspec.Struct, frozen=True):
    """The rates about a contender's own that do about as well as its best: from `low` to `high`, as multiples of it.

    `open_low` and `open_high` say that the range reaches the lowest or highest rate that was tried and may go on.
    """

    low: float
    high: float
    open_low: bool
    open_high: bool

    @property
    def decades(self) -> float:
        """The width of the range in powers of ten; a lower bound where an end is open."""
        return math.log10(self.high / self.low)

    def __str__(self) -> str:
        low = f"{self.low:.2g}" + (" or less" if self.open_low else "")
        high = f"{self.high:.2g}" + (" or more" if self.open_high else "")
        if self.low == self.high:
            return f"{high if self.open_high else low} times, no other that was tried"
        most = "at least " if self.open_low or self.open_high else ""
        return f"{low} to {high} times, {most}{self.decades:.1f} decades"


def probes(recipe: Recipe, rows: int) -> Iterator[tuple[float, float, Recipe]]:
    """Yield (multiple of the rate, multiple of the batch size, recipe) for each run around a recipe.

    The number of epochs stays, so a larger batch makes fewer steps. Sizes that the `rows` of the training split
    do not allow are left out.
    """
    lr, batch = base_lr(recipe), recipe.batch_size
    for times in RATES:
        yield times, 1.0, recipe.apply(Edit("optimizer.lr", lr * times))
    for times in BATCHES:
        if 2 <= round(batch * times) <= rows:
            yield 1.0, times, recipe.apply(Edit("batch_size", round(batch * times)))


def good_rates(
    trials: Sequence[Trial], *, higher_is_better: bool, trivial: float | None, seed_sd: float
) -> GoodRates | None:
    """Return the unbroken range of rates around the best one of those tried that does about as well.

    About as well is a mean metric at most a twentieth of the best one's gain over `trivial` worse, or one seed standard
    deviation where that is more. `None` where no other rate than the contender's own was tried, or none of them gains
    more over the trivial guess than that.

    >>> from trivet.tuning.study import Trial
    >>> ran = zip((1 / 9, 1 / 3, 1.0, 3.0, 9.0), (0.6, 0.89, 0.90, 0.88, None))
    >>> trials = [Trial(contender="a", seed=0, metric=metric, lr_times=times) for times, metric in ran]
    >>> found = good_rates(trials, higher_is_better=True, trivial=0.5, seed_sd=0.001)
    >>> print(found)
    0.33 to 3 times, 1.0 decades
    """
    seeds = {trial.seed for trial in trials if trial.lr_times != 1.0}
    means = mean_by(((t.lr_times, t) for t in trials if t.batch_times == 1.0 and t.seed in seeds), higher_is_better)
    if len(means) < 2:
        return None
    rates = sorted(means)
    top = max(rates, key=means.__getitem__)
    sign = 1 if higher_is_better else -1
    gain = means[top] - sign * trivial if trivial is not None else 0.0
    slack = max((1 - KEPT) * gain, seed_sd if math.isfinite(seed_sd) else 0.0)
    if trivial is not None and gain <= slack:
        return None
    good = [means[rate] >= means[top] - slack for rate in rates]
    first = last = rates.index(top)
    while first > 0 and good[first - 1]:
        first -= 1
    while last < len(rates) - 1 and good[last + 1]:
        last += 1
    return GoodRates(rates[first], rates[last], first == 0, last == len(rates) - 1)


def mean_by(settings: Iterable[tuple[float, Trial]], higher_is_better: bool) -> dict[float, float]:
    """Return the mean metric at each setting, signed so that more is better; a run that diverged is infinitely bad."""
    sign = 1 if higher_is_better else -1
    found: dict[float, list[float]] = {}
    for setting, trial in settings:
        found.setdefault(setting, []).append(-math.inf if trial.metric is None else sign * trial.metric)
    return {setting: statistics.fmean(values) for setting, values in found.items()}
