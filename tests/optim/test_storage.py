"""States in fewer bits: what is stored, what is lost, and that kernel, reference, checkpoints and copies agree."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from trivet import optim
from trivet.errors import InputError
from trivet.kernels.multi_tensor_stored import Column
from trivet.optim import storage

ELEMENTWISE = sorted(
    name
    for name in optim.__all__
    if isinstance(getattr(optim, name), type)
    and issubclass(getattr(optim, name), optim.ElementwiseOptimizer)
    and name not in ("ElementwiseOptimizer", "Muon")
)
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "AdamW": {"amsgrad": True},
}
SIGNED, UNSIGNED = Column("signed", torch.uint8), Column("unsigned", torch.uint8)


def stored(values: Tensor, column: Column, random: Tensor | int = storage.HALF) -> Tensor:
    name = "exp_avg" if column == SIGNED else "exp_avg_sq"
    state: dict[str, Any] = {}
    storage.encode(state, name, column, values, random)
    return storage.decode(state, name)


def made(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[list[Tensor], Any]:
    """A large matrix stored transposed, a small vector, a picture stored channels last."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(8, 3, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last)
    tensors = (torch.randn(60, 90, generator=generator).t(), torch.randn(300, generator=generator), picture)
    params: list[Tensor] = [Parameter(tensor.to(dtype)) for tensor in tensors]
    return params, getattr(optim, name)(params, lr=1e-2, **OPTIONS.get(name, {}), **options)


