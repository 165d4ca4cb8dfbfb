"""Measure what every optimizer keeps; `docs.conformance` writes the table.

A cell is the outcome of a check that runs here and now: those of the contract suite
(`tests/optim/test_optimizer_contract.py`) where it has one, small ones of this file where it has none.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from trivet import optim
from trivet.errors import InputError

HERE = Path(__file__).parent
SUITE = HERE.parent / "tests" / "optim" / "test_optimizer_contract.py"
STEPS = 5
COLUMNS = (
    "float64", "bfloat16", "float16", "complex", "maximize", "tensor lr", "closure", "no gradient", "sparse", "resume",
    "torch's checkpoint", "narrow states", "copies", "compile", "DTensor",
)  # fmt: skip

INTRODUCTION = """
## Optimizers

*float64*: five steps in float32 follow those in float64, whose states and results have float64's digits. *bfloat16*
and *float16*: so do parameters of these types, up to their own rounding. *complex*: as pairs of reals. *maximize*:
steps of negated gradients. *tensor lr*: a rate given as a tensor, and changed in place, is the same rate as a number.
*closure*: called with gradients enabled, its loss returned. *no gradient*: such parameters are left alone and can
join later. *sparse*: a sparse gradient makes the step of the dense one, or is refused by name. *resume*: a saved
state continues bit for bit, float32 and bfloat16. *torch's checkpoint*: a run goes on from `torch.optim`'s state, and
there from ours. *narrow states*: what `state_format` stores in fewer bits (Schedule-Free SGD's one state is a copy of
the weights). *copies*: `deepcopy` and `pickle` go on by themselves. *compile*: behind a model under `torch.compile`,
the steps of the model as it is. *DTensor*: two processes with half a matrix each make the step of the whole.

"""


def suite() -> ModuleType:
    """Return the contract suite of optimizers as a module."""
    sys.path.insert(0, str(SUITE.parent))
    try:
        spec = importlib.util.spec_from_file_location("optimizer_contract_suite", SUITE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SUITE.parent))
    return module


def outcome(check: Callable[[], object]) -> str:
    """Return yes, NO, or why a check does not apply; a check may return other words for yes."""
    torch.manual_seed(0)
    try:
        said = check()
    except pytest.skip.Exception as skipped:
        return f"no: {skipped.msg}"
    except AssertionError:
        return "NO"
    except Exception as error:  # a check that cannot even run has failed too
        return f"NO ({type(error).__name__})"
    return said if isinstance(said, str) else "yes"


def make(name: str, params: list[nn.Parameter], contract: ModuleType, **options: Any) -> torch.optim.Optimizer:
    """Return the optimizer at a rate at which small problems are solved."""
    made: torch.optim.Optimizer = contract.make(name, params, **{"lr": contract.CASES[name].lr} | options)
    return made


def steps(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], dtype: torch.dtype, begin: int = 0) -> None:
    """Make a few steps on gradients that are rounded to a type first."""
    for step in range(begin, begin + STEPS):
        generator = torch.Generator().manual_seed(step)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype).to(p.dtype)
        optimizer.step()


def weights(shape: tuple[int, ...] = (6, 4), size: float = 0.3) -> Tensor:
    """Return numbers that every type holds exactly."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(1)) * size).to(torch.bfloat16).half().double()


# Options with which five steps are longer than a narrow type's rounding.
LONG_STEPS: dict[str, dict[str, float]] = {
    "LAMB": {"lr": 0.2},
    "LARS": {"trust_coefficient": 1.0, "lr": 0.2},
    "Prodigy": {"d0": 0.1},
}


def follows(name: str, dtype: torch.dtype, contract: ModuleType) -> None:
    """Hold steps in a type to those in float64: a step may round each number once, and its arithmetic by as much."""
    made = []
    for kind in (torch.float64, dtype):
        param = nn.Parameter(weights().to(kind))
        optimizer = make(name, [param], contract, **LONG_STEPS.get(name, {}))
        steps(optimizer, [param], dtype)
        assert param.dtype == kind
        if kind == torch.float64:
            states = [s for s in optimizer.state[param].values() if isinstance(s, Tensor) and s.shape == param.shape]
            assert all(state.dtype == torch.float64 for state in states)
        made.append(param.detach().double())
    exact, found = made
    assert (exact != exact.float()).double().mean() > 0.9, "rounded to float32 on the way"
    limit = 2 * STEPS * float(torch.finfo(dtype).eps) * float(exact.abs().max())
    assert (exact - weights()).abs().max() > 2 * limit, "too small a move to see anything"
    assert (found - exact).abs().max() <= limit


