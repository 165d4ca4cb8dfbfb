"""`trivet follow`: a run in the terminal while it goes on."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from trivet.cli.commands import Json
from trivet.cli.doctor import Columns, RunName, parse_columns
from trivet.cli.output import emit
from trivet.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text

    from trivet.doctor.follow import View

PLAIN_EVERY = 5.0  # seconds between lines where nobody can redraw them


def follow(
    path: Annotated[str, Parameter(help="A run by name or directory, or any log that `trivet doctor` reads.")],
    /,
    *,
    once: Annotated[bool, Parameter(negative="", help="Draw the run as it stands, and leave.")] = False,
    every: Annotated[float, Parameter(help="Seconds between looks at the files.")] = 1.0,
    column: Columns = (),
    run: RunName = None,
    json: Json = False,
) -> int:
    """Draw a run while it goes on: loss, metric, rate, time left, findings. Ctrl-C leaves; the run does not notice."""
    from trivet.doctor.follow import views

    if not 0 < every < 3600:
        raise InputError(f"--every {every:g}; it has to be more than 0 and less than 3600 seconds")
    looks = views(path, columns=parse_columns(column), run=run, every=every)
    first = next(looks)
    if first.found is None and (once or json or "there is no" in first.waiting):
        raise RunError(first.waiting)
    if json:
        _emit(first)
        return 0
    try:
        if once:
            _draw_once(first)
        elif sys.stdout.isatty():
            _redraw(first, looks)
        else:
            _list(first, looks)
    except KeyboardInterrupt:
        pass  # the way to leave a view; nothing was interrupted
    return 0


def _draw_once(view: View) -> None:
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    for line in _styled(view, console.width, 8):
        console.print(line, soft_wrap=True)


def _redraw(view: View, looks: Iterator[View]) -> None:
    """Draw in place; on leaving, the last view stays on the screen."""
    from rich.console import Console, Group
    from rich.live import Live

    console = Console(highlight=False, emoji=False)

    def drawn(one: View) -> Group:
        # Everything has to fit, or what scrolls off is drawn again and again.
        return Group(*_styled(one, console.width, max(2, min(10, console.height - 9)))[: console.height - 1])

    with Live(drawn(view), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for one in looks:
            live.update(drawn(one), refresh=True)


def _list(view: View, looks: Iterator[View]) -> None:
    """Print a line now and then, and each finding once, for pipes and logs."""
    from trivet.doctor.follow import headline

    said: set[str] = set()
    printed, pending = -PLAIN_EVERY, ""

    def show(one: View) -> None:
        nonlocal printed, pending
        pending = headline(one)
        if time.monotonic() - printed >= PLAIN_EVERY or one.ended:
            print(pending + (f"  ended: {one.ended}" if one.ended else ""), flush=True)
            printed, pending = time.monotonic(), ""
        for finding in one.found.findings if one.found is not None else ():
            if finding.code not in said and one.found is not None:
                said.add(finding.code)
                print(f"{finding.severity} {finding.code}: {finding.message} {one.found.fix(finding)}", flush=True)

    show(view)
    for one in looks:
        show(one)


def _styled(view: View, width: int, height: int) -> list[Text]:
    from rich.text import Text

    from trivet.doctor.follow import lines

    styles = {"✗": "bold red", "!": "yellow", "w": "dim"}
    return [
        Text(line, "cyan" if "┤" in line or "│" in line else styles.get(line[:1], ""))
        for line in lines(view, width=width, height=height)
    ]


def _emit(view: View) -> None:
    assert view.found is not None
    record = view.found.log.record
    emit(
        {
            "path": str(view.found.log.path),
            "format": view.found.log.format,
            "last": record.steps[-1] if record.steps else None,
            "planned": record.start.steps if record.start is not None else None,
            "evaluation": record.evals[-1] if record.evals else None,
            "findings": view.found.findings,
            "ended": view.ended,
        }
    )
