"""Search for a recipe: what is known first, then quasi-random points, then TPE; short runs, and a fair final.

1. *Queue.* The recommended recipe, the plain loss in its place, each other optimizer at its usual rate; then
   stratified quasi-random points. TPE proposes what comes after.
2. *Short runs.* Every trial is a ninth of a run with a decay of its own; the better half goes on to a third. Scores are
   compared only with those of runs of the same length (Bornschein et al. 2023: cutting at a fixed short horizon is as
   good as elaborate schemes, and about ten times cheaper than whole runs).
3. *Final.* The recommended recipe and the best two meet in whole runs over fresh paired seeds. The best of many noisy
   trials looks better than it is; fresh seeds take that away. Where the gain cannot be told from the seeds' noise, the
   recommended recipe stays, and the search says so. The test split is looked at once, after the choice.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trivet.advice import recommend
from trivet.advice.recommend.rate import rate_prior
from trivet.errors import DivergedError, InputError
from trivet.facts import profile
from trivet.recipes import Edit, Recipe
from trivet.training import train
from trivet.tuning.comparison import compare, row_interval
from trivet.tuning.space import Parameters, Space, default_space, plain_loss, read_space
from trivet.tuning.study import Attempt, Study
from trivet.tuning.trials import Trials

if TYPE_CHECKING:
    from trivet.tasks import Task

__all__ = ["search"]

SCHEMA = 1
SHARES = (1 / 9, 1 / 3)  # of a whole run, per rung
QUASI_RANDOM = 12  # points before TPE takes over
FINALISTS, FINAL_SEEDS, FEWEST_SEEDS, MOST_SEEDS = 2, 3, 2, 5
FINAL_SHARE = 0.45  # of a budget of time
SHORTEST = 60  # steps; a ninth of fewer is no run
FRESH = 1000  # seeds of the final begin here: none of the search's own
PROBE = 20  # steps that are timed before anything is promised


@dataclass(frozen=True)
class _Plan:
    """What a budget pays for: the recipe at a whole run's length, seconds per step, and when trials must end."""

    recipe: Recipe
    per_step: float
    whole: int
    trials_end: float | None
    end: float | None


