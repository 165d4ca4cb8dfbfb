"""The rules of the model's start on networks whose training is known: those that train well are not accused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trivet import lint
from trivet.recipes import Finding


def said(findings: list[Finding]) -> list[str]:
    return [f"{f.code}: {f.message}" for f in findings if f.severity != "note"]


def vgg() -> nn.Sequential:
    """Without norms, as published: He's weights for what leaves a layer, biases at 0, dropout before the head."""
    layers: list[nn.Module] = []
    for at, out in ((3, 16), (16, 16), (16, 32), (32, 32), (32, 32), (32, 64), (64, 64), (64, 64)):
        convolution = nn.Conv2d(at, out, 3, 1, 1)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        layers += [convolution, nn.ReLU(True), *([nn.MaxPool2d(2)] if at != out else [])]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 10))


def plain(hidden: int) -> nn.Sequential:
    """Torch's default weights."""
    layers = [m for at in range(hidden) for m in (nn.Linear(8 if at == 0 else 128, 128), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(128, 3))


def test_networks_without_norms_that_train_well_are_not_accused_and_one_that_stalls_is() -> None:
    torch.manual_seed(0)
    loss, images = nn.CrossEntropyLoss(), (torch.randn(64, 3, 16, 16), torch.arange(64) % 10)
    assert said(lint(model=vgg(), loss=loss, batch=images)) == []
    rows = torch.randn(128, 8), torch.arange(128) % 3
    assert said(lint(model=plain(5), loss=loss, batch=rows)) == []
    assert [text[:5] for text in said(lint(model=plain(7), loss=loss, batch=rows))] == ["TV146"]


def test_a_first_loss_of_log_probabilities_is_held_against_equal_classes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 10), nn.LogSoftmax(1))
    batch = torch.randn(128, 8), torch.arange(128) % 10
    assert said(lint(model=model, loss=nn.NLLLoss(), batch=batch)) == []
    with torch.no_grad():
        model[2].weight.mul_(100)  # type: ignore[operator, union-attr]
    found = [f for f in lint(model=model, loss=nn.NLLLoss(), batch=batch) if f.code == "TV143"]
    assert found[0].evidence["loss of equal guesses"] == pytest.approx(np.log(10), rel=1e-3)
    assert found[0].evidence["best constant"] == pytest.approx(np.log(10), rel=1e-2)
