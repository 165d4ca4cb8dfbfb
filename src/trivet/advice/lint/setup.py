"""What lint looks at, gathered once: from a recipe and a task, or from a script's own objects."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from trivet.advice.lint.base import Decay, Moves, Setup, number, snake
from trivet.errors import InputError, RecipeError
from trivet.facts import Profile, profile
from trivet.facts.model import shows_training
from trivet.facts.start import Start, call, measure_start
from trivet.losses import Loss, check
from trivet.losses.problems import Problem
from trivet.optim.memory import MemoryPlan, memory_plan
from trivet.recipes.build import build_loss, build_optimizer
from trivet.schedules import parse as parse_schedule
from trivet.tasks.kinds import KINDS

if TYPE_CHECKING:
    from trivet.recipes import Recipe
    from trivet.tasks import Task

# Rows of the batch that is run through the model: enough for shares of dead units, little enough for any model.
ROWS = 256
ADAM_FAMILY = ("Adam", "NAdam", "RAdam", "Adamax")
TORCH_NAMES = {
    "CrossEntropyLoss": "cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "BCELoss": "binary_cross_entropy",
    "NLLLoss": "nll_loss",
    "KLDivLoss": "kl_div_loss",
}


def of_recipe(recipe: Recipe, task: Task, facts: Profile | None, seed: int, memory: int | None) -> Setup:
    """Gather what a recipe on a task shows; the model is made anew and thrown away."""
    facts = profile(task, seed=seed) if facts is None else facts
    model = task.make_model(seed)
    loss = build_loss(recipe)
    optimizer = build_optimizer(recipe, model)
    generator = torch.Generator().manual_seed(seed)
    rows = len(task.train)
    inputs, targets = task.train.batch(task.order(generator)[: min(ROWS, max(recipe.batch_size, 32), rows)])
    per_epoch = max(1.0, rows / (recipe.batch_size * recipe.accumulate))
    steps = max(1, round(recipe.epochs * per_epoch))
    schedule, broken = parse_schedule(recipe.schedule), ""
    try:
        schedule = schedule.resolve(total_steps=steps, steps_per_epoch=per_epoch)
    except RecipeError as error:
        broken = str(error)
    return Setup(
        recipe=recipe,
        profile=facts,
        kind=KINDS[task.kind],
        metric=task.metric.name,
        model=model,
        loss=loss,
        loss_name=str(recipe.loss["name"]),
        moves=moves_of(optimizer, model),
        decay=_decay_of(recipe.schedule, schedule, broken),
        inputs=inputs,
        targets=targets,
        start=_start(model, inputs, targets, loss, seed),
        problems=_problems(model, inputs, targets, loss, seed),
        batch_size=recipe.batch_size,
        rows=rows,
        val_rows=len(task.val),
        steps=steps,
        pretrained=facts.model.pretrained,
        plan=memory_plan(model, optimizer),
        memory=memory or available_memory(),
    )


def of_script(
    model: nn.Module | None,
    loss: nn.Module | Callable[..., Tensor] | None,
    optimizer: torch.optim.Optimizer | None,
    scheduler: object,
    batch: tuple[Tensor | tuple[Tensor, ...], Tensor] | None,
    *,
    steps: int | None,
    pretrained: bool | None,
    seed: int,
    memory: int | None,
) -> Setup:
    """Gather what a script's own objects show; copies are run, the objects stay as they are."""
    if batch is not None and not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise InputError("batch must be a pair (inputs, targets) as the training loop has it")
    inputs, targets = batch if batch is not None else (None, None)
    ready = model is not None and inputs is not None
    return Setup(
        model=model,
        loss=loss,
        loss_name=name_of_loss(loss),
        moves=None if optimizer is None else moves_of(optimizer, model),
        decay=None if optimizer is None else _decay_of_scheduler(scheduler),
        inputs=inputs,
        targets=targets,
        start=_start(model, inputs, targets, loss, seed) if ready else None,  # type: ignore[arg-type]
        problems=_problems(model, inputs, targets, loss, seed) if ready and targets is not None else (),  # type: ignore[arg-type]
        batch_size=None if inputs is None else len(inputs[0] if isinstance(inputs, tuple | list) else inputs),
        steps=steps,
        pretrained=(model is not None and shows_training(model)) if pretrained is None else pretrained,
        plan=_plan(model, optimizer),
        memory=memory or available_memory(),
    )


def name_of_loss(loss: nn.Module | Callable[..., Tensor] | None) -> str:
    """Return the name that a recipe would give a loss: trivet's, torch's module or torch's function.

    >>> name_of_loss(nn.CrossEntropyLoss()), name_of_loss(nn.functional.mse_loss), name_of_loss(None)
    ('cross_entropy', 'mse_loss', '')
    """
    if loss is None:
        return ""
    if isinstance(loss, Loss):
        return type(loss).function.__name__
    name = type(loss).__name__ if isinstance(loss, nn.Module) else getattr(loss, "__name__", "")
    return TORCH_NAMES.get(name, snake(name))


