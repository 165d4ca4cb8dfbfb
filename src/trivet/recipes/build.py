"""From a recipe to the live parts of a training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trivet.errors import RecipeError
from trivet.losses.combine import CombinedLoss
from trivet.optim import clip_norm_, clip_value_, param_groups
from trivet.recipes.catalogue import loss_class, loss_terms, optimizer_class, parameters_of
from trivet.schedules import Scheduler
from trivet.schedules import parse as parse_schedule

if TYPE_CHECKING:
    from trivet.recipes.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Clip:
    """Gradient clipping by global norm or by value; called with the model after `backward()`.

    Returns the norm of all gradients before clipping (a scalar tensor), or `None` where clipping by value or
    not at all makes the norm an extra pass that nobody asked for.
    """

    norm: float | None = None
    value: float | None = None

    def __call__(self, model: nn.Module) -> Tensor | None:
        parameters = [p for p in model.parameters() if p.grad is not None]
        if self.value is not None:
            clip_value_(parameters, self.value)
        return None if self.norm is None else clip_norm_(parameters, self.norm)


@dataclasses.dataclass(frozen=True)
class Parts:
    """All that a training step needs, built from a recipe for one model."""

    loss: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    clip: Clip
    precision: str = "float32"

    def autocast(self, device: torch.device | str = "cpu") -> AbstractContextManager[object]:
        """Return the context for the forward pass: autocast for bfloat16, nothing for float32."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def build(recipe: Recipe, model: nn.Module, *, steps: int, steps_per_epoch: int | None = None) -> Parts:
    """Build loss, optimizer, scheduler and clipping for a model; `steps` counts optimizer steps of the run."""
    if steps < 1:
        raise RecipeError(f"steps = {steps} leaves nothing to train; give the number of optimizer steps")
    optimizer = build_optimizer(recipe, model)
    clip = Clip(**(recipe.clip or {}))
    schedule = parse_schedule(recipe.schedule)
    return Parts(
        loss=build_loss(recipe),
        optimizer=optimizer,
        scheduler=Scheduler(optimizer, schedule, total_steps=steps, steps_per_epoch=steps_per_epoch),
        clip=clip,
        precision=recipe.precision,
    )


def build_loss(recipe: Recipe) -> nn.Module:
    """Build the loss module; lists of numbers (class weights) become tensors."""
    params = {key: _tensor(value) for key, value in recipe.loss.items() if key != "name"}
    terms: list[tuple[float, type]] = [
        (weight, loss_class(name)) for weight, name in loss_terms(str(recipe.loss["name"]))
    ]
    try:
        if len(terms) == 1 and terms[0][0] == 1.0:
            made: nn.Module = terms[0][1](**params)
            return made
        own = [{key: value for key, value in params.items() if key in parameters_of(cls)} for _, cls in terms]
        return CombinedLoss(*((weight, cls(**has)) for (weight, cls), has in zip(terms, own, strict=True)))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"loss {recipe.loss['name']!r}: {error}") from error


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer over the model's trainable parameters, grouped as the recipe says."""
    params = {key: _pair(value) for key, value in recipe.optimizer.items() if key != "name"}
    name = str(recipe.optimizer["name"])
    cls = optimizer_class(name)
    if not any(p.requires_grad for p in model.parameters()):
        raise RecipeError("the model has no trainable parameters; unfreeze some, or give another model")
    try:
        return cls(_groups(recipe, model, cls), **params)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise RecipeError(f"optimizer {name!r}: {error}") from error


def base_lr(recipe: Recipe) -> float:
    """Return the rate where the schedule's factor is 1: the recipe's, or else the optimizer's own default.

    >>> from trivet.recipes import Recipe
    >>> base_lr(Recipe(loss="mse_loss", optimizer="SGD"))
    0.001
    """
    return _number(recipe, optimizer_class(str(recipe.optimizer["name"])), "lr")


def _groups(recipe: Recipe, model: nn.Module, cls: type) -> Iterable[Tensor] | list[dict[str, object]]:
    roles = bool(getattr(cls, "wants_roles", False))
    if not recipe.groups and not roles:
        return [p for p in model.parameters() if p.requires_grad]
    families = recipe.groups.get("no_decay", [])
    layer_decay = recipe.groups.get("layer_decay", 1.0)
    return param_groups(
        model,
        weight_decay=_number(recipe, cls, "weight_decay"),
        lr=_number(recipe, cls, "lr"),
        no_decay=tuple(families) if isinstance(families, list) else (),
        layer_decay=float(layer_decay) if not isinstance(layer_decay, list) else 1.0,
        roles=roles,
    )


def _number(recipe: Recipe, cls: type, name: str) -> float:
    """Return an optimizer's number as the recipe says, else as the optimizer's own default does, else 0."""
    default = parameters_of(cls)[name].default if name in parameters_of(cls) else 0.0
    value = recipe.optimizer.get(name, default)
    return float(value) if isinstance(value, int | float) else 0.0


def _tensor(value: object) -> object:
    return torch.tensor(value, dtype=torch.float32) if isinstance(value, list) else value


def _pair(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
