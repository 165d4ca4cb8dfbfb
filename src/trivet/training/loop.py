"""The training loop: one recipe on one task, judged by the task's metric, resumable at every step."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor, nn

from trivet.errors import DivergedError
from trivet.record import End, Eval, Event, Note, Resume, Start, Step
from trivet.training.callbacks import Callback, Observer
from trivet.training.checkpoints import load_checkpoint, save_checkpoint
from trivet.training.initialization import initialize
from trivet.training.interrupt import Interrupt
from trivet.training.random_state import RandomState
from trivet.training.spikes import Spikes

if TYPE_CHECKING:
    from trivet.recipes import Parts, Recipe
    from trivet.tasks import Split, Task

Input = Tensor | tuple[Tensor, ...]
# A record holds about this many step events, however long the run: enough for any figure, cheap for any disk.
RECORDED_STEPS = 2000
# Rows whose activations a model is initialised on, where the recipe asks for it.
INITIALIZED_ON = 512


@dataclasses.dataclass
class Outcome:
    """How a run ended: the model with its best weights, the best validation metric and where it was reached.

    `reason` is "finished", "stopped early" or "interrupted"; `overhead` is the share of the time that went neither
    into batches, forward, backward and optimizer nor into evaluation.
    """

    model: nn.Module
    metric: float
    best_step: int
    step: int
    steps: int
    reason: str
    seconds: float
    overhead: float


def train(
    task: Task,
    recipe: Recipe,
    *,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    checkpoints: Path | None = None,
    checkpoint_every: float = 30.0,
    patience: int | None = None,
    seconds: float | None = None,
    device: str | torch.device = "cpu",
    observer: Observer | None = None,
) -> Outcome:
    """Train a recipe on a task and return the best weights by the task's metric on the validation split.

    Arguments
    ---------
    seed : of the initial weights, the order of batches and everything random in the model.
    checkpoints : folder for a checkpoint every `checkpoint_every` seconds; one found there is resumed from.
    patience : evaluations without a better metric before stopping; by default 40 % of them, at least ten.
    seconds : stop (and keep the best weights) when the run has taken this long.
    observer : looks into the run's parts (the doctor); it is one of the callbacks too.

    Raises `DivergedError` when the loss is not finite; the record and the last checkpoint stay.
    """
    return _Training(
        task, recipe, seed, callbacks, checkpoints, checkpoint_every, patience, seconds, torch.device(device), observer
    ).run()


class _Training:
    """The state of one run; `run` is the story, the other methods its chapters."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        seed: int,
        callbacks: Sequence[Callback],
        checkpoints: Path | None,
        checkpoint_every: float,
        patience: int | None,
        seconds: float | None,
        device: torch.device,
        observer: Observer | None,
    ) -> None:
        self.task, self.recipe, self.seed, self.device = task, recipe, seed, device
        self.callbacks = callbacks if observer is None else (*callbacks, observer)
        self.observer, self.checkpoints, self.checkpoint_every = observer, checkpoints, checkpoint_every
        self.batch = min(recipe.batch_size, len(task.train))
        # A step is made of at most the whole split, whose last batch may be smaller: more would be empty batches.
        self.accumulate = min(recipe.accumulate, math.ceil(len(task.train) / self.batch))
        self.rows = min(self.batch * self.accumulate, len(task.train))  # of one step
        self.steps_per_epoch = len(task.train) // self.rows
        self.steps = max(1, round(recipe.epochs * self.steps_per_epoch))
        evaluations = math.ceil(self.steps / self.steps_per_epoch)
        self.patience = patience if patience is not None else max(10, math.ceil(0.4 * evaluations))
        self.limit = seconds

        random = RandomState()
        torch.manual_seed(seed)
        self.model = task.make_model(seed).to(device)
        self.parts: Parts = recipe.build(self.model, steps=self.steps, steps_per_epoch=self.steps_per_epoch)
        self.spikes = Spikes() if recipe.spikes == "skip" else None
        self.refused = False  # the last batch
        self.snapshot: tuple[dict[str, Tensor], dict[str, object]] | None = None
        if recipe.initialize == "data":
            self._initialize()
        self.outer_random = random

        self.step = 0
        self.spent = 0.0  # seconds of earlier parts of this run
        self.busy = 0.0  # seconds inside batches, forward, backward, optimizer and evaluation
        self.best: tuple[float, float] = (-math.inf, -math.inf)  # signed metric, minus loss
        self.best_metric, self.best_step, self.waited = math.nan, 0, 0
        self.best_model: dict[str, Tensor] = {}
        self.began = time.perf_counter()
        self.saved = self.began

    def _initialize(self) -> None:
        """Draw the weights anew on rows of the training split, chosen by the seed."""
        rows = torch.randperm(len(self.task.train), generator=torch.Generator().manual_seed(self.seed))
        inputs, targets = self.task.train.batch(rows[:INITIALIZED_ON])
        inputs, targets = to_device(inputs, self.device), targets.to(self.device)
        initialize(self.model, inputs, targets, loss=self.parts.loss, seed=self.seed)

    # -- the story --------------------------------------------------------------------------------

    def run(self) -> Outcome:
        try:
            with Interrupt() as interrupt:
                resumed = self._resume()
                if not resumed:
                    self._say(self._start_event())
                if self.observer is not None:
                    self.observer.begin(
                        self.model, self.parts.optimizer, self.parts.loss, step=self.step, say=self._say
                    )
                reason = self._train_until_done(interrupt)
            self._save()
            self._close(reason)
        except DivergedError:
            self._close("diverged")
            raise
        finally:
            self.outer_random.restore()
        if self.best_model:
            self.model.load_state_dict(self.best_model)
        total = max(time.perf_counter() - self.began, 1e-9)
        return Outcome(
            self.model,
            self.best_metric,
            self.best_step,
            self.step,
            self.steps,
            reason,
            self._seconds(),
            max(0.0, 1 - self.busy / total),
        )

    def _train_until_done(self, interrupt: Interrupt) -> str:
        every = max(1, self.steps // RECORDED_STEPS)
        window: list[float] = []
        # Once: evaluation puts the mode back, and a walk over all modules costs more than the record of a step.
        self.model.train()
        self._keep()
        while self.step < self.steps:
            began = time.perf_counter()
            loss, norm = self._train_step(want_norm=(self.step + 1) % every == 0)
            self.busy += time.perf_counter() - began
            self.step += 1
            if self.refused:
                self._leave_out(loss)
            else:
                window.append(loss)
                if not math.isfinite(loss):
                    self._diverged(loss)
                if self.observer is not None:
                    self.observer.step(loss, self.last_lr, norm)
            if window and (self.step % every == 0 or self.step == self.steps):
                lr = self.last_lr
                self._say(Step(self.step, sum(window) / len(window), lr, round(self._seconds(), 4), norm))
                window.clear()
            if self.step % self.steps_per_epoch == 0 or self.step == self.steps:
                self._evaluate()
                self._keep()
                if self.waited >= self.patience:
                    return "finished" if self.step == self.steps else "stopped early"
            if interrupt.requested:
                return "interrupted"
            if self.limit is not None and self._seconds() >= self.limit:
                self._say(Note(self.step, f"the time given ({self.limit:.0f} s) is used up"))
                return "stopped early"
            if time.perf_counter() - self.saved >= self.checkpoint_every:
                self._save()
        return "finished"

    def _leave_out(self, loss: float) -> None:
        """A batch was left out; when that does not end, go back to the weights of the last evaluation."""
        assert self.spikes is not None
        if not self.spikes.lost:
            return
        if self.snapshot is None or self.spikes.went_back():
            self._diverged(loss, f"; it went back to earlier weights {self.spikes.returns} times")
        model, optimizer = self.snapshot
        self.model.load_state_dict(model)
        self.parts.optimizer.load_state_dict(copy.deepcopy(optimizer))
        self._say(
            Note(self.step, "losses stayed far above their level: went back to the weights of the last evaluation")
        )

    def _keep(self) -> None:
        """Keep the weights and the optimizer's state to go back to."""
        if self.spikes is not None and not self.refused:
            weights = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
            self.snapshot = weights, copy.deepcopy(self.parts.optimizer.state_dict())

    def _close(self, reason: str) -> None:
        if self.spikes is not None and self.spikes.skipped:
            self._say(
                Note(
                    self.step,
                    f"{self.spikes.skipped} of {self.step} batches were left out: their loss was far "
                    "above its level, or not finite",
                )
            )
        if self.observer is not None:
            self.observer.close()
        self._say(End(self.step, reason, self._seconds()))

    # -- chapters ---------------------------------------------------------------------------------

    def _train_step(self, *, want_norm: bool) -> tuple[float, float | None]:
        """Make one optimizer step; return the mean loss of its rows and the gradient norm where it is known."""
        parts, total = self.parts, 0.0
        parts.optimizer.zero_grad(set_to_none=True)
        for part in range(self.accumulate):
            inputs, targets = self._batch(self.step * self.accumulate + part)
            share = len(targets) / self.rows
            with parts.autocast(self.device):
                loss = parts.loss(align(call(self.model, inputs), targets), targets)
            (loss * share if self.accumulate > 1 else loss).backward()
            total += loss.item() * share
        norm = parts.clip(self.model)
        if norm is None and want_norm:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
        self.last_lr = float(parts.optimizer.param_groups[0]["lr"])
        self.refused = self.spikes is not None and self.spikes.refuses(total, None if norm is None else float(norm))
        if not self.refused:
            parts.optimizer.step()
        parts.scheduler.step()
        return total, None if norm is None else float(norm)

    def _batch(self, index: int) -> tuple[Input, Tensor]:
        """Return the index-th batch of the run: each epoch is a permutation drawn from the seed and its number."""
        per_epoch = self.steps_per_epoch * self.accumulate
        epoch, position = divmod(index, per_epoch)
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._order = self.task.order(generator)
            self._epoch = epoch
        chosen = self._order[position * self.batch : (position + 1) * self.batch]
        inputs, targets = self.task.train.batch(chosen)
        return to_device(inputs, self.device), targets.to(self.device)

    def _evaluate(self) -> None:
        began = time.perf_counter()
        metric, loss = evaluate(self.task, self.model, self.task.val, loss=self.parts.loss, device=self.device)
        self.busy += time.perf_counter() - began
        if math.isnan(loss):
            self._diverged(loss)
        self.parts.scheduler.report(metric, higher_is_better=self.task.metric.higher_is_better)
        signed = metric if self.task.metric.higher_is_better else -metric
        # Of equal metrics the lower loss is better: on small splits ties are common.
        better = (signed, -loss) > self.best and math.isfinite(metric)
        if better:
            self.best, self.best_metric, self.best_step = (signed, -loss), metric, self.step
            self.best_model = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.waited = 0 if better else self.waited + 1
        self._say(Eval(self.step, "val", metric, loss, round(self._seconds(), 4), better))

    def _diverged(self, loss: float, more: str = "") -> NoReturn:
        lr = self.recipe.optimizer.get("lr")
        raise DivergedError(
            f"the loss became {loss} at step {self.step} of {self.steps} (rate {self.last_lr:.3g}){more}; "
            f"try a lower rate (optimizer.lr = {lr}), a longer warmup, or clip = {{norm = 1.0}}"
        )

    # -- state ------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.saved = time.perf_counter()
        if self.checkpoints is None:
            return
        state: dict[str, object] = {
            "step": self.step,
            "steps": self.steps,
            "seed": self.seed,
            "seconds": self._seconds(),
            "model": self.model.state_dict(),
            "optimizer": self.parts.optimizer.state_dict(),
            "scheduler": self.parts.scheduler.state_dict(),
            "random": RandomState().data,
            "best": list(self.best),
            "best_metric": self.best_metric,
            "best_step": self.best_step,
            "best_model": self.best_model,
            "waited": self.waited,
            "spikes": None if self.spikes is None else self.spikes.data,
        }
        save_checkpoint(self.checkpoints, state)

    def _resume(self) -> bool:
        state = load_checkpoint(self.checkpoints) if self.checkpoints is not None else None
        if state is None:
            return False
        self.model.load_state_dict(state["model"])  # type: ignore[arg-type]
        self.parts.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.parts.scheduler.load_state_dict(state["scheduler"])  # type: ignore[arg-type]
        RandomState(state["random"]).restore()  # type: ignore[arg-type]
        self.best = tuple(state["best"])  # type: ignore[assignment, arg-type]
        for name in ("step", "best_metric", "best_step", "best_model", "waited"):
            setattr(self, name, state[name])
        if self.spikes is not None and state.get("spikes") is not None:
            self.spikes = Spikes.of(state["spikes"])  # type: ignore[arg-type]
        self.spent = float(state["seconds"])  # type: ignore[arg-type]
        self._say(Resume(self.step))
        return True

    def _start_event(self) -> Start:
        metric = self.task.metric
        return Start(
            self.steps,
            self.steps_per_epoch,
            self.batch,
            self.seed,
            str(self.device),
            metric.name,
            metric.higher_is_better,
        )

    def _seconds(self) -> float:
        return self.spent + time.perf_counter() - self.began

    def _say(self, event: Event) -> None:
        for callback in self.callbacks:
            callback.handle(event)


def call(model: nn.Module, inputs: Input) -> Tensor:
    """Call a model on a batch of inputs: a tuple is given as positional arguments."""
    output: Tensor = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return output


def align(output: Tensor, target: Tensor) -> Tensor:
    """Drop the last axis of an output `(batch, 1)` whose target is `(batch,)`: together they would broadcast."""
    if output.ndim == target.ndim + 1 and output.shape[-1] == 1:
        return output.squeeze(-1)
    return output


@torch.no_grad()
def predict_outputs(
    model: nn.Module, split: Split, *, batch: int | None = None, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return the model's raw outputs and the targets of a whole split, in its order, in evaluation mode.

    Without `batch` rows come in batches of at most 1024, fewer when they are large (images, long texts).
    """
    was_training = model.training
    if batch is None:
        first, _ = split.batch(torch.arange(1))
        numbers = sum(part.numel() for part in (first if isinstance(first, tuple) else (first,)))
        batch = max(16, min(1024, 2**20 // max(1, numbers)))
    model.eval()
    outputs, targets = [], []
    for begin in range(0, len(split), batch):
        inputs, target = split.batch(torch.arange(begin, min(begin + batch, len(split))))
        outputs.append(align(call(model, to_device(inputs, device)).float().cpu(), target))
        targets.append(target)
    model.train(was_training)
    return torch.cat(outputs), torch.cat(targets)


def evaluate(
    task: Task, model: nn.Module, split: Split, *, loss: nn.Module, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Return the task's metric and the loss of a model on a split; the loss of outputs that are NaN is NaN."""
    outputs, targets = predict_outputs(model, split, device=device)
    if bool(outputs.isnan().any()):
        # Said here, because a fused loss may give a finite value all the same.
        return task.metric(outputs, targets), math.nan
    with torch.no_grad():
        return task.metric(outputs, targets), float(loss(outputs, targets))


def to_device(inputs: Input, device: torch.device | str) -> Input:
    """Move a batch of inputs."""
    if isinstance(inputs, tuple):
        return tuple(item.to(device) for item in inputs)
    return inputs.to(device)
