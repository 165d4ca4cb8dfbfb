"""The loop trains as plain torch would, keeps the best weights, stops politely and resumes exactly."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trivet.errors import DivergedError
from trivet.recipes import Recipe
from trivet.record import End, Eval, Event, Note, Resume, Start, Step
from trivet.tasks import Task
from trivet.training import train

pytestmark = pytest.mark.app


class Model(nn.Module):
    """Dropout and batch norm on purpose: both have state that a resume must bring back.

    No bias before the batch norm: its gradient would be rounding alone, which AdamW turns into whole steps.
    """

    def __init__(self) -> None:
        super().__init__()
        first = nn.Linear(5, 16, bias=False)
        self.layers = nn.Sequential(first, nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def make_task() -> Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5)).astype(np.float32)
    y = np.sin(x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * rng.normal(size=300)
    return Task.from_arrays(x, y.astype(np.float32), kind="regression", model=Model)


RECIPE = Recipe(
    loss="mse_loss",
    optimizer={"name": "AdamW", "lr": 0.01, "weight_decay": 0.01},
    schedule="warmup(0.1) >> cosine()",
    batch_size=32,
    epochs=8,
    clip={"norm": 1.0},
)


class Listener:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


class StopAfter(Listener):
    """Asks the run to stop, as Ctrl-C would, after a number of steps."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def handle(self, event: Event) -> None:
        super().handle(event)
        if isinstance(event, Step) and event.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_training_learns_and_tells_its_story() -> None:
    listener = Listener()
    outcome = train(make_task(), RECIPE, callbacks=[listener])
    assert isinstance(listener.events[0], Start)
    assert isinstance(listener.events[-1], End)
    steps = [e for e in listener.events if isinstance(e, Step)]
    assert [s.step for s in steps] == list(range(1, outcome.steps + 1))
    assert np.mean([s.loss for s in steps[-5:]]) < 0.8 * np.mean([s.loss for s in steps[:5]])
    evals = [e for e in listener.events if isinstance(e, Eval)]
    assert len(evals) == 8
    assert outcome.metric == min(e.metric for e in evals)
    assert outcome.reason == "finished"


def test_the_best_weights_are_what_comes_back() -> None:
    task = make_task()
    outcome = train(task, RECIPE)
    outcome.model.eval()
    with torch.no_grad():
        metric = task.metric(outcome.model(task.val.inputs), task.val.targets)
    assert metric == pytest.approx(outcome.metric, rel=1e-6)


def test_a_seed_gives_the_same_run_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    one, two = train(make_task(), RECIPE, seed=3), train(make_task(), RECIPE, seed=3)
    other = train(make_task(), RECIPE, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.metric == two.metric
    for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert one.metric != other.metric


@pytest.mark.parametrize("stop", [1, 7, 20, 33])
def test_an_interrupted_run_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path, stop: int) -> None:
    whole = train(make_task(), RECIPE, seed=1)
    cut = train(make_task(), RECIPE, seed=1, callbacks=[StopAfter(stop)], checkpoints=tmp_path)
    assert (cut.reason, cut.step) == ("interrupted", stop)
    torch.rand(17)  # whatever else happens in the process in between
    listener = Listener()
    rest = train(make_task(), RECIPE, seed=1, callbacks=[listener], checkpoints=tmp_path)
    assert listener.events[0] == Resume(stop)
    assert rest.metric == whole.metric
    assert rest.best_step == whole.best_step
    for a, b in zip(rest.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_try() -> None:
    recipe = Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 1e12}, batch_size=32, epochs=3)
    listener = Listener()
    with pytest.raises(DivergedError, match=r"at step \d+ of .* try a lower rate") as caught:
        train(make_task(), recipe, callbacks=[listener])
    assert caught.value.exit_code == 3
    end = listener.events[-1]
    assert isinstance(end, End)
    assert end.reason == "diverged"


def test_training_stops_early_when_the_metric_no_longer_improves() -> None:
    outcome = train(make_task(), RECIPE.apply(), patience=1)
    full = train(make_task(), RECIPE)
    assert outcome.step <= full.step
    recipe = Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 1e-12}, batch_size=32, epochs=200)
    stuck = train(make_task(), recipe, patience=3)
    assert stuck.reason == "stopped early"
    assert stuck.step < 200 * 5


