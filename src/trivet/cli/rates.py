"""`trivet lr-find` and `trivet schedule`: the rate that is found, and the rate that will be set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from trivet.cli.commands import Data, Json, Kind, MetricName, Model, Seed, Target
from trivet.cli.output import emit, say

if TYPE_CHECKING:
    from trivet.recipes import Recipe
    from trivet.schedules import GroupRate

Svg = Annotated[str | None, Parameter(help="Write the plot to this SVG file.")]


def lr_find(
    data: Data,
    /,
    *,
    target: Target = None,
    recipe: Annotated[str | None, Parameter(help="A recipe file; recommended when left out.")] = None,
    model: Model = None,
    kind: Kind = None,
    metric: MetricName = None,
    seeds: Annotated[int, Parameter(help="Sweeps to combine.")] = 3,
    budget: Annotated[str | None, Parameter(help="Time for the search: 30s, 2m.")] = None,
    curvature: Annotated[
        bool, Parameter(negative="", help="Estimate the largest curvature too, and what it means for the rate.")
    ] = False,
    svg: Svg = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Find the learning rate for DATA: a range test, then short decayed runs judged on held-out data."""
    from trivet.advice import recommend
    from trivet.budget import parse_budget
    from trivet.facts import profile
    from trivet.recipes import Recipe
    from trivet.tasks import read_task
    from trivet.tuning import find_lr

    task = read_task(data, target=target, kind=kind, metric=metric, model=model, seed=seed)
    facts = profile(task, seed=seed)
    chosen = recommend(task, facts) if recipe is None else Recipe.load(recipe)
    seconds = parse_budget(budget)
    found = find_lr(task, chosen, seeds=seeds, seed=seed, profile=facts, budget=seconds, curvature=curvature, say=say)
    if svg is not None:
        from trivet.figures.style import write_svg

        write_svg(found.plot(), svg)
    if json:
        emit({"lr": found})
    else:
        print(found)
        print(found.reason)
        if found.steepness:
            print(found.steepness)
        print(found.advice)


def schedule(
    recipe: Annotated[str, Parameter(help='A recipe file, or a schedule in quotes: "warmup(0.05) >> cosine()".')],
    /,
    *,
    steps: Annotated[int, Parameter(help="Optimizer steps of the run.")] = 1000,
    steps_per_epoch: Annotated[float | None, Parameter(help="For phases counted in epochs.")] = None,
    tokens_per_step: Annotated[float | None, Parameter(help="For phases counted in tokens.")] = None,
    batch_size: Annotated[int | None, Parameter(help="Show the recipe as carried to this batch size.")] = None,
    model: Model = None,
    svg: Svg = None,
    json: Json = False,
) -> None:
    """Show the rate at every step of a run, before it runs: what is shown is what is executed."""
    from trivet import schedules
    from trivet.advice.recommend.rate import with_batch_size
    from trivet.recipes import Recipe
    from trivet.recipes.build import base_lr

    if recipe.rstrip().endswith(")"):
        loaded, shape, lr = None, schedules.parse(recipe), 1.0
    else:
        loaded = Recipe.load(recipe)
    edits = () if batch_size is None else with_batch_size(_needed(loaded, "--batch-size"), batch_size)
    if loaded is not None:
        loaded = loaded.advise(*edits)
        shape, lr = schedules.parse(loaded.schedule), base_lr(loaded)
    made = schedules.preview(
        shape, steps=steps, lr=lr, steps_per_epoch=steps_per_epoch, tokens_per_step=tokens_per_step
    )
    groups = () if model is None else _groups(_needed(loaded, "--model"), model)
    if svg is not None:
        from trivet.figures.style import write_svg

        write_svg(made.plot(), svg)
    if json:
        emit({"schedule": made, "groups": groups, "edits": edits})
        return
    for advice in edits:
        print(f"{advice.edit}: {advice.reason}" + (f" ({advice.source})" if advice.source else ""))
    print(made)
    for group in groups:
        print(group)


def _needed(recipe: Recipe | None, flag: str) -> Recipe:
    from trivet.errors import InputError

    if recipe is None:
        raise InputError(f"{flag} needs a recipe file; a schedule alone has no rate, batch or optimizer")
    return recipe


def _groups(recipe: Recipe, model: str) -> tuple[GroupRate, ...]:
    """Return what each parameter group of a model gets."""
    from trivet.schedules import group_rates
    from trivet.tasks.readers import load_function

    made = load_function(model, "model factory")()
    return group_rates(recipe.build(made, steps=1).optimizer)  # type: ignore[arg-type]
