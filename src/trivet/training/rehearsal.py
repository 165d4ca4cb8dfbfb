"""One step on a model that is thrown away: what does not fit together shows before anything is written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from trivet.errors import InputError, RecipeError, TrivetError, first_line
from trivet.training.loop import align, call, to_device

if TYPE_CHECKING:
    from trivet.recipes import Recipe
    from trivet.tasks import Task


def rehearse(task: Task, recipe: Recipe, *, seed: int = 0, device: torch.device | str = "cpu") -> None:
    """Make one training step of a recipe on a task with a fresh model, and forget it; torch's random state stays.

    Raises `InputError` when the model cannot do it, and `RecipeError` when the loss does not fit the outputs and
    targets, gives them no gradient (a softmax over one output has none), or the optimizer refuses its first step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.make_model(seed).to(device).train()
        parts = recipe.build(model, steps=1, steps_per_epoch=1)
        inputs, targets = task.train.batch(torch.arange(min(recipe.batch_size, len(task.train))))
        inputs, targets = to_device(inputs, device), targets.to(device)
        try:
            with parts.autocast(device):
                outputs = align(call(model, inputs), targets)
        except Exception as error:
            raise InputError(f"the model fails on a training batch: {first_line(error)}") from error
        broken = int((~outputs.isfinite()).sum())
        if broken:
            raise InputError(
                f"{broken} of the model's {outputs.numel()} outputs on the first batch are NaN or infinite, before any "
                "step and though the data is finite; look at its layers and their initialisation"
            )
        name = recipe.loss["name"]
        try:
            with parts.autocast(device):
                loss = parts.loss(outputs, targets)
            value = float(loss.detach())
            (gradient,) = torch.autograd.grad(loss, outputs, retain_graph=True)
            loss.backward()
        except Exception as error:
            raise RecipeError(
                f"loss {name!r} does not fit this {task.kind} task (outputs {tuple(outputs.shape)}, "
                f"targets {tuple(targets.shape)}): {first_line(error)}"
            ) from error
        if not math.isfinite(value):
            raise RecipeError(f"loss {name!r} is {value} on the first batch, before any step; try another loss")
        if not gradient.any():
            raise RecipeError(
                f"loss {name!r} gives this {task.kind} task no gradient, so nothing would be learned; "
                "leave the recipe out to see the loss that trivet recommends"
            )
        try:
            parts.clip(model)
            parts.optimizer.step()
        except TrivetError:
            raise
        except Exception as error:
            raise RecipeError(f"optimizer {recipe.optimizer['name']!r} cannot step: {first_line(error)}") from error
