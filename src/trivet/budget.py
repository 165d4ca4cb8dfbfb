"""A budget of time for a whole run: what each stage may take, so that everything ends within it.

Reading, measuring and the judgement at the end take what they take. They are measured or estimated first, and what is
left is divided: the range test, the race and the training are cut to their parts of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from trivet.errors import RunError
from trivet.recipes import Advice, Edit, Recipe
from trivet.training import Pace, train

if TYPE_CHECKING:
    from trivet.tasks import Task

__all__ = ["Budget", "cut_to", "parse_budget"]

# Parts of what is left before training begins. The rest is for what no estimate sees, such as a busy machine.
SEARCH_PART, RACE_PART, MARGIN = 0.15, 0.25, 0.08
# Of the whole, at least, for what comes before the judgement: a verdict on no training would be worth nothing.
LEAST = 0.35
REPORT = 1.0  # seconds that drawing the figures of a report takes beyond an empty one's
TIMED = 50  # resamples that are timed to know what a thousand take


@dataclass
class Budget:
    """Seconds for everything since `began`; `closing` is what the judgement and the report will take.

    Without `seconds` nothing is bounded.
    """

    seconds: float | None
    began: float
    closing: float = 0.0

    def left(self) -> float | None:
        """Return the seconds until the judgement must begin."""
        return None if self.seconds is None else max(1.0, self.began + self.seconds - self.closing - perf_counter())

    def part(self, share: float) -> float | None:
        """Return a share of the seconds that are left."""
        left = self.left()
        return None if left is None else share * left

    def expect(self, task: Task, report: Callable[[], object], evaluation: float) -> str:
        """Estimate the closing: the bootstraps by a few resamples, the predictions by an evaluation, a report by one.

        The baselines are fitted here, once; the judgement finds them fitted. Returns what a person should know: how
        far the budget cannot be kept, because of which part; an empty text where it can.
        """
        if self.seconds is None:
            return ""
        opening = perf_counter() - self.began
        written = _timed(report)
        fitting = _timed(task.baselines)
        baselines = task.baselines()
        resampling = 0.0
        if baselines:
            outputs, targets = baselines[-1].outputs, task.test.targets
            resampling = _timed(lambda: task.interval(outputs, targets, resamples=TIMED)) * 1000 / TIMED
        rows = (len(task.test) + len(task.val)) / max(1, len(task.val))
        # One interval of the run's own metric, and of each baseline's difference, which is of two metrics.
        self.closing = REPORT + written + rows * evaluation + (1 + 2 * len(baselines)) * resampling
        spent = perf_counter() - self.began
        missing = spent + self.closing + LEAST * self.seconds - self.seconds
        if missing <= 0:
            return ""
        asked, self.seconds = self.seconds, self.seconds + missing
        return (
            f"the budget of {asked:.3g} s will be exceeded by about {missing:.2g} s: reading and measuring took "
            f"{opening:.2g} s, the baselines {fitting:.2g} s, the judgement and the report will take "
            f"{self.closing:.2g} s, and training keeps {LEAST:.0%} of the budget"
        )


def _timed(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return perf_counter() - began


def pace_of(task: Task, recipe: Recipe, *, seed: int = 0, device: str = "cpu") -> Pace:
    """Time twenty steps and an evaluation."""
    probe = recipe.apply(Edit("epochs", min(recipe.epochs, 20 * recipe.batch_size / len(task.train))))
    pace = Pace()
    train(task, probe, seed=seed, callbacks=[pace], device=device)
    return pace


def cut_to(task: Task, recipe: Recipe, seconds: float, pace: Pace) -> Recipe:
    """Return the recipe, or one that is cut to a length that takes these seconds, its decay with it."""
    per_epoch = max(1, len(task.train) // (recipe.batch_size * recipe.accumulate))
    per_step = pace.step() + pace.evaluation / per_epoch
    affordable = max(1.0, (seconds - pace.evaluation) / per_step)
    steps = recipe.epochs * len(task.train) / (recipe.batch_size * recipe.accumulate)
    if affordable >= steps:
        return recipe
    epochs = float(f"{max(affordable * recipe.batch_size * recipe.accumulate / len(task.train), 0.1):.3g}")
    return recipe.advise(
        Advice(
            Edit("epochs", epochs),
            f"The budget allows about {affordable:,.0f} steps, and a schedule that ends inside it beats one cut off.",
            {"seconds per step": per_step, "seconds for training": seconds},
            "the first steps without the slowest of them, and one evaluation",
            confidence=0.9,
        )
    )


def parse_budget(budget: float | str | None) -> float | None:
    """Return a budget in seconds from a number or from text with a unit.

    >>> parse_budget("10m"), parse_budget(90), parse_budget("1.5h")
    (600.0, 90.0, 5400.0)
    """
    if budget is None:
        return None
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    text = str(budget).strip().lower()
    factor = units.get(text[-1:], 1.0)
    number = text[:-1] if text[-1:] in units else text
    try:
        seconds = float(number) * factor
    except ValueError:
        raise RunError(f"budget {budget!r} is not a time; write seconds, or 90s, 10m, 1.5h") from None
    if not 0 < seconds < float("inf"):
        raise RunError(f"budget {budget!r} must be above 0")
    return seconds
