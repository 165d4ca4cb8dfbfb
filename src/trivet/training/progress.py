"""Progress, drawn for whoever looks: a terminal, a pipe, a notebook, or a program."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Literal, TextIO

import msgspec

from trivet.errors import unknown_name
from trivet.figures.style import number
from trivet.record import End, Eval, Found, Note, Resume, Start, Step

if TYPE_CHECKING:
    from rich.progress import TaskID

    from trivet.record import Event

Style = Literal["auto", "rich", "plain", "json", "html", "off"]
STYLES = ("auto", "rich", "plain", "json", "html", "off")
# One plain line at most this often, in seconds: logs are tailed, not drowned.
PLAIN_EVERY = 5.0
BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """Draw numbers as one line of block characters, the mean of each of `width` equal parts.

    >>> sparkline([1, 2, 3, 4], width=4)
    '▁▃▆█'
    """
    finite = [v for v in values if abs(v) < float("inf")]
    if not finite:
        return ""
    width = min(width, len(finite))
    means = []
    for i in range(width):
        part = finite[i * len(finite) // width : (i + 1) * len(finite) // width]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(BARS[round((m - low) / span * (len(BARS) - 1))] for m in means)


def make_progress(style: str = "auto", *, stream: TextIO | None = None) -> Progress:
    """Return the progress display for a style; "auto" looks at where the output goes."""
    if style not in STYLES:
        raise unknown_name("progress style", style, STYLES)
    stream = stream or sys.stderr
    if style == "auto":
        style = "html" if _in_notebook() else "rich" if _is_terminal(stream) else "plain"
    kinds: dict[str, type[Progress]] = {
        "rich": RichProgress,
        "plain": PlainProgress,
        "json": JsonProgress,
        "html": HtmlProgress,
        "off": Progress,
    }
    return kinds[style](stream)


class Progress:
    """Keeps the numbers that every display shows; this one shows nothing."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.start: Start | None = None
        self.last: Step | None = None
        self.latest: Eval | None = None
        self.best: Eval | None = None
        self.losses: list[float] = []
        self.first: tuple[int, float] | None = None  # step and clock when this part of the run began

    def handle(self, event: Event) -> None:
        match event:
            case Start():
                self.start = event
            case Step():
                if self.first is None:
                    self.first = (event.step - 1, time.monotonic())
                self.last = event
                self.losses.append(event.loss)
            case Eval():
                self.latest = event
                self.best = event if event.best else self.best
        self.show(event)

    def show(self, event: Event) -> None:
        """Draw; called after the numbers are up to date."""

    def say(self, text: str) -> None:
        """Show one line of text beside the numbers."""

    def eta(self) -> float | None:
        """Return the seconds that the remaining steps will take at the speed so far."""
        if self.start is None or self.last is None or self.first is None:
            return None
        done = self.last.step - self.first[0]
        elapsed = time.monotonic() - self.first[1]
        return elapsed / done * (self.start.steps - self.last.step) if done > 1 else None

    def line(self) -> str:
        """Return the state in one line."""
        if self.last is None or self.start is None:
            return "starting"
        parts = [
            f"epoch {self.last.step / self.start.steps_per_epoch:.1f}"
            f"/{self.start.steps / self.start.steps_per_epoch:g}",
            f"step {self.last.step}/{self.start.steps}",
            f"loss {self.last.loss:.4g} {sparkline(self.losses)}",
            f"lr {self.last.lr:.2g}",
        ]
        if self.latest is not None and self.best is not None:
            parts.append(f"{self.start.metric} {number(self.latest.metric)} (best {number(self.best.metric)})")
        eta = self.eta()
        if eta is not None:
            parts.append(f"eta {clock(eta)}")
        return "  ".join(parts)

    def close(self) -> None:
        """Leave the display as it is."""


class PlainProgress(Progress):
    """One line every few seconds, for pipes and logs."""

    shown = 0.0

    def show(self, event: Event) -> None:
        if isinstance(event, Note):
            self.say(event.text)
        elif isinstance(event, Found):
            self.say(found_line(event))
        elif isinstance(event, End):
            self._print(f"{self.line()}  {event.reason} after {clock(event.seconds)}")
        elif isinstance(event, Resume):
            self.say(f"resumed after step {event.step}")
        elif isinstance(event, Step) and time.monotonic() - self.shown >= PLAIN_EVERY:
            self.shown = time.monotonic()
            self._print(self.line())

    def say(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


class JsonProgress(Progress):
    """Every event as one JSON line, for programs."""

    def show(self, event: Event) -> None:
        print(msgspec.json.encode(event).decode(), file=self.stream, flush=True)

    def say(self, text: str) -> None:
        self.show(Note(self.last.step if self.last else 0, text))


class RichProgress(Progress):
    """A bar with the loss as a sparkline, the rate, the metric and the time left, on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichBar

        self.console = Console(file=stream)
        self.bar = RichBar(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self.console,
            refresh_per_second=6,
        )
        self.task: TaskID | None = None

    def show(self, event: Event) -> None:
        if isinstance(event, Note):
            self.console.print(f"[yellow]{event.text}[/]", highlight=False)
        if isinstance(event, Found):
            self.console.print(found_line(event), style="yellow", markup=False, highlight=False)
        if self.task is None and self.start is not None:
            self.bar.start()
            self.task = self.bar.add_task("training", total=self.start.steps, detail="")
        if self.task is None or self.start is None:
            return
        if isinstance(event, Step):
            self.bar.update(self.task, completed=event.step, detail=self._detail())
        elif isinstance(event, End):
            self.bar.update(self.task, description=event.reason, detail=self._detail())
            self.close()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def close(self) -> None:
        if self.task is not None:
            self.bar.stop()

    def _detail(self) -> str:
        assert self.last is not None
        assert self.start is not None
        parts = [f"loss {self.last.loss:.4g} [cyan]{sparkline(self.losses, 12)}[/]", f"lr {self.last.lr:.1e}"]
        if self.best is not None:
            parts.append(f"{self.start.metric} [green]{number(self.best.metric)}[/]")
        eta = self.eta()
        if eta is not None:
            parts.append(f"eta {clock(eta)}")
        return "  ".join(parts)


class HtmlProgress(Progress):
    """One output cell that is updated in place, in notebooks."""

    cell: object = None
    shown = 0.0

    def show(self, event: Event) -> None:
        if isinstance(event, Found):
            self.say(found_line(event))
        if isinstance(event, Step) and time.monotonic() - self.shown < 0.5:
            return
        from IPython.display import HTML, display

        self.shown = time.monotonic()
        done = self.last.step / self.start.steps if self.last and self.start else 0.0
        page = HTML(
            f"<progress value='{done:.4f}' max='1' style='width:18em'></progress> <code>{escape(self.line())}</code>"
        )
        if self.cell is None:
            self.cell = display(page, display_id=True)
        else:
            self.cell.update(page)  # type: ignore[attr-defined]

    def say(self, text: str) -> None:
        print(text)


def found_line(event: Found) -> str:
    """Return a finding as one line: code, what is wrong, what to do."""
    finding = event.finding
    return f"{finding.code} at step {event.step}: {finding.message} Try: {finding.fix}"


def clock(seconds: float) -> str:
    """Return a duration as m:ss, or h:mm:ss from an hour on.

    >>> clock(75), clock(3700)
    ('1:15', '1:01:40')
    """
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell is not None else None
    return type(found).__name__ == "ZMQInteractiveShell"
