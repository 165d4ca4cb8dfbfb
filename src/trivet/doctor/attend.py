"""The doctor beside trivet's own training loop: a callback that watches and adds what it sees to the record."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from trivet.doctor.watcher import SHARE, Watch
from trivet.record import Eval, Event, Found, Start


class Doctor:
    """Watches a run of `trivet.training.train`: give it as `observer`, and its events reach every callback.

    Settings and probes go into the record as they are taken; a finding is said once, when two examinations in a row
    agree on it, and at the end what only the whole run shows.
    """

    def __init__(self) -> None:
        self.watch: Watch | None = None
        self._start: Start | None = None

    def begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: nn.Module,
        *,
        step: int,
        say: Callable[[Event], None],
    ) -> None:
        """Begin (or go on) after `step` steps."""
        device = next(iter(model.parameters())).device.type
        self.watch = Watch(
            model,
            [optimizer],
            loss,
            steps=None,
            guard=device == "cpu",
            share=SHARE,
            on_finding=None,
            write=say,
            first=step,
        )
        self.watch.start = self._start
        self._say = say

    def handle(self, event: Event) -> None:
        """Take the loop's own events: how long the run is, and how it is judged."""
        if isinstance(event, Start):
            self._start = event
        elif isinstance(event, Eval) and self.watch is not None:
            self.watch.evals.append(event)

    def step(self, loss: float, lr: float, norm: float | None) -> None:
        """Take one optimizer step."""
        assert self.watch is not None
        self.watch.step(loss, lr=lr, grad_norm=norm)

    def close(self) -> None:
        """Say what the whole run shows and take every hook away."""
        if self.watch is None:
            return
        watch, self.watch = self.watch, None
        watch.close()
        said = {event.finding.code for event in watch.found}
        for finding in watch.findings:
            if finding.severity != "note" and finding.code not in said:
                self._say(Found(watch.step_number, finding))
