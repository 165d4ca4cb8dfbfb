"""`trivet doctor`: what went wrong in a run, from the log of whatever tool ran it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from trivet.cli.commands import Json
from trivet.cli.output import emit
from trivet.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from trivet.doctor import Diagnosis
    from trivet.recipes import Finding

Columns = Annotated[
    tuple[str, ...],
    Parameter(
        name="--column", help="What a column is, where the guess is wrong: loss=train_nll, lr=..., step=...",
        negative="",
    ),
]  # fmt: skip
RunName = Annotated[str | None, Parameter(name="--run", help="Which run, of a file or folder that holds several.")]
_MARKS = {"error": ("✗", "bold red"), "warning": ("!", "bold yellow"), "note": ("i", "bold cyan")}


def doctor(
    path: Annotated[str, Parameter(help="A run, trainer_state.json, TensorBoard folder, CSV or W&B log.")],
    /,
    *,
    column: Columns = (),
    run: RunName = None,
    prior: Annotated[float | None, Parameter(help="Loss of the best constant answer; ln 10 = 2.303.")] = None,
    json: Json = False,
) -> int:
    """Say what went wrong in a run and what to do, from its log; exit code 4 when an error was found."""
    from trivet.doctor import examine_log

    found = examine_log(path, columns=parse_columns(column), run=run, prior=prior)
    if json:
        emit(_plain(found))
    else:
        _show(found)
    return 4 if found.failed else 0


def parse_columns(words: tuple[str, ...]) -> dict[str, str]:
    """Turn `loss=train_nll` words into a mapping.

    >>> parse_columns(("loss=train_nll", "lr = rate"))
    {'loss': 'train_nll', 'lr': 'rate'}
    """
    pairs = [word.partition("=") for word in words]
    for role, equals, name in pairs:
        if not equals or not role.strip() or not name.strip():
            raise InputError(
                f"--column {role}{equals}{name}; it has to be ROLE=COLUMN, such as --column loss=train_nll"
            )
    return {role.strip(): name.strip() for role, _, name in pairs}


def _plain(found: Diagnosis) -> dict[str, object]:
    log = found.log
    return {
        "path": str(log.path),
        "format": log.format,
        "unit": log.unit,
        "columns": log.columns,
        "notes": log.notes,
        "steps": len(log.record.steps),
        "evaluations": len(log.record.evals),
        "findings": found.findings,
        "decided": found.decided,
        "undecided": found.undecided,
    }


def _show(found: Diagnosis) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, emoji=False)
    log = found.log
    console.print(Text(str(log.path), "bold"), soft_wrap=True)
    console.print(f"{log.format}: {_extent(found)}", soft_wrap=True)
    for note in log.notes:
        _say(console, "note: ", note, "dim")
    for finding in found.findings:
        console.print()
        _show_finding(console, found, finding)
    if not found.findings:
        count = len(found.decided)
        console.print()
        said = f"✓ Nothing wrong, as far as this log can tell: it can show {count} problems."
        _print(console, Text(said, "green"), indent=0)
    console.print()
    total = len(found.decided) + len(found.undecided)
    _say(console, f"looked for {len(found.decided)} of {total}: ", ", ".join(found.decided.values()), "dim")
    for need, names in found.missing().items():
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        _say(console, f"cannot tell {len(names)}: ", f"{shown}; that needs {need}", "dim")


def _extent(found: Diagnosis) -> str:
    from trivet.figures.style import number
    from trivet.training.progress import sparkline

    record, unit = found.log.record, found.log.unit
    if not record.steps:
        return f"{len(record.evals)} evaluations, no training loss"
    first, last = record.steps[0], record.steps[-1]
    shape = sparkline([s.loss for s in record.steps if s.loss == s.loss], 12)
    evals = f", {len(record.evals)} evaluations" if record.evals else ""
    return f"{unit}s {first.step} to {last.step}{evals}, loss {number(first.loss)} {shape} {number(last.loss)}"


def _show_finding(console: Console, found: Diagnosis, finding: Finding) -> None:
    from rich.text import Text

    mark, style = _MARKS[finding.severity]
    where = f" at {found.log.unit} {finding.step}" if finding.step is not None else ""
    where += f" in {finding.layer}" if finding.layer else ""
    title = (f"{mark} {finding.code} {found.name(finding)}", style)
    _print(console, Text.assemble(title, f"{where}  ({finding.confidence:.0%} sure)"), indent=0)
    _say(console, "", finding.message)
    numbers = [
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in finding.evidence.items()
        if value == value  # a number that was not measured is NaN
    ]
    if numbers:
        _say(console, "seen: ", ", ".join(numbers))
    if finding.fix:
        _say(console, "do: ", found.fix(finding), "bold")
    if finding.refuted_by:
        _say(console, "wrong if: ", finding.refuted_by)


def _say(console: Console, label: str, text: str, style: str = "") -> None:
    """Print text two spaces in, with a label before it."""
    from rich.text import Text

    _print(console, Text.assemble((label, "dim"), (text, style)), indent=2)


def _print(console: Console, text: Text, *, indent: int) -> None:
    """Print text wrapped to the terminal, without spaces at the ends of lines."""
    from rich.text import Text

    for line in text.wrap(console, max(console.width - indent, 20)):
        line.rstrip()
        console.print(Text(" " * indent).append_text(line), soft_wrap=True)
