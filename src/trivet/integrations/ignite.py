"""A handler for Ignite: the doctor watches an engine, and evaluations of another one count too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from trivet.errors import require
from trivet.integrations.bedside import Bedside
from trivet.recipes import Finding
from trivet.record import Record
from trivet.schedules import Schedule, Scheduler, parse

if TYPE_CHECKING:

    class State(Protocol):
        """What is asked of an engine's state."""

        output: object
        metrics: Mapping[str, object]
        max_epochs: int | None
        epoch_length: int | None

    class Engine(Protocol):
        """What is asked of an engine."""

        state: State

        def add_event_handler(self, event: object, handler: Callable[[Engine], None]) -> object: ...


__all__ = ["Doctor"]


class Doctor:
    """Watch an Ignite engine: `doctor = Doctor(model, optimizer).attach(trainer, evaluator)`, then `doctor.findings`.

    Arguments
    ---------
    loss : takes the loss from an engine's output; the output itself by default, its "loss", or the last of a tuple.
    schedule : sets the rate at every optimizer step, such as "warmup(0.05) >> cosine(floor=0.01)".
    on_finding : called with each finding while the training goes on; by default it is said as a warning.
    guard : raise before a step whose gradients are not finite; by default on the CPU.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        loss: Callable[[object], Tensor | float] | None = None,
        schedule: str | Schedule | None = None,
        on_finding: Callable[[Finding], None] | None = None,
        guard: bool | None = None,
    ) -> None:
        self.model, self.optimizer = model, optimizer
        self.loss = loss or loss_of
        self.schedule = parse(schedule) if isinstance(schedule, str) else schedule
        self.bedside = Bedside(on_finding, guard)
        self._scheduler: Scheduler | None = None

    @property
    def findings(self) -> list[Finding]:
        """What is wrong so far, the root cause first."""
        return self.bedside.findings

    @property
    def record(self) -> Record:
        """What was seen, for `trivet.diagnose` and reports."""
        return self.bedside.record

    def attach(self, trainer: Engine, evaluator: Engine | None = None) -> Doctor:
        """Attach to the engine that trains, and to the one that validates; return the doctor itself."""
        events = require("ignite.engine", "ignite").Events
        trainer.add_event_handler(events.STARTED, self._begin)
        trainer.add_event_handler(events.ITERATION_COMPLETED, self._step)
        trainer.add_event_handler(events.COMPLETED, lambda engine: self.bedside.end())
        if evaluator is not None:
            evaluator.add_event_handler(events.COMPLETED, self._evaluated)
        return self

    def _begin(self, engine: Engine) -> None:
        epochs, length = engine.state.max_epochs, engine.state.epoch_length
        steps = epochs * length if epochs and length else None
        self.bedside.begin(self.model, [self.optimizer], steps)
        if self.schedule is not None and steps is not None:
            self._scheduler = Scheduler(self.optimizer, self.schedule, total_steps=steps)

    def _step(self, engine: Engine) -> None:
        self.bedside.step(self.loss(engine.state.output))
        if self._scheduler is not None:
            self._scheduler.step()

    def _evaluated(self, engine: Engine) -> None:
        self.bedside.evaluated({f"val_{name}": value for name, value in engine.state.metrics.items()})


def loss_of(output: object) -> Tensor | float:
    """Return the loss in an engine's output: the output itself, its entry "loss", or the last of a tuple.

    >>> loss_of(0.5), loss_of({"loss": 0.25}), loss_of(([1], 0.125))
    (0.5, 0.25, 0.125)
    """
    if isinstance(output, Mapping):
        output = output.get("loss")
    elif isinstance(output, Sequence) and output:
        output = output[-1]
    if isinstance(output, Tensor | float | int):
        return output
    raise TypeError(
        f"no loss in an engine's output of type {type(output).__name__}; give Doctor(loss=lambda output: ...)"
    )
