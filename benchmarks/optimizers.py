"""What a step of each elementwise optimizer costs, beside torch's best form of it and beside the memory floor.

Run: `python -m benchmarks.optimizers [--quick] [--only TEXT]`. Budgets of the project, on two CPU cores: 800 small
tensors at least 4 times faster than torch's best (1.5 times for plain SGD, momentum and Adagrad, which torch fuses
well); 64M parameters at most 1.4 times the floor, at most 1.15 times torch's fused form, 2.5 times faster where torch
has none. Pointer collection and fresh gradients at every step are part of what is timed. Nothing ran on a GPU.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Contender, arguments, compare, show
from benchmarks.store import store_rows
from trivet import optim

LARGE = 64_000_000
SMALL = 800  # tensors, of 16 to 8192 elements: 1.7M parameters


@dataclass(frozen=True)
class Subject:
    """An optimizer with its options, and the arrays of the parameter's size that a step must read or write."""

    name: str
    passes: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        words = ", ".join(f"{key}={value}" for key, value in self.options.items())
        return self.name + (f" ({words})" if words else "")


# Passes: the parameter, the gradient (read only) and each state are read; all but the gradient are written.
SUBJECTS = (
    Subject("SGD", 3),
    Subject("SGD", 5, {"momentum": 0.9}),
    Subject("Adam", 7),
    Subject("AdamW", 7),
    Subject("Lion", 5),
)


def shapes() -> list[int]:
    generator = torch.Generator().manual_seed(0)
    exponents = torch.rand(SMALL, generator=generator) * 9 + 4
    return [int(2**e) for e in exponents.tolist()]


def parameters(sizes: list[int]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(size, generator=generator)) for size in sizes]


def fresh_gradients(params: list[nn.Parameter], pools: list[list[Tensor]]) -> Callable[[], None]:
    """Give every parameter another gradient tensor each time, as a backward pass does."""

    @functools.cache
    def turns() -> Iterator[list[Tensor]]:
        while True:
            yield from pools

    def give() -> None:
        for param, grad in zip(params, next(turns()), strict=True):
            param.grad = grad

    return give


def forms(subject: Subject) -> dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]]:
    """Return makers of our optimizer and of every form of it that torch has on the CPU."""
    makers: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
        "trivet": lambda params: optim.catalogue()[subject.name](params, **subject.options)
    }
    theirs = getattr(torch.optim, subject.name, None)
    if theirs is None:
        return makers
    known = inspect.signature(theirs).parameters
    if "foreach" in known:
        makers["torch for-loop"] = lambda params: theirs(params, foreach=False, **subject.options)
        makers["torch foreach"] = lambda params: theirs(params, foreach=True, **subject.options)
    if "fused" in known:
        makers["torch fused"] = lambda params: theirs(params, fused=True, **subject.options)
    return makers


def step_case(subject: Subject, sizes: list[int], title: str, *, quick: bool, floor: bool) -> dict[str, Any]:
    """Time the step alone. Every contender has parameters and states of its own, and all share the gradients."""
    gradients = [[torch.randn(size) * 1e-2 for size in sizes] for _ in range(3 if len(sizes) > 1 else 1)]
    contenders = {}
    for name, make in forms(subject).items():
        params = parameters(sizes)
        contenders[name] = Contender(make(params).step, fresh_gradients(params, gradients))
    elements = sum(sizes)
    return compare(
        contenders,
        title=f"{subject.title}: {title}",
        rounds=5 if quick else 21 if floor else 101,
        seconds=3 if quick else 20,
        warmup=2,
        moved=4 * subject.passes * elements if floor else None,
        elements=elements,
        baseline=best_of_torch(contenders),
    )


def best_of_torch(contenders: dict[str, Contender]) -> str | None:
    """Return the form of torch's that is fastest over a few steps, if torch has any."""
    speed = {}
    for name, contender in contenders.items():
        if name == "trivet":
            continue
        took = []
        for _ in range(3):
            contender.before()  # type: ignore[misc]
            began = time.perf_counter()
            contender.run()
            took.append(time.perf_counter() - began)
        speed[name] = min(took)
    return min(speed, key=lambda name: speed[name]) if speed else None


def training_case(*, quick: bool) -> dict[str, Any]:
    """Whole training steps of a small convolutional network: forward, backward and step, in turn with torch's fused."""
    contenders = {}
    for name, make in (("trivet", optim.AdamW), ("torch fused", functools.partial(torch.optim.AdamW, fused=True))):
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1)]
        for _ in range(12):
            layers += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
        optimizer = make(model.parameters(), lr=1e-3)
        x, y = torch.randn(32, 3, 16, 16), torch.randint(10, (32,))

        def step(
            model: nn.Module = model,
            optimizer: torch.optim.Optimizer = optimizer,
            x: Tensor = x,
            y: Tensor = y,
        ) -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

        contenders[name] = step
    title = "AdamW: forward, backward and step of a 12-layer convolutional network"
    return compare(
        contenders, title=title, baseline="torch fused", rounds=5 if quick else 101, seconds=3 if quick else 20
    )


def main() -> None:
    options = arguments(__doc__)
    large = 1_000_000 if options.quick else LARGE
    jobs: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    for subject in SUBJECTS:
        for title, sizes, floor in (
            (f"{SMALL} small tensors", shapes(), False),
            (f"{large / 1e6:.0f}M parameters", [large], True),
        ):
            make = functools.partial(step_case, subject, sizes, title, quick=options.quick, floor=floor)
            jobs.append((f"{subject.title}: {title}", make))
    jobs.append(("AdamW: forward, backward and step", functools.partial(training_case, quick=options.quick)))
    for title, job in jobs:
        if options.only in title:
            case = job()
            show(case)
            if not options.quick:
                store_rows("optimizers", [case])


if __name__ == "__main__":
    main()
