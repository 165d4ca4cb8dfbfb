"""The main job on one page: look, recommend, find the rate, race, train, judge, report."""

from __future__ import annotations

import contextlib
import platform
import shlex
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import torch

import trivet
from trivet.advice import lint, recommend
from trivet.budget import MARGIN, RACE_PART, SEARCH_PART, Budget, cut_to, pace_of, parse_budget
from trivet.doctor import Doctor
from trivet.errors import InputError, RunError
from trivet.facts import Profile, profile
from trivet.judging import judge
from trivet.recipes import Advice, Edit, Recipe
from trivet.record import Journal, Note, Run, TaskCard, new_run, refuse_taken
from trivet.report import write_report
from trivet.tasks import Split, Task, read_task
from trivet.training import Outcome, Pace, Recorder, make_progress, rehearse, train
from trivet.tuning import LRRange, Plan, Race, find_lr, plan_race
from trivet.tuning import race as run_race
from trivet.tuning.race import TRIALS

if TYPE_CHECKING:
    from trivet.training.progress import Progress

# Steps. Three sweeps of thirty are the least that a range test makes; a shorter run would cost less than its search.
SHORTEST_FOR_A_SEARCH = 90


def fit(
    task: Task | str | None = None,
    recipe: Recipe | str | Path | None = None,
    *,
    target: str | None = None,
    kind: str | None = None,
    metric: str | None = None,
    model: str | None = None,
    group: str | None = None,
    time: str | None = None,
    text: str | None = None,
    seed: int = 0,
    budget: float | str | None = None,
    out: str | Path | None = None,
    race: bool = True,
    resume: str | Path | None = None,
    progress: str = "auto",
    device: str = "auto",
    checkpoint_every: float = 30.0,
) -> Run:
    """Choose a recipe for a task, say why, find the rate, race, train, judge on the test split, and leave a report.

    Arguments
    ---------
    task : a `Task`, or what the command line takes as DATA; `target`, `kind`, `metric`, `model` and
        `group` or `time` (columns to split by) and `text` (columns to read as text) then go with it.
    recipe : a `Recipe` or a recipe file to train with as it is, instead of recommending one.
    budget : seconds, or text such as "10m", for everything; the length is cut to fit before training starts.
    race : let a few other recipes run against the recommended one first, shortly (see `trivet.tuning.race`).
    out : the run's directory; `runs/NAME-xxxx` by default. resume : an unfinished run to go on with.
    progress : "auto", "rich", "plain", "json", "html" or "off". device : "auto", "cpu", "cuda", ...

    Returns the finished `Run`; raises `DivergedError` when the loss is not finite, `InputError` for input that
    cannot be used.

    >>> import tempfile, trivet
    >>> run = trivet.fit("sklearn:wine", out=tempfile.mkdtemp(), progress="off")
    >>> run.result.metric.test > run.result.metric.baselines[0].value
    True
    """
    began = perf_counter()
    words = {"target": target, "kind": kind, "metric": metric, "model": model, "group": group}
    words |= {"time": time, "text": text}
    given = {name: word for name, word in words.items() if word is not None}
    device = _device(device)
    with contextlib.closing(make_progress(progress)) as display:
        if resume is not None:
            run, task, card = _reopen(task, Run.open(resume))
        else:
            wanted = Recipe.load(recipe) if isinstance(recipe, str | Path) else recipe
            run, task, card = _begin(task, given, wanted, seed, parse_budget(budget), race, out, device)
        if run.status == "done":
            return run
        return _carry_on(run, task, card, display, device, checkpoint_every, began)


def _carry_on(
    run: Run, task: Task, card: TaskCard, display: Progress, device: str, checkpoint_every: float, began: float
) -> Run:
    """Do the stages that the run's directory lacks."""

    budget = Budget(card.budget, began)
    chosen, facts = run.recipe, run.read("profile.json", Profile)
    if not (run.path / "checkpoint.pt").exists():
        display.say(chosen.explain())
        notes = [f"lint: {said}" for said in _accuse(chosen, task, facts, card)]
        for said in notes:
            display.say(said)
    else:
        notes = []
    searches = 0.0 if card.own_recipe else SEARCH_PART + (RACE_PART if card.race else 0.0)
    chosen, pace = _cut(run, task, chosen, budget, 1 - MARGIN - searches, card.seed, display, device)
    if not card.own_recipe:
        chosen = _find_rate(run, task, chosen, facts, budget.part(SEARCH_PART), card.seed, display)
        chosen, raced = _race(run, task, chosen, facts, budget.part(RACE_PART), pace, card, display, device)
        notes += raced
    display.say(f"training into {run.path}")
    with Journal(run.path / "record.jsonl") as journal:
        for said in notes:
            journal.write(Note(0, said))
        outcome = train(
            task,
            chosen,
            seed=card.seed,
            callbacks=(Recorder(journal), display),
            checkpoints=run.path,
            checkpoint_every=checkpoint_every,
            seconds=budget.left(),
            device=device,
            observer=Doctor(),
        )
    _save_weights(run, outcome)
    if outcome.reason != "interrupted":
        run.write("result.json", judge(task, outcome, card.seed, device))
    write_report(run)
    return run


