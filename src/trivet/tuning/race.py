"""A race before the run: the recommended recipe against a few others, in short runs, judged by the task's metric.

1. *Contenders.* The recommended recipe, its rate times and over three, the plain loss in its place, and recipes that
   did well on other tasks (`trivet.tuning.portfolio`). At most eight runs are made in all.
2. *Horizon.* Every run has the same length and its own whole decay. Where whole runs are cheap they are whole runs;
   else they are as short as it takes for the race to cost no more than a share of the run that follows.
3. *Confirmation.* The best of several noisy runs looks better than it is. So the best challenger and the recommended
   recipe run once more, both with a fresh seed. The challenger must win again, and by more than the noise: of seeds
   (two runs each), and of which rows validation happens to have (a paired bootstrap). Where it does not, the
   recommended recipe stays, and the race says so.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trivet.errors import DivergedError
from trivet.recipes import Advice, Edit, Recipe
from trivet.recipes.build import base_lr
from trivet.recipes.recipe import Value, format_value
from trivet.tasks import KINDS, bootstrap_difference
from trivet.training import predict_outputs, train
from trivet.tuning.portfolio import Member, portfolio

if TYPE_CHECKING:
    from torch import Tensor

    from trivet.facts import Profile
    from trivet.tasks import Task

__all__ = ["Heat", "Plan", "Race", "contenders", "plan_race", "race"]

TRIALS, FIRST_HEATS = 8, 6
RECOMMENDED = "recommended"
STRIDE = 3.0  # the factor between neighbouring rates: half a decade
SHORTEST = 60  # steps; a shorter run says little about a longer one
FRESH = 500  # the race's seeds begin here: the run's own is not among them
# Counted, not timed, so that the same task has the same race on every machine: seconds of a plain step, and of work.
STEP, WORK = 1.5e-3, 5e10
QUICK = 12.0  # seconds that a race may always cost
SHARE = 0.5  # of the run that follows, where that is more


class Plan(msgspec.Struct, frozen=True):
    """What a race will do: the length of its runs in steps and as a share of a whole run, and its contenders.

    `seconds` is what it is expected to cost at most, `skipped` why it is not run at all.
    """

    steps: int
    share: float
    seconds: float
    seed: int
    contenders: dict[str, dict[str, Value]]
    skipped: str = ""


class Heat(msgspec.Struct, frozen=True):
    """One short run: the best validation metric, None where it diverged."""

    contender: str
    seed: int
    metric: float | None
    seconds: float


class Race(msgspec.Struct, frozen=True):
    """How a race went: who ran, who is chosen, and why, in a sentence."""

    plan: Plan
    heats: tuple[Heat, ...]
    choice: str
    reason: str
    seconds: float = 0.0

    def advise(self, recipe: Recipe) -> Recipe:
        """Return the chosen recipe with the reason; the recommended one is returned as it is."""
        if self.choice == RECOMMENDED:
            return recipe
        chosen = Recipe.from_dict(self.plan.contenders[self.choice])
        before, after = recipe.as_dict(), chosen.as_dict()
        changed = {field for field in before | after if before.get(field) != after.get(field)}
        kept = tuple(advice for advice in recipe.why if advice.edit.path.partition(".")[0] not in changed)
        evidence: dict[str, float | int | str] = {
            f"{name}, mean of {len(found)}": statistics.fmean(found)
            for name in (RECOMMENDED, self.choice)
            if (found := [heat.metric for heat in self.heats if heat.contender == name and heat.metric is not None])
        }
        # The rules' values have the later fields' order: loss, optimizer, then the rest.
        advice = tuple(
            Advice(
                Edit(field, after.get(field)),
                f"{self.reason} This is {self.choice}.",
                evidence | {"steps of each run": self.plan.steps},
                "a race of short runs, judged on validation data, confirmed by a fresh seed",
                0.6,
                {f"{field} = {format_value(before.get(field))}": "the recommended recipe lost both heats"},
            )
            for field in after | before
            if field in changed
        )
        return msgspec.structs.replace(chosen, why=kept + advice)


# -- before it -------------------------------------------------------------------------------------------


def contenders(
    task: Task, recipe: Recipe, facts: Profile | None, members: Sequence[Member] | None = None
) -> dict[str, Recipe]:
    """Return who runs, by name: the recommended recipe first, then in the order of what is expected of them.

    `members` stand for the portfolio's.
    """
    named = {RECOMMENDED: recipe}

    def add(name: str, candidate: Recipe) -> None:
        if candidate not in named.values():
            named[name] = candidate

    plain = recipe.apply(Edit("loss", dict(KINDS[task.kind].plain_loss(task.outputs))))
    add("the plain loss", plain)
    lr = base_lr(recipe)
    for word, factor in (("three times the rate", STRIDE), ("a third of the rate", 1 / STRIDE)):
        add(word, recipe.apply(Edit("optimizer.lr", float(f"{lr * factor:.2g}"))))
    if facts is None or not facts.model.pretrained:  # the portfolio was learned on models from scratch
        for number, member in enumerate(portfolio().members if members is None else members, 1):
            add(f"portfolio {number}", member.recipe(recipe, task))
    return dict(list(named.items())[:FIRST_HEATS])


def plan_race(
    task: Task,
    recipe: Recipe,
    facts: Profile | None,
    *,
    seed: int = 0,
    budget: float | None = None,
    per_step: float | None = None,
    members: Sequence[Member] | None = None,
) -> Plan:
    """Say what a race would do and cost; `budget` bounds it in seconds, at `per_step` measured seconds a step."""
    batch = min(recipe.batch_size * recipe.accumulate, len(task.train))
    whole = max(1, round(recipe.epochs * max(1, len(task.train) // batch)))
    if per_step is None:
        flops = facts.model.flops_per_sample if facts is not None else None
        per_step = STEP + 3 * (flops or 0.0) * batch / WORK
    allowed = max(QUICK, SHARE * whole * per_step) if budget is None else budget
    share = min(1.0, allowed / (TRIALS * whole * per_step))
    steps = round(share * whole)
    named = contenders(task, recipe, facts, members)
    why = ""
    if steps < min(SHORTEST, whole):
        why = f"{TRIALS} runs of at least {min(SHORTEST, whole)} steps do not fit into {allowed:.0f} s"
    return Plan(steps, share, TRIALS * steps * per_step, seed, {n: r.as_dict() for n, r in named.items()}, skipped=why)


# -- the race --------------------------------------------------------------------------------------------


def race(
    task: Task,
    plan: Plan,
    *,
    book: Path | None = None,
    seconds: float | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> Race:
    """Run a race as planned; `book` is a file of finished runs, and those that it holds are not run again.

    `seconds` is a hard end: no run is begun that would not end by then, at the pace of those before.
    """
    began = time.perf_counter()
    heats = _Heats(task, plan, book, None if seconds is None else began + seconds, device, say)
    names = list(plan.contenders)
    first = {name: metric for name in names if (metric := heats.run(name, plan.seed + FRESH)) is not None}
    return msgspec.structs.replace(_settle(task, plan, heats, first), seconds=time.perf_counter() - began)


def _settle(task: Task, plan: Plan, heats: _Heats, first: dict[str, float]) -> Race:
    """Confirm the best challenger by a fresh seed, and decide."""
    sign = 1 if task.metric.higher_is_better else -1
    name = task.metric.name.replace("_", " ")

    def said(choice: str, reason: str) -> Race:
        return Race(plan, tuple(heats.done), choice, reason)

    if RECOMMENDED not in first:
        if heats.late or not first:
            return said(RECOMMENDED, "The race had no time to compare anything, so nothing is changed.")
        best = max(first, key=lambda n: sign * first[n])
        return said(best, "The recommended recipe diverged in the race.")
    best = max(first, key=lambda n: (sign * first[n], n == RECOMMENDED))
    if best == RECOMMENDED:
        return said(RECOMMENDED, f"None of {len(first) - 1} contenders was better on validation data.")
    again = [heats.run(n, plan.seed + FRESH + 1) for n in (RECOMMENDED, best)]
    if again[0] is None or again[1] is None:
        return said(RECOMMENDED, f"{best} was ahead once, and could not be confirmed: the recommended recipe stays.")
    ours, theirs = [first[RECOMMENDED], again[0]], [first[best], again[1]]
    gain = sign * (statistics.fmean(theirs) - statistics.fmean(ours))
    seeds = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / 2)
    rows = heats.row_noise(best)
    numbers = f"{gain:.3g} in {name}, seeds differ by {seeds:.2g}, the luck of the rows is {rows:.2g}"
    if gain <= 0 or sign * (again[1] - again[0]) < 0:
        return said(RECOMMENDED, f"{best} was ahead once and not with a fresh seed ({numbers}).")
    if gain <= math.hypot(seeds, rows):
        return said(RECOMMENDED, f"The gain of {best} is smaller than the noise ({numbers}): keep the simple one.")
    return said(best, f"It won twice against the recommended recipe ({numbers}).")


class _Heats:
    """Makes the runs of a race, each once, and keeps them in a file."""

    def __init__(
        self, task: Task, plan: Plan, book: Path | None, end: float | None, device: str, say: Callable[[str], None]
    ) -> None:
        self.task, self.plan, self.book, self.end, self.device, self.say = task, plan, book, end, device, say
        self.done: list[Heat] = list(_read(book))
        self.late = False
        self.outputs: dict[tuple[str, int], Tensor] = {}

    def row_noise(self, name: str) -> float:
        """Return the standard error, over validation rows, of how far a contender is ahead in its second heats."""
        seed = self.plan.seed + FRESH + 1
        for who in (name, RECOMMENDED):
            if (who, seed) not in self.outputs:  # of an earlier process: the same run again gives the same outputs
                model = train(self.task, self._short(who), seed=seed, device=self.device).model
                self.outputs[who, seed] = predict_outputs(model, self.task.val, device=self.device)[0]
        ahead, behind = self.outputs[name, seed], self.outputs[RECOMMENDED, seed]
        low, high = bootstrap_difference(self.task.metric, ahead, behind, self.task.val.targets, seed=seed)
        return (high - low) / (2 * 1.96) if math.isfinite(high - low) else 0.0

    def _short(self, name: str) -> Recipe:
        recipe = Recipe.from_dict(self.plan.contenders[name])
        return recipe.apply(Edit("epochs", recipe.epochs * self.plan.share))

    def run(self, name: str, seed: int) -> float | None:
        """Return the metric of a run, made now unless it is known; None where it diverged, or there is no time."""
        known = next((heat for heat in self.done if (heat.contender, heat.seed) == (name, seed)), None)
        if known is not None:
            return known.metric
        longest = max((heat.seconds for heat in self.done), default=0.0)
        self.late = self.late or (self.end is not None and time.perf_counter() + longest > self.end)
        if self.late:
            return None
        left = None if self.end is None else self.end - time.perf_counter()
        began = time.perf_counter()
        try:
            outcome = train(self.task, self._short(name), seed=seed, seconds=left, device=self.device)
        except DivergedError:
            metric = None
        else:
            if outcome.reason == "interrupted":
                raise KeyboardInterrupt
            metric = outcome.metric if math.isfinite(outcome.metric) else None
            if left is not None and outcome.seconds >= left:
                self.late = True  # cut off before its decay: it would be compared unfairly
                return None
            self.outputs[name, seed] = predict_outputs(outcome.model, self.task.val, device=self.device)[0]
        heat = Heat(name, seed, metric, round(time.perf_counter() - began, 3))
        self.done.append(heat)
        if self.book is not None:
            with self.book.open("ab") as file:
                file.write(msgspec.json.encode(heat) + b"\n")
        shown = "diverged" if metric is None else f"{self.task.metric.name} {metric:.4g}"
        self.say(f"race {len(self.done)} of at most {TRIALS}: {name}: {shown}")
        return metric


def _read(book: Path | None) -> Iterable[Heat]:
    """Return the heats of a file; a crash tears at most the last line, which is taken off."""
    if book is None or not book.exists():
        return []
    lines = book.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if len(whole) < len(lines):
        book.write_bytes(b"".join(whole))
    return [msgspec.json.decode(line, type=Heat) for line in whole]
