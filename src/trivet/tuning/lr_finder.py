"""The range test: raise the rate geometrically, watch the loss, say where it falls and where it breaks.

One sweep is noisy, so several are run from different seeds and orders of batches. Each gives a tenth of the rate at
its lowest loss, the classic rule with the smallest median error, and never more than a quarter of the rate at which
the loss breaks away. The median over the sweeps is drawn towards the rate that was there before (the prior's), half
of the way on the log scale: a sweep is a biased proxy of a decayed run, and both are about half a decade wide. When
the sweeps disagree, or the loss never moved, the finder abstains and says why: the rate that was there stays.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import Tensor, nn

from trivet.advice.recommend.rate import rate_prior
from trivet.errors import InputError
from trivet.facts import Profile
from trivet.training import RandomState, align, call

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trivet.recipes import Recipe
    from trivet.tasks import Task

STEPS = 80
# Weight of the sweeps against the rate that was there before, on the log scale.
TRUST = 0.5
# The loss counts as broken when it is this much above its lowest value, in units of the drop from its start.
BREAK = 0.5
# Without at least this relative drop nothing was learnt at any rate, and no rate can be told from another.
LEAST_DROP = 0.02


class LRRange(msgspec.Struct, frozen=True, kw_only=True):
    """What a range test found.

    `low` to `high` is where the loss falls without breaking, `pick` the rate to use; `confidence` in [0, 1] is high
    when the sweeps agree. When `abstained` is true the pick is only the rate that was there before. `rates` and
    `losses` (one row per sweep, smoothed) are the curves; `edge` is the rate at which the loss broke, if it did.
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
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.abstained:
            return f"no rate found ({self.reason}); keeping {self.pick:.2g}"
        word = "good" if self.confidence >= 0.7 else "fair" if self.confidence >= 0.4 else "low"
        edge = f", breaks at {self.edge:.2g}" if self.edge is not None else ""
        return f"usable {self.low:.2g} to {self.high:.2g}{edge}; pick {self.pick:.2g} (confidence: {word})"

    def plot(self) -> Figure:
        """Draw the curves, the usable interval, the edge and the pick."""
        from trivet.figures.curves import lr_range

        return lr_range(self.rates, self.losses, low=self.low, high=self.high, pick=self.pick, edge=self.edge)


def find_lr(
    task: Task | None = None,
    recipe: Recipe | None = None,
    *,
    model: nn.Module | None = None,
    data: Iterable[tuple[Tensor, Tensor]] | None = None,
    loss: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    seeds: int = 3,
    steps: int = STEPS,
    seed: int = 0,
    low: float | None = None,
    high: float | None = None,
    profile: Profile | None = None,
) -> LRRange:
    """Find the learning rate for a task and recipe, or for a model, loader, loss and optimizer of your own.

    Nothing that is handed in is changed: model (batch-norm statistics included), optimizer and the random state of
    Python, NumPy and torch are exactly as before, also after an error.

    Raises `InputError` for rates that are not positive, a model without trainable parameters, and missing arguments.

    >>> import torch
    >>> x = torch.randn(64, 3); y = x @ torch.tensor([1.0, -2.0, 0.5])
    >>> net = torch.nn.Linear(3, 1)
    >>> found = find_lr(model=net, data=[(x, y)], loss=torch.nn.MSELoss(),
    ...                 optimizer=torch.optim.SGD(net.parameters(), lr=1e-3), seeds=2)
    >>> found.low < found.pick <= found.high
    True
    """
    sweeper = _from_task(task, recipe, seed) if task is not None and recipe is not None else None
    if sweeper is None:
        if model is None or data is None or loss is None or optimizer is None:
            raise InputError("find_lr needs a task and a recipe, or all of model=, data=, loss= and optimizer=")
        sweeper = _from_parts(model, data, loss, optimizer)
    pretrained = profile.model.pretrained if profile is not None else False
    prior = rate_prior(sweeper.optimizer_name, pretrained=pretrained)
    low, high = low or prior.low / 10, high or prior.high * 3
    if not 0 < low < high < math.inf:
        raise InputError(f"low = {low} and high = {high} must satisfy 0 < low < high")

    began = time.perf_counter()
    rates = [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]
    random = RandomState()
    try:
        curves = [sweeper.sweep(rates, seed + number) for number in range(seeds)]
    finally:
        random.restore()
    return judge(rates, curves, sweeper.current_lr, seconds=time.perf_counter() - began)


