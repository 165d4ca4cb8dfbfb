"""The published algorithms on NumPy arrays in float64, each written from its paper: oracles for what torch lacks.

Every function takes the parameter and the list of gradients, and returns the parameter after each step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def lion(p: Array, grads: Sequence[Array], lr: float, betas: tuple[float, float], weight_decay: float) -> list[Array]:
    """Chen et al. 2023, algorithm 2."""
    m, out = np.zeros_like(p), []
    for g in grads:
        update = np.sign(betas[0] * m + (1 - betas[0]) * g)
        m = betas[1] * m + (1 - betas[1]) * g
        p = p - lr * (update + weight_decay * p)
        out.append(p)
    return out


def sophia(
    p: Array,
    grads: Sequence[Array],
    lr: float,
    betas: tuple[float, float],
    rho: float,
    weight_decay: float,
    estimates: dict[int, tuple[Array, int]],
) -> list[Array]:
    """Liu et al. 2023, algorithms 2 and 3; `estimates` holds (gradient with drawn labels, batch size) before a step."""
    m, h, out = np.zeros_like(p), np.zeros_like(p), []
    for t, g in enumerate(grads):
        m = betas[0] * m + (1 - betas[0]) * g
        if t in estimates:
            sampled, batch = estimates[t]
            h = betas[1] * h + (1 - betas[1]) * batch * sampled * sampled
        p = p - lr * weight_decay * p
        p = p - lr * np.clip(m / (rho * h + 1e-15), -1, 1)
        out.append(p)
    return out


def schedule_free_sgd(
    p: Array, grads: Sequence[Array], lr: float, momentum: float, weight_decay: float, warmup_steps: int
) -> list[Array]:
    """Defazio et al. 2024, equations 3 to 5, with the average kept as a sequence of its own; returns y."""
    x, y, z, total, largest, out = p, p, p, 0.0, 0.0, []
    for t, g in enumerate(grads, 1):
        rate = lr * min(1.0, t / warmup_steps) if warmup_steps else lr
        largest = max(largest, rate)
        total += largest**2
        z = z - rate * (g + weight_decay * y)
        c = largest**2 / total
        x = (1 - c) * x + c * z
        y = (1 - momentum) * z + momentum * x
        out.append(y)
    return out


def schedule_free_adamw(
    p: Array,
    grads: Sequence[Array],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    warmup_steps: int,
) -> list[Array]:
    """Defazio et al. 2024, algorithm 1; returns y."""
    x, y, z, v, total, out = p, p, p, np.zeros_like(p), 0.0, []
    for t, g in enumerate(grads, 1):
        v = betas[1] * v + (1 - betas[1]) * g * g
        rate = lr * min(1.0, t / warmup_steps) if warmup_steps else lr
        z = z - rate * g / (np.sqrt(v / (1 - betas[1] ** t)) + eps) - rate * weight_decay * y
        total += rate**2
        c = rate**2 / total
        x = (1 - c) * x + c * z
        y = (1 - betas[0]) * z + betas[0] * x
        out.append(y)
    return out


def lamb(
    p: Array,
    grads: Sequence[Array],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    adapt_vectors: bool,
) -> list[Array]:
    """You et al. 2020, algorithm 2, phi the identity; clipping left out."""
    m, v, out = np.zeros_like(p), np.zeros_like(p), []
    for t, g in enumerate(grads, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        u = (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps) + weight_decay * p
        ratio = np.linalg.norm(p) / np.linalg.norm(u) if p.ndim > 1 or adapt_vectors else 1.0
        p = p - lr * ratio * u
        out.append(p)
    return out


def lars(
    p: Array, grads: Sequence[Array], lr: float, momentum: float, weight_decay: float, trust: float
) -> list[Array]:
    """You et al. 2017, algorithm 1."""
    velocity, out = np.zeros_like(p), []
    for g in grads:
        local = trust * np.linalg.norm(p) / (np.linalg.norm(g) + weight_decay * np.linalg.norm(p))
        velocity = momentum * velocity + lr * local * (g + weight_decay * p)
        p = p - velocity
        out.append(p)
    return out


def prodigy(
    p: Array, grads: Sequence[Array], lr: float, betas: tuple[float, float], eps: float, weight_decay: float, d0: float
) -> list[Array]:
    """Mishchenko and Defazio 2023, algorithm 4, on one flat parameter."""
    start, d, r, s = p, d0, 0.0, np.zeros_like(p)
    m, v, out, beta3 = np.zeros_like(p), np.zeros_like(p), [], math.sqrt(betas[1])
    for g in grads:
        step = d * lr
        m = betas[0] * m + (1 - betas[0]) * d * g
        v = betas[1] * v + (1 - betas[1]) * (d * g) ** 2
        r = beta3 * r + (d / d0) * step * float((g * (start - p)).sum())
        s = beta3 * s + (d / d0) * step * g
        following = max(d, r / np.abs(s).sum())
        p = p - step * weight_decay * p
        p = p - step * m / (np.sqrt(v) + following * eps)
        d = following
        out.append(p)
    return out


def sam_descent(p: Array, gradient: Callable[[Array], Array], steps: int, lr: float, rho: float) -> list[Array]:
    """Foret et al. 2021, algorithm 1, with gradient descent inside."""
    out = []
    for _ in range(steps):
        g = gradient(p)
        p = p - lr * gradient(p + rho * g / np.linalg.norm(g))
        out.append(p)
    return out


def lookahead_descent(
    p: Array, gradient: Callable[[Array], Array], steps: int, lr: float, k: int, alpha: float
) -> list[Array]:
    """Zhang et al. 2019, algorithm 1, with gradient descent inside."""
    slow, out = p, []
    for t in range(1, steps + 1):
        p = p - lr * gradient(p)
        if t % k == 0:
            slow = slow + alpha * (p - slow)
            p = slow
        out.append(p)
    return out
