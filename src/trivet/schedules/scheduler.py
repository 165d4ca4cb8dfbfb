"""A schedule driving a torch optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from trivet.errors import RecipeError
from trivet.schedules.schedule import Plateau, Schedule


class Scheduler(torch.optim.lr_scheduler.LRScheduler):
    """Sets each group's rate to its own base rate times the schedule's factor.

    Call `step()` after every optimizer step, or after every batch: it moves on only when the optimizer has really
    stepped since the last call, so that accumulated batches and steps that a `GradScaler` skipped do not count. The
    base rate of a group is its `lr` when the scheduler is made, or `initial_lr` where that is set.

    The whole state is one integer, the number of steps made (`reduce_on_plateau` alone adds its own): what is executed
    is what was previewed, after any resume, and in any number of processes as long as `total_steps` counts the
    optimizer's steps of the run.

    Arguments: `total_steps`, `steps_per_epoch` and `tokens_per_step` turn absolute lengths into fractions.

    >>> from trivet.schedules import linear
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    >>> scheduler = Scheduler(optimizer, linear(), total_steps=4)
    >>> rates = []
    >>> for _ in range(4):
    ...     rates.append(round(optimizer.param_groups[0]["lr"], 3)); optimizer.step(); scheduler.step()
    >>> rates, scheduler.state_dict()
    ([0.8, 0.6, 0.4, 0.2], {'step': 4})
    """

    _step_count = 0  # Accelerate adds to it; nothing here reads it

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        *,
        total_steps: int,
        steps_per_epoch: float | None = None,
        tokens_per_step: float | None = None,
    ) -> None:
        self.schedule = schedule.resolve(
            total_steps=total_steps, steps_per_epoch=steps_per_epoch, tokens_per_step=tokens_per_step
        )
        self.optimizer, self.total_steps = optimizer, total_steps
        if all(lr <= 0 for lr in self.base_lrs):
            raise RecipeError(
                f"the base rates {self.base_lrs} leave nothing to schedule; give the optimizer an lr above 0"
            )
        self._groups: list[dict[str, Any]] = []
        self._pairs: list[tuple[dict[str, Any], float]] = []
        self._plain = False
        self.last_epoch = 0
        self._plateau = None if self.schedule.plateau is None else _PlateauState(self.schedule.plateau)
        self._stepped = False
        optimizer.register_step_post_hook(self._note_step)
        self._set()

    @property
    def base_lrs(self) -> list[float]:  # type: ignore[override]
        """The rate of each group where the factor is 1."""
        return [float(group.setdefault("initial_lr", float(group["lr"]))) for group in self.optimizer.param_groups]

    @property
    def _last_lr(self) -> list[float | torch.Tensor]:  # type: ignore[override]
        return self.get_last_lr()  # read by integrations in torch's place

    def _note_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        # A fused step under a GradScaler is called all the same and skips inside its kernel: only this flag tells.
        skipped = optimizer.__dict__.get("found_inf")
        if skipped is None or not bool(skipped):
            self._stepped = True

    def step(self, epoch: int | None = None) -> None:
        """Go one step on, if the optimizer has made one since the last call."""
        if self._stepped:
            self._stepped = False
            self.last_epoch += 1
            self._set()

    def report(self, metric: float, *, higher_is_better: bool = False) -> None:
        """Tell the schedule a validation metric; only `reduce_on_plateau` listens."""
        if self._plateau is not None:
            self._plateau.report(-metric if higher_is_better else metric)
            self._set()

    @property
    def wants_metric(self) -> bool:
        """Whether the rate depends on `report`."""
        return self._plateau is not None

    def get_last_lr(self) -> list[float | torch.Tensor]:
        """Return the rate of each group as it is set now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Return the state: the number of steps made, and the plateau's memory where there is one."""
        state: dict[str, Any] = {"step": self.last_epoch}
        return state if self._plateau is None else state | {"plateau": self._plateau.state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state; rates are computed anew, not read from anywhere."""
        if "step" not in state_dict:
            raise RecipeError(f"the state has no step, only {sorted(state_dict)}: it was saved by another scheduler")
        self.last_epoch = int(state_dict["step"])
        if self._plateau is not None:
            if "plateau" not in state_dict:
                raise RecipeError("the state has no plateau: it was saved by another schedule")
            self._plateau.load(state_dict["plateau"])
        self._stepped = False
        self._set()

    def _set(self) -> None:
        progress = self.last_epoch / self.total_steps
        factor, momentum = self.schedule.pair(progress)
        if momentum is not None:
            for group in self.optimizer.param_groups:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                elif "momentum" in group:
                    group["momentum"] = momentum
        if self._plateau is not None:
            factor *= self._plateau.factor_at(progress)
        groups = self.optimizer.param_groups
        if groups is not self._groups or len(groups) != len(self._pairs):
            self._groups = groups  # a group was added, or a state was loaded
            self._pairs = list(zip(groups, self.base_lrs, strict=True))
            self._plain = all(type(group["lr"]) is float for group in groups)
        if self._plain:
            for group, base in self._pairs:
                group["lr"] = base * factor
        else:
            for group, base in self._pairs:
                _set_rate(group, base * factor)


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)  # compiled and captured steps hold on to the tensor
    else:
        group["lr"] = rate


class _PlateauState:
    """What `reduce_on_plateau` remembers: the best value, the reports since then, and the factor so far."""

    def __init__(self, rule: Plateau) -> None:
        self.rule = rule
        self.best, self.waited, self.factor, self.reports = math.inf, 0, 1.0, 0

    def report(self, value: float) -> None:
        """Take a value, lower being better; NaN counts as no improvement."""
        self.reports += 1
        if value < self.best - self.rule.threshold * abs(self.best) or (math.isinf(self.best) and value < self.best):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.rule.patience:
            self.factor, self.waited = max(self.factor * self.rule.factor, self.rule.floor), 0

    def factor_at(self, progress: float) -> float:
        """Return the factor so far; raises `RecipeError` when half of the run has gone by without a report."""
        if self.reports == 0 and progress > 0.5:
            raise RecipeError(
                "reduce_on_plateau has seen no metric in half of the run; call scheduler.report(metric) after each "
                "evaluation, or use a schedule that needs none"
            )
        return self.factor

    def state(self) -> dict[str, float]:
        return {"best": self.best, "waited": self.waited, "factor": self.factor, "reports": self.reports}

    def load(self, state: Mapping[str, float]) -> None:
        self.best, self.factor = float(state["best"]), float(state["factor"])
        self.waited, self.reports = int(state["waited"]), int(state["reports"])
