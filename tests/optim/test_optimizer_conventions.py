"""Where frameworks disagree, each convention gives that framework's numbers.

Keras's are the golden values of its own test suite (keras/src/optimizers/*_test.py); the others are computed here from
the documented formulas.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trivet import optim
from trivet.errors import InputError

# Keras's tests give 0.01 everywhere once, then 0.1 to 1.0, to a parameter of ones; values after each step.
GOLDEN: list[tuple[str, dict[str, Any], list[list[float]]]] = [
    (
        "Adagrad",
        {"lr": 0.2, "initial_accumulator_value": 0.3, "eps": 1e-6},
        [
            [0.9963] * 10,
            [0.9604, 0.9278, 0.9003, 0.8784, 0.8615, 0.8487, 0.8388, 0.8313, 0.8255, 0.8209],
            [0.9251, 0.8629, 0.8137, 0.7768, 0.7497, 0.7298, 0.7151, 0.704, 0.6956, 0.6891],
            [0.8903, 0.8012, 0.7342, 0.6862, 0.6521, 0.6277, 0.6099, 0.5967, 0.5867, 0.579],
            [0.856, 0.7422, 0.6604, 0.6037, 0.5644, 0.5367, 0.5168, 0.5021, 0.491, 0.4825],
        ],
    ),
    (
        "NAdam",
        {"lr": 0.5, "betas": (0.5, 0.67), "eps": 1e-5},
        [
            [0.4281] * 10,
            [-0.1738, -0.1731, -0.1726, -0.1723, -0.1721, -0.172, -0.1719, -0.1718, -0.1718, -0.1717],
            [-0.7115, -0.7103, -0.7096, -0.7092, -0.709, -0.7088, -0.7086, -0.7085, -0.7085, -0.7084],
            [-1.2335, -1.2322, -1.2313, -1.2309, -1.2306, -1.2304, -1.2302, -1.2301, -1.23, -1.2299],
            [-1.7492, -1.7478, -1.7469, -1.7464, -1.7461, -1.7459, -1.7457, -1.7456, -1.7455, -1.7454],
        ],
    ),
    (
        "RMSprop",
        {"lr": 1e-3, "alpha": 0.9, "eps": 1e-7, "centered": True},
        [[value] * 10 for value in (0.9967, 0.9933, 0.9908, 0.9885, 0.9864)],
    ),
    (
        "Adam",
        {"lr": 1e-3, "eps": 1e-7, "amsgrad": True},
        [[value] * 10 for value in (0.999, 0.9982, 0.9974, 0.9965, 0.9955)],
    ),
]


@pytest.mark.parametrize(("name", "options", "golden"), GOLDEN, ids=[name for name, _, _ in GOLDEN])
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_keras_golden_values(name: str, options: dict[str, Any], golden: list[list[float]], backend: str) -> None:
    w = nn.Parameter(torch.ones(10))
    optimizer = getattr(optim, name)([w], **options, convention="keras", backend=backend)
    for step, expected in enumerate(golden):
        w.grad = torch.full((10,), 0.01) if step == 0 else torch.arange(0.1, 1.05, 0.1)
        optimizer.step()
        np.testing.assert_allclose(w.detach(), expected, rtol=5e-4, atol=5e-4)  # Keras's own tolerance


def steps(optimizer: torch.optim.Optimizer, w: nn.Parameter, grads: np.ndarray, rates: np.ndarray) -> np.ndarray:
    for g, rate in zip(grads, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        w.grad = torch.from_numpy(g.copy())
        optimizer.step()
    return w.detach().numpy()


GRADS = np.random.default_rng(5).normal(size=(12, 4))
RATES = np.linspace(0.1, 0.01, 12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_keras_momentum_carries_the_rate_it_was_made_with(nesterov: bool) -> None:
    w = nn.Parameter(torch.ones(4, dtype=torch.float64))
    ours = steps(optim.SGD([w], lr=0.1, momentum=0.9, nesterov=nesterov, convention="keras"), w, GRADS, RATES)
    p, m = np.ones(4), np.zeros(4)
    for g, lr in zip(GRADS, RATES, strict=True):  # keras.io/api/optimizers/sgd
        m = 0.9 * m - lr * g
        p = p + 0.9 * m - lr * g if nesterov else p + m
    np.testing.assert_allclose(ours, p, rtol=1e-12)
    other = nn.Parameter(torch.ones(4, dtype=torch.float64))
    assert not np.allclose(steps(optim.SGD([other], lr=0.1, momentum=0.9, nesterov=nesterov), other, GRADS, RATES), p)


@pytest.mark.parametrize("convention", ["keras", "optax"])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_rmsprop_has_epsilon_and_rate_inside(convention: str, momentum: float) -> None:
    w = nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = optim.RMSprop([w], alpha=0.9, eps=1e-2, momentum=momentum, convention=convention)
    ours = steps(optimizer, w, GRADS, RATES)
    p, v, b = np.ones(4), np.zeros(4), np.zeros(4)
    for g, lr in zip(GRADS, RATES, strict=True):  # optax.rmsprop: scale_by_rms, then the rate, then trace
        v = 0.9 * v + 0.1 * g * g
        b = momentum * b + lr * g / np.sqrt(v + 1e-2)
        p = p - b
    np.testing.assert_allclose(ours, p, rtol=1e-12)


def test_adam_of_keras_adds_epsilon_before_the_bias_is_corrected() -> None:
    w = nn.Parameter(torch.ones(4, dtype=torch.float64))
    ours = steps(optim.Adam([w], eps=1e-2, convention="keras"), w, GRADS, RATES)
    p, m, v = np.ones(4), np.zeros(4), np.zeros(4)
    for t, (g, lr) in enumerate(zip(GRADS, RATES, strict=True), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-2)
    np.testing.assert_allclose(ours, p, rtol=1e-10)


def test_nadam_of_optax_has_no_growing_momentum() -> None:
    w = nn.Parameter(torch.ones(4, dtype=torch.float64))
    ours = steps(optim.NAdam([w], convention="optax"), w, GRADS, RATES)
    p, m, v = np.ones(4), np.zeros(4), np.zeros(4)
    for t, (g, lr) in enumerate(zip(GRADS, RATES, strict=True), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        ahead = 0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
        p = p - lr * ahead / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(ours, p, rtol=1e-5)  # the product of momenta is kept in single precision


def test_adamw_of_the_paper_multiplies_the_decay_by_the_schedule_alone() -> None:
    w = nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer = optim.AdamW([{"params": [w], "initial_lr": 0.1}], weight_decay=1e-3, convention="paper")
    ours = steps(optimizer, w, GRADS, RATES)
    p, m, v = np.ones(4), np.zeros(4), np.zeros(4)
    for t, (g, lr) in enumerate(zip(GRADS, RATES, strict=True), 1):  # algorithm 2, line 12
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        eta = lr / 0.1
        p = p - eta * (0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8) + 1e-3 * p)
    np.testing.assert_allclose(ours, p, rtol=1e-10)


def test_an_unknown_convention_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'keras'"):
        optim.RMSprop([nn.Parameter(torch.ones(1))], convention="kerras")
