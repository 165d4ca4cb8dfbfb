"""Find the learning rate: a range test says where it can be, short decayed runs say where it should be.

1. *Range test.* Raise the rate geometrically, once per seed, and watch the loss. Where it breaks away is an upper
   bound; a tenth of the rate at its lowest point is the classic pick. That pick is biased: a rate that is good for one
   step of a fresh model need not be good for a run. Here it only says where to begin, halfway to the rate that was
   there before, and whether any rate can be told from another.
2. *Short runs.* A few rates half a decade apart, walking to where they get better, each with a run of its own that is
   warmed up and decays to nothing, judged on held-out data. The pick is the centre of the rates that these runs cannot
   tell apart, on the log scale: steadier than the best of five noisy values; and a little lower, because the run is
   longer than they are (docs/decisions/070).

When the sweeps disagree, or the loss never moved, the finder abstains and says why: the rate that was there stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import Tensor, nn

from trivet.advice import recommend
from trivet.advice.recommend.rate import rate_prior
from trivet.errors import InputError
from trivet.facts import Profile
from trivet.training import RandomState
from trivet.tuning.lr_range import LRRange
from trivet.tuning.range_test import judge
from trivet.tuning.setup import FILLING, PRODUCTS, PartsSetup, Setup, TaskSetup

if TYPE_CHECKING:
    from trivet.recipes import Recipe
    from trivet.tasks import Task

# The share of a normal run that a find may cost, and how it is divided.
SHARE, SWEEP_SHARE = 0.5, 0.3
MIN_SWEEP, MAX_SWEEP, MIN_SHORT = 30, 80, 20
# How many short runs are made, half a decade apart, walking from the middle towards where they get better.
SHORT_RUNS, STRIDE = 5, 10**0.5
# Rates whose held-out loss is this close to the best, relative to it, are as good as the best.
ALIKE = 0.1
# A run twelve times as long wants a lower rate than a short one, in decades: measured in benchmarks/lr_horizon.py on 13
# cells outside of the finder's benchmark, where it ranged from -0.6 to 0.9.
HORIZON = -0.15
# More is not to be promised: nine picks in ten came within 0.6 decades there, and within 1.1 on the benchmark's cells.
CONFIDENT = 0.6


def find_lr(
    task: Task | None = None,
    recipe: Recipe | None = None,
    *,
    model: nn.Module | None = None,
    data: Iterable[tuple[Tensor, Tensor]] | None = None,
    loss: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    val: Iterable[tuple[Tensor, Tensor]] | None = None,
    seeds: int = 3,
    seed: int = 0,
    low: float | None = None,
    high: float | None = None,
    budget: float | None = None,
    steps: int | None = None,
    curvature: bool = False,
    profile: Profile | None = None,
    say: Callable[[str], None] | None = None,
) -> LRRange:
    """Find the learning rate for a task and recipe, or for a model, loader, loss and optimizer of your own.

    Nothing that is handed in is changed: model (batch-norm statistics included), optimizer and the random state of
    Python, NumPy and torch are exactly as before, also after an error.

    Arguments
    ---------
    val : held-out batches for a script without a task; without them the short runs are left out, and confidence is low.
    seeds : sweeps of the range test. low, high : its ends; by default those of the optimizer's prior, widened.
    budget : seconds that the search may take, kept to the step; without it, half of a normal run's steps.
    steps : optimizer steps of the run that a script without a task is going to make; a task's recipe knows them.
    curvature : estimate the largest curvature of the loss at the fresh weights too (see `trivet.curvature`), which
        takes as long as 60 steps; they are part of the cost.
    say : called with the cost before anything runs.

    Raises `InputError` for rates that are not positive, a model without trainable parameters, a loss that is not finite
    at the first step, and missing arguments.

    >>> import torch
    >>> x = torch.randn(64, 3); y = (x @ torch.tensor([1.0, -2.0, 0.5])).unsqueeze(1)
    >>> net = torch.nn.Linear(3, 1)
    >>> found = find_lr(model=net, data=[(x, y)], loss=torch.nn.MSELoss(),
    ...                 optimizer=torch.optim.SGD(net.parameters(), lr=1e-3), seeds=2)
    >>> found.low < found.pick <= found.high
    True
    """
    if steps is not None and steps < 1:
        raise InputError(f"steps = {steps} must be 1 or more")
    setup = _setup(task, recipe, model, data, loss, optimizer, val, steps)
    pretrained = profile.model.pretrained if profile is not None else False
    prior = rate_prior(setup.optimizer_name, pretrained=pretrained)
    low = prior.low / 10 if low is None else low
    high = prior.high * 3 if high is None else high
    if not 0 < low < high < math.inf:
        raise InputError(f"low = {low} and high = {high} must satisfy 0 < low < high")
    if seeds < 1:
        raise InputError(f"seeds = {seeds} must be 1 or more")
    if budget is not None and not budget > 0:
        raise InputError(f"budget = {budget} must be above 0 seconds")
    plan = _Plan(setup, seeds, curvature=curvature)
    if say is not None:
        say(str(plan))
    began = time.perf_counter()

    def late() -> bool:
        return budget is not None and time.perf_counter() > began + budget

    random = RandomState()
    try:
        found = _search(setup, plan, low, high, seed, late)
        bend = setup.curvature(low, seed) if curvature else None
    finally:
        setup.restore()
        random.restore()
    if bend is not None:
        found = msgspec.structs.replace(found, curvature=bend.largest, limit=bend.limit, meaning=bend.meaning)
    return msgspec.structs.replace(found, cost=plan.share, seconds=time.perf_counter() - began)


def _setup(
    task: Task | None,
    recipe: Recipe | None,
    model: nn.Module | None,
    data: Iterable[tuple[Tensor, Tensor]] | None,
    loss: nn.Module | None,
    optimizer: torch.optim.Optimizer | None,
    val: Iterable[tuple[Tensor, Tensor]] | None,
    steps: int | None,
) -> Setup:
    if task is not None:
        return TaskSetup(task, recommend(task) if recipe is None else recipe)
    if model is None or data is None or loss is None or optimizer is None:
        raise InputError("find_lr needs a task (and a recipe), or all of model=, data=, loss= and optimizer=")
    return PartsSetup(model, data, loss, optimizer, val, steps)


class _Plan:
    """How many steps go where; fixed before the first one is made."""

    def __init__(self, setup: Setup, seeds: int, *, curvature: bool) -> None:
        self.seeds = seeds
        # A Hessian-vector product is two backward passes where a step is one.
        self.curvature = FILLING + 2 * PRODUCTS if curvature else 0
        if setup.run_steps is None:
            self.sweep, self.short, self.share = MAX_SWEEP, MAX_SWEEP, None
            return
        allowed = SHARE * setup.run_steps - self.curvature
        self.sweep = round(min(max(SWEEP_SHARE * allowed / seeds, MIN_SWEEP), MAX_SWEEP))
        self.short = int((allowed - seeds * self.sweep) / SHORT_RUNS)
        # Too short a run says nothing about a rate; the sweeps alone are then cheaper and no worse.
        self.short = self.short if self.short >= MIN_SHORT and setup.has_held_out else 0
        self.share = (seeds * self.sweep + SHORT_RUNS * self.short + self.curvature) / setup.run_steps

    def __str__(self) -> str:
        text = f"finding the rate: {self.seeds} sweeps of {self.sweep} steps"
        text += f" and {SHORT_RUNS} short runs of {self.short}" if self.short else ""
        text += f", curvature for as long as {self.curvature}" if self.curvature else ""
        return text + (f", {self.share:.0%} of a normal run" if self.share is not None else "")


def _search(setup: Setup, plan: _Plan, low: float, high: float, seed: int, late: Callable[[], bool]) -> LRRange:
    rates = [low * (high / low) ** (i / (plan.sweep - 1)) for i in range(plan.sweep)]
    curves: list[list[float]] = []
    for number in range(plan.seeds):
        curve = setup.sweep(rates, seed + number, late)
        if late() and curves:
            break  # cut off: it would read as a curve that breaks early
        curves.append(curve)
    found = judge(rates, curves, setup.current_lr)
    if late() and len(curves) == 1 and len(curves[0]) < len(rates):
        reason = f"the budget ended at step {len(curves[0])} of {len(rates)} of the first sweep"
        return msgspec.structs.replace(found, abstained=True, pick=setup.current_lr, confidence=0.0, reason=reason)
    if found.abstained:
        return found
    if not plan.short or not setup.has_held_out:
        return msgspec.structs.replace(found, confidence=round(found.confidence / 2, 2))
    tried: dict[int, float] = {}
    middle = math.sqrt(found.pick * setup.current_lr)
    while len(tried) < SHORT_RUNS:
        at = _next_stride(tried)
        rate = middle * STRIDE**at
        past_edge = found.edge is not None and rate > found.edge
        loss = math.inf if past_edge else setup.short_run(rate, plan.short, seed, late)
        if loss is None:
            break
        tried[at] = loss
    return settle(found, [(middle * STRIDE**at, loss) for at, loss in sorted(tried.items())])


def _next_stride(tried: Mapping[int, float]) -> int:
    """Return which multiple of the stride to try next: outwards from the best, so that it ends up in the middle."""
    for at in (0, 1, -1):
        if at not in tried:
            return at
    best = min(tried, key=tried.__getitem__)
    if best + 1 not in tried:
        return best + 1
    if best - 1 not in tried:
        return best - 1
    # Bracketed: widen on the side that is nearer, for a better curve.
    above, below = max(tried) + 1, min(tried) - 1
    return above if above - best <= best - below else below


def settle(found: LRRange, tried: Sequence[tuple[float, float]]) -> LRRange:
    """Pick the centre of the rates that the short runs cannot tell apart, moved by `HORIZON`.

    The centre is a mean on the log scale with weights exp(-(loss - best) / alike), where alike is a tenth of the best
    loss. Infinite losses do not count; with fewer than three finite ones the pick stays with the sweeps, and confidence
    is halved.
    """
    finite = [(math.log10(rate), loss) for rate, loss in tried if math.isfinite(loss)]
    if len(finite) < 3:
        reason = f"{found.reason}; only {len(finite)} short runs ended well"
        return msgspec.structs.replace(
            found, tried=tuple(tried), confidence=round(found.confidence / 2, 2), reason=reason
        )
    best = min(loss for _, loss in finite)
    drop = max(loss for _, loss in finite) - best
    alike = ALIKE * max(abs(best), 0.01 * drop, 1e-12)
    weights = [math.exp(-(loss - best) / alike) for _, loss in finite]
    centre = sum(w * x for w, (x, _) in zip(weights, finite, strict=True)) / sum(weights)
    ceiling = math.log10(found.edge / 2) if found.edge is not None else math.inf
    rate = float(f"{10 ** min(centre + HORIZON, ceiling):.2g}")
    alike_rates = [10**x for w, (x, _) in zip(weights, finite, strict=True) if w > math.exp(-1)]
    # Best at an end of what was tried: the true best may lie beyond.
    bracketed = best < min(finite[0][1], finite[-1][1]) or len(finite) < len(tried)
    return msgspec.structs.replace(
        found,
        pick=rate,
        low=min(found.low, rate),
        high=max(found.high, rate),
        confidence=round(min(CONFIDENT, found.confidence) * (1.0 if bracketed else 0.6), 2),
        reason=f"{found.reason}; short runs were alike from {min(alike_rates):.2g} to {max(alike_rates):.2g}",
        tried=tuple(tried),
    )
