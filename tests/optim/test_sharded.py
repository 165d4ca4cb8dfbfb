"""FSDP2: two processes update their shards as one process updates the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from trivet import optim
from trivet.errors import InputError

pytestmark = pytest.mark.slow

# Elementwise ones on their shards; LAMB and Adafactor-like ones need norms over all shards.
NAMES = (
    "SGD",
    "AdamW",
    "Lion",
    "Adagrad",
    "RMSprop",
    "NAdam",
    "RAdam",
    "Rprop",
    "AdamWScheduleFree",
    "LAMB",
    "LARS",
    "Prodigy",
    "Adafactor",
    "Muon",
)
OPTIONS = {"SGD": {"lr": 0.1, "momentum": 0.9}, "LAMB": {"max_grad_norm": None}}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4)).double()


def make(name: str, model: nn.Module) -> torch.optim.Optimizer:
    return getattr(optim, name)(model.parameters(), **OPTIONS.get(name, {}))


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for step in range(5):
        x = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def worker(rank: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mesh = dist.init_device_mesh("cpu", (2,))
    try:
        for name in NAMES:
            model = network()
            fully_shard(model, mesh=mesh)
            optimizer = make(name, model)
            train(model, optimizer)
            weights = {key: value.full_tensor() for key, value in model.state_dict().items()}
            if rank == 0:
                torch.save(weights, f"{folder}/{name}.pt")
        dist.barrier()  # a process that leaves first resets the connection of the other
    finally:
        dist.destroy_process_group()


def test_shards_are_updated_as_the_whole(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    for name in NAMES:
        model = network()
        train(model, make(name, model))
        found = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        for key, value in model.state_dict().items():
            # The same data on both: gradients are averaged, sums are split in two. Muon iterates in float32.
            rtol, atol = (1e-4, 1e-6) if name == "Muon" else (1e-9, 1e-11)
            torch.testing.assert_close(found[key], value, rtol=rtol, atol=atol, msg=f"{name} {key}")


def narrow_worker(rank: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        model = network().float()
        fully_shard(model, mesh=dist.init_device_mesh("cpu", (2,)))
        with pytest.raises(InputError, match="bfloat16"):
            optim.AdamW(model.parameters(), state_format="8bit")
        optimizer = optim.AdamW(model.parameters(), state_format="bfloat16")
        for step in range(3):
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        first = next(model.parameters())
        state = optimizer.state[first]["exp_avg"]
        assert state.dtype == torch.bfloat16
        assert state.placements == first.placements  # type: ignore[attr-defined]
        dist.barrier()
    finally:
        dist.destroy_process_group()


def test_shards_have_states_in_bfloat16_and_refuse_eight_bits(tmp_path: Path) -> None:
    mp.spawn(narrow_worker, args=(str(tmp_path),), nprocs=2)
