"""Every rule of lint has a pair of cases that differ in one thing: with it the rule speaks, without it it is silent."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from trivet import Profile, Task, lint, profile
from trivet.advice.lint import RULES
from trivet.recipes import Edit, Recipe

pytestmark = pytest.mark.app

Case = Callable[[], set[str]]
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(128, 8, generator=GENERATOR), torch.randint(3, (128,), generator=GENERATOR)
NUMBERS = X[:, :1] + 0.3 * torch.randn(128, 1, generator=GENERATOR)
PLAIN = Recipe(loss="cross_entropy", optimizer={"name": "AdamW", "lr": 2e-3}, schedule="cosine()", batch_size=64)


def net(outputs: int = 3, *ends: nn.Module, gain: float = 1.0, depth: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(8, 32), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(32, 32), nn.ReLU()]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=gain * (2 / layer.in_features) ** 0.5)  # type: ignore[union-attr, arg-type, operator]
    return nn.Sequential(*layers, nn.Linear(32, outputs), *ends)


def script(
    model: nn.Module | None = None,
    loss: object = None,
    x: Tensor = X,
    y: Tensor = Y,
    *,
    optimizer: str = "",
    steps: int | None = None,
    decay: bool = True,
    t_max: int = 1000,
    pretrained: bool = False,
    memory: int | None = None,
    params: Callable[[nn.Module], object] = lambda m: m.parameters(),
    **options: float,
) -> Case:
    def run() -> set[str]:
        shown = model if model is not None else net()
        made = getattr(torch.optim, optimizer)(params(shown), **options) if optimizer else None
        falls = CosineAnnealingLR(made, t_max) if made is not None and decay else None
        found = lint(
            model=shown,
            loss=loss,  # type: ignore[arg-type]
            optimizer=made,
            scheduler=falls,
            batch=(x, y) if loss is not None else None,
            steps=steps,
            pretrained=pretrained,
            memory=memory,
        )
        return {f.code for f in found}

    return run


@functools.cache
def task(name: str) -> tuple[Task, Profile]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 5))
    label = (x[:, 0] > 0.4).astype(int) + (x[:, 0] > -0.4)
    group, wrong = np.arange(900) % 3, rng.random(900) < 0.2
    clusters = x + 6 * np.eye(5)[group]
    made = {
        "classes": lambda: Task.from_arrays(x, label, kind="multiclass"),
        "log loss": lambda: Task.from_arrays(x, label, kind="multiclass", metric="log_loss"),
        "wrong labels": lambda: Task.from_arrays(clusters, np.where(wrong, (group + 1) % 3, group), kind="multiclass"),
        "right labels": lambda: Task.from_arrays(clusters, group, kind="multiclass"),
        "balanced": lambda: Task.from_arrays(x, label, kind="multiclass", metric="balanced_accuracy"),
        "imbalanced": lambda: Task.from_arrays(
            x, np.repeat([0, 1, 2], [820, 40, 40]), kind="multiclass", metric="balanced_accuracy"
        ),
        "small": lambda: Task.from_arrays(x[:300], label[:300], kind="multiclass"),
        "copied": lambda: Task.from_arrays(np.concatenate([x, x]), np.concatenate([label, label]), kind="multiclass"),
        "drift": lambda: Task.from_arrays(x, label, x[:200] + 1.5, label[:200], kind="multiclass"),
        "no drift": lambda: Task.from_arrays(x[200:], label[200:], x[:200], label[:200], kind="multiclass"),
    }[name]()
    return made, profile(made)


def on(name: str, *edits: Edit) -> Case:
    def run() -> set[str]:
        data, facts = task(name)
        return {f.code for f in lint(PLAIN.apply(*edits), data, profile=facts)}

    return run


def changed(model: nn.Module, change: Callable[[nn.Module], object]) -> nn.Module:
    change(model)
    return model


def transformer(norm_first: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first), nn.Linear(8, 3))


class Broken(nn.Module):
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return (input * 0).sum().log()


def with_nan(x: Tensor) -> Tensor:
    return x.clone().index_put_((torch.tensor(3), torch.tensor(2)), torch.tensor(float("nan")))


CE, MSE, BCE = nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()
YES = (Y > 0).float()[:, None]
OUTLIERS = NUMBERS.repeat(8, 1).index_fill(0, torch.arange(12), 100.0)

PAIRS: dict[str, tuple[Case, Case]] = {
    "TV101": (on("classes", Edit("loss", {"name": "mse_loss"})), on("classes")),
    "TV102": (
        on("log loss", Edit("loss", {"name": "softmax_focal_loss"})),
        on("classes", Edit("loss", {"name": "softmax_focal_loss"})),
    ),
    "TV103": (on("imbalanced"), on("balanced")),
    "TV104": (
        script(net(1), MSE, X.repeat(8, 1), OUTLIERS),
        script(net(1), nn.HuberLoss(), X.repeat(8, 1), OUTLIERS),
    ),
    "TV105": (script(net(3, nn.Softmax(1)), CE), script(net(3), CE)),
    "TV106": (script(net(1), nn.BCELoss(), y=YES), script(net(1, nn.Sigmoid()), nn.BCELoss(), y=YES)),
    "TV107": (script(net(3), CE, y=Y + 1), script(net(4), CE, y=Y + 1)),
    "TV108": (script(net(1), MSE, y=NUMBERS[:, 0]), script(net(1), MSE, y=NUMBERS)),
    "TV109": (script(net(), nn.CrossEntropyLoss(torch.ones(4))), script(net(), nn.CrossEntropyLoss(torch.ones(3)))),
    "TV110": (on("log loss", Edit("loss.label_smoothing", 0.1)), on("classes", Edit("loss.label_smoothing", 0.1))),
    "TV111": (on("wrong labels"), on("right labels")),
    "TV112": (script(net(), CE, with_nan(X)), script(net(), CE)),
    "TV113": (script(net(), CE, X * 1000), script(nn.Sequential(nn.BatchNorm1d(8), net()), CE, X * 1000)),
    "TV114": (script(net(1), MSE, y=2e5 + NUMBERS), script(net(1), MSE, y=NUMBERS)),
    "TV115": (on("copied"), on("classes")),
    "TV116": (on("small"), on("classes")),
    "TV117": (on("drift"), on("no drift")),
    "TV118": (on("classes", Edit("batch_size", 4096)), on("classes", Edit("batch_size", 256))),
    "TV120": (
        script(optimizer="Adam", lr=1e-3, weight_decay=0.01),
        script(optimizer="AdamW", lr=1e-3, weight_decay=0.01),
    ),
    "TV121": (
        script(optimizer="AdamW", weight_decay=0.01),
        script(
            optimizer="AdamW",
            params=lambda m: [
                {"params": [p for p in m.parameters() if p.ndim > 1], "weight_decay": 0.01},
                {"params": [p for p in m.parameters() if p.ndim == 1], "weight_decay": 0.0},
            ],
        ),
    ),
    "TV122": (script(optimizer="AdamW", params=lambda m: list(m.parameters())[:-1]), script(optimizer="AdamW")),
    "TV123": (script(optimizer="AdamW", params=lambda m: net().parameters()), script(optimizer="AdamW")),
    "TV124": (
        script(optimizer="AdamW", params=lambda m: [*m.parameters(), next(m.parameters())]),
        script(optimizer="AdamW"),
    ),
    "TV125": (
        script(net().requires_grad_(False), CE),
        script(changed(net(), lambda m: m[0].requires_grad_(False)), CE),
    ),  # type: ignore[index]
    "TV126": (on("classes", Edit("clip", {"norm": 1e-7})), on("classes", Edit("clip", {"norm": 1.0}))),
    "TV130": (script(optimizer="AdamW", decay=False), script(optimizer="AdamW")),
    "TV131": (script(transformer(False), optimizer="AdamW"), script(optimizer="AdamW")),
    "TV132": (
        script(optimizer="AdamW", lr=2e-2, pretrained=True),
        script(optimizer="AdamW", lr=2e-5, pretrained=True),
    ),
    "TV133": (script(optimizer="AdamW", lr=0.2), script(optimizer="AdamW", lr=2e-3)),
    "TV134": (script(optimizer="AdamW", lr=1e-7), script(optimizer="AdamW", lr=2e-3)),
    "TV135": (
        on("classes", Edit("schedule", "warmup(0.7) >> cosine()")),
        on("classes", Edit("schedule", "warmup(0.1) >> cosine()")),
    ),
    "TV136": (script(optimizer="AdamW", t_max=20, steps=1000), script(optimizer="AdamW", t_max=1000, steps=1000)),
    "TV140": (script(net(), CE, X[:, :7]), script(net(), CE)),
    "TV141": (
        script(nn.Sequential(*(m for _ in range(12) for m in (nn.Linear(8, 8), nn.Sigmoid())), nn.Linear(8, 3)), CE),
        script(net(depth=12), CE),
    ),
    "TV142": (script(net(depth=12, gain=3), CE), script(net(depth=12), CE)),
    "TV143": (script(changed(net(), lambda m: m[-1].weight.data.mul_(100)), CE), script(net(), CE)),  # type: ignore[index]
    "TV144": (script(changed(net(), lambda m: nn.init.constant_(m[0].weight, 0.1)), CE), script(net(), CE)),  # type: ignore[index]
    "TV145": (
        script(changed(net(), lambda m: [nn.init.zeros_(p) for p in m.parameters()]), CE),
        script(changed(net(), lambda m: nn.init.zeros_(m[-1].weight)), CE),  # type: ignore[index]
    ),
    "TV146": (script(net(depth=8, gain=0.5), CE), script(net(depth=8), CE)),
    "TV147": (script(changed(net(), lambda m: m[0].bias[:24].data.fill_(-50)), CE), script(net(), CE)),  # type: ignore[index]
    "TV148": (script(net(3, nn.Dropout(0.1)).eval()), script(net(3, nn.Dropout(0.1)))),
    "TV149": (
        script(net(3, nn.BatchNorm1d(3)), CE, X[:2], Y[:2]),
        script(net(3, nn.BatchNorm1d(3)), CE),
    ),
    "TV150": (script(optimizer="AdamW", memory=20_000), script(optimizer="AdamW", memory=100_000)),
    "TV151": (script(net(), Broken()), script(net(), CE)),
}


def test_no_rule_is_without_a_pair_of_cases() -> None:
    assert sorted(set(RULES) - set(PAIRS)) == []


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
@pytest.mark.parametrize("code", sorted(PAIRS))
def test_a_rule_speaks_where_the_mistake_is_and_is_silent_where_it_is_not(code: str) -> None:
    wrong, right = PAIRS[code]
    assert code in wrong()
    assert code not in right()
