"""The parts that a recipe can name, and the check of what a recipe says about them."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping

import torch
from torch import nn

from trivet import losses, optim, schedules
from trivet.errors import RecipeError, nearest, unknown_name
from trivet.losses import conventions

# Set by the build itself, never by a recipe.
_NOT_IN_RECIPES = {"self", "params", "reduction", "reduce", "size_average", "backend"}
_BACKEND_CHOICES = {"foreach", "fused", "capturable", "differentiable"}


def loss_names() -> list[str]:
    """Return the names a recipe may give for `loss`, sorted."""
    return sorted(losses.catalogue())


def optimizer_names() -> list[str]:
    """Return the names a recipe may give for `optimizer`, sorted."""
    return sorted(optim.catalogue())


def loss_terms(name: str) -> list[tuple[float, str]]:
    """Return the weights and names of a loss that may be a sum; raises `RecipeError` for what reads as neither.

    >>> loss_terms("cross_entropy + 0.5 * dice_loss")
    [(1.0, 'cross_entropy'), (0.5, 'dice_loss')]
    """
    terms = []
    for term in name.split("+"):
        factor, star, loss = term.rpartition("*")
        try:
            weight = float(factor) if star else 1.0
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            raise RecipeError(f"loss {name!r}: {factor.strip()!r} is no weight; write a sum as 'a + 0.5 * b'")
        terms.append((weight, loss.strip()))
    return terms


def loss_class(name: str) -> type[nn.Module]:
    """Return the module class behind a loss's name; raises `RecipeError` with the nearest name."""
    try:
        return losses.catalogue()[name]
    except KeyError:
        raise unknown_name("loss", name, losses.catalogue(), error=RecipeError) from None


def optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    """Return the class behind an optimizer's name; raises `RecipeError` with the nearest name."""
    try:
        return optim.catalogue()[name]
    except KeyError:
        raise unknown_name("optimizer", name, optim.catalogue(), error=RecipeError) from None


@functools.cache
def parameters_of(cls: type) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a part that a recipe may set, by name."""
    hidden = _NOT_IN_RECIPES | _BACKEND_CHOICES
    found = inspect.signature(cls).parameters.values()
    return {p.name: p for p in found if p.name not in hidden and p.kind is not p.VAR_KEYWORD}


def parts() -> dict[str, list[str]]:
    """Return the names of every part that a recipe can name, by family."""
    return {
        "losses": loss_names(),
        "optimizers": optimizer_names(),
        "schedules": sorted(schedules.catalogue()),
    }


def page(name: str) -> str:
    """Return a part's page for a terminal: its signature, its documentation, and a loss's picture in characters."""
    head, picture = f"{name}{_signature(_part(name))}", portrait_of(name)
    drawn = "" if picture is None else picture.sketch()
    return "\n\n".join(filter(None, (head, _explained(name), drawn, conventions.differences(name))))


@functools.cache
def portrait_of(name: str) -> losses.Portrait | None:
    """Return the picture of a loss with its defaults; None for other parts."""
    return losses.portrait(name) if name in losses.catalogue() else None


def documentation(name: str) -> str:
    """Return a part's documentation; for a loss, that of its function, and where frameworks disagree about it."""
    return "\n\n".join(filter(None, (_explained(name), conventions.differences(name))))


def _explained(name: str) -> str:
    text = inspect.getdoc(_part(name)) or ""
    function = getattr(losses, name, None) if name in losses.catalogue() else None
    explained = inspect.getdoc(function) or "" if function is not None else ""
    if explained and explained not in text:
        # A module whose whole text is "see the function" adds nothing to it.
        text = explained if ":func:" in text and "\n\n" not in text else f"{text}\n\n{explained}"
    return re.sub(r":(?:func|class|math|meth):`([^`]+)`", r"`\1`", text)


def _part(name: str) -> object:
    everything: dict[str, object] = {**losses.catalogue(), **optim.catalogue(), **schedules.catalogue()}
    if name not in everything:
        raise unknown_name("part", name, everything)
    return everything[name]


def _signature(part: object) -> str:
    """The signature as a person would write it: no annotations."""
    signature = inspect.signature(part)  # type: ignore[arg-type]
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def check_loss(part: Mapping[str, object]) -> None:
    """Raise `RecipeError` unless the loss exists and has the parameters given."""
    terms: list[type] = [loss_class(name) for _, name in loss_terms(str(part["name"]))]
    if len(terms) == 1:
        _check_part("loss", part, terms[0])
        return
    # A parameter of a sum goes to every term that has it, and some term must.
    for key, value in part.items():
        owners = [term for term in terms if key in parameters_of(term)]
        if key != "name" and not owners:
            known = sorted({name for term in terms for name in parameters_of(term)})
            raise RecipeError(f"no term of loss {part['name']!r} has a parameter {key!r}{nearest(key, known) or '.'}")
        for owner in owners:
            _check_part("loss", {"name": part["name"], key: value}, owner)


def check_optimizer(part: Mapping[str, object]) -> None:
    """Raise `RecipeError` unless the optimizer exists, has the parameters given, and its rate is positive."""
    _check_part("optimizer", part, optimizer_class(str(part["name"])))
    lr = part.get("lr", 1.0)
    if not isinstance(lr, int | float) or not 0 < lr < float("inf"):
        raise RecipeError(f"optimizer.lr = {lr!r} must be a finite number above 0")


def _check_part(field: str, part: Mapping[str, object], cls: type) -> None:
    allowed = parameters_of(cls)
    for key, value in part.items():
        if key == "name":
            continue
        if key not in allowed:
            raise RecipeError(
                f"{field} {part['name']!r} has no parameter {key!r}{nearest(key, allowed) or '.'} "
                f"Allowed: {', '.join(allowed)}"
            )
        default = allowed[key].default
        is_number = isinstance(default, int | float) and not isinstance(default, bool)
        if is_number and (isinstance(value, str | bool) or not isinstance(value, int | float)):
            hint = (
                f"; write {key} = {value} without quotes" if isinstance(value, str) and _reads_as_number(value) else ""
            )
            raise RecipeError(f"{field}.{key} = {value!r} must be a number{hint}")


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
