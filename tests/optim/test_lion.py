"""Lion against algorithm 2 of its paper, written in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trivet.optim import Lion


def _by_the_paper(
    theta: NDArray[Any], grads: list[NDArray[Any]], lr: float, betas: tuple[float, float], decay: float
) -> NDArray[Any]:
    m = np.zeros_like(theta)
    for g in grads:
        c = betas[0] * m + (1 - betas[0]) * g
        theta = theta - lr * (np.sign(c) + decay * theta)
        m = betas[1] * m + (1 - betas[1]) * g
    return theta


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.7)])
@pytest.mark.parametrize("sign", [1, -1])
def test_thirty_steps_equal_the_paper(backend: Any, decay: float, betas: tuple[float, float], sign: int) -> None:
    rng = np.random.default_rng(0)
    start, grads = rng.standard_normal(500), [rng.standard_normal(500) for _ in range(30)]
    w = torch.nn.Parameter(torch.tensor(start))
    optimizer = Lion([w], lr=0.01, betas=betas, weight_decay=decay, maximize=sign < 0, backend=backend)
    for grad in grads:
        w.grad = torch.tensor(grad)
        optimizer.step()
    wanted = _by_the_paper(start, [sign * grad for grad in grads], 0.01, betas, decay)
    np.testing.assert_allclose(w.detach().numpy(), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_lion_moves_every_coordinate_equally_and_a_zero_gradient_moves_none(backend: Any) -> None:
    w = torch.nn.Parameter(torch.zeros(4))
    w.grad = torch.tensor([1e-30, -1e30, 0.0, 5.0])
    Lion([w], lr=0.25, backend=backend).step()
    assert w.tolist() == [-0.25, 0.25, 0.0, -0.25]