def search(
    task: Task,
    recipe: Recipe | None = None,
    *,
    budget: float | None = None,
    trials: int | None = None,
    space: Space | str | Path | None = None,
    seed: int = 0,
    out: str | Path,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> Study:
    """Search loss, optimizer, rate, decay and schedule together, judged by the task's metric on validation data.

    Arguments
    ---------
    recipe : where to start and what to beat; recommended when left out.
    budget : seconds for everything, kept within a tenth; `trials` : how many trials instead (24 when neither is given).
    space : a `Space` or the TOML file of one; the recipe's surroundings by default.
    out : directory of the search. The same call with the same directory goes on where it ended, also after a crash;
        several processes may work in it at the same time.

    Returns a `Study` of the finalists: `study.recipe()` is the choice, `study.notes` says how it stands,
    `study.attempts` lists every trial. Raises `InputError` for a budget that does not pay for one trial and a final,
    and `RunError` for a directory that holds another search.

    >>> import tempfile, trivet
    >>> task = trivet.read_task("sklearn:wine")
    >>> study = trivet.search(task, trials=4, out=tempfile.mkdtemp())
    >>> len(study.attempts), study.choice in [c.name for c in study.contenders]
    (4, True)
    """
    began = time.perf_counter()
    if budget is not None and trials is not None:
        raise InputError("give a budget of time or a number of trials, not both")
    if trials is not None and trials < 2:
        raise InputError(f"trials = {trials} is no search, the first is the recommended recipe; give 2 or more")
    facts = profile(task, seed=seed)
    recipe = recommend(task, facts) if recipe is None else recipe
    if space is None:
        space = default_space(task, recipe, facts)
    elif not isinstance(space, Space):
        space = read_space(space, recipe)
    for warning in space.warnings():
        say(f"warning: {warning}")
    plan = _plan(task, recipe, budget, began, device, say)
    count = trials if trials is not None else None if budget is not None else 24
    asked: dict[str, object] = {
        "schema": SCHEMA,
        "task": task.name,
        "rows": [len(task.train), len(task.val), len(task.test)],
        "metric": task.metric.name,
        "seed": seed,
        "space": space.plain(),
    }
    book = Trials(Path(out), space, asked, higher_is_better=task.metric.higher_is_better, seed=seed)
    book.queue(_first_points(task, recipe, space, seed))
    _try(task, space, book, plan, count, seed, device, say)
    return _final(task, recipe, space, book, plan, Path(out), device, say)


# -- what comes first ---------------------------------------------------------------------------------------


def _plan(
    task: Task, recipe: Recipe, budget: float | None, began: float, device: str, say: Callable[[str], None]
) -> _Plan:
    """Time a few steps, and cut the whole run's length where the budget would not pay for a final of such runs."""
    rows = len(task.train)
    batch = min(recipe.batch_size * recipe.accumulate, rows)
    whole = max(1, round(recipe.epochs * max(1, rows // batch)))
    if budget is None:
        return _Plan(recipe, 0.0, whole, None, None)
    if not 0 < budget < math.inf:
        raise InputError(f"a budget of {budget} seconds cannot be kept; give a number above 0, or text such as 10m")
    probe = recipe.apply(Edit("epochs", min(recipe.epochs, PROBE * batch / rows)))
    train(task, probe, device=device)  # the first run pays for compilation
    per_step = _timed(task, probe, device) / min(PROBE, whole)
    runs = (FINALISTS + 1) * FEWEST_SEEDS
    affordable = int(FINAL_SHARE * budget / (runs * per_step))
    if affordable < min(whole, SHORTEST):
        need = (min(whole, SHORTEST) * runs * per_step + time.perf_counter() - began) / FINAL_SHARE
        raise InputError(
            f"a budget of {budget:.0f} s does not pay for one trial and a final of {runs} runs at "
            f"{1e3 * per_step:.1f} ms per step; give at least {math.ceil(need)} s"
        )
    if affordable < whole:
        say(f"a whole run is cut from {whole} to {affordable} steps, so that the budget pays for the final")
        recipe, whole = recipe.apply(Edit("epochs", recipe.epochs * affordable / whole)), affordable
    final = min(0.6 * budget, (FINALISTS + 1) * FINAL_SEEDS * whole * per_step)
    return _Plan(recipe, per_step, whole, began + budget - final, began + budget)


def _timed(task: Task, recipe: Recipe, device: str) -> float:
    started = time.perf_counter()
    train(task, recipe, device=device)
    return time.perf_counter() - started


def _first_points(task: Task, recipe: Recipe, space: Space, seed: int) -> list[tuple[str, Parameters]]:
    """The recommended recipe, the plain loss, every other optimizer at its usual rate, then quasi-random points."""
    known: list[tuple[str, Recipe]] = [("recommended", recipe)]
    known.append(("plain loss", recipe.apply(Edit("loss", plain_loss(task)))))
    for optimizer in space.optimizers:
        if optimizer.name != recipe.optimizer["name"]:
            lr = min(max(rate_prior(optimizer.name).pick, optimizer.lr.low), optimizer.lr.high)
            decay = {"weight_decay": 0.01} if optimizer.weight_decay is not None else {}
            part = optimizer.part | {"lr": lr} | decay
            known.append((f"usual {optimizer.name}", recipe.apply(Edit("optimizer", part))))
    points: list[tuple[str, Parameters]] = []
    for origin, candidate in known:
        found = space.parameters(candidate)
        if found is not None and found not in (point for _, point in points):
            points.append((origin, found))
    return points + [("quasi-random", point) for point in space.quasi_random(QUASI_RANDOM, seed=seed)]


# -- trials -------------------------------------------------------------------------------------------------


def _try(
    task: Task,
    space: Space,
    book: Trials,
    plan: _Plan,
    count: int | None,
    seed: int,
    device: str,
    say: Callable[[str], None],
) -> None:
    """Run trials until there are `count` of them, or no time for another."""
    cost = sum(SHARES) * plan.whole * plan.per_step
    while True:
        done = len(book.attempts())
        if count is not None and done >= count:
            return
        if plan.trials_end is not None and time.perf_counter() + cost > plan.trials_end:
            if done == 0:
                raise InputError("the budget ended before the first trial; give more time")
            return
        trial, parameters = book.ask()
        scores: list[float] = []
        try:
            state = _rungs(task, space.recipe(parameters), book, trial.number, scores, plan, seed, device)
        except BaseException:
            book.give_back(trial)
            raise
        book.finish(trial, state, scores)
        shown = f"{task.metric.name} {scores[-1]:.4g}" if scores else "diverged"
        say(f"trial {trial.number}: {_words(parameters)}: {shown}{' (cut)' * (state == 'cut')}")


def _rungs(
    task: Task, recipe: Recipe, book: Trials, number: int, scores: list[float], plan: _Plan, seed: int, device: str
) -> str:
    """Make the short runs of a trial, each with a whole decay of its own, while it is among the better half."""
    for rung, share in enumerate(SHARES):
        epochs = plan.recipe.epochs * share
        try:
            outcome = train(task, recipe.apply(Edit("epochs", epochs)), seed=seed, device=device)
        except DivergedError:
            return "diverged"
        if outcome.reason == "interrupted":
            raise KeyboardInterrupt
        if not math.isfinite(outcome.metric):
            return "diverged"
        scores.append(outcome.metric)
        sign = 1 if task.metric.higher_is_better else -1
        others = [a.scores[rung] for a in book.attempts() if len(a.scores) > rung and a.number != number]
        better = sum(sign * other > sign * outcome.metric for other in others)
        if rung + 1 < len(SHARES) and len(others) >= 3 and better >= math.ceil((len(others) + 1) / 2):
            return "cut"
    return "finished"


# -- the final ----------------------------------------------------------------------------------------------


def _final(
    task: Task,
    recipe: Recipe,
    space: Space,
    book: Trials,
    plan: _Plan,
    out: Path,
    device: str,
    say: Callable[[str], None],
) -> Study:
    """Whole runs of the recommended recipe and the best trials over fresh seeds: one process runs, others wait."""
    with book.locked("final.lock"):
        while book.running():
            time.sleep(0.5)
        attempts = tuple(book.attempts())
        best = _best(attempts, space, recipe, higher_is_better=task.metric.higher_is_better)
        length = Edit("epochs", plan.recipe.epochs)
        named = {"recommended": recipe.apply(length)}
        named |= {f"trial {a.number}": space.recipe(a.parameters).apply(length) for a in best}
        if len(named) == 1:
            raise InputError(
                f"none of the {len(attempts)} trials came through besides the recommended recipe; give more trials, "
                "or a space with lower rates"
            )
        identity = hashlib.sha256(msgspec.json.encode({n: r.as_dict() for n, r in named.items()})).hexdigest()[:8]
        folder = out / f"final-{identity}"
        say(f"final: {', '.join(named)} over fresh seeds")
        seeds = FEWEST_SEEDS if plan.end is not None else FINAL_SEEDS
        while True:
            started = time.perf_counter()
            study = compare(
                task, named, seeds=seeds, seed=FRESH, also_test=True, keep_outputs=True, out=folder, device=device,
                say=say,
            )  # fmt: skip
            now = time.perf_counter()
            last = (now - started) / (seeds if seeds == FEWEST_SEEDS else 1)
            if plan.end is None or seeds >= MOST_SEEDS or now + max(last, 1e-3) > plan.end:
                break
            seeds += 1
    choice, notes = _verdict(task, study, space, {f"trial {a.number}": a for a in best}, folder)
    return msgspec.structs.replace(study, attempts=attempts, choice=choice, notes=notes)


def _best(attempts: tuple[Attempt, ...], space: Space, recipe: Recipe, *, higher_is_better: bool) -> list[Attempt]:
    sign = 1 if higher_is_better else -1
    finished = [a for a in attempts if a.state == "finished" and a.parameters != space.parameters(recipe)]
    ranked = sorted(finished, key=lambda a: (-sign * a.scores[-1], a.number))
    chosen: list[Attempt] = []
    for attempt in ranked:
        if all(attempt.parameters != other.parameters for other in chosen):
            chosen.append(attempt)
    return chosen[:FINALISTS]


def _verdict(
    task: Task, study: Study, space: Space, named: dict[str, Attempt], folder: Path
) -> tuple[str, tuple[str, ...]]:
    """Choose, and say how sure that is: a gain within the noise of seeds or rows keeps the recommended recipe."""
    sign = 1 if task.metric.higher_is_better else -1
    others = [contender.name for contender in study.contenders[1:]]
    best = max(others, key=lambda name: sign * statistics.fmean(study.scores(name)))
    found = study.difference("recommended", best)
    rows = row_interval(task, study, "recommended", best, folder)
    by_chance = found.verdict == "better" and rows is not None and rows[0] <= 0
    choice = best if found.verdict == "better" and not by_chance else "recommended"
    more = f" (about {found.seeds_needed} seeds would settle it)" if found.seeds_needed else ""
    said = {
        "better": f"{best} is better than the recommended recipe: {_words(named[best].parameters)}",
        "tie": f"{best} ties with the recommended recipe: the gain is smaller than the seed noise, keep the latter",
        "worse": "the recommended recipe is better than every trial",
        "undecided": f"{best} cannot be told from the recommended recipe with these seeds: keep the recommended{more}",
    }
    if by_chance:
        said["better"] = (
            f"{best} is ahead on the seeds, but by no more than the luck of which {len(task.val)} rows are in the "
            "validation split: keep the recommended"
        )
    notes = [said[found.verdict]]
    tests = {
        name: [trial.test_metric for trial in study.of(name) if trial.test_metric is not None]
        for name in dict.fromkeys((choice, "recommended"))
    }
    shown = ", ".join(f"{name} {statistics.fmean(values):.4g}" for name, values in tests.items() if values)
    notes.append(f"on the test split, which no choice has seen: {task.metric.name} {shown}")
    for key, side in space.edges(named[choice].parameters).items() if choice in named else ():
        notes.append(f"{key} lies at the {side} edge of its range: there may be better ones beyond it, widen the range")
    return choice, tuple(notes)


def _words(parameters: Parameters) -> str:
    """Parameters as a person would say them."""
    optimizer = parameters["optimizer"]
    numbers = [f"{key.partition('.')[2]} {value:.3g}" for key, value in parameters.items() if isinstance(value, float)]
    return f"{parameters['loss']}, {optimizer} {', '.join(numbers)}, {parameters['schedule']}"