def tensor_rate(name: str, contract: ModuleType) -> str | None:
    """Train with the rate as a tensor, halved in place half way."""
    made = []
    for kind in (float, torch.tensor):
        param = nn.Parameter(weights())
        try:
            optimizer = make(name, [param], contract, lr=kind(contract.CASES[name].lr))
        except InputError:
            return "refused"
        steps(optimizer, [param], torch.float64)
        group = optimizer.param_groups[0]
        if isinstance(group["lr"], Tensor):
            group["lr"].mul_(0.5)
        else:
            group["lr"] *= 0.5
        steps(optimizer, [param], torch.float64, STEPS)
        made.append(param.detach())
    # A rate as a tensor is in float32.
    torch.testing.assert_close(made[0], made[1], rtol=1e-5, atol=1e-6)
    return None


def sparse(name: str, contract: ModuleType) -> str | None:
    """Give a gradient of which two rows are not zero, as a sparse tensor and as a dense one."""
    dense = torch.zeros(6, 4, dtype=torch.float64)
    dense[1], dense[4] = 1.0, -2.0
    made = []
    for grad in (dense, dense.to_sparse(1)):
        param = nn.Parameter(weights())
        optimizer = make(name, [param], contract)
        param.grad = grad
        try:
            optimizer.step()
        except InputError as error:
            return "refused" if "sparse" in str(error) else "NO"
        made.append(param.detach())
    torch.testing.assert_close(made[0], made[1])
    return None


def complex_parameters(name: str, contract: ModuleType) -> str | None:
    """Run the suite's check, which takes a refusal where one is foreseen."""
    contract.test_complex_parameters_are_pairs_of_reals(name)
    return None if contract.CASES[name].complex else "refused"


def resumes(name: str, contract: ModuleType) -> None:
    """Run the suite's check with every option of the optimizer."""
    for options in contract.CASES[name].options:
        contract.test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name, options)


def torchs_checkpoint(name: str, contract: ModuleType) -> str | None:
    """Go on from torch's state and the other way round."""
    if not hasattr(torch.optim, name):
        pytest.skip("not in torch")
    if name != "Muon":
        for options in contract.CASES[name].options:
            contract.test_checkpoints_go_both_ways_between_torch_and_us(name, options)
        return None
    kinds = optim.Muon, torch.optim.Muon  # matrices alone; its iteration is in bfloat16
    for first, second in (kinds, kinds[::-1]):
        whole, half = (nn.Parameter(weights().float()) for _ in range(2))
        options = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "original"}
        straight, begun, goes_on = second([whole], **options), first([half], **options), second([half], **options)
        steps(straight, [whole], torch.float32)
        steps(begun, [half], torch.float32)
        goes_on.load_state_dict(begun.state_dict())
        steps(straight, [whole], torch.float32, STEPS)
        steps(goes_on, [half], torch.float32, STEPS)
        torch.testing.assert_close(half, whole, rtol=0, atol=2e-2 * 0.02 * 2 * STEPS)
    return None


def narrow_states(name: str, contract: ModuleType) -> str:
    """Make steps with every narrow format, and say which of them really stored states in it."""
    if "state_format" not in inspect.signature(contract.everything()[name]).parameters:
        pytest.skip("no such option")
    stored = []
    for form, dtype in (("bfloat16", torch.bfloat16), ("8bit", torch.uint8)):
        param = nn.Parameter(weights((80, 80)).float())
        optimizer = make(name, [param], contract, state_format=form, **contract.CASES[name].training)
        steps(optimizer, [param], torch.float32)
        assert param.isfinite().all()
        if any(isinstance(s, Tensor) and s.dtype == dtype for s in optimizer.state[param].values()):
            stored.append(form)
    return ", ".join(stored) or "no state is narrowed"


