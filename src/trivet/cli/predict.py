"""`trivet predict`: a run's answers on new rows."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from trivet.cli.commands import Json
from trivet.cli.output import emit, say


def predict(
    run: Annotated[str, Parameter(help="A run's directory or name.")],
    data: Annotated[str, Parameter(help="New rows in the form of the training data; a target in it is not looked at.")],
    /,
    *,
    out: Annotated[
        str | None, Parameter(name=["--out", "-o"], help="A .csv or .npz file; the table goes to stdout without it.")
    ] = None,
    json: Json = False,
) -> None:
    """Predict new rows with a run's own preprocessing, weights, thresholds and class names."""
    from trivet.record import Run

    said = Run.open(run).predict(data)
    rows = len(next(iter(said.values())))
    if out is not None:
        path = said.save(out)
        if json:
            emit({"predictions": str(path), "rows": rows, "columns": list(said)})
        else:
            say(f"{rows:,} rows to {path}")
    elif json:
        emit({"predictions": said.rows(), "rows": rows, "columns": list(said)})
    else:
        print(said.to_csv(), end="")
