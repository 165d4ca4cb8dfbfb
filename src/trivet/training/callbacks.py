"""What may listen to a run, and what may look into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from trivet.record import Event, Journal


class Callback(Protocol):
    """Anything with `handle`; it is called with every event of the run, in order, in the training thread."""

    def handle(self, event: Event) -> None:
        """Take one event."""
        ...


class Observer(Callback, Protocol):
    """A callback that also sees the parts of the run, and may say events of its own to all callbacks."""

    def begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: nn.Module,
        *,
        step: int,
        say: Callable[[Event], None],
    ) -> None:
        """Look at the parts before the first step, or after `step` of them where a run goes on."""
        ...

    def step(self, loss: float, lr: float, norm: float | None) -> None:
        """Take the loss and rate of one optimizer step, and the gradient norm where it is known."""
        ...

    def close(self) -> None:
        """Let go of the parts; called before the run's `End`, whatever ended it."""
        ...


class Recorder:
    """Writes every event to the run's record."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def handle(self, event: Event) -> None:
        self._journal.write(event)
