"""`trivet compare`: recipes, or optimizers at a shared and at a tuned rate, over paired seeds."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from trivet.cli.commands import Data, Json, Kind, MetricName, Model, Seed, Target
from trivet.cli.output import emit, say
from trivet.errors import InputError

if TYPE_CHECKING:
    from trivet.recipes import Recipe
    from trivet.tasks import Task
    from trivet.tuning import Study


def compare(
    data: Data,
    /,
    *recipes: Annotated[
        str,
        Parameter(
            help="Recipe files; the first is what the others are compared with. One file with --optimizers is the "
            "recipe whose optimizer is exchanged."
        ),
    ],
    target: Target = None,
    model: Model = None,
    kind: Kind = None,
    metric: MetricName = None,
    seeds: Annotated[int, Parameter(help="Paired seeds for every contender.")] = 5,
    optimizers: Annotated[str | None, Parameter(help="Compare these optimizers: sgd,momentum,adam,rmsprop,...")] = None,
    at_shared_lr: Annotated[float | None, Parameter(help="All optimizers at this rate.")] = None,
    and_tuned: Annotated[bool, Parameter(negative="", help="Each optimizer at the rate found for it, too.")] = False,
    sensitivity: Annotated[
        bool, Parameter(negative="", help="Each contender at other rates and batch sizes, too: 12 more runs of each.")
    ] = False,
    split: Annotated[str, Parameter(help="val to choose, test for the last word.")] = "val",
    out: Annotated[str | None, Parameter(help="Directory of the study; given again, it goes on there.")] = None,
    svg: Annotated[str | None, Parameter(help="Write the plot to this SVG file.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Compare recipes by training each with the same seeds: interval, and better, tie or undecided."""
    from trivet.tasks import read_task
    from trivet.tuning import compare

    named = _named(recipes)
    words = [word.strip() for word in (optimizers or "").split(",") if word.strip()]
    if not words and (at_shared_lr is not None or and_tuned):
        raise InputError("--at-shared-lr and --and-tuned go with --optimizers, such as --optimizers sgd,adam,rmsprop")
    if not named and not words:
        raise InputError("nothing to compare; give two recipe files, or --optimizers sgd,adam --at-shared-lr 1e-3")
    task = read_task(data, target=target, kind=kind, metric=metric, model=model, seed=seed)
    folder = out or f"runs/compare-{task.name}-{os.urandom(2).hex()}"
    if words:
        base = named.popitem()[1] if len(named) == 1 else None
        named |= _optimizers(task, base, words, at_shared_lr, and_tuned or at_shared_lr is None, seed, folder)
    study = compare(task, named, seeds=seeds, seed=seed, split=split, sensitivity=sensitivity, out=folder, say=say)
    say(f"every run is in {folder}; the same command with --out {folder} goes on from there")
    if svg is not None:
        from trivet.figures.style import write_svg

        write_svg(study.plot(), svg)
    if json:
        emit(_plain(study) | {"study": folder})
    else:
        print(study)


def _named(files: tuple[str, ...]) -> dict[str, Recipe]:
    from trivet.recipes import Recipe

    named: dict[str, Recipe] = {}
    for file in files:
        if files.count(file) > 1:
            raise InputError(f"the recipe {file} is given twice; it can only tie with itself")
        named[Path(file).stem if Path(file).stem not in named else file] = Recipe.load(file)
    return named


def _optimizers(
    task: Task, base: Recipe | None, words: list[str], shared: float | None, tuned: bool, seed: int, folder: str
) -> dict[str, Recipe]:
    from trivet.advice import recommend
    from trivet.tuning.contenders import at_shared_rate, at_tuned_rate, optimizer_part

    for word in words:
        optimizer_part(word)  # a misspelt name is said before anything runs
    recipe = base or recommend(task, seed=seed)
    named = at_shared_rate(recipe, words, shared) if shared is not None else {}
    return named | (at_tuned_rate(task, recipe, words, seed=seed, out=folder, say=say) if tuned else {})


def _plain(study: Study) -> dict[str, object]:
    from trivet.tuning.claims import optimizer_claims

    return {
        "task": study.task,
        "metric": study.metric,
        "split": study.split,
        "target": study.target(),
        "best": study.best(),
        "contenders": [
            {
                "name": contender.name,
                "recipe": contender.recipe.as_dict(),
                "scores": study.scores(contender.name),
                "steps_to_target": study.steps_to_target(contender.name),
                "state_bytes_per_parameter": contender.state_bytes_per_parameter,
                "good_rates": study.good_rates(contender.name),
                "batch_effects": {
                    f"{times:g}": effect if math.isfinite(effect) else None  # None where a run diverged
                    for times, effect in study.batch_effects(contender.name).items()
                },
            }
            for contender in study.contenders
        ],
        "differences": study.differences(),
        "claims": optimizer_claims(study),
    }
