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
SMALL = 800  # tensors, of 16 to 13700 elements: 1.7M parameters
ROW = 10  # steps of small tensors in a row


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
    Subject("Adagrad", 5),
    Subject("Adadelta", 7),
    Subject("RMSprop", 5),
    Subject("RMSprop", 9, {"momentum": 0.9, "centered": True}),
    Subject("NAdam", 7),
    Subject("RAdam", 7),
    Subject("Adamax", 7),
    Subject("Rprop", 7),
    Subject("SGDScheduleFree", 5),
    Subject("AdamWScheduleFree", 7),
    Subject("Sophia", 7),
)


def shapes() -> list[int]:
    generator = torch.Generator().manual_seed(0)
    exponents = torch.rand(SMALL, generator=generator) * 9.75 + 4
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
        "trivet": lambda params: getattr(optim, subject.name)(params, **subject.options)
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
        contenders[name] = in_a_row(make(params).step, fresh_gradients(params, gradients), 1 if floor else ROW)
    best = best_of_torch(contenders)
    if floor:  # torch's slower forms would take most of the time here
        contenders = {name: contender for name, contender in contenders.items() if name in ("trivet", best)}
    elements = sum(sizes)
    return compare(
        contenders,
        title=f"{subject.title}: {title}",
        rounds=5 if quick else 21 if floor else 51,
        seconds=1 if quick else 6 if floor else 2.5,
        warmup=1,
        moved=4 * subject.passes * elements if floor else None,
        elements=elements,
        baseline=best,
    )


def in_a_row(step: Callable[[], object], give: Callable[[], None], steps: int) -> Contender:
    """Return a contender of so many steps, each with other gradients, whose handing over is timed where there are many.

    One step alone after another contender's would be timed with caches that this one has left cold.
    """
    if steps == 1:
        return Contender(step, give)

    def run() -> None:
        for _ in range(steps):
            give()
            step()

    return Contender(run, before=lambda: None)


def best_of_torch(contenders: dict[str, Contender]) -> str | None:
    """Return the form of torch's that is fastest over a few steps, if torch has any."""
    speed = {}
    for name, contender in contenders.items():
        if name == "trivet":
            continue
        took = []
        for _ in range(2):
            contender.before()  # type: ignore[misc]
            began = time.perf_counter()
            contender.run()
            took.append(time.perf_counter() - began)
        speed[name] = took[-1]
    return min(speed, key=lambda name: speed[name]) if speed else None


def training_case(*, quick: bool) -> dict[str, Any]:
    """Whole training steps of a small convolutional network: forward, backward and step, in turn with torch's fused."""
    contenders: dict[str, Callable[[], None]] = {}
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
        contenders, title=title, baseline="torch fused", rounds=5 if quick else 101, seconds=1 if quick else 8
    )


def clipping_case(*, quick: bool) -> dict[str, Any]:
    """AdamW alone, with the norm clipped inside the step, and torch's clip before torch's step."""
    sizes = [1_000_000 if quick else LARGE]
    gradient = [torch.randn(size) for size in sizes]
    contenders: dict[str, Contender] = {}
    for name in ("trivet", "trivet with clipping", "torch fused", "torch fused with clipping"):
        params = parameters(sizes)
        ours = name.startswith("trivet")
        optimizer = optim.AdamW(params) if ours else torch.optim.AdamW(params, fused=True)
        clip = "clipping" in name
        if ours and clip:
            optimizer.guard(max_norm=1.0)  # type: ignore[union-attr]

        def step(
            optimizer: torch.optim.Optimizer = optimizer,
            params: list[nn.Parameter] = params,
            clip: bool = clip and not ours,
        ) -> None:
            if clip:
                nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()

        contenders[name] = Contender(step, fresh_gradients(params, [gradient]))
    title = f"AdamW with gradient clipping by norm: {sizes[0] / 1e6:.0f}M parameters"
    return compare(
        contenders,
        title=title,
        baseline="trivet",
        rounds=5 if quick else 15,
        seconds=1 if quick else 12,
        moved=28 * sizes[0],
        elements=sizes[0],
    )


def whole_tensor_case(*, quick: bool) -> dict[str, Any]:
    """What optimizers in plain torch cost, on the matrices of a small transformer (12 x 512, 25M parameters)."""
    shapes = [(512, 512)] * 4 + [(512, 2048), (2048, 512)]
    layers = 1 if quick else 8
    contenders = {}
    for name in ("AdamW", "LAMB", "LARS", "Adafactor", "Prodigy", "Muon"):
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(shape) * 0.02) for _ in range(layers) for shape in shapes]
        for p in params:
            p.grad = torch.randn_like(p) * 1e-3
        contenders[name] = getattr(optim, name)(params).step
    for name in ("Adafactor", "Muon"):
        params = [nn.Parameter(torch.randn(shape) * 0.02) for _ in range(layers) for shape in shapes]
        for p in params:
            p.grad = torch.randn_like(p) * 1e-3
        contenders[f"torch {name}"] = getattr(torch.optim, name)(params).step
    title = f"Optimizers in plain torch: {layers} transformer layers of width 512"
    return compare(
        contenders, title=title, baseline="AdamW", rounds=5 if quick else 7, seconds=1 if quick else 25, memory=True
    )


def main() -> None:
    options = arguments(__doc__)
    large = 1_000_000 if options.quick else LARGE
    jobs: list[tuple[str, Callable[[], dict[str, Any]]]] = []
    for subject in SUBJECTS:
        for title, sizes, floor in (
            (f"{SMALL} small tensors, {ROW} steps", shapes(), False),
            (f"{large / 1e6:.0f}M parameters", [large], True),
        ):
            make = functools.partial(step_case, subject, sizes, title, quick=options.quick, floor=floor)
            jobs.append((f"{subject.title}: {title}", make))
    jobs.append(("AdamW: forward, backward and step", functools.partial(training_case, quick=options.quick)))
    jobs.append(("AdamW with gradient clipping by norm", functools.partial(clipping_case, quick=options.quick)))
    jobs.append(("Optimizers in plain torch", functools.partial(whole_tensor_case, quick=options.quick)))
    for title, job in jobs:
        if any(words in title for words in options.only.split("|")):
            case = job()
            show(case)
            if not options.quick:
                store_rows("optimizers", [case])


if __name__ == "__main__":
    main()
