"""A training that can be begun again and again: what the finder sweeps and tries short runs on."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trivet.errors import InputError
from trivet.recipes.build import Clip, base_lr
from trivet.training import align, call, evaluate
from trivet.tuning.hessian import Curvature, curvature

if TYPE_CHECKING:
    from trivet.recipes import Recipe
    from trivet.tasks import Task

# For an estimate of the curvature: steps that fill an optimizer's second moments, and Hessian-vector products.
FILLING, PRODUCTS = 10, 25

Input = Tensor | tuple[Tensor, ...]
Batches = Iterator[tuple[Input, Tensor]]


@dataclass
class Training:
    """One training in progress: fresh weights and optimizer, an endless supply of batches."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: nn.Module
    batches: Batches
    clip: Clip
    factors: Sequence[float]  # each group's rate as a multiple of the rate that is looked for
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext

    def step(self, rate: float) -> float:
        """Make one optimizer step at a rate and return the loss before it."""
        inputs, targets = next(self.batches)
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            value = self.loss(align(call(self.model, inputs), targets), targets)
        seen = float(value.detach())
        if math.isfinite(seen):
            value.backward()
            self.clip(self.model)
            self.optimizer.step()
        return seen


class Setup(ABC):
    """Begins trainings of one model, loss and optimizer on one data set.

    `run_steps` is the length of a normal run in optimizer steps, `None` where nobody knows.
    """

    optimizer_name: str
    current_lr: float
    run_steps: int | None = None
    has_held_out: bool = True

    @abstractmethod
    def start(self, seed: int) -> Training:
        """Begin a training; everything random in it follows from the seed."""

    def restore(self) -> None:  # noqa: B027 - most setups touch nothing but their own copies
        """Put back what trainings have moved besides their own copies."""

    @abstractmethod
    def held_out(self, training: Training) -> float | None:
        """Return the loss on data that the training does not see, or None where there is none."""

    def sweep(self, rates: Sequence[float], seed: int, late: Callable[[], bool]) -> list[float]:
        """Return the losses of one range test; it ends early where the loss is not finite, or it is late."""
        training = self.start(seed)
        if not any(p.requires_grad for p in training.model.parameters()):
            raise InputError("the model has no trainable parameters; unfreeze some, or give another model")
        losses: list[float] = []
        for rate in rates:
            if losses and late():
                break
            losses.append(training.step(rate))
            if not math.isfinite(losses[-1]):
                if len(losses) == 1:
                    raise InputError(_first_bad(training))
                break
        return losses

    def short_run(self, rate: float, steps: int, seed: int, late: Callable[[], bool]) -> float | None:
        """Return the held-out loss after a short run at a rate, warmed up and fully decayed; infinite if it broke.

        `None` where it got late before its end.
        """
        training = self.start(seed)
        warm = max(1, steps // 10)
        for step in range(steps):
            if late():
                return None
            factor = min((step + 1) / warm, (steps - step) / (steps - warm + 1))
            if not math.isfinite(training.step(rate * factor)):
                return math.inf
        held_out = self.held_out(training)
        return held_out if held_out is not None and math.isfinite(held_out) else math.inf

    def curvature(self, rate: float, seed: int) -> Curvature:
        """Return the largest curvature of one batch's loss at the fresh weights, after a few steps at a low rate.

        The steps hardly move the weights, but adaptive optimizers then know the size of their gradients.
        """
        training = self.start(seed)
        for _ in range(FILLING):
            training.step(rate)
        batch = next(training.batches)
        return curvature(training.model, training.loss, [batch], optimizer=training.optimizer, products=PRODUCTS)


class TaskSetup(Setup):
    """A recipe on a task, whose validation split is the held-out data."""

    def __init__(self, task: Task, recipe: Recipe) -> None:
        self.task, self.recipe = task, recipe
        self.optimizer_name = str(recipe.optimizer["name"])
        self.current_lr = base_lr(recipe)
        self.batch = min(recipe.batch_size * recipe.accumulate, len(task.train))
        self.run_steps = max(1, round(recipe.epochs * max(1, len(task.train) // self.batch)))

    def start(self, seed: int) -> Training:
        torch.manual_seed(seed)
        model = self.task.make_model(seed)
        model.train()
        parts = self.recipe.build(model, steps=1, steps_per_epoch=1)
        factors = [float(group["initial_lr"]) / self.current_lr for group in parts.optimizer.param_groups]
        return Training(model, parts.optimizer, parts.loss, self._batches(seed), parts.clip, factors, parts.autocast)

    def held_out(self, training: Training) -> float:
        return evaluate(self.task, training.model, self.task.val, loss=training.loss)[1]

    def _batches(self, seed: int) -> Batches:
        generator = torch.Generator().manual_seed(seed)
        rows = len(self.task.train)
        while True:
            order = torch.randperm(rows, generator=generator)
            for begin in range(0, rows - self.batch + 1, self.batch):
                yield self.task.train.batch(order[begin : begin + self.batch])


class PartsSetup(Setup):
    """A model, loader, loss and optimizer of the user's own; each training starts from copies of them."""

    def __init__(
        self,
        model: nn.Module,
        data: Iterable[tuple[Input, Tensor]],
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        val: Iterable[tuple[Input, Tensor]] | None,
        steps: int | None,
    ) -> None:
        for name, batches in (("data", data), ("val", val)):
            if isinstance(batches, Iterator):
                raise InputError(
                    f"{name} is an iterator, which can be read only once; give a loader or a list of batches"
                )
        self.given, self.data, self.val = (model, optimizer, loss), data, val
        self.run_steps = steps
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.generators = [state for loader in (data, val) for state in _generators(loader)]
        self.has_held_out = val is not None
        self.optimizer_name = type(optimizer).__name__
        self.current_lr = max((float(group["lr"]) for group in optimizer.param_groups), default=0.0) or 1e-3

    def start(self, seed: int) -> Training:
        torch.manual_seed(seed)
        for generator, _ in self.generators:
            generator.manual_seed(seed)
        # One deepcopy of all three together keeps the optimizer's references pointing into the copied model.
        model, optimizer, loss = copy.deepcopy(self.given)
        model.train()
        factors = [float(group["lr"]) / self.current_lr for group in optimizer.param_groups]
        return Training(model, optimizer, loss, self._batches(), Clip(), factors)

    @torch.no_grad()
    def held_out(self, training: Training) -> float | None:
        if self.val is None:
            return None
        training.model.eval()
        total, rows = 0.0, 0
        for inputs, targets in map(self._placed, self.val):
            value = training.loss(align(call(training.model, inputs), targets), targets)
            total, rows = total + float(value) * len(targets), rows + len(targets)
        return total / rows if rows else None

    def restore(self) -> None:
        for generator, state in self.generators:
            generator.set_state(state)

    def _batches(self) -> Batches:
        while True:
            empty = True
            for batch in self.data:
                empty = False
                yield self._placed(batch)
            if empty:
                raise InputError("the data yields no batches; give a loader with at least one full batch")

    def _placed(self, batch: object) -> tuple[Input, Tensor]:
        """Check that a batch is a pair and bring it to where the model is."""
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            what = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, Sized) else type(batch).__name__
            raise InputError(f"the data yields {what}; each batch must be a pair (inputs, targets)")
        inputs, targets = batch
        if isinstance(inputs, tuple | list):
            return tuple(part.to(self.device) for part in inputs), targets.to(self.device)
        return inputs.to(self.device), targets.to(self.device)


def _generators(loader: object) -> Iterator[tuple[torch.Generator, Tensor]]:
    """Yield the random generators that a DataLoader draws from, with their states."""
    for owner in (loader, getattr(loader, "sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            yield generator, generator.get_state()


def _first_bad(training: Training) -> str:
    """Say which tensor is not finite when the loss is not finite at the very first step."""
    for name, parameter in training.model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the loss is not finite at the very first step: the weights {name!r} are not; initialise them again"
    inputs, targets = next(training.batches)
    for what, tensors in (("inputs", inputs if isinstance(inputs, tuple) else (inputs,)), ("targets", (targets,))):
        for tensor in tensors:
            bad = ~torch.isfinite(tensor) if tensor.is_floating_point() else torch.zeros(1, dtype=torch.bool)
            if bad.any():
                row = int(bad.flatten(1).any(1).nonzero()[0]) if tensor.ndim > 1 else int(bad.nonzero()[0])
                return (
                    f"the loss is not finite at the very first step: the {what} of row {row} of a batch are not; "
                    "clean the data"
                )
    return "the loss is not finite at the very first step, though inputs and weights are; look at the loss itself"
