"""`trivet lint`: what is wrong with a recipe on data, before anything is trained."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from trivet.cli.commands import Data, Group, Json, Kind, MetricName, Model, Seed, Target, Time
from trivet.cli.output import emit


def lint(
    recipe: Annotated[str, Parameter(help="A recipe file.")],
    data: Data,
    /,
    *,
    target: Target = None,
    model: Model = None,
    kind: Kind = None,
    metric: MetricName = None,
    group: Group = None,
    time: Time = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Say what is wrong with RECIPE on DATA before it is trained; leaves with 4 when there are errors."""
    from trivet.advice import lint
    from trivet.recipes import Recipe
    from trivet.tasks import read_task

    chosen = Recipe.load(recipe)
    task = read_task(data, target=target, kind=kind, metric=metric, model=model, seed=seed, group=group, time=time)
    findings = lint(chosen, task, seed=seed)
    errors = sum(finding.severity == "error" for finding in findings)
    if json:
        emit({"findings": findings, "errors": errors})
        return 4 if errors else 0
    for finding in findings:
        print(f"{finding.code} {finding.severity}: {finding.message}")
        if finding.fix:
            print(f"      fix: {finding.fix}")
    print(f"{len(findings)} findings, {errors} errors" if findings else "nothing found")
    return 4 if errors else 0
