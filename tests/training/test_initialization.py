"""Initialising on real data: unit variance layer by layer, the first loss that of the best constant."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import trivet
from trivet.errors import InputError, RecipeError
from trivet.training import train

torch.manual_seed(0)
X = 20 * torch.randn(400, 10) + 3
Y = torch.tensor([0] * 300 + [1] * 80 + [2] * 20)


def deep(act: type[nn.Module], depth: int = 12) -> nn.Sequential:
    parts = [part for _ in range(depth) for part in (nn.Linear(32, 32), act())]
    return nn.Sequential(nn.Linear(10, 32), act(), *parts, nn.Linear(32, 3))


@pytest.mark.parametrize("act", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU])
def test_every_layer_has_unit_variance_on_the_batch(act: type[nn.Module]) -> None:
    model = deep(act)
    trivet.initialize(model, X)
    x = X
    for layer in list(model)[:-1]:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            assert float(x.std()) == pytest.approx(1.0, abs=0.05)


def test_the_first_loss_is_that_of_the_class_shares() -> None:
    model = deep(nn.ReLU)
    criterion = nn.CrossEntropyLoss()
    before = float(criterion(model(X), Y))
    trivet.initialize(model, X, Y, loss=criterion)
    shares = torch.bincount(Y).double() / len(Y)
    entropy = float(-(shares * shares.log()).sum())
    assert float(criterion(model(X), Y)) == pytest.approx(entropy, abs=0.02)
    assert before > entropy + 0.1


def test_a_regression_starts_at_the_mean_and_a_robust_loss_at_the_median() -> None:
    y = torch.cat([torch.zeros(300), torch.full((100,), 1000.0)])
    for loss, centre in ((nn.MSELoss(), 250.0), (nn.L1Loss(), 0.0)):
        model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1))
        trivet.initialize(model, X, y, loss=loss)
        assert model[-1].bias.item() == pytest.approx(centre, abs=1.0)


def test_frozen_shared_and_normalising_layers_and_the_random_state_stay() -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10), nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 3))
    model[0].requires_grad_(False)
    model[3].weight = model[2].weight
    kept = [p.clone() for p in (model[0].weight, model[2].weight, model[1].running_mean)]
    state = torch.get_rng_state()
    factors = trivet.initialize(model, X)
    assert torch.equal(state, torch.get_rng_state())
    assert list(factors) == ["4"]
    assert all(
        torch.equal(a, b) for a, b in zip(kept, (model[0].weight, model[2].weight, model[1].running_mean), strict=True)
    )
    assert model.training


def test_the_same_seed_gives_the_same_weights_and_nan_is_refused() -> None:
    one, other = deep(nn.ReLU, 2), deep(nn.ReLU, 2)
    trivet.initialize(one, X, seed=3)
    trivet.initialize(other, X, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    with pytest.raises(InputError, match="not finite"):
        trivet.initialize(one, torch.full((8, 10), math.nan))


def test_a_recipe_that_asks_for_it_trains_what_would_not_learn() -> None:
    x = torch.randn(300, 10)
    y = (x[:, 0] + x[:, 1] > 0).long() + (x[:, 2] > 1).long()
    task = trivet.Task(lambda: deep(nn.Tanh, 8).apply(_tiny), (x, y), kind="multiclass")
    recipe = trivet.Recipe(loss="cross_entropy", optimizer={"name": "SGD", "lr": 0.05}, batch_size=30, epochs=20)
    plain = train(task, recipe).metric
    started = train(task, recipe.apply(trivet.Edit("initialize", "data"))).metric
    assert started > plain + 0.1


def _tiny(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=1e-3)


def test_the_recipe_field_is_optional_strict_and_written_into_the_script() -> None:
    recipe = trivet.Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.1})
    assert "initialize" not in recipe.to_toml()
    asked = recipe.apply(trivet.Edit("initialize", "data"))
    assert trivet.Recipe.from_toml(asked.to_toml()) == asked
    assert "trivet.initialize(" in asked.to_python()
    compile(asked.to_python(), "train.py", "exec")
    with pytest.raises(RecipeError):
        recipe.apply(trivet.Edit("initialize", "magic"))
