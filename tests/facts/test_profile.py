"""Facts are measured right, and measuring changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from trivet.facts import profile
from trivet.tasks import Task

pytestmark = pytest.mark.app


def regression(noise: str) -> Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3)).astype(np.float32)
    draw = {"normal": rng.normal, "t2": lambda size: rng.standard_t(2, size)}[noise]
    return Task.from_arrays(x, 2 * x[:, 0] + draw(size=4000), kind="regression")


def test_tails_are_those_of_the_residuals() -> None:
    calm, wild = profile(regression("normal")).data, profile(regression("t2")).data
    assert calm.residual_kurtosis == pytest.approx(0, abs=0.5)
    # 3.5 sigma both sides of a normal distribution: 4.7e-4.
    assert calm.outlier_share == pytest.approx(4.7e-4, abs=2e-3)
    assert calm.residual_scale == pytest.approx(1 / np.sqrt(5), rel=0.1)
    assert wild.residual_kurtosis > 20  # type: ignore[operator]
    assert wild.outlier_share > 0.02  # type: ignore[operator]


def test_class_facts_agree_with_counting() -> None:
    y = np.repeat([0, 1, 2], [500, 300, 200])
    task = Task.from_arrays(np.random.default_rng(0).normal(size=(1000, 4)), y, kind="multiclass")
    data = profile(task).data
    assert sum(data.class_counts) == data.rows == len(task.train)
    assert data.imbalance == pytest.approx(2.5, rel=0.02)
    shares = np.array([0.5, 0.3, 0.2])
    assert data.prior_entropy == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-2)


def test_model_facts_count_what_is_there() -> None:
    class Net(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(
                nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2), nn.Dropout(0.1), nn.Linear(2, 3)
            )
            self[0].weight.requires_grad_(False)

    task = Task.from_arrays(
        np.random.default_rng(0).normal(size=(300, 4)), np.arange(300) % 3, kind="multiclass", model=Net
    )
    model = profile(task).model
    assert model.layers == {"dropout": 1, "layer_norm": 1, "linear": 3}
    assert model.parameters == sum(p.numel() for p in Net().parameters())
    assert model.trainable == model.parameters - 32
    assert model.depth == 3
    assert model.normalised
    assert not model.pretrained
    # Two operations per weight of each matrix.
    assert model.flops_per_sample == 2 * (4 * 8 + 8 * 2 + 2 * 3)


def test_loaded_weights_are_recognised_and_a_fresh_module_is_not_mistaken_for_them() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3))
    x, y = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32), np.arange(300) % 3
    assert not profile(Task.from_arrays(x, y, kind="multiclass", model=net)).model.pretrained
    net.train()
    net(torch.from_numpy(x))  # batch-norm statistics move, as in any training
    assert profile(Task.from_arrays(x, y, kind="multiclass", model=net)).model.pretrained


@pytest.mark.parametrize("norm_first", [True, False])
def test_where_a_transformer_normalises_is_seen_and_decides_the_warmup(norm_first: bool) -> None:
    from trivet.advice import recommend

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, norm_first=norm_first)
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(x.unsqueeze(1)).squeeze(1))

    x, y = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32), np.arange(300) % 2
    task = Task.from_arrays(x, y, kind="multiclass", model=Tiny)
    assert profile(task).model.post_norm is not norm_first
    # Xiong et al. 2020: normalisation after the residual needs the longer warmup.
    assert recommend(task).schedule == f"warmup({0.1 if norm_first else 0.2}) >> cosine()"


def test_profiling_changes_no_random_state_and_repeats() -> None:
    task = regression("normal")
    before = torch.get_rng_state()
    one = profile(task)
    assert torch.equal(before, torch.get_rng_state())
    assert profile(task) == one


def test_a_profile_reads_as_lines() -> None:
    text = str(profile(regression("normal")))
    assert "residual kurtosis" in text
    assert "linear" in text
