"""Make one planned run under the doctor's eyes and say how it came out."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

import trivet
from benchmarks.doctor_cases import Data, Plan
from trivet.errors import DivergedError
from trivet.record import End
from trivet.record.events import encode

EVALUATIONS = 20


def make_run(plan: Plan, draw: Any) -> dict[str, object]:
    """Train, and return events (as JSON lines) with the outcome: scores over time, whether it ended in NaN."""
    data = plan.data if plan.change_data is None else plan.change_data(plan.data, draw)
    torch.manual_seed(plan.seed)
    model = plan.model()
    if plan.warm_start:
        _train_quietly(model, plan)
    if plan.change_model is not None:
        model = plan.change_model(model)
    if plan.frozen:
        next(m for m in model.modules() if isinstance(m, nn.Linear)).requires_grad_(False)
    criterion = loss_of(data, plan)
    params = [p for p in model.parameters() if p.requires_grad][plan.skip_owner :]
    optimizer = make_optimizer(plan, params)
    watch = trivet.watch(model, optimizer, loss=criterion, steps=plan.steps)
    scores, losses, reason = _loop(plan, data, model, criterion, optimizer, watch)
    watch.close()
    record = watch.record
    events = [
        record.start,
        record.setting,
        *record.steps,
        *record.evals,
        *record.probes,
        End(watch.step_number, reason, 0.0),
    ]
    lines = [encode(_short(e)).decode() for e in events if e is not None]
    return {"events": lines, "scores": scores, "losses": losses, "reason": reason}


def _loop(
    plan: Plan,
    data: Data,
    model: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    watch: trivet.Watch,
) -> tuple[list[float], list[float], str]:
    scores: list[float] = []
    losses: list[float] = []
    batches = Batches(plan, data)
    every = max(1, plan.steps // EVALUATIONS)
    for step in range(plan.steps):
        model.train(plan.train_mode)
        rate = plan.lr * factor(plan.schedule, step / plan.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        if plan.clear:
            optimizer.zero_grad()
        for part in range(plan.accumulate):
            x, y = batches.next()
            if step in plan.spike_at:
                x, y = (30 * x if x.is_floating_point() else x), y.roll(1, 0)
            loss = plan.loss_sign * criterion(model(x), y)
            (loss / plan.accumulate).backward()
            if part < plan.accumulate - 1:
                watch.step(loss)
        if plan.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
        try:
            optimizer.step()
        except DivergedError:
            watch.steps.append(trivet.record.Step(step + 1, float(loss), rate, 0.0))
            return scores, losses, "diverged"
        watch.step(loss)
        if (step + 1) % every == 0:
            score, value, recalls = judge(model, data, criterion, plan)
            scores.append(score)
            losses.append(value)
            watch.evaluated(loss=value, metric=score, name="score", recalls=recalls)
    return scores, losses, "finished"


class Batches:
    """Batches in a new order each epoch; `ragged` keeps the short last one, which otherwise is dropped."""

    def __init__(self, plan: Plan, data: Data) -> None:
        self.x, self.y = data.train
        if not plan.shuffle:
            order = self.y.argsort(stable=True)
            self.x, self.y = self.x[order], self.y[order]
        self.plan, self.draw = plan, torch.Generator().manual_seed(plan.seed)
        self.rows: list[Tensor] = []

    def next(self) -> tuple[Tensor, Tensor]:
        if not self.rows:
            n, size = len(self.x), min(self.plan.batch, len(self.x))
            order = torch.randperm(n, generator=self.draw) if self.plan.shuffle else torch.arange(n)
            rows = list(order.split(size))
            if len(rows[-1]) < size and (not self.plan.ragged or len(rows[-1]) < 2):
                rows.pop()
            self.rows = rows[::-1]
        chosen = self.rows.pop()
        return self.x[chosen], self.y[chosen]


def loss_of(data: Data, plan: Plan) -> nn.Module:
    """Return the loss that goes with a kind of target."""
    if plan.own_loss is not None:
        return plan.own_loss
    if data.kind in ("classes", "tokens"):
        return nn.CrossEntropyLoss(label_smoothing=plan.smoothing)
    return nn.MSELoss() if data.kind == "value" else nn.BCEWithLogitsLoss()


def make_optimizer(plan: Plan, params: list[Tensor]) -> torch.optim.Optimizer:
    """Return torch's optimizer of the name."""
    settings: dict[str, float] = {"lr": plan.lr, "weight_decay": plan.weight_decay}
    if plan.optimizer == "SGD":
        settings["momentum"] = 0.9
    return getattr(torch.optim, plan.optimizer)(params, **settings)  # type: ignore[no-any-return]


def factor(schedule: str, progress: float) -> float:
    """Return the schedule's factor."""
    if schedule == "constant":
        return 1.0
    if schedule == "warmup":
        return min(1.0, 0.02 + progress / 0.1) * (0.51 + 0.49 * math.cos(math.pi * progress))
    return 0.51 + 0.49 * math.cos(math.pi * progress)


@torch.no_grad()
def judge(model: nn.Module, data: Data, criterion: nn.Module, plan: Plan) -> tuple[float, float, tuple[float, ...]]:
    """Return score (0 a constant, 1 perfect), loss and class recalls on held-out rows."""
    model.eval()
    x, y = data.val
    out = model(x)
    value = float(criterion(out, y))
    recalls: tuple[float, ...] = ()
    if data.kind == "value":
        score = 1 - float((out - y).square().mean() / (y - y.mean()).square().mean())
    elif data.kind == "bits":
        right = ((out > 0) == (y > 0.5)).float().mean()
        score = 2 * float(right) - 1
    else:
        named, classes = out.argmax(dim=1), data.outputs
        top = float(torch.bincount(y.flatten(), minlength=classes).max() / y.numel())
        score = (float((named == y).float().mean()) - top) / (1 - top)
        if data.kind == "classes":
            recalls = tuple(round(float((named[y == k] == k).float().mean()), 4) for k in range(classes))
            # Every class counts the same: a rare class that is never named must show in the score.
            score = (sum(recalls) / classes - 1 / classes) / (1 - 1 / classes)
    return (score if math.isfinite(score) else -9.0), value, recalls


def _train_quietly(model: nn.Module, plan: Plan) -> None:
    """Train a while at a rate that works, so that the watched run begins from weights that know something."""
    criterion, batches = loss_of(plan.data, plan), Batches(plan, plan.data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(plan.warm_start):
        x, y = batches.next()
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()


def _short(event: Any) -> Any:
    changes = {
        name: float(f"{value:.5g}")
        for name in ("loss", "lr", "metric", "seconds")
        if isinstance(value := getattr(event, name, None), float)
    }
    return msgspec.structs.replace(event, **changes) if changes else event