def moves_of(optimizer: torch.optim.Optimizer, model: nn.Module | None) -> Moves:
    """Return what an optimizer is set to, and whose parameters it has."""
    groups = optimizer.param_groups
    name = type(optimizer).__name__
    decays = [number(group.get("weight_decay") or 0.0) for group in groups]
    own = {id(p): n for n, p in model.named_parameters()} if model is not None else {}
    held = [p for group in groups for p in group["params"]]
    counts: dict[int, int] = {}
    for p in held:
        counts[id(p)] = counts.get(id(p), 0) + 1
    decayed = [p for d, g in zip(decays, groups, strict=True) if d > 0 for p in g["params"]]
    norms = set() if model is None else _norm_parameters(model.modules())
    vectors = [p for p in decayed if id(p) in norms or p.ndim <= 1]
    rates = [number(group.get("lr", math.nan)) for group in groups]
    initial = [number(group.get("initial_lr", rate)) for group, rate in zip(groups, rates, strict=True)]
    beta = groups[0].get("momentum", 0.0)
    return Moves(
        name=name,
        lr=initial[0],
        highest_lr=max(initial),
        weight_decay=max(decays),
        momentum=number(beta) if isinstance(beta, int | float | Tensor) else 0.0,
        decoupled=name not in ADAM_FAMILY or all(bool(group.get("decoupled_weight_decay")) for group in groups),
        decayed_vectors=sum(p.numel() for p in vectors),
        decays_norms=any(id(p) in norms for p in decayed),
        strangers=sum(id(p) not in own for p in held) if model is not None else 0,
        twice=tuple(own[key] for key, count in counts.items() if count > 1 and key in own),
        forgotten=tuple(
            own[id(p)]
            for p in (model.parameters() if model is not None else ())
            if p.requires_grad and id(p) not in counts
        ),
    )


def available_memory() -> int | None:
    """Return the bytes of the accelerator, or else of the machine; None where it does not say."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _norm_parameters(modules: Iterable[nn.Module]) -> set[int]:
    return {id(p) for m in modules if "Norm" in type(m).__name__ for p in m.parameters(recurse=False)}


def _plan(model: nn.Module | None, optimizer: torch.optim.Optimizer | None) -> MemoryPlan | None:
    """Return the memory plan of an optimizer that has parameters of the model, and only those."""
    if model is None or optimizer is None:
        return None
    own = {id(p) for p in model.parameters() if p.requires_grad}
    fits = own and all(id(p) in own for group in optimizer.param_groups for p in group["params"])
    return memory_plan(model, optimizer) if fits else None


def _decay_of(text: str, schedule: object, broken: str) -> Decay:
    from trivet.schedules.schedule import Schedule

    assert isinstance(schedule, Schedule)
    warm = [p for p in schedule.phases if "warmup" in p.name]
    fractions = [p.length for p in warm if isinstance(p.length, int | float)]
    one_cycle = any("one_cycle" in p.name for p in schedule.phases)
    constant = all(p.name in ("constant", "hold", "warmup") for p in schedule.phases)
    warmup = float(sum(fractions)) if len(fractions) == len(warm) else None
    return Decay(name=text, constant=constant, schedule=schedule, warmup=0.3 if one_cycle else warmup, broken=broken)


def _decay_of_scheduler(scheduler: object) -> Decay:
    """Read a scheduler of torch (or trivet); an unknown one is taken to know what it does."""
    if scheduler is None:
        return Decay(name="none", constant=True, warmup=0.0)
    if isinstance(inner := getattr(scheduler, "schedule", None), object) and hasattr(inner, "phases"):
        return _decay_of(str(inner), inner, "")
    name = type(scheduler).__name__
    if isinstance(scheduler, ReduceLROnPlateau):
        return Decay(name=name, constant=False)
    horizon = {"CosineAnnealingLR": "T_max", "OneCycleLR": "total_steps", "LinearLR": "", "PolynomialLR": "total_iters"}
    attribute = horizon.get(name, "")
    ends = getattr(scheduler, attribute, None) if attribute else None
    constant = name == "ConstantLR"
    warmup = 0.0 if name in ("CosineAnnealingLR", "StepLR", "MultiStepLR", "ExponentialLR", "PolynomialLR") else None
    return Decay(name=name, constant=constant, warmup=warmup, horizon=ends if isinstance(ends, int) else None)


def _start(model: nn.Module, inputs: object, targets: object, loss: object, seed: int) -> Start:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return measure_start(model, inputs, targets, loss)  # type: ignore[arg-type]


def _problems(
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    targets: Tensor,
    loss: nn.Module | Callable[..., Tensor] | None,
    seed: int,
) -> tuple[Problem, ...]:
    """Ask the loss's guard about the model's outputs on the batch, in evaluation mode."""
    if loss is None:
        return ()
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            output = call(model, inputs)
            return tuple(check(loss, output, targets)) if isinstance(output, Tensor) else ()
    except Exception as error:  # the model is somebody else's, and measure_start tells of its failure
        del error
        return ()
    finally:
        for module, training in modes.items():
            module.training = training


__all__ = ["available_memory", "moves_of", "name_of_loss", "of_recipe", "of_script"]
