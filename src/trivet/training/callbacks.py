"""What may listen to a run."""

from __future__ import annotations

from typing import Protocol

from trivet.record import Event, Journal


class Callback(Protocol):
    """Anything with `handle`; it is called with every event of the run, in order, in the training thread."""

    def handle(self, event: Event) -> None:
        """Take one event."""
        ...


class Recorder:
    """Writes every event to the run's record."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def handle(self, event: Event) -> None:
        self._journal.write(event)
