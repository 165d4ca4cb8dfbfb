"""Small descents that can be looked at: real optimizers on functions of one or two weights, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.optim.sgd import SGD

# Curvatures of half a sum of curvature times squared weight: a curve, and a ravine twenty times steeper across.
CURVE, RAVINE = (1.0,), (1.0, 20.0)
# A line through forty noisy points: slope, intercept and noise.
LINE, POINTS, NOISE = (1.5, -0.5), 40, 0.8


@dataclass(frozen=True)
class Path:
    """A descent: the weights before the first and after each step, with the loss over all data at each."""

    weights: tuple[tuple[float, ...], ...]
    losses: tuple[float, ...]


def path(
    loss: Callable[[Tensor, int], Tensor],
    start: Sequence[float],
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    *,
    steps: int,
    whole: Callable[[Tensor], Tensor] | None = None,
) -> Path:
    """Run an optimizer on a function of the weights and the step; `whole` is what is written down (default: the same).

    >>> halved = path(lambda w, _: (w**2).sum() / 2, [1.0], lambda p: SGD(p, lr=0.5), steps=2)
    >>> halved.weights
    ((1.0,), (0.5,), (0.25,))
    """
    weights = torch.nn.Parameter(torch.tensor(list(start), dtype=torch.float64))
    made = optimizer([weights])
    seen, values = [], []
    for step in range(steps + 1):
        value = loss(weights, step)
        seen.append(tuple(weights.detach().tolist()))
        with torch.no_grad():
            values.append(float(value if whole is None else whole(weights)))
        if step < steps:
            made.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            made.step()
    return Path(tuple(seen), tuple(values))


def quadratic(curvatures: Sequence[float]) -> Callable[[Tensor, int], Tensor]:
    """Return half the sum of curvature times squared weight: gradient descent is stable below 2 / max(curvature)."""
    steep = torch.tensor(list(curvatures), dtype=torch.float64)
    return lambda weights, _: 0.5 * (steep * weights**2).sum()


def limit(curvatures: Sequence[float]) -> float:
    """Return the rate from which on gradient descent on a quadratic diverges: 2 / max(curvature)."""
    if not max(curvatures) > 0:
        raise InputError(f"curvatures = {list(curvatures)} have no maximum above 0, so no rate diverges")
    return 2 / max(curvatures)


def by_rate(shares: Sequence[float], *, steps: int = 12) -> list[Path]:
    """Descend the curve from 1 with SGD at these shares of the limit."""
    return [_sgd(CURVE, [1.0], share * limit(CURVE), 0.0, steps) for share in shares]


def by_momentum(momenta: Sequence[float], *, steps: int = 40) -> list[Path]:
    """Descend the ravine with SGD at these momenta, all at 40 % of the limit without momentum."""
    return [_sgd(RAVINE, [-2.5, 0.6], 0.4 * limit(RAVINE), momentum, steps) for momentum in momenta]


def shrinkage(shares: Sequence[float], *, curvatures: Sequence[float] = CURVE, steps: int = 40) -> list[float]:
    """Return by how much the distance to the minimum changes per step at these shares of the limit (SGD).

    The geometric mean over the steps; above 1 it grows. On the curve itself it is |1 - 2 share|.

    >>> [round(value, 6) for value in shrinkage([0.25, 0.5, 1.1])]
    [0.5, 0.0, 1.2]
    """
    factors = []
    for share in shares:
        made = _sgd(curvatures, [1.0] * len(curvatures), share * limit(curvatures), 0.0, steps)
        first, last = (sum(w * w for w in made.weights[k]) ** 0.5 for k in (0, -1))
        factors.append((last / first) ** (1 / steps))
    return factors


def _sgd(curvatures: Sequence[float], start: Sequence[float], lr: float, momentum: float, steps: int) -> Path:
    if not lr > 0:
        raise InputError(f"lr = {lr} must be above 0")
    return path(quadratic(curvatures), start, lambda p: SGD(p, lr=lr, momentum=momentum), steps=steps)


def line_data(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the points `(POINTS, 2)` (a coordinate and 1) and their noisy values `(POINTS,)`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(-1.5, 1.5, POINTS, dtype=torch.float64)
    design = torch.stack([x, torch.ones_like(x)], dim=1)
    noise = torch.randn(POINTS, generator=generator, dtype=torch.float64)
    return design, design @ torch.tensor(LINE, dtype=torch.float64) + NOISE * noise


def line_loss(weights: Tensor, design: Tensor, values: Tensor) -> Tensor:
    """Return the mean squared error of a line."""
    return (design @ weights - values).square().mean()


def by_batch(sizes: Sequence[int], *, lr: float = 0.12, steps: int = 60, seed: int = 0) -> list[Path]:
    """Fit the line with SGD on batches of these sizes, drawn without replacement in each pass; the loss is over all."""
    design, values = line_data()
    paths = []
    for size in sizes:
        if not 1 <= size <= POINTS:
            raise InputError(f"a batch of {size} must lie between 1 and the {POINTS} points")
        generator = torch.Generator().manual_seed(seed)
        per_pass = POINTS // size
        passes = -(-(steps + 1) // per_pass)
        orders = [torch.randperm(POINTS, generator=generator)[: per_pass * size] for _ in range(passes)]
        rows = [piece for order in orders for piece in order.view(per_pass, size)]

        def loss(weights: Tensor, step: int, rows: list[Tensor] = rows) -> Tensor:
            return line_loss(weights, design[rows[step]], values[rows[step]])

        whole = lambda weights: line_loss(weights, design, values)  # noqa: E731
        paths.append(path(loss, [-1.0, 1.5], lambda p: SGD(p, lr=lr), steps=steps, whole=whole))
    return paths
