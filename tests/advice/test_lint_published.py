"""No false alarm on the newer kinds of task, nor on published recipes, as recipes and as scripts of plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from trivet import Task, lint, profile, recommend
from trivet.losses import CrossEntropyLoss
from trivet.recipes import Edit, Finding, Recipe

pytestmark = pytest.mark.app

polars = pytest.importorskip("polars")


def said(findings: Iterable[Finding]) -> list[str]:
    return [f"{f.code}: {f.message}" for f in findings if f.severity != "note"]


# -- the kinds -------------------------------------------------------------------------------------


def counts() -> Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4))
    return Task.from_arrays(x, rng.poisson(np.exp(1 + 0.5 * x[:, 0])), kind="counts")


def multilabel() -> Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 5))
    return Task.from_arrays(x, (x[:, :3] + rng.normal(size=(500, 3)) > 0.8).astype(int), kind="multilabel")


def segmentation() -> Task:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    masks = np.stack([(y - a) ** 2 + (x - b) ** 2 < 16 for a, b in rng.uniform(4, 12, (160, 2))])
    pictures = rng.normal(60, 20, (160, 16, 16)) + 120 * masks
    return Task.from_arrays(pictures.clip(0, 255).astype(np.uint8), masks.astype(np.uint8))


def sequences() -> Task:
    rng = np.random.default_rng(0)
    lengths, label = rng.integers(6, 21, 300), np.arange(300) % 2
    x = rng.normal(size=(300, 20, 2)).astype(np.float32)
    x[..., 0] += np.where(label, 0.5, -0.5)[:, None]
    lengths[0] = 20
    return Task.from_arrays(x, label, lengths=lengths)


def text() -> Task:
    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "bdfgk" for b in ("a", "e", "i", "o", "ul", "or")]
    label = rng.integers(0, 3, 400)
    texts = [" ".join(rng.choice(words[10 * k // 2 : 10 * k // 2 + 20], rng.integers(4, 14))) for k in label]
    return Task.from_text(polars.DataFrame({"text": texts, "label": label.astype(str)}), target="label")


def language() -> Task:
    rng = np.random.default_rng(0)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "sleeps"]
    return Task.from_text(" ".join(rng.choice(words, 6000)), length=32)


def embedding() -> Task:
    rng = np.random.default_rng(0)
    centres, label = rng.normal(size=(60, 6)), np.repeat(np.arange(60), 12)
    return Task.from_arrays(centres[label] + rng.normal(size=(720, 6)), label, kind="embedding")


KINDS: dict[str, tuple[Callable[[], Task], tuple[str, ...]]] = {
    "counts": (counts, ("poisson_nll_loss",)),
    "multilabel": (multilabel, ("binary_cross_entropy_with_logits", "focal_loss", "asymmetric_loss")),
    "segmentation": (segmentation, ("cross_entropy", "dice_loss", "cross_entropy + dice_loss", "lovasz_loss")),
    "sequences": (sequences, ("binary_cross_entropy_with_logits",)),
    "text": (text, ("cross_entropy",)),
    "language": (language, ("cross_entropy",)),
    "embedding": (embedding, ("supervised_contrastive_loss", "triplet_loss", "multi_similarity_loss")),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_usual_recipe_on_each_kind_of_task_is_not_accused(name: str) -> None:
    make, losses = KINDS[name]
    task = make()
    facts = profile(task)
    recipe = recommend(task, facts)
    assert said(lint(recipe, task, profile=facts)) == [], str(recipe)
    for loss in losses:
        assert said(lint(recipe.apply(Edit("loss", {"name": loss})), task, profile=facts)) == [], loss
    for optimizer, lr in (("AdamW", 1e-3), ("Lion", 2e-4), ("NAdam", 1e-3)):
        other = recipe.apply(Edit("optimizer", {"name": optimizer, "lr": lr}))
        assert said(lint(other, task, profile=facts)) == [], optimizer
    inputs, targets = task.train.batch(task.order(torch.Generator().manual_seed(0))[:64])
    parts = recipe.build(model := task.make_model(0), steps=300)
    script = lint(
        model=model,
        loss=parts.loss,
        optimizer=parts.optimizer,
        scheduler=parts.scheduler,
        batch=(inputs, targets),
        steps=300,
    )
    assert said(script) == []


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (segmentation, "cross_entropy + mse_loss"),
        (segmentation, "mse_loss"),
        (multilabel, "dice_loss"),
        (counts, "mse_loss"),
        (text, "binary_cross_entropy_with_logits"),
    ],
)
def test_a_loss_of_another_kind_is_found_in_sums_too(make: Callable[[], Task], loss: str) -> None:
    recipe = Recipe(loss=loss, optimizer={"name": "AdamW", "lr": 1e-3}, schedule="cosine()")
    found = [f for f in lint(recipe, make()) if f.code == "TV101"]
    assert found
    assert found[0].evidence["loss"] == loss.split(" + ")[-1]


# -- published recipes on models made by hand ------------------------------------------------------


class Residual(nn.Module):
    """A basic block of a ResNet; the last norm's scale starts at 0 where `zero`, as in Goyal et al. 2017."""

    def __init__(self, width: int, out: int, stride: int, zero: bool) -> None:
        super().__init__()
        self.a, self.an = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.b, self.bn = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        same = stride == 1 and width == out
        self.short = nn.Identity() if same else nn.Sequential(nn.Conv2d(width, out, 1, stride), nn.BatchNorm2d(out))
        if zero:
            nn.init.zeros_(self.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.short(x) + self.bn(self.b(F.relu(self.an(self.a(x))))))


