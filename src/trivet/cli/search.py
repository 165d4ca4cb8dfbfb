"""`trivet search`: loss, optimizer, rate, decay and schedule together, within a budget."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from trivet.cli.commands import Data, Json, Kind, MetricName, Model, Seed, Target
from trivet.cli.output import emit, say
from trivet.errors import InputError

if TYPE_CHECKING:
    from trivet.tuning import Study


def search(
    data: Data,
    /,
    *,
    target: Target = None,
    recipe: Annotated[str | None, Parameter(help="Where to start and what to beat; recommended when left out.")] = None,
    model: Model = None,
    kind: Kind = None,
    metric: MetricName = None,
    budget: Annotated[str | None, Parameter(help="Time for everything: 90s, 10m, 2h.")] = None,
    trials: Annotated[int | None, Parameter(help="How many trials, instead of a budget of time.")] = None,
    space: Annotated[str | None, Parameter(help="A TOML file with losses, optimizers and ranges to search.")] = None,
    workers: Annotated[int, Parameter(help="Processes that share the trials.")] = 1,
    out: Annotated[str | None, Parameter(help="Directory of the search; given again, it goes on there.")] = None,
    save: Annotated[str | None, Parameter(help="Write the chosen recipe to this file.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Search for a recipe for DATA: short runs first, then a final over fresh seeds, judged by the task's metric."""
    from trivet.budget import parse_budget
    from trivet.recipes import Recipe
    from trivet.tasks import read_task
    from trivet.tuning import search

    if workers < 1:
        raise InputError(f"--workers {workers} cannot work; give 1 or more")
    task = read_task(data, target=target, kind=kind, metric=metric, model=model, seed=seed)
    folder = out or f"runs/search-{task.name}-{os.urandom(2).hex()}"
    helpers = [_worker(folder, number) for number in range(1, workers)]
    try:
        study = search(
            task,
            None if recipe is None else Recipe.load(recipe),
            budget=parse_budget(budget),
            trials=trials,
            space=space,
            seed=seed,
            out=folder,
            say=say,
        )
    finally:
        for helper in helpers:
            helper.terminate()
    say(f"every trial is in {folder}; the same command with --out {folder} goes on from there")
    if save is not None:
        study.recipe().save(save)
        say(f"the chosen recipe is in {save}")
    if json:
        emit(_plain(study) | {"search": folder})
    else:
        print(study)
        print()
        print(study.recipe().to_toml(), end="")


def _worker(folder: str, number: int) -> subprocess.Popen[bytes]:
    """Start the same command once more, on the same directory, with its share of the threads."""
    words = [word for word in sys.argv[1:] if not word.startswith("--workers=")]
    if "--workers" in words:
        at = words.index("--workers")
        del words[at : at + 2]
    if "--out" not in words and not any(word.startswith("--out=") for word in words):
        words += ["--out", folder]
    return subprocess.Popen(
        [sys.executable, "-m", "trivet", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _plain(study: Study) -> dict[str, object]:
    return {
        "task": study.task,
        "metric": study.metric,
        "choice": study.choice,
        "recipe": study.recipe().as_dict(),
        "notes": study.notes,
        "final": {contender.name: study.scores(contender.name) for contender in study.contenders},
        "differences": study.differences(),
        "attempts": study.attempts,
    }