# -- the stages; each leaves a file, and a stage whose file is there is not done again ----------------------


def _begin(
    task: Task | str | None,
    given: dict[str, str],
    wanted: Recipe | None,
    seed: int,
    budget: float | None,
    race: bool,
    out: str | Path | None,
    device: str,
) -> tuple[Run, Task, TaskCard]:
    """Read, measure and recommend, make one step that is thrown away, and only then make the run's directory."""
    if task is None:
        raise RunError("fit needs a task (or DATA), or resume= with an unfinished run")
    refuse_taken(out)
    if isinstance(task, str):
        source, task = task, read_task(task, seed=seed, **given)
    elif given:
        raise RunError(f"{', '.join(given)} go with DATA; a Task has its own")
    else:
        source = ""
    facts = profile(task, seed=seed)
    chosen = wanted if wanted is not None else recommend(task, facts)
    rehearse(task, chosen, seed=seed, device=device)
    run = new_run(task.name, out=out)
    card = _card(task, source, given, seed, budget, wanted is not None, race)
    run.write("environment.json", environment())
    run.write("profile.json", facts)
    run.write("predictor.json", task.predictor())
    run.write_recipe(chosen)
    run.write("task.json", card)  # last: a run that has it has all that resuming needs
    return run, task, card


def _accuse(recipe: Recipe, task: Task, facts: Profile | None, card: TaskCard) -> list[str]:
    """Return what lint has against a user's own recipe, in words; it warns and does not stop the run."""
    if not card.own_recipe:
        return []
    serious = [finding for finding in lint(recipe, task, profile=facts, seed=card.seed) if finding.severity != "note"]
    return [f"{finding.code} {finding.message} Fix: {finding.fix}" for finding in serious]


def _reopen(task: Task | str | None, run: Run) -> tuple[Run, Task, TaskCard]:
    card = run.read("task.json", TaskCard)
    if card is None:
        raise RunError(f"{run.path} has no task.json, so it cannot be resumed; start a new run")
    if not isinstance(task, Task):
        if not card.source:
            raise RunError(f"{run.path} was run on a task made in Python; resume it with fit(task, resume=...)")
        task = read_task(card.source, seed=card.seed, **card.given)
    if {name: len(split) for name, split in _splits(task)} != card.rows:
        raise RunError(f"the data behind {run.path} has changed since the run began; start a new run")
    return run, task, card


def _cut(
    run: Run,
    task: Task,
    recipe: Recipe,
    budget: Budget,
    share: float,
    seed: int,
    display: Progress,
    device: str,
) -> tuple[Recipe, Pace | None]:
    """Cut the length so that the decay ends within the budget; a resumed run keeps the length that it has."""
    if budget.seconds is None:
        return recipe, None
    pace = pace_of(task, recipe, seed=seed, device=device)
    warning = budget.expect(task, lambda: write_report(run), pace.evaluation)
    if warning:
        display.say(warning)
    seconds = budget.part(share)
    if seconds is None or (run.path / "checkpoint.pt").exists() or (run.path / "race_plan.json").exists():
        return recipe, pace
    cut = cut_to(task, recipe, seconds, pace)
    run.write_recipe(cut)
    return cut, pace


