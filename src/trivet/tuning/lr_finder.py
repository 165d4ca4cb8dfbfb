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
import statistics
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
from trivet.tuning.setup import FILLING, PRODUCTS, PartsSetup, Setup, TaskSetup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trivet.recipes import Recipe
    from trivet.tasks import Task

# The share of a normal run that a find may cost, and how it is divided.
SHARE, SWEEP_SHARE = 0.5, 0.3
MIN_SWEEP, MAX_SWEEP, MIN_SHORT = 30, 80, 20
# The loss counts as broken when it is this much above its lowest value, in units of the drop from its start.
BREAK = 0.5
# Without at least this relative drop nothing was learnt at any rate, and no rate can be told from another.
LEAST_DROP = 0.02
# How many short runs are made, half a decade apart, walking from the middle towards where they get better.
SHORT_RUNS, STRIDE = 5, 10**0.5
# Rates whose held-out loss is this close to the best, relative to it, are as good as the best.
ALIKE = 0.1
# A run twelve times as long wants a lower rate than a short one, in decades: measured in benchmarks/lr_horizon.py on 13
# cells outside of the finder's benchmark, where it ranged from -0.6 to 0.9.
HORIZON = -0.15


class LRRange(msgspec.Struct, frozen=True, kw_only=True):
    """What a range test found.

    `low` to `high` is where the loss falls without breaking, `pick` the rate to use; `confidence` in [0, 1] is high
    when the sweeps agree. When `abstained` is true the pick is only the rate that was there before. `rates` and
    `losses` (one row per sweep, smoothed) are the curves; `edge` is the rate at which the loss broke, if it did;
    `tried` are the rates of the short runs with their held-out losses. `cost` is the share of a normal run's steps that
    the search took, and `advice` says in one line what to do next. `curvature` is the largest one at the fresh weights,
    where it was asked for, `limit` the rate above which it makes steps grow, `meaning` both in words.
    """

    low: float
    high: float
    pick: float
    confidence: float
    abstained: bool
    reason: str
    edge: float | None = None
    rates: tuple[float, ...] = ()
    losses: tuple[tuple[float, ...], ...] = ()
    tried: tuple[tuple[float, float], ...] = ()
    cost: float | None = None
    seconds: float = 0.0
    curvature: float | None = None
    limit: float | None = None
    meaning: str = ""

    def __str__(self) -> str:
        if self.abstained:
            return f"no rate found ({self.reason}); keeping {self.pick:.2g}"
        word = "good" if self.confidence >= 0.7 else "fair" if self.confidence >= 0.4 else "low"
        edge = f", breaks at {self.edge:.2g}" if self.edge is not None else ""
        return f"usable {self.low:.2g} to {self.high:.2g}{edge}; pick {self.pick:.2g} (confidence: {word})"

    @property
    def steepness(self) -> str:
        """The largest curvature beside the pick, in words; empty where it was not asked for."""
        if self.curvature is None:
            return ""
        text = f"largest curvature at the fresh weights {self.curvature:.3g}: {self.meaning}"
        if self.limit is None:
            return text
        beside = f"; the pick is {self.pick / self.limit:.2g} of that"
        if self.pick > self.limit:
            beside += ", so warm up: the first full steps would overshoot where the loss is steepest"
        return text + beside

    @property
    def advice(self) -> str:
        """One line on what to do next."""
        if self.abstained:
            return "train with the rate you have, watch the first steps, and search if it matters"
        if self.confidence >= 0.7:
            return f"use {self.pick:.2g} with warmup and decay; halving or doubling it should change little"
        return f"use {self.pick:.2g}, and compare {self.pick / 3:.1g} and {3 * self.pick:.1g} before a long run"

    def plot(self) -> Figure:
        """Draw the curves, the usable interval, the edge, the short runs and the pick."""
        from trivet.figures.curves import lr_range

        return lr_range(
            self.rates, self.losses, low=self.low, high=self.high, pick=self.pick, edge=self.edge, tried=self.tried
        )


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
        confidence=round(found.confidence * (1.0 if bracketed else 0.6), 2),
        reason=f"{found.reason}; short runs were alike from {min(alike_rates):.2g} to {max(alike_rates):.2g}",
        tried=tuple(tried),
    )


def judge(rates: Sequence[float], curves: Sequence[Sequence[float]], current: float) -> LRRange:
    """Read an interval and a pick off the curves of several sweeps (raw losses; a short one broke off)."""
    smooth = [_smooth(curve) for curve in curves]
    length = min(len(curve) for curve in smooth)
    picks = [found for curve in smooth if (found := _read(rates, curve)) is not None]
    nothing = LRRange(
        low=rates[0],
        high=rates[-1],
        pick=current,
        confidence=0.0,
        abstained=True,
        reason="",
        rates=tuple(rates),
        losses=tuple(tuple(curve) for curve in smooth),
    )

    def abstain(reason: str) -> LRRange:
        return msgspec.structs.replace(nothing, reason=reason)

    if length < 5:
        return abstain(f"the loss was not finite after {length} steps of the sweep, at its lowest rates")
    if len(picks) * 2 <= len(curves):
        return abstain("the loss did not fall at any rate")
    lows, mids, highs = (statistics.median(column) for column in zip(*((a, b, c) for a, b, c, _ in picks), strict=True))
    picked = min(max(mids, lows), highs)
    edges = [edge for *_, edge in picks if edge is not None]
    spread = max(b for _, b, _, _ in picks) / min(b for _, b, _, _ in picks)
    if spread > 30:
        return abstain(f"the sweeps disagree by a factor of {spread:.0f}")
    agreement = max(0.0, 1 - math.log10(spread) / 1.5) * len(picks) / len(curves)
    return msgspec.structs.replace(
        nothing,
        low=lows,
        high=highs,
        pick=float(f"{picked:.2g}"),
        confidence=round(agreement, 2),
        abstained=False,
        reason=f"{len(picks)} of {len(curves)} sweeps agree within a factor of {spread:.1f}",
        edge=statistics.median(edges) if len(edges) * 2 > len(curves) else None,
    )


def _smooth(losses: Sequence[float], decay: float = 0.85) -> list[float]:
    """Average exponentially, without bias at the start; a value that is not finite ends the curve."""
    average, smooth = 0.0, []
    for i, value in enumerate(losses, 1):
        if not math.isfinite(value):
            break
        average = decay * average + (1 - decay) * value
        smooth.append(average / (1 - decay**i))
    return smooth


def _read(rates: Sequence[float], curve: Sequence[float]) -> tuple[float, float, float, float | None] | None:
    """Return (low, pick, high, edge) of one smoothed curve, or None where the loss never fell."""
    start = statistics.median(curve[: max(3, len(curve) // 10)])
    bottom = min(range(len(curve)), key=curve.__getitem__)
    drop = start - curve[bottom]
    if drop <= LEAST_DROP * abs(start) or bottom < 3:
        return None
    edge = next((rates[i] for i in range(bottom, len(curve)) if curve[i] > curve[bottom] + BREAK * drop), None)
    falling = next(i for i in range(bottom + 1) if curve[i] < start - 0.1 * drop)
    low = rates[falling]
    high = min(rates[bottom], edge / 2 if edge is not None else math.inf)
    pick = min(rates[bottom] / 10, edge / 4 if edge is not None else math.inf)
    return low, max(low, pick), max(low, high), edge
