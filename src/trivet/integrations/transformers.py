"""A callback for Hugging Face's Trainer: the doctor sees the loss of every batch, also those that are not logged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trivet.errors import require
from trivet.integrations.bedside import Bedside
from trivet.recipes import Finding
from trivet.record import Record

if TYPE_CHECKING:

    class TrainerCallback:
        """The Trainer's base class, of which only the events below are used."""

    class State(Protocol):
        """What is asked of the Trainer's state."""

        max_steps: int
else:
    TrainerCallback = require("transformers", "transformers").TrainerCallback

__all__ = ["Doctor"]


class Doctor(TrainerCallback):
    """Watch a Trainer: `Trainer(..., callbacks=[doctor := Doctor()])`, then `doctor.findings`.

    The Trainer hands no loss to its callbacks between two logs, and leaves NaN out of what it logs; the loss is
    therefore read from the model's own output, as the Trainer reads it. A model whose loss is computed outside it
    (`compute_loss_func`, a subclass) is not seen batch by batch.

    Arguments
    ---------
    on_finding : called with each finding while the training goes on; by default it is said as a warning.
    guard : raise before a step whose gradients are not finite; by default on the CPU.
    """

    def __init__(self, *, on_finding: Callable[[Finding], None] | None = None, guard: bool | None = None) -> None:
        self.bedside = Bedside(on_finding, guard)
        self._loss: Tensor | None = None
        self._handle: RemovableHandle | None = None

    @property
    def findings(self) -> list[Finding]:
        """What is wrong so far, the root cause first."""
        return self.bedside.findings

    @property
    def record(self) -> Record:
        """What was seen, for `trivet.diagnose` and reports."""
        return self.bedside.record

    def on_train_begin(
        self, args: object, state: State, control: object, model: nn.Module, optimizer: object, **_: object
    ) -> None:
        """Begin to watch; accelerate wraps the optimizer, and hooks go to the one inside."""
        inner = getattr(optimizer, "optimizer", optimizer)
        if isinstance(inner, torch.optim.Optimizer):
            self.bedside.begin(model, [inner], state.max_steps if state.max_steps > 0 else None)
            self._handle = model.register_forward_hook(self._keep)

    def on_substep_end(self, args: object, state: State, control: object, **_: object) -> None:
        """Take the loss of an accumulated batch."""
        self._take()

    def on_step_end(self, args: object, state: State, control: object, **_: object) -> None:
        """Take the loss of the batch that the optimizer stepped after."""
        self._take()

    def on_evaluate(
        self, args: object, state: State, control: object, metrics: Mapping[str, object] | None = None, **_: object
    ) -> None:
        """Take the evaluation's loss and metric."""
        self.bedside.evaluated(metrics or {})

    def on_train_end(self, args: object, state: State, control: object, **_: object) -> None:
        """Take the hooks away."""
        if self._handle is not None:
            self._handle.remove()
        self.bedside.end()

    def _keep(self, module: nn.Module, inputs: object, output: object) -> None:
        if module.training:
            loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
            self._loss = loss.detach().mean() if isinstance(loss, Tensor) else None

    def _take(self) -> None:
        self.bedside.step(self._loss)
        self._loss = None
