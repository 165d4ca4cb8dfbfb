"""Attention is seen by what a module does; tied weights and frozen parts are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trivet import lint, recommend
from trivet.facts import profile
from trivet.facts.attention import attending
from trivet.tasks import Task

pytestmark = pytest.mark.app

WIDTH = 8


class Mixer(nn.Module):
    """A block of its own name; how it mixes positions is given."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.qkv, self.norm, self.drop, self.how = (
            nn.Linear(WIDTH, 3 * WIDTH),
            nn.LayerNorm(WIDTH),
            nn.Dropout(0.1),
            how,
        )

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        if self.how == "fused":
            return x + F.scaled_dot_product_attention(q, k, v)
        if self.how == "einsum":
            weights = torch.einsum("bik,bjk->bij", q, k).mul(0.3).softmax(-1)
            return x + torch.einsum("bij,bjk->bik", weights, v)
        if self.how == "masked":
            scores = (q @ k.mT / 3).masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), float("-inf"))
            return x + self.drop(F.softmax(scores, dim=-1)) @ v
        if self.how == "gate":  # a gate over three experts: a softmax, and no attention
            gate = F.softmax(v[..., :3], dim=-1)
            return x + (gate.unsqueeze(-2) @ torch.stack([q, k, v], dim=-2)).squeeze(-2)
        if self.how == "bilinear":  # products of activations without a softmax
            return x + (q @ k.mT) @ v
        return x + q * torch.sigmoid(k) + v


class Model(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.blocks, self.head = nn.Sequential(Mixer(how), Mixer(how)), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x.unflatten(1, (4, WIDTH))).mean(dim=1))


def task(model: object) -> Task:
    rng = np.random.default_rng(0)
    return Task.from_arrays(rng.normal(size=(300, 32)), np.arange(300) % 2, kind="multiclass", model=model)


@pytest.mark.parametrize("how", ["fused", "einsum", "masked"])
def test_attention_is_counted_however_it_is_written_and_decides_the_warmup(how: str) -> None:
    data = task(lambda: Model(how))
    facts = profile(data)
    assert facts.model.layers["attention"] == 2
    assert facts.model.depth == 3  # its matrices are counted as the linear layers they are
    assert "warmup(0.1)" in str(recommend(data, facts).schedule)


@pytest.mark.parametrize("how", ["gate", "bilinear", "product"])
def test_other_ways_to_mix_are_not_attention(how: str) -> None:
    data = task(lambda: Model(how))
    facts = profile(data)
    assert "attention" not in facts.model.layers
    assert "warmup(0.05)" in str(recommend(data, facts).schedule)


@pytest.mark.parametrize(("how", "found"), [("fused", True), ("masked", True), ("gate", False)])
def test_a_script_is_asked_for_a_warmup_where_its_model_attends(how: str, found: bool) -> None:
    model = Model(how)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    findings = lint(
        model=model,
        loss=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500),
        batch=(torch.randn(32, 32), torch.arange(32) % 2),
        steps=500,
    )
    assert ("TV131" in {f.code for f in findings}) is found


@pytest.mark.parametrize("training", [True, False])
def test_torchs_own_layers_are_seen_in_either_mode_and_no_hook_stays(training: bool) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    with torch.no_grad(), attending(model) as names:
        model(torch.randn(3, 5, WIDTH))
    assert names == {"layers.0.self_attn", "layers.1.self_attn"}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_that_fails_leaves_no_hook() -> None:
    model = Model("fused")
    with pytest.raises(RuntimeError), attending(model):
        model(torch.randn(3, 7))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_tied_weights_and_frozen_parts_are_named() -> None:
    model = Model("fused")
    model.blocks[1].qkv.weight = model.blocks[0].qkv.weight  # type: ignore[union-attr, assignment]
    model.blocks[0].requires_grad_(False)
    model.head.bias.requires_grad_(False)
    facts = profile(task(model)).model
    assert facts.tied == (("blocks.0.qkv.weight", "blocks.1.qkv.weight"),)
    assert facts.frozen_parts == ("blocks.0", "blocks.1.qkv.weight", "head.bias")
    assert facts.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    plain = profile(task(lambda: Model("fused"))).model
    assert plain.tied == plain.frozen_parts == ()
