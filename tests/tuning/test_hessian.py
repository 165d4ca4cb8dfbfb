"""The largest curvature, against the exact Hessian, closed forms, and what real optimizers do at its limit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from trivet import optim
from trivet.errors import InputError
from trivet.tuning import curvature


def small() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 2)).double()
    x, y = torch.randn(24, 3, dtype=torch.float64), torch.randn(24, 2, dtype=torch.float64)
    return model, [(x[:16], y[:16]), (x[16:], y[16:])]


def hessian(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The dense Hessian of the mean loss, by torch's own double backward over the flattened weights."""
    model = copy.deepcopy(model).eval()
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))

    def value(flat: Tensor) -> Tensor:
        pieces = [f.view_as(p) for f, p in zip(flat.split(sizes), model.parameters(), strict=True)]
        return nn.functional.mse_loss(torch.func.functional_call(model, dict(zip(names, pieces, strict=True)), (x,)), y)

    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    return torch.autograd.functional.hessian(value, start)


def test_it_is_the_exact_hessians_largest_eigenvalue() -> None:
    model, batches = small()
    values = torch.linalg.eigvalsh(hessian(model, batches))
    found = curvature(model, nn.MSELoss(), batches, products=2000, tolerance=1e-6)
    assert found.largest == pytest.approx(float(values[-1]), rel=1e-6)
    rough = curvature(model, nn.MSELoss(), batches, products=6, tolerance=0.0)
    assert float((values - rough.largest).abs().min()) <= rough.error + 1e-12
    assert rough.products == 6


def test_a_linear_models_curvature_is_that_of_its_inputs() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 4, dtype=torch.float64) * torch.tensor([3.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    line = nn.Linear(4, 1, bias=False).double()
    closed = float(torch.linalg.eigvalsh(2 * x.T @ x / 50)[-1])
    found = curvature(line, nn.MSELoss(), [(x, x[:, :1])], tolerance=1e-6)
    assert found.largest == pytest.approx(closed, rel=1e-6)
    assert found.limit == pytest.approx(2 / closed, rel=1e-6)


class Bowl(nn.Module):
    """The weights themselves are the output: any quadratic is then a loss."""

    def __init__(self, start: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, _: Tensor) -> Tensor:
        return self.weight


class Quadratic(nn.Module):
    """Half the sum of curvature times squared weight."""

    def __init__(self, curvatures: list[float]) -> None:
        super().__init__()
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)

    def forward(self, output: Tensor, _: Tensor) -> Tensor:
        return 0.5 * (self.curvatures * output**2).sum()


BATCH = [(torch.zeros(2), torch.zeros(2))]


def test_the_largest_is_found_where_a_negative_one_is_larger_in_size() -> None:
    found = curvature(Bowl([1.0, 1.0]), Quadratic([3.0, -10.0]), BATCH, products=500, tolerance=1e-8)
    assert found.largest == pytest.approx(3.0, rel=1e-6)
    down = curvature(Bowl([1.0, 1.0]), Quadratic([-3.0, -10.0]), BATCH, products=500, tolerance=1e-8)
    assert down.largest == pytest.approx(-3.0, rel=1e-6)
    assert down.limit is None


def distance_after(optimizer: type[torch.optim.Optimizer], steps: int, **options: object) -> float:
    bowl, loss = Bowl([1.0, 1.0]), Quadratic([4.0, 0.5])
    made = optimizer(bowl.parameters(), **options)
    for _ in range(steps):
        made.zero_grad()
        loss(bowl(BATCH[0][0]), BATCH[0][1]).backward()
        made.step()
    return float(bowl.weight.detach().norm())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.5},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.3, "nesterov": True},
    ],
)
def test_sgd_converges_just_below_its_limit_and_diverges_just_above(options: dict[str, object]) -> None:
    bowl = Bowl([1.0, 1.0])
    made = optim.SGD(bowl.parameters(), lr=1.0, **options)  # type: ignore[arg-type]
    limit = curvature(bowl, Quadratic([4.0, 0.5]), BATCH, optimizer=made, tolerance=1e-9).limit
    assert limit is not None
    assert distance_after(optim.SGD, 800, lr=0.99 * limit, **options) < 1e-3
    assert distance_after(optim.SGD, 800, lr=1.01 * limit, **options) > 1e3


@pytest.mark.parametrize("name", ["Adam", "RMSprop"])
def test_adaptive_limits_hold_for_the_step_with_a_frozen_preconditioner(name: str) -> None:
    # The linear system that the statement is about: second moments frozen, momentum running.
    bowl, loss = Bowl([1.0, 1.0]), Quadratic([4.0, 0.5])
    made: torch.optim.Optimizer = (
        optim.Adam(bowl.parameters(), lr=1e-4) if name == "Adam" else torch.optim.RMSprop(bowl.parameters(), lr=1e-4)
    )
    assert curvature(bowl, loss, BATCH, optimizer=made).limit is None  # no second moments yet
    for _ in range(5):
        made.zero_grad()
        loss(bowl(BATCH[0][0]), BATCH[0][1]).backward()
        made.step()
    limit = curvature(bowl, loss, BATCH, optimizer=made, tolerance=1e-9, products=2000).limit
    assert limit is not None
    state, group = made.state[bowl.weight], made.param_groups[0]
    beta = group["betas"][0] if name == "Adam" else 0.0
    second = state["exp_avg_sq"] / (1 - group["betas"][1] ** 5) if name == "Adam" else state["square_avg"]
    step = 1 / (second.sqrt() + group["eps"])

    def grows(lr: float) -> bool:
        w, m = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        for _ in range(20_000):
            m = beta * m + (1 - beta) * loss.curvatures * w
            w = w - lr * step * m
        return not float(w.abs().max()) < 1.0

    assert not grows(0.995 * limit)
    assert grows(1.005 * limit)


def test_nothing_is_claimed_for_optimizers_whose_step_ignores_the_gradients_length() -> None:
    model, batches = small()
    found = curvature(model, nn.MSELoss(), batches, optimizer=optim.Lion(model.parameters(), lr=1e-3))
    assert found.limit is None
    assert "no limit is claimed for Lion" in str(found)


def test_nothing_that_was_handed_in_is_changed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).eval()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    curvature(model, nn.MSELoss(), [(torch.randn(8, 3, generator=torch.Generator()), torch.zeros(8, 1))], products=5)
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_wrong_input_gets_one_clear_line() -> None:
    model, batches = small()
    with pytest.raises(InputError, match="no batches"):
        curvature(model, nn.MSELoss(), [])
    with pytest.raises(InputError, match="this model"):
        curvature(model, nn.MSELoss(), batches, optimizer=optim.SGD(Bowl([1.0]).parameters(), lr=1.0))
    with pytest.raises(InputError, match="it has no curvature"):
        curvature(model, nn.MSELoss(), [(batches[0][0] * float("nan"), batches[0][1])])
    with pytest.raises(InputError, match="no trainable parameters"):
        curvature(model.requires_grad_(False), nn.MSELoss(), batches)
