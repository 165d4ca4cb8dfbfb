"""What every optimizer keeps; the suite runs over all of them, so that one without a case fails here."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from optimizer_cases import CASES, STEPS, all_options, everything
from torch import Tensor, nn

from trivet.errors import InputError
from trivet.optim import ElementwiseOptimizer

# Sophia warns where nobody estimates its curvature, as here.
pytestmark = pytest.mark.filterwarnings("ignore:Sophia has made 20 steps")

SHAPES = ((3, 4), (5,), (2, 3, 2), ())

every_optimizer = pytest.mark.parametrize("name", CASES)
every_option = pytest.mark.parametrize(
    ("name", "options"), all_options(), ids=[f"{name}-{options}" for name, options in all_options()]
)
# Muon is compared in test_muon.py: torch's takes matrices alone and has another default.
in_torch = [(name, options) for name, options in all_options() if hasattr(torch.optim, name) and name != "Muon"]
every_option_in_torch = pytest.mark.parametrize(
    ("name", "options"), in_torch, ids=[f"{name}-{options}" for name, options in in_torch]
)


def parameters(dtype: torch.dtype = torch.float64, shapes: tuple[tuple[int, ...], ...] = SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [nn.Parameter(_as(p, dtype)) for p in made]


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return (
        torch.complex(tensor, tensor.flip(0) if tensor.dim() else -tensor).to(dtype)
        if dtype.is_complex
        else tensor.to(dtype)
    )


def gradients(params: list[nn.Parameter], step: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    made = [torch.randn(p.shape, generator=generator, dtype=torch.float64) * scale for p in params]
    return [_as(g, p.dtype) for g, p in zip(made, params, strict=True)]


def run(
    optimizer: torch.optim.Optimizer, params: list[nn.Parameter], begin: int = 0, end: int = STEPS
) -> list[nn.Parameter]:
    for step in range(begin, end):
        for p, g in zip(params, gradients(params, step), strict=True):
            p.grad = g
        optimizer.step()
    return params


def make(name: str, params: Any, **options: Any) -> torch.optim.Optimizer:
    return everything()[name](params, **options)


def backends(name: str) -> tuple[str, ...]:
    return ("cpu", "torch") if issubclass(everything()[name], ElementwiseOptimizer) else ()


def test_every_optimizer_has_a_case_and_every_case_an_optimizer() -> None:
    assert set(CASES) == set(everything())


@every_optimizer
def test_page_says_formula_memory_when_and_source(name: str) -> None:
    page = inspect.getdoc(everything()[name]) or ""
    for part in (".. math::", "*Memory*", "*When*", "*When not*", "Args:", ">>> ", "Source: "):
        assert part in page, part


@every_option_in_torch
def test_thirty_steps_in_double_precision_are_those_of_torch(name: str, options: dict[str, Any]) -> None:
    theirs = parameters()
    torch_optimizer = getattr(torch.optim, name)(theirs, **options)
    run(torch_optimizer, theirs)
    for backend in backends(name) or (None,):
        ours = parameters()
        optimizer = make(name, ours, **options, **({"backend": backend} if backend else {}))
        run(optimizer, ours)
        for a, b in zip(ours, theirs, strict=True):
            # Rounding alone: sums in another order over 30 steps.
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
            mine, its = optimizer.state[a], torch_optimizer.state[b]
            assert set(its) == set(mine)
            for key, value in its.items():
                # torch keeps NAdam's product of momenta in single precision, and so do we.
                torch.testing.assert_close(mine[key], value, rtol=1e-6 if key == "mu_product" else 1e-9, atol=1e-11)


@every_option
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name: str, options: dict[str, Any]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        straight = run(make(name, whole := parameters(dtype), **options), whole)
        first = make(name, half := parameters(dtype), **options)
        run(first, half, 0, STEPS // 2)
        saved = copy.deepcopy(first.state_dict())
        copies = [nn.Parameter(p.detach().clone()) for p in half]
        second = make(name, copies, **options)
        second.load_state_dict(saved)
        again = second.state_dict()
        assert again["param_groups"] == saved["param_groups"]
        for index, state in saved["state"].items():
            for key, value in state.items():
                assert again["state"][index][key].dtype == value.dtype
                assert torch.equal(again["state"][index][key], value)
        run(second, copies, STEPS // 2, STEPS)
        for a, b in zip(copies, straight, strict=True):
            assert torch.equal(a, b)


@every_option_in_torch
def test_checkpoints_go_both_ways_between_torch_and_us(name: str, options: dict[str, Any]) -> None:
    theirs = parameters()
    expected = run(getattr(torch.optim, name)(theirs, **options), theirs)
    for first, second in (
        (getattr(torch.optim, name), everything()[name]),
        (everything()[name], getattr(torch.optim, name)),
    ):
        params = parameters()
        start = first(params, **options)
        run(start, params, 0, STEPS // 2)
        rest = second(params, **options)
        rest.load_state_dict(start.state_dict())
        run(rest, params, STEPS // 2, STEPS)
        for a, b in zip(params, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@every_option
def test_backends_agree_in_every_precision(name: str, options: dict[str, Any]) -> None:
    if not backends(name):
        pytest.skip("one execution only")
    for dtype, tolerance in (
        (torch.float64, 1e-12),
        (torch.float32, 2e-5),
        # Stores round to 8 and 11 bits; a value at the boundary may go either way, and steps carry that on.
        (torch.bfloat16, 5e-2),
        (torch.float16, 8e-3),
    ):
        a, b = (run(make(name, p := parameters(dtype), **options, backend=k), p, 0, 8) for k in ("cpu", "torch"))
        for x, y in zip(a, b, strict=True):
            assert x.dtype == dtype
            if name in ("Lion", "Sophia", "Rprop") and dtype != torch.float64:
                # A sign near zero may differ between roundings: then a coordinate is off by whole steps.
                assert (torch.isclose(x.double(), y.double(), rtol=tolerance, atol=tolerance)).double().mean() > 0.7
            else:
                torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@every_option
def test_a_zero_gradient_moves_nothing_but_decay(name: str, options: dict[str, Any]) -> None:
    params = parameters(torch.float32)
    before = [p.detach().clone() for p in params]
    optimizer = make(name, params, **options | {"weight_decay": 0.0} if "weight_decay" in options else options)
    for group in optimizer.param_groups:
        group.update({"weight_decay": 0.0} if "weight_decay" in group else {})
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    for p, old in zip(params, before, strict=True):
        torch.testing.assert_close(p.detach(), old, rtol=1e-6, atol=0)


@every_option
def test_one_huge_gradient_leaves_numbers(name: str, options: dict[str, Any]) -> None:
    params = parameters(torch.float32)
    optimizer = make(name, params, **options)
    for step in range(12):
        for p, g in zip(params, gradients(params, step, 1e18 if step == 3 else 1.0), strict=True):
            p.grad = g
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in params)


@every_optimizer
def test_maximize_climbs_where_minimize_descends(name: str) -> None:
    if "maximize" not in inspect.signature(everything()[name]).parameters:
        pytest.skip("no such option")
    up, down = parameters(), parameters()
    climbing, descending = make(name, up, maximize=True), make(name, down)
    for step in range(5):
        for p, q, g in zip(up, down, gradients(up, step), strict=True):
            p.grad, q.grad = -g, g
        climbing.step(), descending.step()
    for p, q in zip(up, down, strict=True):
        assert torch.equal(p, q)


@every_optimizer
def test_complex_parameters_are_pairs_of_reals(name: str) -> None:
    if not CASES[name].complex:
        with pytest.raises((InputError, RuntimeError), match="complex"):
            run(make(name, params := parameters(torch.complex128)), params, 0, 1)
        return
    whole = parameters(torch.complex128)
    parts = [nn.Parameter(torch.view_as_real(p.detach()).clone()) for p in whole]
    one, two = make(name, whole), make(name, parts)
    for step in range(5):
        for p, q, g in zip(whole, parts, gradients(whole, step), strict=True):
            p.grad, q.grad = g, torch.view_as_real(g).clone()
        one.step(), two.step()
    for p, q in zip(whole, parts, strict=True):
        torch.testing.assert_close(torch.view_as_real(p.detach()), q.detach(), rtol=1e-12, atol=1e-12)


@every_optimizer
def test_parameters_without_gradients_are_left_alone_and_join_later(name: str) -> None:
    params = parameters()
    optimizer = make(name, params)
    before = params[1].detach().clone()
    for p, g in zip(params, gradients(params, 0), strict=True):
        p.grad = g
    params[1].grad = None
    optimizer.step()
    assert torch.equal(params[1], before)
    run(optimizer, params, 1, 3)
    assert not torch.equal(params[1], before)


@every_optimizer
def test_groups_keep_their_own_rates_and_can_be_added(name: str) -> None:
    params = parameters()
    optimizer = make(name, [{"params": params[:1], "lr": 0.0}, {"params": params[1:2]}])
    optimizer.add_param_group({"params": params[2:], "lr": 1e-4})
    before = [p.detach().clone() for p in params]
    run(optimizer, params, 0, 2)
    if name != "Rprop":  # torch's Rprop takes the rate as a first length, which its bounds then raise from 0
        assert torch.equal(params[0], before[0])
    assert not torch.equal(params[1], before[1])
    assert not torch.equal(params[2], before[2])


@every_optimizer
def test_no_gradients_at_all_is_no_error(name: str) -> None:
    params = parameters()
    make(name, params).step()
    assert all(torch.equal(p, q) for p, q in zip(params, parameters(), strict=True))


@every_optimizer
def test_a_closure_is_called_with_gradients_enabled_and_its_loss_returned(name: str) -> None:
    params = parameters()
    optimizer = make(name, params)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum((p * p).sum() for p in params)
        loss.backward()
        return loss

    first = float(closure().detach())
    returned = optimizer.step(closure)
    assert float(returned.detach()) == first


@every_optimizer
def test_copies_and_pickles_go_on_by_themselves(name: str) -> None:
    model = nn.Linear(3, 2).double()
    optimizer = make(name, list(model.parameters()))
    run(optimizer, list(model.parameters()), 0, 3)
    for other_model, other in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        reference = copy.deepcopy((model, optimizer))
        run(other, list(other_model.parameters()), 3, 6)
        run(reference[1], list(reference[0].parameters()), 3, 6)
        for a, b in zip(other_model.parameters(), reference[0].parameters(), strict=True):
            assert torch.equal(a, b)


@every_optimizer
def test_bad_hyperparameters_are_refused(name: str) -> None:
    for bad in ({"lr": -1.0}, {"eps": -1.0}, {"weight_decay": -0.1}, {"betas": (1.0, 0.9)}):
        (key,) = bad
        if key in inspect.signature(everything()[name]).parameters and not (name == "Adafactor" and key == "eps"):
            with pytest.raises(InputError, match=key):
                make(name, parameters(), **bad)


def train(name: str, loss_of: Any, params: list[nn.Parameter], steps: int, **options: Any) -> float:
    optimizer = make(name, params, **{"lr": CASES[name].lr} | CASES[name].training | options)
    for step in range(steps):
        for group in optimizer.param_groups:  # sign methods need a decay to nothing, RAdam a short warmup
            if "initial" not in group:
                group["initial"] = group["lr"]
            if name != "Rprop":
                group["lr"] = group["initial"] * (1 - step / steps) * min(1.0, (step + 1) / 20)
        optimizer.zero_grad()
        loss_of().backward()
        optimizer.step()
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    return float(loss_of().detach())


@every_optimizer
def test_a_quadratic_is_solved(name: str) -> None:
    w = nn.Parameter(torch.tensor([[2.0, -1.5], [1.0, 3.0]], dtype=torch.float64))
    curvature = torch.tensor([[1.0, 5.0], [10.0, 2.0]], dtype=torch.float64)
    before = float((curvature * w * w).sum())
    after = train(name, lambda: (curvature * w * w).sum(), [w], CASES[name].steps)
    assert after < 1e-2 * before


@every_optimizer
def test_rosenbrock_is_descended_into_its_valley_and_along_it(name: str) -> None:
    w = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    # Gradients reach 200 at the start, and these move by them (RAdam for its first five steps).
    scale = {"SGD": 0.02, "SGDScheduleFree": 0.02, "LARS": 0.02, "RAdam": 0.2}.get(name, 1.0)
    after = train(
        name,
        lambda: (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2,
        [w],
        2000,
        lr=scale * CASES[name].lr,
    )
    assert after < 1.0  # from 24.2; the valley's floor begins at about 4


def _network_rate(name: str) -> dict[str, float]:
    lr = CASES[name].network_lr
    return {} if lr is None else {"lr": lr}


@every_optimizer
def test_a_small_network_learns(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.rand(128, 2) * 2 - 1
    y = (x[:, :1] * x[:, 1:]) * 2
    before = float(nn.functional.mse_loss(model(x), y))
    after = train(
        name, lambda: nn.functional.mse_loss(model(x), y), list(model.parameters()), 400, **_network_rate(name)
    )
    assert after < 0.3 * before
