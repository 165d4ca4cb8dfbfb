"""Gathered losses: the gradient averaged over processes equals that of one process with the whole batch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from trivet.losses import embedding

ROWS = {2: (5, 5), 3: (2, 6, 4)}  # three processes hold unequal shares


def _loss(name: str, x: Tensor, other: Tensor, y: Tensor, weight: Tensor, gather: bool) -> Tensor:
    e = embedding
    if name == "nt_xent":
        return e.nt_xent_loss(x, other, gather=gather, sample_weight=weight)
    if name == "info_nce":
        return e.info_nce_loss(x, other, symmetric=True, gather=gather, sample_weight=weight)
    losses = {
        "sup_con": e.supervised_contrastive_loss,
        "triplet": e.triplet_loss,
        "contrastive": e.contrastive_loss,
        "multi_similarity": e.multi_similarity_loss,
    }
    return losses[name](x, y, gather=gather, sample_weight=weight)


NAMES = ("nt_xent", "info_nce", "sup_con", "triplet", "contrastive", "multi_similarity")


def _batch() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(5)
    x, other = torch.randn(2, 12, 4, generator=g, dtype=torch.float64).unbind()
    model = torch.randn(4, 3, generator=g, dtype=torch.float64)
    return x, other, torch.randint(3, (12,), generator=g), torch.rand(12, generator=g).double(), model


def _one_process(rank: int, world: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    x, other, y, weight, model = _batch()
    start = sum(ROWS[world][:rank])
    own = slice(start, start + ROWS[world][rank])
    results = {}
    for name in NAMES:
        w = model.clone().requires_grad_()
        value = _loss(name, x[own] @ w, other[own] @ w, y[own], weight[own], gather=True)
        (gradient,) = torch.autograd.grad(value, w)
        results[name] = (value.detach(), gradient)
        for part in results[name]:
            dist.all_reduce(part)
            part /= world  # what DDP does
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_gathered_losses_equal_a_single_process(world: int, tmp_path: Path) -> None:
    mp.spawn(_one_process, (world, str(tmp_path)), nprocs=world)
    results = torch.load(tmp_path / "results.pt")
    *batch, model = _batch()
    x, other, y, weight = (part[: sum(ROWS[world])] for part in batch)
    for name in NAMES:
        w = model.clone().requires_grad_()
        value = _loss(name, x @ w, other @ w, y, weight, gather=False)
        torch.testing.assert_close(results[name][0], value.detach(), msg=name)
        torch.testing.assert_close(results[name][1], torch.autograd.grad(value, w)[0], msg=name)