def resnet(zero: bool = False) -> nn.Sequential:
    blocks = [Residual(a, b, s, zero) for a, b, s in ((8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 32, 2))]
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Block(nn.Module):
    """A pre-norm transformer block with torch's fused attention and no module that is called so."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.qkv, self.up):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (self.out, self.down):
            nn.init.normal_(layer.weight, std=0.02 / (2 * depth) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.qkv(self.n1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class GPT(nn.Module):
    """Symbols to logits `(batch, symbols, length)`; the head is the embedding where `tied`."""

    def __init__(self, symbols: int = 16, width: int = 32, depth: int = 4, tied: bool = True) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(symbols, width), nn.Embedding(64, width)
        for table in (self.symbols, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, depth) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols, bias=False)
        if tied:
            self.head.weight = self.symbols.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.symbols(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.norm(self.blocks(x))).transpose(1, 2)


class Recurrent(nn.Module):
    def __init__(self, features: int = 6, outputs: int = 3) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(features, 32, 2, batch_first=True, dropout=0.1), nn.Linear(32, outputs)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][torch.arange(len(x)), lengths - 1])


def pictures(make: Callable[[], nn.Module]) -> Task:
    rng = np.random.default_rng(0)
    label = np.arange(240) % 10
    x = (rng.normal(size=(240, 3, 16, 16)) + label[:, None, None, None] / 10).astype(np.float32)
    return Task.from_arrays(x, label, kind="multiclass", model=make)


def symbols(make: Callable[[], nn.Module]) -> Task:
    rng = np.random.default_rng(0)
    return Task.from_text("".join(rng.choice(list("abcdefghijklmn "), 9000)), length=24, model=make)


def series(make: Callable[[], nn.Module]) -> Task:
    rng = np.random.default_rng(0)
    label = np.arange(240) % 3
    x = (rng.normal(size=(240, 12, 6)) + label[:, None, None] / 3).astype(np.float32)
    return Task.from_arrays(x, label, lengths=rng.integers(3, 13, 240), model=make)


RESNET = Recipe(
    loss="cross_entropy",
    optimizer={"name": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    schedule="cosine()",
    batch_size=64,
    epochs=200,
)
NANO = Recipe(
    loss="cross_entropy",
    optimizer={"name": "AdamW", "lr": 3e-4, "betas": [0.9, 0.95], "weight_decay": 0.1},
    groups={"no_decay": ["bias", "norm"]},
    schedule="warmup(0.02) >> cosine()",
    clip={"norm": 1.0},
    batch_size=32,
    epochs=40,
)
GRU = Recipe(
    loss="cross_entropy",
    optimizer={"name": "Adam", "lr": 1e-3},
    schedule="cosine()",
    clip={"norm": 0.25},
    batch_size=32,
    epochs=40,
)

PUBLISHED: dict[str, tuple[Callable[[], nn.Module], Callable[[Callable[[], nn.Module]], Task], Recipe]] = {
    "resnet": (resnet, pictures, RESNET),
    "resnet whose residuals start at 0": (lambda: resnet(zero=True), pictures, RESNET),
    "transformer": (lambda: GPT(tied=False), symbols, NANO),
    "tied transformer": (GPT, symbols, NANO),
    "gru": (lambda: Recurrent(), series, GRU),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_is_not_accused(name: str) -> None:
    make, data, recipe = PUBLISHED[name]
    task = data(make)
    assert said(lint(recipe, task)) == []
    torch.manual_seed(0)
    model, steps = make(), 1000
    named = dict(recipe.optimizer)
    cls = getattr(torch.optim, str(named.pop("name")))
    optimizer = cls(model.parameters(), **named)
    if "warmup" in str(recipe.schedule):
        scheduler: object = LambdaLR(optimizer, lambda t: min(1.0, t / 20) * (1 - t / steps))
    else:
        scheduler = CosineAnnealingLR(optimizer, T_max=steps)
    batch = task.train.batch(torch.arange(64))
    for loss in (nn.CrossEntropyLoss(), F.cross_entropy, CrossEntropyLoss()):
        found = lint(model=model, loss=loss, optimizer=optimizer, scheduler=scheduler, batch=batch, steps=steps)
        assert said(found) == [], loss


def test_fine_tuning_at_a_small_rate_is_not_accused() -> None:
    body = resnet()
    batch = pictures(resnet).train.batch(torch.arange(64))
    with torch.no_grad():  # statistics as training leaves them
        for _ in range(20):
            body(batch[0])
    body[-1] = nn.Linear(32, 10)
    recipe = RESNET.apply(
        Edit("optimizer", {"name": "AdamW", "lr": 1e-5, "weight_decay": 0.01}),
        Edit("schedule", "warmup(0.1) >> cosine()"),
        Edit("groups", {"no_decay": ["bias", "norm"]}),
        Edit("epochs", 5),
    )
    assert said(lint(recipe, pictures(body))) == []
    optimizer = torch.optim.AdamW(body.parameters(), lr=1e-5)
    scheduler = LambdaLR(optimizer, lambda t: 1 - t / 100)
    script = {"model": body, "loss": nn.CrossEntropyLoss(), "scheduler": scheduler, "batch": batch, "steps": 100}
    assert said(lint(optimizer=optimizer, **script)) == []  # type: ignore[arg-type]
    body[0].requires_grad_(False)  # a frozen stem
    kept = torch.optim.AdamW([p for p in body.parameters() if p.requires_grad], lr=1e-5)
    script["scheduler"] = LambdaLR(kept, lambda t: 1 - t / 100)
    assert said(lint(optimizer=kept, **script)) == []  # type: ignore[arg-type]
