"""Leave out batches that would throw a run off course, by a level that one NaN or one huge loss cannot move."""

from __future__ import annotations

import math
import statistics
from collections import deque

# A loss this many robust deviations above the recent median, and this many times it, is a spike.
DEVIATIONS, TIMES = 20.0, 3.0
WINDOW, NEEDED = 64, 16
# So many batches left out in a row are no spikes: the run itself has gone wrong, and goes back.
IN_A_ROW, RETURNS = 8, 3


class Spikes:
    """Judges each batch before its step; only finite losses of steps that were made enter the level.

    >>> spikes = Spikes()
    >>> [spikes.refuses(1.0 + 0.01 * (k % 5)) for k in range(20)].count(True)
    0
    >>> spikes.refuses(float("nan")), spikes.refuses(50.0), spikes.refuses(1.1)
    (True, True, False)
    """

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.in_a_row = self.skipped = self.returns = 0

    def refuses(self, loss: float, norm: float | None = None) -> bool:
        """Return whether the step for a batch with this loss (and gradient norm) should be left out."""
        if self._spiked(loss) or (norm is not None and not math.isfinite(norm)):
            self.in_a_row += 1
            self.skipped += 1
            return True
        self.in_a_row = 0
        self.recent.append(loss)
        return False

    @property
    def lost(self) -> bool:
        """Whether so many batches in a row were left out that the weights should go back."""
        return self.in_a_row >= IN_A_ROW

    def went_back(self) -> bool:
        """Take note of a return to earlier weights; the level is found anew. Returns whether that was one too many."""
        self.returns += 1
        self.in_a_row = 0
        self.recent.clear()
        return self.returns > RETURNS

    def _spiked(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        if len(self.recent) < NEEDED:
            return False
        level = statistics.median(self.recent)
        spread = 1.4826 * statistics.median(abs(value - level) for value in self.recent)
        return loss > level + DEVIATIONS * max(spread, 1e-3 * abs(level)) and loss > TIMES * level

    # -- state ------------------------------------------------------------------------------------

    @property
    def data(self) -> dict[str, object]:
        """Return the state as plain data, for a checkpoint."""
        return {"recent": list(self.recent), "counts": [self.in_a_row, self.skipped, self.returns]}

    @classmethod
    def of(cls, data: dict[str, object]) -> Spikes:
        """Return the judge that `data` was taken from."""
        spikes = cls()
        spikes.recent.extend(data["recent"])  # type: ignore[arg-type]
        spikes.in_a_row, spikes.skipped, spikes.returns = data["counts"]  # type: ignore[misc]
        return spikes