def test_a_time_limit_holds() -> None:
    listener = Listener()
    recipe = Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 1e-3}, batch_size=32, epochs=1e5)
    outcome = train(make_task(), recipe, seconds=0.5, callbacks=[listener], patience=10**9)
    assert outcome.reason == "stopped early"
    assert outcome.step < outcome.steps
    assert listener.of(Note)


def test_accumulated_batches_make_the_step_of_one_large_batch() -> None:
    class Plain(nn.Linear):
        def __init__(self) -> None:
            super().__init__(5, 1)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)).astype(np.float32)
    task = Task.from_arrays(x, x.sum(1), kind="regression", model=Plain)
    base = {"loss": "mse_loss", "optimizer": {"name": "SGD", "lr": 0.01}, "epochs": 2}
    large = train(task, Recipe.from_dict(base | {"batch_size": 32}))
    small = train(task, Recipe.from_dict(base | {"batch_size": 8, "accumulate": 4}))
    assert large.steps == small.steps
    for a, b in zip(large.model.parameters(), small.model.parameters(), strict=True):
        # The mean of four means against one mean over the same rows: float32 rounding only.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("accumulate", [5, 64])
def test_accumulation_past_the_split_is_one_step_over_the_whole_split(accumulate: int) -> None:
    class Plain(nn.Linear):
        def __init__(self) -> None:
            super().__init__(5, 1)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)).astype(np.float32)
    task = Task.from_arrays(x, x.sum(1), kind="regression", model=Plain)
    rows = len(task.train)
    assert rows % 25 != 0  # the last batch is smaller, so that the mean of means is not the mean
    assert rows < 5 * 25
    base = {"loss": "mse_loss", "optimizer": {"name": "SGD", "lr": 0.01}, "epochs": 5}
    whole = train(task, Recipe.from_dict(base | {"batch_size": rows}))
    listener = Listener()
    parts = train(task, Recipe.from_dict(base | {"batch_size": 25, "accumulate": accumulate}), callbacks=[listener])
    assert parts.steps == whole.steps == 5
    assert all(math.isfinite(event.loss) for event in listener.of(Step))
    for a, b in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        # Five weighted means against one mean over the same rows: float32 rounding only.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_bfloat16_trains() -> None:
    outcome = train(make_task(), Recipe.from_dict(RECIPE.as_dict() | {"precision": "bfloat16"}))
    assert math.isfinite(outcome.metric)
    assert all(p.dtype == torch.float32 for p in outcome.model.parameters())


def test_training_by_hand_gives_the_same_weights() -> None:
    """The loop adds nothing to the arithmetic of a bare torch loop over the same batches."""
    task, steps_per_epoch, steps = make_task(), 180 // 32, 8 * (180 // 32)
    outcome = train(task, RECIPE, seed=5)
    torch.manual_seed(5)
    model = task.make_model(5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    best, weights = math.inf, {}
    for step in range(steps):
        epoch, position = divmod(step, steps_per_epoch)
        order = torch.randperm(180, generator=torch.Generator().manual_seed(5 * 1_000_003 + epoch))
        x, y = task.train.batch(order[position * 32 : (position + 1) * 32])
        progress = step / steps
        cosine = 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (progress / 0.1 if progress < 0.1 else cosine)
        optimizer.zero_grad()
        model.train()
        nn.functional.mse_loss(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % steps_per_epoch == 0:
            model.eval()
            with torch.no_grad():
                value = task.metric(model(task.val.inputs), task.val.targets)
            if value < best:
                best, weights = value, {k: v.clone() for k, v in model.state_dict().items()}
    assert outcome.metric == pytest.approx(best, rel=1e-3)
    for key, value in outcome.model.state_dict().items():
        # Fused and reference AdamW round differently in the last place, and 40 steps add up.
        torch.testing.assert_close(value, weights[key], rtol=1e-2, atol=1e-3)


class Fading(nn.Module):
    """Gives NaN from its fourth training step on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(5, 3), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return self.layer(x) * (1.0 if self.calls < 4 else math.nan)  # type: ignore[no-any-return]


def test_outputs_that_are_nan_are_a_divergence_whatever_the_loss_makes_of_them() -> None:
    rng = np.random.default_rng(0)
    task = Task.from_arrays(rng.normal(size=(300, 5)), np.arange(300) % 3, kind="multiclass", model=Fading)
    recipe = Recipe(loss="cross_entropy", optimizer={"name": "SGD", "lr": 0.1}, batch_size=32, epochs=3)
    with pytest.raises(DivergedError, match="the loss became nan"):
        train(task, recipe)
