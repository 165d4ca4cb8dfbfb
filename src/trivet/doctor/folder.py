"""What only a folder of runs shows: one recipe for everything, rates that nobody tested."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from trivet.doctor.rules.base import found
from trivet.recipes import Finding
from trivet.record import Run, TaskCard, list_runs

# Unlike tasks that one and the same optimizer and rate have to serve before it is said.
TASKS = 3


def examine_runs(runs: str | Path | Sequence[Run] = "runs") -> list[Finding]:
    """Return what the runs of a folder say together; a folder without runs says nothing.

    >>> examine_runs("no such folder")
    []
    """
    listed = list_runs(runs) if isinstance(runs, str | Path) else list(runs)
    known = [(run, card) for run in listed if (card := _card(run)) is not None]
    answers = (one_recipe(known), untested_rates(known))
    return [finding for finding in answers if finding is not None]


def one_recipe(runs: Sequence[tuple[Run, TaskCard]]) -> Finding | None:
    """The same optimizer with the same numbers on three or more unlike tasks, none of which tried another."""
    tasks: dict[str, set[tuple[str, str]]] = defaultdict(set)
    tried: dict[tuple[str, str], set[str]] = defaultdict(set)
    for run, card in runs:
        recipe = str(sorted(run.recipe.optimizer.items())) + run.recipe.schedule
        tasks[recipe].add((card.kind, card.name))
        tried[card.kind, card.name].add(recipe)
    for recipe, where in tasks.items():
        alone = {task for task in where if tried[task] == {recipe}}
        if len(alone) >= TASKS:
            names = ", ".join(sorted(name for _, name in alone)[:4])
            return found(
                "TV250",
                f"{len(alone)} unlike tasks were run with one optimizer at one rate, and none with another: {names}.",
                evidence={"tasks": len(alone), "kinds": len({kind for kind, _ in alone})},
                fix="trivet.recommend(task) for each, or trivet.compare(task, [this, another], seeds=5)",
                refuted_by="a comparison on each task finds nothing better",
                confidence=0.8,
                severity="note" if len({kind for kind, _ in alone}) == 1 else "warning",
            )
    return None


def untested_rates(runs: Sequence[tuple[Run, TaskCard]]) -> Finding | None:
    """Tasks whose rate was neither looked for by a range test nor ever varied."""
    rates: dict[str, set[float | str]] = defaultdict(set)
    tested: set[str] = set()
    for run, card in runs:
        rate = run.recipe.optimizer.get("lr", "default")
        rates[card.name].add(rate if isinstance(rate, int | float) else str(rate))
        if (run.path / "lr_range.json").exists():
            tested.add(card.name)
    untested = sorted(name for name, values in rates.items() if name not in tested and len(values) < 2)
    if not untested:
        return None
    return found(
        "TV251",
        f"The rate of {len(untested)} tasks was never tested: {', '.join(untested[:4])}.",
        evidence={"tasks": len(untested), "of": len(rates)},
        fix=f"trivet.find_lr(task, recipe), or leave the recipe out: trivet fit looks for it ({untested[0]} first)",
        refuted_by="the rate was tested outside this folder",
        confidence=0.75,
        severity="note",
    )


def _card(run: Run) -> TaskCard | None:
    return run.read("task.json", TaskCard) if (run.path / "recipe.toml").exists() else None
