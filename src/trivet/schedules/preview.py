"""A schedule before it runs: what each phase does, in steps and rates, and what each group of an optimizer gets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trivet.errors import RecipeError
from trivet.schedules.schedule import Schedule

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Span:
    """One phase over the steps of a run: the rate at its first and at its last step, and the extremes between.

    `momentum` is its first, lowest and last value, or None where the schedule leaves it alone; `stateful` marks
    `reduce_on_plateau`, whose rates are those before any reduction.
    """

    phase: str
    first: int
    last: int
    rates: tuple[float, float]
    lowest: float
    highest: float
    momentum: tuple[float, float, float] | None
    stateful: bool

    def __str__(self) -> str:
        text = f"steps {self.first:>6} to {self.last:<6}  {self.phase:<36} {self.rates[0]:.3g} to {self.rates[1]:.3g}"
        if self.highest > 1.001 * max(self.rates):
            text += f", up to {self.highest:.3g} between"
        if self.momentum is not None:
            text += "; momentum {:.3g}, {:.3g} at its lowest, {:.3g}".format(*self.momentum)
        return text + ("; then lower by every plateau of the metric" if self.stateful else "")


@dataclass(frozen=True)
class Preview:
    """The rate (and the momentum, where the schedule sets it) at every step of a run, and what each phase does.

    `stateful` says that the rates are those before any reduction by `reduce_on_plateau`.
    """

    schedule: str
    lr: float
    steps: int
    rates: tuple[float, ...]
    momentum: tuple[float, ...] | None
    phases: tuple[Span, ...]
    stateful: bool
    sparkline: str

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.schedule}, rate {self.lr:g}, {self.steps} steps", self.sparkline, *map(str, self.phases)]
        )

    def plot(self) -> Figure:
        """Draw the rate over the run."""
        from trivet.figures.curves import schedule

        return schedule([step / self.steps for step in range(self.steps)], self.rates)


def preview(
    schedule: Schedule,
    *,
    steps: int,
    lr: float = 1.0,
    steps_per_epoch: float | None = None,
    tokens_per_step: float | None = None,
) -> Preview:
    """Return what a schedule does over a run of `steps` optimizer steps, at the very steps that the adapter will take.

    A phase shorter than one step has no row. Raises `RecipeError` as `Schedule.resolve` does, and for an `lr` that is
    not above 0.

    >>> from trivet.schedules import linear, warmup
    >>> for span in preview(warmup(0.25) >> linear(), steps=8, lr=0.4).phases:
    ...     print(span.phase, span.first, span.last, span.rates)
    warmup(0.25) 0 1 (0.0, 0.2)
    linear() 2 7 (0.4, 0.06666666666666665)
    """
    if not 0 < lr < math.inf:
        raise RecipeError(f"lr = {lr!r} must be a finite number above 0")
    ready = schedule.resolve(total_steps=steps, steps_per_epoch=steps_per_epoch, tokens_per_step=tokens_per_step)
    pairs = [ready.pair(step / steps) for step in range(steps)]
    owners = [ready.phase_at(step / steps) for step in range(steps)]
    rates = [lr * factor for factor, _ in pairs]
    momentum = [value for _, value in pairs]
    rows = []
    for index, phase in enumerate(ready.phases):
        inside = [step for step, owner in enumerate(owners) if owner == index]
        if inside:
            first, last = inside[0], inside[-1]
            own = rates[first : last + 1]
            against = [value for value in momentum[first : last + 1] if value is not None]
            three = (against[0], min(against), against[-1]) if against else None
            text, stateful = str(schedule.phases[index]), phase.plateau is not None
            rows.append(Span(text, first, last, (own[0], own[-1]), min(own), max(own), three, stateful))
    known = tuple(value for value in momentum if value is not None)
    return Preview(
        schedule=str(schedule),
        lr=lr,
        steps=steps,
        rates=tuple(rates),
        momentum=known if len(known) == steps else None,
        phases=tuple(rows),
        stateful=ready.plateau is not None,
        sparkline=ready.sparkline(60),
    )


@dataclass(frozen=True)
class GroupRate:
    """What one parameter group gets: its base rate, that rate as a share of the highest, and its size."""

    name: str
    lr: float
    share: float
    weight_decay: float
    tensors: int
    parameters: int

    def __str__(self) -> str:
        return (
            f"{self.name:<24} lr {self.lr:<9.3g} x{self.share:<7.3g} weight decay {self.weight_decay:<8.3g} "
            f"{self.parameters:,} parameters in {self.tensors} tensors"
        )


def group_rates(optimizer: torch.optim.Optimizer) -> tuple[GroupRate, ...]:
    """Return what each parameter group gets where the schedule's factor is 1, in the optimizer's order.

    >>> import torch
    >>> a, b = torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)
    >>> groups = [{"params": a.parameters(), "lr": 0.05}, {"params": b.parameters()}]
    >>> [(row.lr, row.share, row.parameters) for row in group_rates(torch.optim.SGD(groups, lr=0.1))]
    [(0.05, 0.5, 9), (0.1, 1.0, 4)]
    """
    groups = optimizer.param_groups
    highest = max(float(group.get("initial_lr", group["lr"])) for group in groups)
    rows = []
    for number, group in enumerate(groups):
        lr = float(group.get("initial_lr", group["lr"]))
        sizes = [parameter.numel() for parameter in group["params"]]
        name = str(group.get("name", f"group {number}"))
        share = lr / highest if highest else 1.0
        rows.append(GroupRate(name, lr, share, float(group.get("weight_decay", 0.0)), len(sizes), sum(sizes)))
    return tuple(rows)