def network() -> nn.Sequential:
    """Return a network of two layers, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()


COMPILED = network()


def behind_compile(name: str, contract: ModuleType) -> None:
    """Train a network under `torch.compile` and as it is."""
    compiled = torch.compile(COMPILED, backend="aot_eager")
    COMPILED.load_state_dict(network().state_dict())
    x = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    plain = network()
    for module, owner in ((compiled, COMPILED), (plain, plain)):
        optimizer = make(name, list(owner.parameters()), contract)
        for _ in range(3):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
    for a, b, before in zip(COMPILED.parameters(), plain.parameters(), network().parameters(), strict=True):
        assert not torch.equal(b, before)
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-6 if name == "Muon" else 1e-11)


# -- shards -------------------------------------------------------------------------------------------------


def shard_worker(rank: int, folder: str, names: tuple[str, ...]) -> None:
    """Make steps on half a matrix for every optimizer; the first process stores the whole results."""
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    contract, found = suite(), {}
    try:
        mesh = dist.init_device_mesh("cpu", (2,))
        for name in names:
            param = nn.Parameter(distribute_tensor(weights(), mesh, [Shard(0)]))
            optimizer = make(name, [param], contract, **alone(name))
            for step in range(STEPS):
                param.grad = distribute_tensor(gradient(step), mesh, [Shard(0)])
                optimizer.step()
            found[name] = param.detach().full_tensor()
        if rank == 0:
            torch.save(found, f"{folder}/found.pt")
        dist.barrier()  # a process that leaves first resets the connection of the other
    finally:
        dist.destroy_process_group()


def alone(name: str) -> dict[str, object]:
    """Return the options without which an optimizer needs all gradients at once."""
    return {"max_grad_norm": None} if name == "LAMB" else {}


def gradient(step: int) -> Tensor:
    """Return a whole gradient."""
    return torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


@contextmanager
def shards(names: tuple[str, ...]) -> Iterator[Callable[[], dict[str, Tensor]]]:
    """Start the two processes, and give a call that waits for what they found."""
    with tempfile.TemporaryDirectory() as folder:
        context = mp.start_processes(shard_worker, args=(folder, names), nprocs=2, join=False, start_method="spawn")

        def found() -> dict[str, Tensor]:
            while not context.join():
                pass
            loaded: dict[str, Tensor] = torch.load(Path(folder) / "found.pt", weights_only=True)
            return loaded

        yield found


def sharded(name: str, found: Callable[[], dict[str, Tensor]], contract: ModuleType) -> None:
    """Hold the shards' steps to one process's."""
    param = nn.Parameter(weights())
    optimizer = make(name, [param], contract, **alone(name))
    for step in range(STEPS):
        param.grad = gradient(step)
        optimizer.step()
    rtol, atol = (1e-4, 1e-5) if name == "Muon" else (1e-9, 1e-11)
    torch.testing.assert_close(found()[name], param.detach(), rtol=rtol, atol=atol)


# -- the table ----------------------------------------------------------------------------------------------


def row(name: str, contract: ModuleType) -> list[str]:
    """Return the cells of one optimizer, all but the last, which needs other processes."""

    def one(check: str) -> str:
        return outcome(lambda: getattr(contract, check)(name))

    def own(check: Callable[[str, ModuleType], object]) -> str:
        return outcome(lambda: check(name, contract))

    def typed(dtype: torch.dtype) -> str:
        return outcome(lambda: follows(name, dtype, contract))

    return [
        f"`{name}`",
        *map(typed, (torch.float32, torch.bfloat16, torch.float16)),
        own(complex_parameters),
        one("test_maximize_climbs_where_minimize_descends"),
        own(tensor_rate),
        one("test_a_closure_is_called_with_gradients_enabled_and_its_loss_returned"),
        one("test_parameters_without_gradients_are_left_alone_and_join_later"),
        own(sparse),
        own(resumes),
        own(torchs_checkpoint),
        own(narrow_states),
        one("test_copies_and_pickles_go_on_by_themselves"),
        own(behind_compile),
    ]


def table(names: Iterable[str] | None = None) -> str:
    """Return the section for these optimizers (or all) as Markdown."""
    contract = suite()
    chosen = tuple(sorted(contract.everything() if names is None else names))
    with shards(chosen) as found:
        rows = [row(name, contract) for name in chosen]
        collected = found()
    for name, cells in zip(chosen, rows, strict=True):
        cells.append(outcome(lambda n=name: sharded(n, lambda: collected, contract)))  # type: ignore[misc]
    lines = [["optimizer", *COLUMNS], ["---"] * (1 + len(COLUMNS)), *rows]
    return INTRODUCTION + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