def train(params: list[Tensor], optimizer: Any, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in params:
            scale = torch.randn(param.shape, generator=generator).exp()
            param.grad = (torch.randn(param.shape, generator=generator) * scale).to(param.dtype)
        optimizer.step()


def tensors_of(optimizer: Any) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


@pytest.mark.parametrize(("column", "powers"), [(SIGNED, 14), (UNSIGNED, 30)])
def test_eight_bits_keep_a_sixteenth_of_every_number_far_below_the_largest(column: Column, powers: int) -> None:
    values = torch.logspace(-powers + 1, 0, 256, base=2) * 3.7e-5
    if column == SIGNED:
        values[::2] *= -1
    assert ((stored(values, column) - values).abs() <= values.abs() / 16).all()


def test_a_second_moment_does_not_become_zero() -> None:
    values = torch.tensor([1.0, 1e-14, 0.0, 1e-30])
    found = stored(values, UNSIGNED)
    assert (found > 0).tolist() == [True, True, False, True]


@pytest.mark.parametrize("column", [SIGNED, UNSIGNED, Column("stochastic", torch.bfloat16)])
def test_rounding_by_chance_is_right_on_average(column: Column) -> None:
    count = 1 << 16
    values = torch.full((count,), 0.7317)
    values[::256] = 1.0  # the largest of every block
    random = storage.scrambled(count, 1234, torch.device("cpu"))
    found = stored(values, column, random) if column.scaled else storage.rounded(values, column, random, 1).float()
    same = values == values[1]
    assert len(set(found[same].tolist())) == 2
    # Neighbours are at most 1/16 apart; the mean of 65000 numbers is off by less than 5 standard errors.
    assert (found[same].mean() - 0.7317).abs() < 5 * (1 / 32) / count**0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_block_with_a_number_that_is_not_finite_says_so(bad: float) -> None:
    values = torch.ones(512)
    values[3] = bad
    found = stored(values, UNSIGNED)
    assert found[:256].isnan().all()
    assert torch.equal(found[256:], torch.ones(256))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_kernel_stores_what_the_reference_stores(name: str) -> None:
    (a, first), (b, second) = (made(name, state_format="8bit", backend=backend) for backend in ("torch", "cpu"))
    train(a, first, range(3))
    train(b, second, range(3))
    for param, other in zip(a, b, strict=True):
        # float32 arithmetic in another order; where a rounding falls the other way, a code differs by one
        far = (param - other).abs() > 1e-5 + 1e-4 * param.abs()
        assert far.float().mean() < 0.002
        for key, value in first.state[param].items():
            if key.endswith("_8bit"):
                apart = (value.int() - second.state[other][key].int()).abs()
                assert apart.gt(0).float().mean() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
def test_every_store_of_adamw_agrees_with_the_reference(dtype: torch.dtype, form: str | None, rounding: str) -> None:
    options: dict[str, Any] = {"dtype": dtype, "state_format": form, "rounding": rounding}
    (a, first), (b, second) = (made("Adam", backend=backend, **options) for backend in ("torch", "cpu"))
    train(a, first, range(3))
    train(b, second, range(3))
    for param, other in zip(a, b, strict=True):
        far = (param.float() - other.float()).abs() > 1e-5 + 1e-4 * param.float().abs()
        assert far.float().mean() < 0.002
        assert {k: v.dtype for k, v in first.state[param].items()} == {
            k: v.dtype for k, v in second.state[other].items()
        }


@pytest.mark.parametrize("form", ["float32", "bfloat16", "8bit"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_resumed_run_makes_the_same_steps(name: str, form: str) -> None:
    params, optimizer = made(name, state_format=form, backend="torch")
    train(params, optimizer, range(3))
    saved, weights = copy.deepcopy(optimizer.state_dict()), [param.detach().clone() for param in params]
    others, resumed = made(name, state_format=form, backend="torch")
    with torch.no_grad():
        for other, weight in zip(others, weights, strict=True):
            other.copy_(weight)
    resumed.load_state_dict(saved)
    for value, other in zip(tensors_of(optimizer), tensors_of(resumed), strict=True):
        assert value.dtype == other.dtype
        assert torch.equal(value, other)
    train(params, optimizer, range(3, 6))
    train(others, resumed, range(3, 6))
    assert all(map(torch.equal, params, others))
    assert all(map(torch.equal, tensors_of(optimizer), tensors_of(resumed)))


def test_copies_and_pickles_go_on_as_the_original() -> None:
    params, optimizer = made("AdamW", state_format="8bit")
    train(params, optimizer, range(2))
    copied, twin = copy.deepcopy((params, optimizer))
    pickled, other = pickle.loads(pickle.dumps((params, optimizer)))
    for some, one in ((params, optimizer), (copied, twin), (pickled, other)):
        train(some, one, range(2, 4))
    assert all(map(torch.equal, params, copied))
    assert all(map(torch.equal, params, pickled))


@pytest.mark.parametrize("form", ["bfloat16", "8bit"])
def test_torchs_checkpoint_goes_into_a_narrow_optimizer_and_back(form: str) -> None:
    params, _ = made("AdamW")
    theirs = torch.optim.AdamW(params, lr=1e-2)
    train(params, theirs, range(5))
    ours = optim.AdamW(params, state_format=form)  # type: ignore[arg-type]
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr"] == 1e-2
    assert ours.param_groups[0]["state_format"] == form
    again = torch.optim.AdamW(params)
    again.load_state_dict(optim.decoded(ours.state_dict()))
    for param in params:
        for name in ("exp_avg", "exp_avg_sq"):
            before, after = theirs.state[param][name], again.state[param][name]
            assert after.dtype == torch.float32
            limit = before.abs() / 16 + (before.abs().max() * 2.0**-16 if name == "exp_avg" else 0)
            assert ((after - before).abs() <= limit).all()
    train(params, again, range(5, 6))


def test_a_narrow_checkpoint_goes_into_an_ordinary_optimizer() -> None:
    params, narrow = made("AdamW", state_format="8bit")
    train(params, narrow, range(3))
    ordinary = optim.AdamW(params, amsgrad=True)
    ordinary.load_state_dict(narrow.state_dict())
    assert ordinary.param_groups[0]["state_format"] is None
    assert {value.dtype for value in tensors_of(ordinary)} == {torch.float32}
    expected = storage.decode(narrow.state[params[0]], "exp_avg")
    assert torch.equal(ordinary.state[params[0]]["exp_avg"], expected)
    train(params, ordinary, range(3, 4))


def test_torch_refuses_a_narrow_checkpoint_loudly() -> None:
    params, narrow = made("Adam", state_format="8bit")
    train(params, narrow, range(1))
    theirs = torch.optim.Adam(params)
    theirs.load_state_dict(narrow.state_dict())
    with pytest.raises(KeyError, match="exp_avg"):
        theirs.step()


@pytest.mark.parametrize(("rounding", "moves"), [("nearest", False), ("stochastic", True), ("kahan", True)])
@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_small_steps_of_bfloat16_parameters_arrive_unless_rounded_to_nearest(
    rounding: str, moves: bool, backend: str
) -> None:
    weight = Parameter(torch.ones(4096, dtype=torch.bfloat16))
    optimizer = optim.SGD([weight], lr=1e-4, rounding=rounding, backend=backend)  # type: ignore[arg-type]
    for _ in range(300):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    exact = weight.detach().float()
    if rounding == "kahan":
        exact += optimizer.state[weight]["compensation"].float()
    assert (exact.mean().item() == pytest.approx(0.97, abs=1e-3)) == moves
    assert bool((weight != 1).any()) == moves


@pytest.mark.parametrize("form", ["bfloat16", "8bit"])
def test_an_average_sinks_by_less_than_a_step_of_its_format(form: str) -> None:
    weight = Parameter(torch.zeros(8192))
    optimizer = optim.Adam([weight], lr=0.0, betas=(0.9, 0.999), state_format=form)  # type: ignore[arg-type]
    weight.grad = torch.ones(8192) * 30
    optimizer.step()
    for _ in range(500):
        weight.grad = torch.zeros(8192)
        optimizer.step()
    expected = 0.9 * 0.999**500
    found = storage.decode(optimizer.state[weight], "exp_avg_sq").mean().item()
    assert found == pytest.approx(expected, rel=0.02)  # to the nearest it would stay at 0.9


def test_eight_bit_adamw_takes_two_bytes_a_parameter_and_the_plan_says_so() -> None:
    model = torch.nn.Linear(512, 512)
    plan = optim.memory_plan(model, optim.AdamW, state_format="8bit")
    assert 2.0 < plan.state_bytes_per_parameter < 2.2
    optimizer = optim.AdamW(model.parameters(), state_format="8bit")
    model(torch.randn(4, 512)).sum().backward()
    optimizer.step()
    assert sum(value.nbytes for value in tensors_of(optimizer)) == sum(plan.states.values())


def test_the_plan_counts_the_states_of_any_format_exactly() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(100, 100), torch.nn.Linear(100, 3)).bfloat16()
    for options in ({"state_format": "float32"}, {"state_format": "bfloat16", "rounding": "kahan"}):
        optimizer = optim.AdamW(model.parameters(), **options)  # type: ignore[arg-type]
        plan = optim.memory_plan(model, optimizer)
        assert not optimizer.state
        model(torch.randn(4, 100).bfloat16()).sum().backward()
        optimizer.step()
        assert sum(value.nbytes for value in tensors_of(optimizer)) == sum(plan.states.values())


def test_what_cannot_be_stored_is_refused_when_the_optimizer_is_made() -> None:
    with pytest.raises(InputError, match="float64"):
        optim.AdamW([Parameter(torch.ones(3, dtype=torch.float64))], state_format="8bit")
    with pytest.raises(InputError, match="kahan"):
        optim.AdamW([Parameter(torch.ones(3, dtype=torch.float16))], rounding="stochastic")
    with pytest.raises(InputError, match="8bit"):
        optim.AdamW([Parameter(torch.ones(3))], state_format="8bits")  # type: ignore[arg-type]


def test_sophias_curvature_moves_by_less_than_a_step_of_its_format() -> None:
    weight = Parameter(torch.zeros(8192))
    optimizer = optim.Sophia([weight], betas=(0.9, 0.99), state_format="8bit")
    for _ in range(100):
        weight.grad = torch.ones(8192)
        optimizer.update_hessian(batch_size=1)
    found = storage.decode(optimizer.state[weight], "hessian").mean().item()
    assert found == pytest.approx(1 - 0.99**100, rel=0.02)


def test_complex_and_small_parameters_keep_float32() -> None:
    params = [Parameter(torch.ones(5000, dtype=torch.complex64)), Parameter(torch.ones(4095))]
    optimizer = optim.Adam(params, state_format="8bit")
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert [sorted(optimizer.state[param]) for param in params] == [["exp_avg", "exp_avg_sq", "step"]] * 2