class _Sweeper:
    """Makes a fresh copy of the training state for each sweep and runs the sweep on it."""

    optimizer_name: str
    current_lr: float

    def start(self, seed: int) -> tuple[nn.Module, torch.optim.Optimizer, nn.Module, Iterator[tuple[Tensor, Tensor]]]:
        raise NotImplementedError

    def sweep(self, rates: Sequence[float], seed: int) -> list[float]:
        torch.manual_seed(seed)
        model, optimizer, loss, batches = self.start(seed)
        if not any(p.requires_grad for p in model.parameters()):
            raise InputError("the model has no trainable parameters; unfreeze some, or give another model")
        base = [float(group["lr"]) / self.current_lr for group in optimizer.param_groups]
        model.train()
        losses: list[float] = []
        for rate in rates:
            inputs, targets = next(batches)
            for group, factor in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * factor
            optimizer.zero_grad(set_to_none=True)
            value = loss(align(call(model, inputs), targets), targets)
            losses.append(float(value.detach()))
            if not math.isfinite(losses[-1]):
                if len(losses) == 1:
                    raise InputError(
                        "the loss is not finite at the very first step: look at the inputs, targets and initial weights"
                    )
                break
            value.backward()
            optimizer.step()
        return losses


class _TaskSweeper(_Sweeper):
    def __init__(self, task: Task, recipe: Recipe) -> None:
        self.task, self.recipe = task, recipe
        self.optimizer_name = str(recipe.optimizer["name"])
        self.current_lr = float(recipe.optimizer.get("lr", 1e-3))  # type: ignore[arg-type]

    def start(self, seed: int) -> tuple[nn.Module, torch.optim.Optimizer, nn.Module, Iterator[tuple[Tensor, Tensor]]]:
        model = self.task.make_model(seed)
        parts = self.recipe.build(model, steps=1)
        # The scheduler has set the group's rate for step 0 (zero, under warmup); a sweep sets its own.
        for group in parts.optimizer.param_groups:
            group["lr"] = group.get("initial_lr", group["lr"])
        return model, parts.optimizer, parts.loss, self._batches(seed)

    def _batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        rows = len(self.task.train)
        batch = min(self.recipe.batch_size, rows)
        while True:
            order = torch.randperm(rows, generator=generator)
            for begin in range(0, rows - batch + 1, batch):
                yield self.task.train.batch(order[begin : begin + batch])  # type: ignore[misc]


class _PartsSweeper(_Sweeper):
    def __init__(
        self,
        model: nn.Module,
        data: Iterable[tuple[Tensor, Tensor]],
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.given = (model, optimizer, loss)
        self.data = data
        self.optimizer_name = type(optimizer).__name__
        self.current_lr = max(float(group["lr"]) for group in optimizer.param_groups) or 1e-3

    def start(self, seed: int) -> tuple[nn.Module, torch.optim.Optimizer, nn.Module, Iterator[tuple[Tensor, Tensor]]]:
        # One deepcopy of all three together keeps the optimizer's references pointing into the copied model.
        model, optimizer, loss = copy.deepcopy(self.given)
        return model, optimizer, loss, self._batches()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            empty = True
            for batch in self.data:
                empty = False
                yield batch
            if empty:
                raise InputError("the data yields no batches; give a loader with at least one")


def _from_task(task: Task, recipe: Recipe, seed: int) -> _Sweeper:
    return _TaskSweeper(task, recipe)


def _from_parts(
    model: nn.Module, data: Iterable[tuple[Tensor, Tensor]], loss: nn.Module, optimizer: torch.optim.Optimizer
) -> _Sweeper:
    return _PartsSweeper(model, data, loss, optimizer)


def judge(
    rates: Sequence[float], curves: Sequence[Sequence[float]], current: float, *, seconds: float = 0.0
) -> LRRange:
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
        seconds=seconds,
    )

    def abstain(reason: str) -> LRRange:
        return msgspec.structs.replace(nothing, reason=reason)

    if length < 5:
        return abstain(f"the loss was not finite after {length} steps of the sweep, at its lowest rates")
    if len(picks) * 2 <= len(curves):
        return abstain("the loss did not fall at any rate")
    lows, mids, highs = (statistics.median(column) for column in zip(*((a, b, c) for a, b, c, _ in picks), strict=True))
    blended = math.exp(TRUST * math.log(mids) + (1 - TRUST) * math.log(current))
    picked = min(max(blended, lows), highs)
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
