"""Find the learning rate: a range test says where it can be, short decayed runs say where it should be.

1. *Range test.* Raise the rate geometrically, once per seed, and watch the loss. Where it breaks away is an upper
   bound; a tenth of the rate at its lowest point is the classic pick. That pick is biased: a rate that is good for one
   step of a fresh model need not be good for a run.
2. *Validation.* A few rates around it, each with a short run of its own that is warmed up and decays to nothing,
   judged on held-out data. This is the vote that counts most.
3. *The prior.* The rate that was there before, which for a recommended recipe is what tuned runs of that optimizer
   mostly use. On the log scale all three are a decade wide at most, and their weighted mean is better than any of them.

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

from trivet.advice.recommend.rate import rate_prior
from trivet.errors import InputError
from trivet.facts import Profile
from trivet.training import RandomState
from trivet.tuning.setup import PartsSetup, Setup, TaskSetup

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
# A short run likes higher rates than a long one: what is added to its vote, in decades.
SHORT_RUN_BIAS = 0.0
# Weights of the votes on the log scale.
VOTES = {"sweep": 0.1, "short runs": 0.75, "before": 0.15}


class LRRange(msgspec.Struct, frozen=True, kw_only=True):
    """What a range test found.

    `low` to `high` is where the loss falls without breaking, `pick` the rate to use; `confidence` in [0, 1] is high
    when the sweeps agree. When `abstained` is true the pick is only the rate that was there before. `rates` and
    `losses` (one row per sweep, smoothed) are the curves; `edge` is the rate at which the loss broke, if it did;
    `tried` are the rates of the short runs with their held-out losses. `cost` is the share of a normal run's steps that
    the search took, and `advice` says in one line what to do next.
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

    def __str__(self) -> str:
        if self.abstained:
            return f"no rate found ({self.reason}); keeping {self.pick:.2g}"
        word = "good" if self.confidence >= 0.7 else "fair" if self.confidence >= 0.4 else "low"
        edge = f", breaks at {self.edge:.2g}" if self.edge is not None else ""
        return f"usable {self.low:.2g} to {self.high:.2g}{edge}; pick {self.pick:.2g} (confidence: {word})"

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
    budget : seconds that the search may take; without it, half of a normal run's steps.
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
    setup = _setup(task, recipe, model, data, loss, optimizer, val)
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
    plan = _Plan(setup, seeds)
    if say is not None:
        say(str(plan))
    began = time.perf_counter()
    random = RandomState()
    try:
        found = _search(setup, plan, low, high, seed, None if budget is None else began + budget)
    finally:
        random.restore()
    return msgspec.structs.replace(found, cost=plan.share, seconds=time.perf_counter() - began)


def _setup(
    task: Task | None,
    recipe: Recipe | None,
    model: nn.Module | None,
    data: Iterable[tuple[Tensor, Tensor]] | None,
    loss: nn.Module | None,
    optimizer: torch.optim.Optimizer | None,
    val: Iterable[tuple[Tensor, Tensor]] | None,
) -> Setup:
    if task is not None and recipe is not None:
        return TaskSetup(task, recipe)
    if model is None or data is None or loss is None or optimizer is None:
        raise InputError("find_lr needs a task and a recipe, or all of model=, data=, loss= and optimizer=")
    return PartsSetup(model, data, loss, optimizer, val)


class _Plan:
    """How many steps go where; fixed before the first one is made."""

    def __init__(self, setup: Setup, seeds: int) -> None:
        self.seeds = seeds
        if setup.run_steps is None:
            self.sweep, self.short, self.share = MAX_SWEEP, MAX_SWEEP, None
            return
        allowed = SHARE * setup.run_steps
        self.sweep = round(min(max(SWEEP_SHARE * allowed / seeds, MIN_SWEEP), MAX_SWEEP))
        self.short = int((allowed - seeds * self.sweep) / SHORT_RUNS)
        # Too short a run says nothing about a rate; the sweeps alone are then cheaper and no worse.
        self.short = self.short if self.short >= MIN_SHORT else 0
        self.share = (seeds * self.sweep + SHORT_RUNS * self.short) / setup.run_steps

    def __str__(self) -> str:
        text = f"finding the rate: {self.seeds} sweeps of {self.sweep} steps"
        text += f" and {SHORT_RUNS} short runs of {self.short}" if self.short else ""
        return text + (f", {self.share:.0%} of a normal run" if self.share is not None else "")


def _search(setup: Setup, plan: _Plan, low: float, high: float, seed: int, deadline: float | None) -> LRRange:
    def late() -> bool:
        return deadline is not None and time.perf_counter() > deadline

    rates = [low * (high / low) ** (i / (plan.sweep - 1)) for i in range(plan.sweep)]
    curves: list[list[float]] = []
    for number in range(plan.seeds):
        if number and late():
            break
        curves.append(setup.sweep(rates, seed + number))
    found = judge(rates, curves, setup.current_lr)
    if found.abstained or not plan.short:
        return found
    if not setup.has_held_out:
        return msgspec.structs.replace(found, confidence=round(found.confidence / 2, 2))
    tried: dict[int, float] = {}
    middle = math.sqrt(found.pick * setup.current_lr)
    while len(tried) < SHORT_RUNS and not late():
        at = _next_stride(tried)
        rate = middle * STRIDE**at
        past_edge = found.edge is not None and rate > found.edge
        tried[at] = math.inf if past_edge else setup.short_run(rate, plan.short, seed)
    return vote(found, [(middle * STRIDE**at, loss) for at, loss in sorted(tried.items())], setup.current_lr)


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


def vote(found: LRRange, tried: Sequence[tuple[float, float]], before: float) -> LRRange:
    """Weigh sweep, short runs and the rate that was there before; all on the log scale."""
    finite = [(math.log10(rate), loss) for rate, loss in tried if math.isfinite(loss)]
    if len(finite) < 3:
        return msgspec.structs.replace(found, tried=tuple(tried))
    best = _lowest(finite) + SHORT_RUN_BIAS
    votes = {"sweep": math.log10(found.pick), "short runs": best, "before": math.log10(before)}
    pick = sum(VOTES[name] * votes[name] for name in VOTES)
    ceiling = math.log10(found.edge / 2) if found.edge is not None else math.inf
    rate = float(f"{10 ** min(pick, ceiling):.2g}")
    spread = statistics.pstdev(votes.values())
    return msgspec.structs.replace(
        found,
        pick=rate,
        low=min(found.low, rate),
        high=max(found.high, rate),
        confidence=round(max(0.0, 1 - spread) * found.confidence, 2),
        reason=f"{found.reason}; short runs were best near {10**best:.1g}",
        tried=tuple(tried),
    )


def _lowest(points: Sequence[tuple[float, float]]) -> float:
    """Return where the loss is lowest, with a parabola through the best point and its neighbours."""
    at = min(range(len(points)), key=lambda i: points[i][1])
    if not 0 < at < len(points) - 1:
        return points[at][0]
    (x0, y0), (x1, y1), (x2, y2) = points[at - 1 : at + 2]
    bend = (y2 - y1) / (x2 - x1) - (y1 - y0) / (x1 - x0)
    if bend <= 0:
        return x1
    slope = (y1 - y0) / (x1 - x0) + bend * (x1 - x0) / (x2 - x0)
    return min(max(x1 - slope * (x2 - x0) / (2 * bend), x0), x2)


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
