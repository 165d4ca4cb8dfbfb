"""What the loop and the record cost over a bare PyTorch loop, by accounting inside the process and by paired runs.

Run: `python -m benchmarks.loop_overhead`. Budget of the project: 3 % or 30 microseconds per step, the larger.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.store import store
from trivet.recipes import Recipe
from trivet.record import Journal
from trivet.tasks import Task
from trivet.training import Recorder, train

PAIRS = 7
EPOCHS = 20


def task(width: int) -> Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5000, 20)).astype(np.float32)
    y = x[:, 0] * x[:, 1] + 0.1 * rng.normal(size=5000)

    def layers():
        return nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    return Task.from_arrays(x, y.astype(np.float32), kind="regression", model=layers)


def recipe() -> Recipe:
    return Recipe(
        loss="mse_loss",
        optimizer={"name": "AdamW", "lr": 1e-3},
        schedule="warmup(0.05) >> cosine()",
        batch_size=64,
        epochs=EPOCHS,
        clip={"norm": 1.0},
    )


def bare(task: Task) -> float:
    """The same work as a person would write it: batches, forward, backward, clip, step, schedule, evaluation."""
    torch.manual_seed(0)
    model = task.make_model(0)
    batches = len(task.train) // 64
    parts = recipe().build(model, steps=EPOCHS * batches)
    began = time.perf_counter()
    for epoch in range(EPOCHS):
        model.train()
        order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(epoch))
        for i in range(batches):
            x, y = task.train.batch(order[i * 64 : (i + 1) * 64])
            parts.optimizer.zero_grad(set_to_none=True)
            loss = parts.loss(model(x), y)
            loss.backward()
            loss.item()
            parts.clip(model)
            parts.optimizer.step()
            parts.scheduler.step()
        model.eval()
        with torch.no_grad():
            x, y = task.val.batch(torch.arange(len(task.val)))
            outputs = model(x)
            task.metric(outputs, y)
            float(parts.loss(outputs, y))
    return time.perf_counter() - began


def main() -> None:
    rows = []
    for width in (32, 256):
        made = task(width)
        steps = EPOCHS * (len(made.train) // 64)
        ours, theirs, accounted = [], [], []
        for pair in range(PAIRS + 1):
            theirs.append(bare(made))
            with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "record.jsonl") as journal:
                outcome = train(made, recipe(), callbacks=[Recorder(journal)], checkpoints=Path(folder), patience=10**9)
            ours.append(outcome.seconds)
            accounted.append(outcome.overhead * outcome.seconds)
            if pair == 0:  # the first pair warms caches up
                ours.clear(), theirs.clear(), accounted.clear()
        extra = [1e6 * (a - b) / steps for a, b in zip(ours, theirs, strict=True)]
        row = {
            "width": width,
            "steps": steps,
            "bare_us_per_step": 1e6 * statistics.median(theirs) / steps,
            "paired_extra_us_per_step": statistics.median(extra),
            "paired_extra_spread": [min(extra), max(extra)],
            "accounted_us_per_step": 1e6 * statistics.median(accounted) / steps,
        }
        rows.append(row)
        print({key: round(value, 1) if isinstance(value, float) else value for key, value in row.items()})
    store("loop_overhead", {"pairs": PAIRS, "rows": rows})


if __name__ == "__main__":
    main()
