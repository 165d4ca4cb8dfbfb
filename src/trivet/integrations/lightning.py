"""A callback for Lightning: the doctor watches the training, and a schedule of trivet sets the rate if one is given."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from trivet.errors import require
from trivet.integrations.bedside import Bedside
from trivet.recipes import Finding
from trivet.record import Record
from trivet.schedules import Schedule, Scheduler, parse

if TYPE_CHECKING:

    class Callback:
        """Lightning's base class, of which only the hooks below are used."""

    class Trainer(Protocol):
        """What is asked of a trainer."""

        optimizers: list[torch.optim.Optimizer]
        estimated_stepping_batches: float
        accumulate_grad_batches: int
        sanity_checking: bool
        global_step: int
        callback_metrics: Mapping[str, Tensor]
else:
    # Two packages with the same content; a callback has to come from the one whose Trainer runs it.
    _NAME = "lightning.pytorch" if importlib.util.find_spec("lightning") else "pytorch_lightning"
    Callback = require(_NAME, "lightning").Callback

__all__ = ["Doctor"]


class Doctor(Callback):
    """Watch a Lightning training: `Trainer(callbacks=[doctor := Doctor()])`, then `doctor.findings`.

    Arguments
    ---------
    schedule : sets the rate at every optimizer step, such as "warmup(0.05) >> cosine(floor=0.01)"; leave the scheduler
        out of `configure_optimizers` then. The length is the trainer's own estimate of its optimizer steps.
    on_finding : called with each finding while the training goes on; by default it is said as a warning.
    guard : raise before a step whose gradients are not finite; by default on the CPU.
    """

    def __init__(
        self,
        *,
        schedule: str | Schedule | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        guard: bool | None = None,
    ) -> None:
        super().__init__()
        self.schedule = parse(schedule) if isinstance(schedule, str) else schedule
        self.bedside = Bedside(on_finding, guard)
        self._schedulers: list[Scheduler] = []

    @property
    def findings(self) -> list[Finding]:
        """What is wrong so far, the root cause first."""
        return self.bedside.findings

    @property
    def record(self) -> Record:
        """What was seen, for `trivet.diagnose` and reports."""
        return self.bedside.record

    def on_train_start(self, trainer: Trainer, pl_module: nn.Module) -> None:
        """Begin to watch; the optimizers exist from here on."""
        total = trainer.estimated_stepping_batches
        steps = int(total) if total not in (-1, float("inf")) else None
        self.bedside.begin(pl_module, list(trainer.optimizers), steps)
        if self.schedule is not None and steps is not None:
            self._schedulers = [Scheduler(o, self.schedule, total_steps=steps) for o in trainer.optimizers]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: nn.Module, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Take the batch's loss, which Lightning hands over divided by the accumulated batches."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self.bedside.step(loss * trainer.accumulate_grad_batches)
        for scheduler in self._schedulers:
            scheduler.step()

    def on_validation_end(self, trainer: Trainer, pl_module: nn.Module) -> None:
        """Take what the validation logged."""
        if not trainer.sanity_checking:
            self.bedside.evaluated(trainer.callback_metrics)

    def on_train_end(self, trainer: Trainer, pl_module: nn.Module) -> None:
        """Take the hooks away."""
        self.bedside.end()

    def on_exception(self, trainer: Trainer, pl_module: nn.Module, exception: BaseException) -> None:
        """Take the hooks away after an error too."""
        self.bedside.end()
