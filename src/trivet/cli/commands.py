"""The commands: thin, each one call of the library and a way to print it.

Every command takes `--json`: standard output is then exactly one JSON object, and all else goes to standard error.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from trivet.cli.output import emit, say

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print exactly one JSON object to stdout.")]
Data = Annotated[
    str,
    Parameter(
        help="A .csv, .csv.gz or .parquet table, an .npz, a .txt, a folder of images or tables, sklearn:NAME, or "
        "module:function returning a Task."
    ),
]
Target = Annotated[
    str | None,
    Parameter(help="The column of a table to predict; several 0/1 columns as a,b,c; another array of an .npz than y."),
]
Kind = Annotated[
    str | None,
    Parameter(
        help="regression, counts, binary, multiclass, multilabel, segmentation, language or embedding; inferred when "
        "left out (counts and embedding never)."
    ),
]
Group = Annotated[str | None, Parameter(help="A column whose equal values (a patient, a house) stay in one split.")]
Time = Annotated[str | None, Parameter(help="A column to split by: validation is later than training, test later.")]
MetricName = Annotated[
    str | None, Parameter(help="What decides: auroc, accuracy, rmse, ...; chosen by kind when left out.")
]
Model = Annotated[str | None, Parameter(help="module:factory of your own model.")]
Text = Annotated[str | None, Parameter(help="The column to read as text (several: a,b), instead of the others.")]
Seed = Annotated[int, Parameter(help="Of splits, weights and batches.")]


def fit(
    data: Annotated[str | None, Parameter(help="As for the other commands; not needed with --resume.")] = None,
    /,
    *,
    target: Target = None,
    recipe: Annotated[str | None, Parameter(help="Train with this recipe file instead of recommending one.")] = None,
    model: Model = None,
    kind: Kind = None,
    metric: MetricName = None,
    group: Group = None,
    time: Time = None,
    text: Text = None,
    budget: Annotated[str | None, Parameter(help="Time for everything: 90s, 10m, 1.5h.")] = None,
    race: Annotated[bool, Parameter(help="Let a few other recipes run against the recommended one first.")] = True,
    resume: Annotated[str | None, Parameter(help="Go on with an unfinished run.")] = None,
    out: Annotated[str | None, Parameter(help="The run's directory; runs/NAME-xxxx by default.")] = None,
    seed: Seed = 0,
    device: Annotated[str, Parameter(help="auto, cpu, cuda, ...")] = "auto",
    progress: Annotated[str, Parameter(help="auto, rich, plain, json or off.")] = "auto",
    checkpoint_every: Annotated[float, Parameter(help="Seconds between checkpoints.")] = 30.0,
    json: Json = False,
) -> int:
    """Choose a recipe for DATA, find the rate, race it, train, judge on the test split, and leave a report."""
    from trivet.figures.style import number
    from trivet.workflow import fit

    run = fit(
        data, recipe, target=target, model=model, kind=kind, metric=metric, group=group, time=time, text=text,
        budget=budget, race=race, resume=resume, out=out, seed=seed, device=device, progress=progress,
        checkpoint_every=checkpoint_every,
    )  # fmt: skip
    result = run.result
    if result is None:
        say(f"interrupted; go on with: trivet fit --resume {run.path}")
        if json:
            emit(
                {
                    "metric": None,
                    "recipe": run.recipe,
                    "why": run.recipe.why,
                    "run": str(run.path),
                    "seconds": None,
                }
            )
        return 130
    if json:
        emit(
            {
                "metric": result.metric,
                "recipe": run.recipe,
                "why": run.recipe.why,
                "run": str(run.path),
                "seconds": result.seconds,
                "verdict": result.verdict,
                "decision": result.decision,
                "decisions": result.decisions,
            }
        )
        return 0
    low, high = result.metric.interval
    print(f"{result.metric.name} {number(result.metric.test)}  (95 % interval {number(low)} to {number(high)})")
    print(result.verdict)
    print(f"report: {run.path / 'report.html'}")
    return 0


def recommend(
    data: Data,
    /,
    *,
    target: Target = None,
    model: Model = None,
    kind: Kind = None,
    metric: MetricName = None,
    group: Group = None,
    time: Time = None,
    text: Text = None,
    why: Annotated[bool, Parameter(negative="", help="Print the reasons too.")] = False,
    out: Annotated[str | None, Parameter(name=["--out", "-o"], help="Write the recipe to this file.")] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Recommend a recipe for DATA and say why."""
    from trivet.advice import recommend
    from trivet.tasks import read_task

    task = read_task(
        data, target=target, kind=kind, metric=metric, model=model, seed=seed, group=group, time=time, text=text
    )
    recipe = recommend(task, seed=seed)
    if out is not None:
        recipe.save(out)
    if json:
        emit({"recipe": recipe, "why": recipe.why})
    else:
        print(recipe.to_toml(), end="")
        if why:
            print()
            print(recipe.explain(), end="")


def report(run: Annotated[str, Parameter(help="A run's directory or name.")], /, *, json: Json = False) -> None:
    """Write the report of a run again and print where it is."""
    from trivet.record import Run
    from trivet.report import write_report

    path = write_report(Run.open(run))
    if json:
        emit({"report": str(path)})
    else:
        print(path)


def export(
    run: Annotated[str, Parameter(help="A run's directory or name.")],
    folder: Annotated[str, Parameter(help="Where train.py and data.npz go.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Write a run as a plain PyTorch script with its data."""
    from trivet.workflow import export

    script = export(run, folder)
    if json:
        emit({"script": str(script)})
    else:
        print(script)


def show(
    part: Annotated[str | None, Parameter(help="Name of a loss, optimizer or schedule.")] = None,
    /,
    *,
    svg: Annotated[str | None, Parameter(help="Write the picture of a loss, value and gradient, to this file.")] = None,
    json: Json = False,
) -> None:
    """Show the page of a loss, optimizer or schedule; without a name, list them all."""
    from trivet.recipes.catalogue import page, parts, portrait_of

    if part is not None and part.upper().startswith("TV1"):
        from trivet.advice.lint import page as finding_page

        text = finding_page(part)
        if json:
            emit({"part": part.upper(), "page": text})
        else:
            print(text)
        return
    if part is None:
        names = parts()
        if json:
            emit({"parts": names})
        else:
            for family, members in names.items():
                print(f"{family}: {', '.join(members)}")
        return
    text, picture = page(part), portrait_of(part)
    if svg is not None:
        from trivet.errors import InputError
        from trivet.figures.style import write_svg

        if picture is None:
            raise InputError(f"--svg with {part}; only losses have a picture of their own")
        write_svg(picture.plot(), svg)
    if json:
        emit({"part": part, "page": text, "picture": picture})
    else:
        print(text)


def env(*, json: Json = False) -> None:
    """Show versions, threads and devices."""
    from trivet.workflow import environment

    facts = environment()
    if json:
        emit(facts)
    else:
        for key, value in facts.items():
            print(f"{key:<12} {value}")
