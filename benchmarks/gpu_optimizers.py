"""What AdamW costs on a GPU: 800 small tensors and a billion parameters, against torch's fused and foreach.

    python -m benchmarks.gpu_optimizers

Times come from CUDA events around whole steps, in interleaved rounds, and the number of kernels from torch's profiler.
Without a GPU it says so and stores nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from benchmarks.store import store
from trivet.optim import AdamW

ROUNDS = 30
SHAPES = {
    "800 tensors of 2,048": [2048] * 800,
    "1,000,000,000 in 250 tensors": [4_000_000] * 250,
}


def contenders(sizes: list[int]) -> dict[str, Callable[[], torch.optim.Optimizer]]:
    """Return what makes each optimizer, with parameters and gradients of its own."""

    def made(cls: type[torch.optim.Optimizer], **keywords: object) -> torch.optim.Optimizer:
        params = [torch.nn.Parameter(torch.randn(size, device="cuda")) for size in sizes]
        for param in params:
            param.grad = torch.randn_like(param)
        return cls(params, lr=1e-3, **keywords)  # type: ignore[call-arg]

    return {
        "trivet": lambda: made(AdamW, backend="triton"),
        "torch fused": lambda: made(torch.optim.AdamW, fused=True),
        "torch foreach": lambda: made(torch.optim.AdamW, foreach=True),
    }


def milliseconds(step: Callable[[], object]) -> float:
    """Return how long the GPU and the host together take for one step."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def launches(step: Callable[[], object]) -> int:
    """Return how many kernels a step starts; copies are not counted."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if "mem" not in event.key.lower())


def measured(title: str, sizes: list[int]) -> list[dict[str, object]]:
    """Return a row for each contender: median and quartiles of milliseconds, ratio to torch fused, kernels."""
    optimizers = {}
    for name, make in contenders(sizes).items():
        needed = 16 * sum(sizes)  # bytes: parameter, gradient, two moments
        if torch.cuda.mem_get_info()[0] < 1.1 * needed:
            print(f"{title}: {name} left out, it needs {needed / 1e9:.0f} GB more than is free")
            continue
        optimizers[name] = make()
        for _ in range(3):
            optimizers[name].step()
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    for turn in range(ROUNDS):
        order = list(optimizers)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            times[name].append(milliseconds(optimizers[name].step))
    rows: list[dict[str, object]] = []
    for name, optimizer in optimizers.items():
        low, median, high = statistics.quantiles(times[name], n=4)
        row: dict[str, object] = {"case": title, "name": name, "median_ms": median, "low_ms": low, "high_ms": high}
        if "torch fused" in times:
            row["ratio"] = statistics.median(a / b for a, b in zip(times[name], times["torch fused"], strict=True))
        rows.append(row | {"kernels": launches(optimizer.step)})
    return rows


def main() -> None:
    """Measure every shape, print a table and store it."""
    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured and nothing was stored")
        return
    rows = []
    for title, sizes in SHAPES.items():
        rows += measured(title, sizes)
        torch.cuda.empty_cache()
    for row in rows:
        print("  ".join(f"{key} {value:.3f}" if isinstance(value, float) else f"{value}" for key, value in row.items()))
    store("gpu_optimizers", {"gpu": torch.cuda.get_device_name(), "rounds": ROUNDS, "rows": rows})


if __name__ == "__main__":
    main()
