"""Groups by what a parameter is and where it lies."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trivet.errors import InputError
from trivet.optim import AdamW, check_groups, param_groups


class RMSScaleNorm(nn.Module):
    """A normalisation layer of the user's own, as every language model has one."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = RMSScaleNorm(4)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(10, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.final = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)


def options(model: nn.Module, **keywords: object) -> dict[str, dict[str, object]]:
    groups = param_groups(model, weight_decay=0.1, lr=1.0, **keywords)
    return {name: group for group in groups for name in group["param_names"]}


def test_only_matrices_are_decayed_whatever_they_are_called() -> None:
    """kozistr's get_optimizer_parameters goes by name: it decays the norms of Sequential(Linear, LayerNorm, ...)."""
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.BatchNorm1d(3), nn.LSTM(3, 3), RMSScaleNorm(3))
    decayed = {name for name, group in options(model).items() if group["weight_decay"]}
    assert decayed == {"0.weight", "3.weight_ih_l0", "3.weight_hh_l0"}


def test_families_can_be_decayed_by_choice() -> None:
    found = options(Net(), no_decay=["norm"])
    assert found["tokens.weight"]["weight_decay"] == 0.1
    assert found["blocks.0.mlp.0.bias"]["weight_decay"] == 0.1
    assert found["final.weight"]["weight_decay"] == found["blocks.0.norm.gain"]["weight_decay"] == 0.0
    with pytest.raises(InputError, match="norms"):
        options(Net(), no_decay=["norms"])


def test_rates_fall_block_by_block_from_the_head() -> None:
    rates = {name: group["lr"] for name, group in options(Net(), layer_decay=0.5).items()}
    assert rates["head.weight"] == rates["final.weight"] == rates["final.bias"] == 1.0
    for block, rate in ((2, 0.5), (1, 0.25), (0, 0.125)):
        assert {rates[name] for name in rates if name.startswith(f"blocks.{block}.")} == {rate}
    assert rates["tokens.weight"] == 0.0625


def test_rates_fall_module_by_module_where_there_are_no_blocks() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2)
    )
    rates = {name: group["lr"] for name, group in options(model, layer_decay=0.1).items()}
    assert {name: round(rate, 6) for name, rate in rates.items()} == {
        "0.weight": 0.01,
        "0.bias": 0.01,
        "1.weight": 0.01,
        "1.bias": 0.01,
        "3.weight": 0.1,
        "3.bias": 0.1,
        "5.weight": 1.0,
        "5.bias": 1.0,
    }


def test_rates_reach_the_optimizer_without_a_scheduler() -> None:
    """timm's layer_decay did nothing without timm's scheduler (timm PR 2532)."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).double()
    optimizer = AdamW(param_groups(model, weight_decay=0.0, lr=0.1, layer_decay=0.5))
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    moved = [float((b - p.detach()).abs().max()) for b, p in zip(before, model.parameters(), strict=True)]
    assert moved == pytest.approx([0.05, 0.05, 0.1, 0.1], rel=1e-6)


def test_tied_weights_are_one_parameter_and_frozen_ones_none() -> None:
    model = Net()
    model.head.weight = model.tokens.weight
    model.final.requires_grad_(False)
    groups = param_groups(model, weight_decay=0.1, lr=1.0)
    names = [name for group in groups for name in group["param_names"]]
    assert len(names) == len(set(names)) == len([p for p in model.parameters() if p.requires_grad])
    assert "head.weight" not in names
    assert "final.weight" in str(groups)
    assert "frozen" in str(groups)
    check_groups(model, groups)


def test_forgotten_double_and_foreign_parameters_are_named() -> None:
    model = Net()
    groups = param_groups(model, weight_decay=0.1, lr=1.0)
    with pytest.raises(InputError, match=r"no group has tokens\.weight"):
        check_groups(model, [{"params": [p for p in g["params"] if p is not model.tokens.weight]} for g in groups])
    with pytest.raises(InputError, match=r"more than one group has head\.weight"):
        check_groups(model, [*groups, {"params": [model.head.weight]}])
    with pytest.raises(InputError, match="not the model's"):
        check_groups(model, [*groups, {"params": [nn.Parameter(torch.ones(2))]}])


def test_the_table_lists_every_parameter_in_natural_order() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(11)))
    lines = str(param_groups(model, weight_decay=0.1, lr=1.0)).splitlines()[1:]
    assert [line.split()[0] for line in lines] == [name for name, _ in model.named_parameters()]


def test_a_layer_decay_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"layer_decay = 1\.5"):
        options(Net(), layer_decay=1.5)
