"""A schedule driving a torch optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from trivet.errors import RecipeError
from trivet.schedules.schedule import Schedule


class Scheduler(torch.optim.lr_scheduler.LRScheduler):
    """Sets each group's rate to its own base rate times the schedule's factor; call `step()` once per optimizer step.

    The base rate of a group is its `lr` when the scheduler is made. The whole state is one integer, the number of
    steps made: what is executed is what was previewed, after any resume, and in any number of processes as long as
    `total_steps` counts optimizer steps of the run.

    >>> from trivet.schedules import linear
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    >>> scheduler = Scheduler(optimizer, linear(), total_steps=4)
    >>> rates = []
    >>> for _ in range(4):
    ...     rates.append(round(optimizer.param_groups[0]["lr"], 3)); optimizer.step(); scheduler.step()
    >>> rates, scheduler.state_dict()
    ([0.8, 0.6, 0.4, 0.2], {'step': 4})
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule, *, total_steps: int) -> None:
        if total_steps < 1:
            raise RecipeError(f"total_steps = {total_steps} must be 1 or more")
        self.optimizer, self.schedule, self.total_steps = optimizer, schedule, total_steps
        self.base_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        for group, base in zip(optimizer.param_groups, self.base_lrs, strict=True):
            group.setdefault("initial_lr", base)
        self.last_epoch = 0
        self._set()

    def step(self, epoch: int | None = None) -> None:
        """Go one optimizer step on."""
        self.last_epoch += 1
        self._set()

    def get_last_lr(self) -> list[float | torch.Tensor]:
        """Return the rate of each group as it is set now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the state: the number of steps made."""
        return {"step": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state; rates are computed anew, not read from anywhere."""
        self.last_epoch = int(state_dict["step"])
        self._set()

    def _set(self) -> None:
        progress = min(self.last_epoch / self.total_steps, 1.0)
        factor, momentum = self.schedule(progress), self.schedule.momentum(progress)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(base * factor)  # compiled and captured steps hold on to the tensor
            else:
                group["lr"] = base * factor
            if momentum is not None:
                if "momentum" in group:
                    group["momentum"] = momentum
                elif "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
