"""A recipe and its reasons as a good colleague would write them down."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from trivet.figures.style import number
from trivet.schedules import parse as parse_schedule

if TYPE_CHECKING:
    from trivet.recipes.recipe import Advice, Recipe

WIDTH = 88


def explain(recipe: Recipe) -> str:
    """Return the recipe in three sentences, then each reason with its numbers and what was turned down."""
    lines = [*_summary(recipe), ""]
    if not recipe.why:
        lines.append("Nobody has left reasons with this recipe: it was written by hand or read from a file.")
    for advice in recipe.why:
        lines += [*paragraph(advice, stated(recipe, advice)), ""]
    return "\n".join(lines).rstrip() + "\n"


def stated(recipe: Recipe, advice: Advice) -> str:
    """Return what an advice chose, without the parameters that another advice on the recipe decides.

    The optimizer's own choice starts from a rate that the range test replaces; showing both would mislead.
    """
    value = advice.edit.value
    if isinstance(value, dict):
        elsewhere = {other.edit.path for other in recipe.why}
        value = {key: item for key, item in value.items() if f"{advice.edit.path}.{key}" not in elsewhere}
    return str(msgspec.structs.replace(advice.edit, value=value))


def paragraph(advice: Advice, stated: str) -> list[str]:
    """Return one advice as wrapped lines: the choice, the reason, evidence, what was rejected, the source."""
    body = advice.reason
    if advice.evidence:
        facts = ", ".join(f"{key} {short(value)}" for key, value in advice.evidence.items())
        body += f" What I saw: {facts}."
    for alternative, against in advice.rejected.items():
        body += f" Not {alternative}: {against.rstrip('.')}."
    tail = f"[{sureness(advice.confidence)}" + (f"; {advice.source}]" if advice.source else "]")
    return [
        f"* {stated}",
        *textwrap.wrap(body, WIDTH, initial_indent="  ", subsequent_indent="  "),
        *textwrap.wrap(tail, WIDTH, initial_indent="  ", subsequent_indent="  "),
    ]


def sureness(confidence: float) -> str:
    """Return a confidence in [0, 1] in words.

    >>> sureness(0.95), sureness(0.7), sureness(0.4)
    ('sure', 'fairly sure', 'a default, worth testing')
    """
    return "sure" if confidence >= 0.9 else "fairly sure" if confidence >= 0.6 else "a default, worth testing"


def short(value: float | int | str) -> str:
    """Return a number with at most four significant digits; text as it is.

    >>> short(0.123456), short(20640), short("mse")
    ('0.1235', '20,640', 'mse')
    """
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) else value


def _summary(recipe: Recipe) -> list[str]:
    loss, optimizer = dict(recipe.loss), dict(recipe.optimizer)
    loss_name, optimizer_name = loss.pop("name"), optimizer.pop("name")
    rate = optimizer.pop("lr", None)
    said = f"Minimise {loss_name}{_with(loss)} with {optimizer_name}{_with(optimizer)}"
    said += f" at a rate of {rate:g}" if isinstance(rate, int | float) else ""
    said += (
        f", scheduled as {recipe.schedule}, for {recipe.epochs:g} epochs in batches of {recipe.batch_size}"
        + (f" ({recipe.accumulate} batches per step)" if recipe.accumulate > 1 else "")
        + "."
    )
    if recipe.clip:
        said += " Gradients are clipped by " + " and ".join(f"{k} {v:g}" for k, v in recipe.clip.items()) + "."
    if recipe.initialize == "data":
        said += " Weights are drawn anew, with unit variance in every layer on training data."
    return [
        *textwrap.wrap(said, WIDTH),
        f"rate over the run  {parse_schedule(recipe.schedule).sparkline(40)}",
    ]


def _with(params: Mapping[str, object]) -> str:
    if not params:
        return ""
    return " (" + ", ".join(f"{key} {_brief(value)}" for key, value in params.items()) + ")"


def _brief(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_brief(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
