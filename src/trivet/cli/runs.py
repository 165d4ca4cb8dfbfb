"""`trivet runs`: list, compare, remove."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from trivet.cli.commands import Json
from trivet.cli.output import emit
from trivet.figures.style import number
from trivet.record import Run, TaskCard
from trivet.record import list_runs as all_runs

app = App(name="runs", help="List runs; compare or remove them.", help_format="plaintext")

Folder = Annotated[str, Parameter(help="The folder that holds the runs.")]


@app.default
def list_all(*, folder: Folder = "runs", json: Json = False) -> None:
    """List the runs in a folder, oldest first."""
    rows = [_row(run) for run in all_runs(folder)]
    if json:
        emit({"runs": rows})
    elif not rows:
        print(f"no runs in {folder}; `trivet fit DATA` makes one")
    else:
        keys = list(rows[0])
        widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in keys}
        print("  ".join(f"{key:<{widths[key]}}" for key in keys))
        for row in rows:
            print("  ".join(f"{row[key]:<{widths[key]}}" for key in keys))


@app.command
def compare(first: str, second: str, /, *, folder: Folder = "runs", json: Json = False) -> None:
    """Show what differs between two runs: the recipe, field by field, and the metric."""
    one, other = Run.open(first, runs=folder), Run.open(second, runs=folder)
    edits = one.recipe.differences(other.recipe)
    rows = [_row(one), _row(other)]
    if json:
        emit({"runs": rows, "differences": edits})
        return
    for row in rows:
        print(
            f"{row['run']}: {row['metric']} ({row['status']})" + f", found {row['findings']}" * (row["findings"] != "-")
        )
    print("the recipes are the same" if not edits else f"from {one.name} to {other.name}:")
    for edit in edits:
        print(f"  {edit}")


@app.command
def remove(run: str, /, *, folder: Folder = "runs", json: Json = False) -> None:
    """Delete a run's directory."""
    found = Run.open(run, runs=folder)
    found.remove()
    if json:
        emit({"removed": str(found.path)})
    else:
        print(f"removed {found.path}")


def _row(run: Run) -> dict[str, str]:
    card, result = run.read("task.json", TaskCard), run.result
    best = run.record.best()
    metric = (
        f"{result.metric.name} {number(result.metric.test)}"
        if result
        else f"{card.metric if card else 'metric'} {number(best.metric)} (val)"
        if best
        else "-"
    )
    return {
        "run": run.name,
        "task": card.name if card else "?",
        "status": run.status,
        "metric": metric,
        "optimizer": str(run.recipe.optimizer["name"]) if (run.path / "recipe.toml").exists() else "-",
        "findings": _findings(run),
    }


def _findings(run: Run) -> str:
    """Return the codes of what the doctor finds, the root cause first; notes ask for nothing and are left out."""
    from trivet.doctor import examine

    return ", ".join(f.code for f in examine(run.record) if f.severity != "note") or "-"
