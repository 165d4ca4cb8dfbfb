"""A watch sees the gradients of loops that make them inside the optimizer's step."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import trivet


def test_a_step_with_a_closure_is_probed_like_one_without() -> None:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()

    def watched(*, closure: bool) -> trivet.Watch:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer, criterion = torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss()
        w = trivet.watch(model, optimizer, loss=criterion)

        def make() -> torch.Tensor:
            optimizer.zero_grad(set_to_none=True)
            loss = criterion(model(x), y)
            loss.backward()
            return loss

        for _ in range(20):
            if closure:
                loss = optimizer.step(make)
            else:
                loss = make()
                optimizer.step()
            assert isinstance(loss, torch.Tensor)
            w.step(loss)
        return w

    inside, outside = watched(closure=True).record, watched(closure=False).record
    assert [s.loss for s in inside.steps] == [s.loss for s in outside.steps]
    # Step 2 and 3 are always probed; later ones when there is time for it.
    for one, other in zip(inside.probes[:3], outside.probes[:3], strict=True):
        np.testing.assert_equal((one.step, one.grad, one.update), (other.step, other.grad, other.update))
        assert all(g > 0 for g in one.grad if g == g)
