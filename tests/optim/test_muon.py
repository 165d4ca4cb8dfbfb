"""Muon against torch's, and where it sends what."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trivet import optim
from trivet.errors import InputError
from trivet.optim.muon import orthogonalized


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (300, 260)])
@pytest.mark.parametrize(
    "options", [{"adjust_lr_fn": "original"}, {"adjust_lr_fn": "match_rms_adamw"}, {"nesterov": False}]
)
def test_matrices_follow_torch(shape: tuple[int, int], options: dict[str, object]) -> None:
    torch.manual_seed(1)
    ours = nn.Parameter(torch.randn(shape))
    theirs = nn.Parameter(ours.detach().clone())
    options = {"adjust_lr_fn": "original", "lr": 0.05, "weight_decay": 0.3, "momentum": 0.8} | options
    one, two = optim.Muon([ours], **options), torch.optim.Muon([theirs], **options)
    for _ in range(5):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        one.step(), two.step()
    # torch iterates in bfloat16 (8 bits), we do in float32 where the matrix is small: each entry of a step, about
    # 1/sqrt(largest side), is off by a few hundredths of that.
    moved = 0.05 * 5 * max(shape) ** -0.5
    assert (ours - theirs).abs().max() < 0.15 * moved * max(1, 0.2 * max(shape) ** 0.5)
    torch.testing.assert_close(one.state[ours]["momentum_buffer"], two.state[theirs]["momentum_buffer"])


def test_the_result_is_orthogonal_and_keeps_the_singular_vectors() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(12, 30)
    u, _s, vh = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonalized(matrix)
    inside = u.T @ made @ vh.T
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-3
    assert inside.diagonal().min() > 0.6
    assert inside.diagonal().max() < 1.3


def test_everything_but_hidden_matrices_goes_to_adamw() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(20, 8)
            self.positions = nn.Parameter(torch.randn(1, 6, 8))
            self.mix = nn.Conv1d(8, 8, 3)
            self.norm = nn.LayerNorm(8)
            self.recurrent = nn.GRU(8, 8)
            self.attention = nn.MultiheadAttention(8, 2)
            self.inner = nn.Linear(8, 8)
            self.head = nn.Linear(8, 20)

    optimizer = optim.Muon(Net())
    ways = {name: group["role"] for group in optimizer.param_groups for name in group["param_names"]}
    hidden = {name for name, role in ways.items() if role == "hidden matrix"}
    assert hidden == {
        "mix.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "inner.weight",
    }
    assert ways["tokens.weight"] == "embedding"
    assert ways["positions"] == "other tensor"
    assert ways["head.weight"] == "output layer"
    assert ways["norm.weight"] == "norm"
    table = optimizer.routes()
    assert all(f"{name} " in table for name in ways)


def test_the_rest_is_adamw_exactly() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5)).double()
    other = nn.Parameter(model[2].weight.detach().clone())
    optimizer = optim.Muon(model, lr=0.01, weight_decay=0.2)
    reference = torch.optim.AdamW([other], lr=0.01, weight_decay=0.2)
    for _ in range(5):
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        other.grad = model[2].weight.grad.clone()
        optimizer.step(), reference.step()
    torch.testing.assert_close(model[2].weight, other, rtol=1e-12, atol=1e-12)


def test_a_scheduler_drives_both_parts() -> None:
    """Where Muon and AdamW are two optimizers, a schedule on one silently misses the other (tt-metal 56027)."""
    optimizer = optim.Muon(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    scheduler.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.05}


def test_a_vector_cannot_be_a_hidden_matrix() -> None:
    with pytest.raises(InputError, match="two or more axes"):
        optim.Muon([{"params": [nn.Parameter(torch.ones(3))], "role": "hidden matrix"}])
