"""Write a record into TensorBoard while it is made: `trivet.watch(model, optimizer, write=Writer("logs"))`."""

from __future__ import annotations

import math
from pathlib import Path

from trivet.errors import require
from trivet.recipes import Edit
from trivet.record import Eval, Event, Found, Note, Probe, Record, Step

__all__ = ["Writer"]


class Writer:
    """Turns events into scalars, and findings into text; a callback of `fit`, and what `watch(write=...)` calls.

    `train/loss`, `train/lr`, `train/grad_norm`, `val/loss`, `val/metric`, the layers' numbers as `layers/NUMBER/INDEX`.
    """

    def __init__(self, folder: str | Path) -> None:
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def __call__(self, event: Event) -> None:
        """Take one event."""
        self.handle(event)

    def handle(self, event: Event) -> None:
        """Take one event."""
        match event:
            case Step():
                self._scalars("train", event.step, loss=event.loss, lr=event.lr, grad_norm=event.grad_norm)
            case Eval():
                self._scalars(event.split, event.step, loss=event.loss, metric=event.metric)
            case Probe():
                for name in ("grad", "weight", "update", "dead", "saturated"):
                    for layer, value in enumerate(getattr(event, name)):
                        if not math.isnan(value):
                            self._add(f"layers/{name}/{layer}", value, event.step)
            case Found():
                fix = f"set {event.finding.fix}" if isinstance(event.finding.fix, Edit) else event.finding.fix
                self._text("doctor", f"{event.finding.code}: {event.finding.message} {fix}", event.step)
            case Note():
                self._text("notes", event.text, event.step)

    def write(self, record: Record) -> None:
        """Write a whole record, such as `w.record` after training or a log that `read_log` read."""
        events: list[Event] = [*record.steps, *record.evals, *record.probes, *record.found, *record.notes]
        for event in events:
            self.handle(event)
        self.close()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self.writer.close()

    def _scalars(self, group: str, step: int, **values: float | None) -> None:
        for name, value in values.items():
            # NaN is a value that TensorBoard shows; a number that nobody took is none.
            if value is not None and not (math.isnan(value) and name in ("lr", "metric")):
                self._add(f"{group}/{name}", value, step)

    def _add(self, tag: str, value: float, step: int) -> None:
        self.writer.add_scalar(tag, value, step)

    def _text(self, tag: str, text: str, step: int) -> None:
        self.writer.add_text(tag, text, step)
