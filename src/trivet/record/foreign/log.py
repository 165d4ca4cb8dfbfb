"""What a reader hands over: columns as they stand in the log, and afterwards a record with what was guessed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trivet.record.journal import Record

Numbers = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Log:
    """A log of somebody else's run, or of one of trivet's own, as a record.

    `format` names the kind of log in words, `notes` say what was guessed, joined, left out or damaged, and `columns`
    which name of the log was taken for what (`loss`, `lr`, `grad_norm`, `val_loss`, `metric`...). `unit` is what the
    record's steps count: "step", "epoch" or "row".
    """

    path: Path
    format: str
    record: Record
    notes: tuple[str, ...] = ()
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    unit: str = "step"


@dataclasses.dataclass
class Table:
    """Rows as a log has them: a column per name, and where it has a value at all (NaN may be a logged value)."""

    values: dict[str, Numbers]
    present: dict[str, NDArray[np.bool_]]

    @property
    def rows(self) -> int:
        return max((len(column) for column in self.values.values()), default=0)


@dataclasses.dataclass
class Series:
    """One quantity over the run; `order` is the order of writing, by which later values replace earlier ones."""

    step: Numbers
    value: Numbers
    seconds: Numbers | None = None


@dataclasses.dataclass
class Raw:
    """A log before anyone has decided which column is what: a table, or series that have steps of their own."""

    format: str
    table: Table | None = None
    series: dict[str, Series] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    planned: int | None = None
    batch_size: int | None = None
    known: dict[str, str] = dataclasses.field(default_factory=dict)  # role -> column, where the format fixes it
    lost_is_zero: bool = False  # the tool writes 0 where the loss was NaN (transformers does by default)

    def counts(self) -> dict[str, int]:
        """Return how many values each name has."""
        if self.table is not None:
            return {name: int(mask.sum()) for name, mask in self.table.present.items()}
        return {name: len(series.step) for name, series in self.series.items()}
