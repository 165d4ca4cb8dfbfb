"""What watching costs: accounting inside the process, and paired runs with and without it.

Run: `python -m benchmarks.doctor_overhead`. Budget: 1 % of a step's time or 30 microseconds, whichever is larger.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import trivet
from benchmarks.store import store

PAIRS, WARMUP = 3, 60


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    """A perceptron of four layers on a table."""
    layers = [part for _ in range(3) for part in (nn.Linear(256, 256), nn.ReLU())]
    model = nn.Sequential(nn.Linear(30, 256), nn.ReLU(), *layers, nn.Linear(256, 2))
    return model, torch.randn(128, 30), torch.randint(0, 2, (128,))


def cnn() -> tuple[nn.Module, Tensor, Tensor]:
    """Three convolutions with batch normalisation on pictures of 28 by 28."""
    parts: list[nn.Module] = []
    for inner, outer in ((1, 16), (16, 32), (32, 32)):
        parts += [nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*parts, nn.Flatten(), nn.Linear(32 * 9, 10))
    return model, torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))


class Sequence(nn.Module):
    """A transformer of two layers over embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x)).mean(dim=1))


def transformer() -> tuple[nn.Module, Tensor, Tensor]:
    """The transformer with a batch of 32 sequences of 32 tokens."""
    return Sequence(), torch.randint(0, 100, (32, 32)), torch.randint(0, 10, (32,))


def run(make: Callable[[], tuple[nn.Module, Tensor, Tensor]], steps: int, watched: bool) -> tuple[float, float, int]:
    """Return seconds per step, seconds per step that the watcher counted, and the number of probes, after warm-up."""
    torch.manual_seed(0)
    model, x, y = make()
    optimizer, criterion = torch.optim.AdamW(model.parameters(), lr=1e-3), nn.CrossEntropyLoss()
    watch = trivet.watch(model, optimizer, loss=criterion) if watched else None
    began = spent = 0.0
    for step in range(WARMUP + steps):
        if step == WARMUP:
            began, spent = time.perf_counter(), watch.spent if watch else 0.0
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if watch is not None:
            watch.step(loss)
        else:
            loss.item()
    took = time.perf_counter() - began
    return took / steps, ((watch.spent - spent) / steps if watch else 0.0), (len(watch.probes) if watch else 0)


def main() -> None:
    torch.set_num_threads(1)
    table = []
    for make, steps in ((mlp, 1000), (cnn, 200), (transformer, 300)):
        run(make, 20, True)
        ratios, bare, counted, probes = [], [], [], 0
        for pair in range(PAIRS):
            order = (True, False) if pair % 2 else (False, True)
            times = {}
            for watched in order:
                times[watched], inside, seen = run(make, steps, watched)
                if watched:
                    counted.append(inside)
                    probes = seen
            bare.append(times[False])
            ratios.append(times[True] - times[False])
        step, inside = statistics.median(bare), statistics.median(counted)
        table.append(
            {
                "model": make.__name__,
                "step, microseconds": round(1e6 * step, 1),
                "accounted, microseconds per step": round(1e6 * inside, 1),
                "accounted, share": round(inside / step, 4),
                "paired difference, microseconds": [round(1e6 * r, 1) for r in sorted(ratios)],
                "budget, microseconds": round(max(0.01 * step, 30e-6) * 1e6, 1),
                "probes": probes,
                "steps": steps,
            }
        )
        print(table[-1])
    store("doctor_overhead", {"warmup steps left out": WARMUP, "cases": table})


if __name__ == "__main__":
    main()
