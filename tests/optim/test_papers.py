"""Thirty steps of what torch lacks, beside NumPy implementations written from the papers."""

from __future__ import annotations

import numpy as np
import optimizer_papers as papers
import pytest
import torch
from torch import nn

from trivet import optim

STEPS = 30


def start() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(4, 3))


def gradients(steps: int = STEPS) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=(4, 3)) for _ in range(steps)]


def follow(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> list[np.ndarray]:
    out = []
    for g in gradients():
        parameter.grad = torch.from_numpy(g.copy())
        optimizer.step()
        out.append(parameter.detach().numpy().copy())
    return out


def agree(ours: list[np.ndarray], published: list[np.ndarray]) -> None:
    assert len(ours) == len(published) == STEPS
    np.testing.assert_allclose(ours, published, rtol=1e-9, atol=1e-11)  # rounding alone


backends = pytest.mark.parametrize("backend", ["cpu", "torch"])


@backends
def test_lion_is_the_published_one(backend: str) -> None:
    w = nn.Parameter(torch.from_numpy(start()))
    options = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.3}
    agree(follow(optim.Lion([w], **options, backend=backend), w), papers.lion(start(), gradients(), **options))


@backends
def test_sophia_is_the_published_one(backend: str) -> None:
    w = nn.Parameter(torch.from_numpy(start()))
    options = {"lr": 0.02, "betas": (0.9, 0.8), "rho": 0.3, "weight_decay": 0.3}
    rng = np.random.default_rng(3)
    estimates = {t: (0.3 * rng.normal(size=(4, 3)), 16) for t in (2, 12, 22)}
    optimizer = optim.Sophia([w], **options, backend=backend)
    ours = []
    for t, g in enumerate(gradients()):
        if t in estimates:
            w.grad = torch.from_numpy(estimates[t][0].copy())
            optimizer.update_hessian(batch_size=16)
        w.grad = torch.from_numpy(g.copy())
        optimizer.step()
        ours.append(w.detach().numpy().copy())
    agree(ours, papers.sophia(start(), gradients(), **options, estimates=estimates))


def test_sophia_says_when_its_curvature_is_never_estimated() -> None:
    w = nn.Parameter(torch.from_numpy(start()))
    with pytest.warns(UserWarning, match="update_hessian"):
        follow(optim.Sophia([w]), w)


@backends
def test_schedule_free_sgd_is_the_published_one(backend: str) -> None:
    w = nn.Parameter(torch.from_numpy(start()))
    options = {"lr": 0.3, "momentum": 0.8, "weight_decay": 0.1, "warmup_steps": 7}
    optimizer = optim.SGDScheduleFree([w], **options, backend=backend)
    agree(follow(optimizer, w), papers.schedule_free_sgd(start(), gradients(), **options))


@backends
def test_schedule_free_adamw_is_the_published_one(backend: str) -> None:
    w = nn.Parameter(torch.from_numpy(start()))
    options = {"lr": 0.03, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1, "warmup_steps": 7}
    optimizer = optim.AdamWScheduleFree([w], **options, backend=backend)
    agree(follow(optimizer, w), papers.schedule_free_adamw(start(), gradients(), **options))


@pytest.mark.parametrize("cls", [optim.SGDScheduleFree, optim.AdamWScheduleFree])
def test_schedule_free_switches_between_the_iterate_and_its_average(cls: type) -> None:
    w = nn.Parameter(torch.from_numpy(start()))
    optimizer = cls([w], lr=0.1)
    zs = []
    for g in gradients(5):
        w.grad = torch.from_numpy(g.copy())
        optimizer.step()
        zs.append(optimizer.state[w]["z"].clone())
    y = w.detach().clone()
    optimizer.eval()
    # Equal rates: the average of the iterates z.
    torch.testing.assert_close(w.detach(), torch.stack(zs).mean(0), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="train"):
        optimizer.step()
    optimizer.train()
    torch.testing.assert_close(w.detach(), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("adapt_vectors", [True, False])
def test_lamb_is_the_published_one(adapt_vectors: bool) -> None:
    options = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.3, "adapt_vectors": adapt_vectors}
    w = nn.Parameter(torch.from_numpy(start()))
    agree(follow(optim.LAMB([w], **options, max_grad_norm=None), w), papers.lamb(start(), gradients(), **options))


def test_lamb_clips_the_norm_of_all_gradients_first() -> None:
    w = nn.Parameter(torch.from_numpy(start()))
    clipped = [g / max(1.0, np.linalg.norm(g) / 0.5) for g in gradients()]
    options = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.3, "adapt_vectors": True}
    agree(follow(optim.LAMB([w], **options, max_grad_norm=0.5), w), papers.lamb(start(), clipped, **options))


def test_lars_is_the_published_one() -> None:
    w = nn.Parameter(torch.from_numpy(start()))
    optimizer = optim.LARS([w], lr=0.5, momentum=0.8, weight_decay=0.1, trust_coefficient=0.02)
    agree(follow(optimizer, w), papers.lars(start(), gradients(), 0.5, 0.8, 0.1, 0.02))


def test_prodigy_is_the_published_one() -> None:
    w = nn.Parameter(torch.from_numpy(start()))
    options = {"lr": 0.7, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1, "d0": 1e-3}
    agree(follow(optim.Prodigy([w], **options), w), papers.prodigy(start(), gradients(), **options))


def quadratic(p: np.ndarray) -> np.ndarray:
    return p * np.arange(1, 13).reshape(4, 3)


def descend(w: nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> list[np.ndarray]:
    curvature = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(4, 3)
    out = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = 0.5 * (curvature * w * w).sum()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
        out.append(w.detach().numpy().copy())
    return out


def test_sam_is_the_published_one() -> None:
    w = nn.Parameter(torch.from_numpy(start()))
    optimizer = optim.SAM(optim.SGD([w], lr=0.03), rho=0.3)
    agree(descend(w, optimizer, STEPS), papers.sam_descent(start(), quadratic, STEPS, 0.03, 0.3))


def test_lookahead_is_the_published_one() -> None:
    w = nn.Parameter(torch.from_numpy(start()))
    optimizer = optim.Lookahead(optim.SGD([w], lr=0.03), k=4, alpha=0.3)
    agree(descend(w, optimizer, STEPS), papers.lookahead_descent(start(), quadratic, STEPS, 0.03, 4, 0.3))
