"""What driving a schedule costs per step beyond setting the group, beside torch's own schedulers.

Run: `python -m benchmarks.schedules`. Budget of the project: under 1 microsecond.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.store import store
from trivet.schedules import Scheduler, parse

STEPS = 20_000
REPEATS = 7

TEXTS = (
    "constant()",
    "cosine()",
    "warmup(0.05) >> cosine(floor=0.01)",
    "warmup(0.05) >> constant(0.7) >> decay(to=0.1)",
    "one_cycle()",
    "inverse_sqrt()",
    "reduce_on_plateau()",
)


class Nothing(torch.optim.Optimizer):
    """An optimizer whose step costs nothing: what remains is the schedule."""

    def __init__(self) -> None:
        super().__init__([torch.nn.Parameter(torch.zeros(1))], {"lr": 0.1, "momentum": 0.9})

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        pass


def per_step(make: Callable[[torch.optim.Optimizer], object]) -> float:
    """Microseconds per `scheduler.step()`, without the optimizer's own step."""
    optimizer = Nothing()
    scheduler = make(optimizer)
    optimizer.step()
    step = scheduler.step  # type: ignore[attr-defined]
    note = getattr(scheduler, "_note_step", lambda optimizer: None)
    if hasattr(scheduler, "report"):
        scheduler.report(1.0)
    began = time.perf_counter()
    for _ in range(STEPS):
        note(optimizer)
        step()
    return 1e6 * (time.perf_counter() - began) / STEPS


def setting(keys: tuple[str, ...]) -> float:
    """Microseconds to set these keys of the group to what costs nothing to compute."""
    group = Nothing().param_groups[0]
    began = time.perf_counter()
    for _ in range(STEPS):
        for key in keys:
            group[key] = 0.1 * 1.0
    return 1e6 * (time.perf_counter() - began) / STEPS


def main() -> None:
    schedulers = torch.optim.lr_scheduler
    makers: dict[str, Callable[[torch.optim.Optimizer], object]] = {
        text: lambda o, t=text: Scheduler(o, parse(t), total_steps=STEPS) for text in TEXTS
    }
    makers["torch CosineAnnealingLR"] = lambda o: schedulers.CosineAnnealingLR(o, STEPS)
    makers["torch LambdaLR"] = lambda o: schedulers.LambdaLR(o, lambda step: 1.0 - step / STEPS)
    times: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(REPEATS):
        for name, make in makers.items():
            bare = setting(("lr", "momentum") if name == "one_cycle()" else ("lr",))
            times[name].append(per_step(make) - bare)
    rows = []
    for name, values in times.items():
        rows.append({"schedule": name, "us_per_step": statistics.median(values), "spread": [min(values), max(values)]})
        print(f"{name:<48} {rows[-1]['us_per_step']:6.2f} us per step beyond setting the group")
    store("schedules", {"steps": STEPS, "repeats": REPEATS, "rows": rows})


if __name__ == "__main__":
    main()
