"""Look at a run while it goes on: loss, metric, rate, time left and findings, from any log that grows.

The log is read anew when its files change. That is what makes a view survive whatever happens to a log: a file that is
cut short, replaced or rotated, a run that resumes, a line that is half written.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trivet.doctor.diagnosis import Diagnosis, examine_log
from trivet.errors import RunError
from trivet.figures.style import number
from trivet.record import Step
from trivet.record.foreign import stamp
from trivet.training.progress import BARS, clock, sparkline

READ_SHARE = 0.1  # of the time that may go into reading a long log again and again
DECADES = 1.7  # losses that span more than this many powers of ten are drawn by their logarithm


@dataclasses.dataclass(frozen=True)
class View:
    """A run as it stands: its diagnosis so far, or why there is none yet."""

    found: Diagnosis | None
    waiting: str = ""

    @property
    def ended(self) -> str:
        """How the run ended, empty while it goes on (most tools never write an end)."""
        end = self.found.log.record.end if self.found is not None else None
        return end.reason if end is not None else ""


def views(
    path: str | Path,
    *,
    columns: dict[str, str] | None = None,
    run: str | None = None,
    every: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[View]:
    """Yield a view now and whenever the log has changed, until the run has ended; `every` is in seconds.

    A log that cannot be read for the moment gives a view that says what it waits for, with the last diagnosis.
    """
    last: tuple[tuple[str, int, int, int], ...] | None = None
    found: Diagnosis | None = None
    while True:
        pause, now = every, stamp(path)
        if now != last:
            last, began = now, time.perf_counter()
            try:
                found, waiting = examine_log(path, columns=columns, run=run), ""
            except RunError as error:
                waiting = str(error)
            view = View(found, waiting)
            yield view
            if view.ended and not waiting:
                return
            pause = max(every, (time.perf_counter() - began) / READ_SHARE)
        sleep(pause)


def lines(view: View, *, width: int = 80, height: int = 8) -> list[str]:
    """Return a view as lines of text no wider than `width`, the curve `height` lines high."""
    if view.found is None:
        return [_cut(f"waiting: {view.waiting}", width)]
    record, unit = view.found.log.record, view.found.log.unit
    said = [_cut(f"{view.found.log.path}  {view.found.log.format}", width)]
    if record.steps:
        said += curve([s.loss for s in record.steps], width, height)
    judged = [e for e in record.evals if e.split == "val"]
    metrics = [e.metric for e in judged if math.isfinite(e.metric)]
    losses = [e.loss for e in judged if math.isfinite(e.loss)]
    if metrics and record.start is not None:
        best = max(metrics) if record.start.higher_is_better else min(metrics)
        said.append(f"{record.start.metric} {sparkline(metrics, 24)} {number(metrics[-1])}, best {number(best)}")
    if losses:
        said.append(f"validation loss {sparkline(losses, 24)} {number(losses[-1])}, lowest {number(min(losses))}")
    said.append(headline(view))
    for finding in view.found.findings[:3]:
        mark = {"error": "✗", "warning": "!"}.get(finding.severity, "i")
        where = f" ({unit} {finding.step})" if finding.step is not None else ""
        said.append(f"{mark} {finding.code} {view.found.name(finding)}{where}: {view.found.fix(finding)}")
    if view.waiting:
        said.append(f"waiting: {view.waiting}")
    if view.ended:
        said.append(f"ended: {view.ended}")
    return [_cut(line, width) for line in said]


def headline(view: View) -> str:
    """Return where a run stands in one line: step, loss, rate, speed, time left."""
    if view.found is None:
        return f"waiting: {view.waiting}"
    log = view.found.log
    record = log.record
    if not record.steps:
        return f"{len(record.evals)} evaluations, no training loss yet"
    last = record.steps[-1]
    planned = record.start.steps if record.start is not None else 0
    parts = [f"{log.unit} {last.step}" + (f"/{planned}" if planned > last.step else ""), f"loss {number(last.loss)}"]
    if math.isfinite(last.lr):
        before = record.steps[max(0, len(record.steps) - 10)].lr
        trend = " ↘" if last.lr < 0.999 * before else " ↗" if last.lr > 1.001 * before else ""
        parts.append(f"lr {last.lr:.2g}{trend}")
    pace = _pace(record.steps)
    if pace is not None:
        parts.append(f"{1 / pace:.3g} {log.unit}s/s" if pace < 1 else f"{pace:.3g} s/{log.unit}")
        if planned > last.step and not view.ended:
            parts.append(f"eta {clock(pace * (planned - last.step))}")
    worst = view.found.findings[0] if view.found.findings else None
    return "  ".join(parts) + (f"  {worst.code}" if worst is not None and worst.severity == "error" else "")


def curve(values: list[float], width: int, height: int) -> list[str]:
    """Draw numbers as a filled curve with its range at the left; a column with NaN in it is an x.

    >>> for line in curve([4.0, 3.0, 2.0, 1.0], width=14, height=2): print(line)
        4 ┤█▃
        1 ┤██▆▁
    """
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return ["    (no finite loss)"]
    steep = min(finite) > 0 and math.log10(max(finite) / min(finite)) > DECADES
    scale: Callable[[float], float] = math.log10 if steep else float
    room = max(8, width - 10 - 4 * steep)
    count = min(room, len(values))
    parts = [values[k * len(values) // count : (k + 1) * len(values) // count] for k in range(count)]
    means = [sum(map(scale, p)) / len(p) if all(map(math.isfinite, p)) else math.nan for p in parts]
    low, high = scale(min(finite)), scale(max(finite))
    eighths = [
        1 + round((m - low) / ((high - low) or 1.0) * (8 * height - 1)) if math.isfinite(m) else 0 for m in means
    ]
    rows = []
    for row in reversed(range(height)):
        cells = [
            "x" if e == 0 and row == 0 else " " if e <= 8 * row else BARS[min(8, e - 8 * row) - 1] for e in eighths
        ]
        label = number(max(finite), 3) if row == height - 1 else number(min(finite), 3) if row == 0 else ""
        rows.append(f"{label:>5} {'┤' if label else '│'}{''.join(cells)}".rstrip())
    if steep:
        rows[0] += "  log"
    return rows


def _pace(steps: tuple[Step, ...]) -> float | None:
    """Return seconds per step over the last steps that have times, None where there are none."""
    last = steps[-1]
    first = steps[max(0, len(steps) - 50)]
    took, made = last.seconds - first.seconds, last.step - first.step
    return took / made if took > 0 and made > 0 else None


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: max(1, width - 1)] + "…"
