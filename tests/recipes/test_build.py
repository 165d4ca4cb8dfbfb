"""A recipe becomes live parts that do one training step as plain torch would."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trivet.errors import RecipeError
from trivet.recipes import Recipe, optimizer_names


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 1))


def test_a_built_step_equals_the_same_step_in_torch() -> None:
    recipe = Recipe(
        loss="mse_loss",
        optimizer={"name": "AdamW", "lr": 0.01, "weight_decay": 0.1},
        clip={"norm": 0.5},
        schedule="linear()",
    )
    ours, theirs = net(), net()
    parts = recipe.build(ours, steps=4)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1)
    x, y = torch.randn(16, 4), torch.randn(16, 1)
    for step in range(4):
        parts.optimizer.zero_grad()
        parts.loss(ours(x), y).backward()
        norm = parts.clip(ours)
        parts.optimizer.step()
        parts.scheduler.step()

        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - step / 4)
        optimizer.zero_grad()
        nn.functional.mse_loss(theirs(x), y).backward()
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        # Different summation orders in float32: a few units in the last place.
        torch.testing.assert_close(norm, expected, rtol=1e-5, atol=1e-6)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_groups_leave_biases_and_norms_undecayed() -> None:
    recipe = Recipe(
        loss="mse_loss",
        optimizer={"name": "AdamW", "lr": 0.01, "weight_decay": 0.1},
        groups={"no_decay": ["bias", "norm"]},
    )
    model = net()
    optimizer = recipe.build(model, steps=1).optimizer
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert len(decay) == len(list(model.parameters()))
    expected = {name: 0.1 if name in ("0.weight", "3.weight") else 0.0 for name, _ in model.named_parameters()}
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == expected


def test_clipping_by_value_bounds_every_coordinate() -> None:
    recipe = Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.1}, clip={"value": 0.01})
    model = net()
    parts = recipe.build(model, steps=1)
    parts.loss(model(torch.ones(4, 4)), torch.full((4, 1), 100.0)).backward()
    parts.clip(model)
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) == pytest.approx(0.01)


def test_a_model_without_trainable_parameters_is_refused() -> None:
    model = net().requires_grad_(False)
    with pytest.raises(RecipeError, match="no trainable parameters"):
        Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.1}).build(model, steps=1)


def test_no_steps_are_refused() -> None:
    with pytest.raises(RecipeError, match="steps = 0"):
        Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.1}).build(net(), steps=0)


def test_class_weights_become_a_tensor() -> None:
    recipe = Recipe(loss={"name": "cross_entropy", "weight": [1.0, 2.0, 3.0]}, optimizer={"name": "SGD", "lr": 0.1})
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    model = nn.Linear(1, 1)
    expected = nn.functional.cross_entropy(logits, target, weight=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(recipe.build(model, steps=1).loss(logits, target), expected)


@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_is_built_from_a_recipe_and_moves_the_model(name: str) -> None:
    recipe = Recipe(
        loss="mse_loss",
        optimizer={"name": name, "lr": 0.01},
        groups={"no_decay": ["bias", "norm", "embedding"], "layer_decay": 0.5},
    )
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    parts = recipe.build(model, steps=3)
    for _ in range(2):
        parts.optimizer.zero_grad()
        parts.loss(model(torch.randn(8, 4)), torch.randn(8, 1)).backward()
        parts.optimizer.step()
        parts.scheduler.step()
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_layer_decay_slows_the_layers_before_the_last() -> None:
    recipe = Recipe(
        loss="mse_loss",
        optimizer={"name": "AdamW", "lr": 0.1, "weight_decay": 0.0},
        groups={"no_decay": [], "layer_decay": 0.1},
        schedule="constant()",
    )
    model = net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    parts = recipe.build(model, steps=10)
    parts.loss(model(torch.randn(32, 4)), torch.randn(32, 1)).backward()
    parts.optimizer.step()
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in model.named_parameters()}
    # Adam's first step is the rate itself; the norm belongs to the matrix before it.
    assert moved["3.weight"] == pytest.approx(0.1, rel=1e-3)
    assert moved["0.weight"] == pytest.approx(0.01, rel=1e-3)
    assert moved["1.weight"] == pytest.approx(0.01, rel=1e-3)


def test_muon_in_a_recipe_sees_the_model() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 1))
    optimizer = Recipe(loss="mse_loss", optimizer={"name": "Muon", "lr": 0.01}).build(model, steps=1).optimizer
    ways = {name: group["role"] for group in optimizer.param_groups for name in group["param_names"]}
    assert {name for name, role in ways.items() if role == "hidden matrix"} == {"2.weight"}