def _find_rate(
    run: Run, task: Task, recipe: Recipe, facts: Profile | None, seconds: float | None, seed: int, display: Progress
) -> Recipe:
    found = run.read("lr_range.json", LRRange)
    if found is not None:
        return recipe
    steps = round(recipe.epochs * len(task.train) / recipe.batch_size)
    if steps < SHORTEST_FOR_A_SEARCH:
        display.say(
            f"rate: not looked for, a run of {steps} steps is shorter than a range test; {recipe.optimizer['lr']}"
        )
        return recipe
    found = find_lr(task, recipe, seed=seed, profile=facts, budget=seconds, say=display.say)
    before = recipe.optimizer["lr"]
    display.say(f"rate: {found}")
    if not found.abstained:
        recipe = recipe.advise(
            Advice(
                Edit("optimizer.lr", found.pick),
                _why_this_rate(found),
                {"before": float(str(before)), "sweeps": len(found.losses), "short runs": len(found.tried)},
                "range test, Smith 2017, validated by decayed runs",
                found.confidence,
            )
        )
    run.write_recipe(recipe)
    run.write("lr_range.json", found)
    return recipe


def _race(
    run: Run,
    task: Task,
    recipe: Recipe,
    facts: Profile | None,
    seconds: float | None,
    pace: Pace | None,
    card: TaskCard,
    display: Progress,
    device: str,
) -> tuple[Recipe, list[str]]:
    """Let others run against the recipe, and return the one to train with what is to be noted in the record."""
    if run.read("race.json", Race) is not None or (run.path / "checkpoint.pt").exists():
        return recipe, []
    if not card.race:
        return recipe, []
    plan = run.read("race_plan.json", Plan)
    if plan is None:
        per_step = None if pace is None else pace.step() + pace.evaluation * recipe.batch_size / len(task.train)
        plan = plan_race(task, recipe, facts, seed=card.seed, budget=seconds, per_step=per_step)
        run.write("race_plan.json", plan)
    if plan.skipped:
        found = Race(plan, (), "recommended", f"There was no race: {plan.skipped}.")
    else:
        names = ", ".join(plan.contenders)
        display.say(f"race: at most {TRIALS} runs of {plan.steps} steps, about {plan.seconds:.0f} s: {names}")
        found = run_race(task, plan, book=run.path / "race.jsonl", seconds=seconds, device=device, say=display.say)
    display.say(f"race: {found.choice}. {found.reason}")
    chosen = found.advise(recipe)
    run.write_recipe(chosen)
    run.write("race.json", found)
    return chosen, [f"race: {found.choice}. {found.reason}"]


def _why_this_rate(found: LRRange) -> str:
    said = f"A range test puts the usable rates between {found.low:.2g} and {found.high:.2g}"
    if found.edge is not None:
        said += f"; the loss breaks away at {found.edge:.2g}"
    if found.tried:
        said += f"; {len(found.tried)} short decayed runs, judged on held-out data, decide within it"
    return said + "."


def export(run: Run | str | Path, folder: str | Path) -> Path:
    """Write a run as a plain PyTorch script (`train.py`) with its encoded data (`data.npz`); returns the script.

    `python train.py [SEED]` in that folder trains the same recipe on the same batches without trivet.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    _, task, _ = _reopen(None, run)
    folder = Path(folder)
    script = folder / "train.py"
    if script.exists():
        raise RunError(f"{script} exists already; give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        task.save_arrays(folder / "data.npz")
        script.write_text(run.recipe.to_python(task), encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}") from error
    return script


def _save_weights(run: Run, outcome: Outcome) -> None:
    from safetensors.torch import save

    weights = {name: tensor.contiguous().cpu().clone() for name, tensor in outcome.model.state_dict().items()}
    run.write_bytes("model.safetensors", save(weights))


def environment() -> dict[str, str | int]:
    """Return versions and machine, as stored with every run and shown by `trivet env`."""
    import numba
    import numpy

    return {
        "trivet": trivet.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "numba": numba.__version__,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _card(
    task: Task, source: str, given: dict[str, str], seed: int, budget: float | None, own_recipe: bool, race: bool
) -> TaskCard:
    words = ["trivet", "fit", source]
    for name, word in given.items():
        words += [f"--{name}", word]
    if seed:
        words += ["--seed", str(seed)]
    return TaskCard(
        name=task.name,
        kind=task.kind,
        source=source,
        given=given,
        metric=task.metric.name,
        seed=seed,
        rows={name: len(split) for name, split in _splits(task)},
        classes=task.classes,
        notes=task.notes,
        command=shlex.join(words) if source else "trivet.fit(task)",
        budget=budget,
        own_recipe=own_recipe,
        race=race,
    )


def _splits(task: Task) -> list[tuple[str, Split]]:
    return [("train", task.train), ("val", task.val), ("test", task.test)]


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}; try cpu") from error
    return name
