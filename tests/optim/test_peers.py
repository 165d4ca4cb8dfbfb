"""Defects that were seen in other libraries, each as a test that ours has not."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from trivet import optim
from trivet.errors import InputError


def test_momentum_with_decay_is_not_plain_sgd() -> None:
    """kozistr's SGDW(momentum=0.9) equals SGD without momentum: it interpolates by 1 - dampening."""
    w, v = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    fast, slow = optim.SGD([w], lr=1.0, momentum=0.9), optim.SGD([v], lr=1.0)
    for _ in range(3):
        w.grad, v.grad = torch.ones(1), torch.ones(1)
        fast.step(), slow.step()
    assert w.item() == pytest.approx(-(1 + 1.9 + 2.71), rel=1e-6)
    assert v.item() == -3


def test_the_first_velocity_is_the_gradient_not_the_parameter() -> None:
    """kozistr's for-loop form of SGDW seeds its buffer with the parameters."""
    w = nn.Parameter(torch.full((1,), 100.0))
    w.grad = torch.ones(1)
    optim.SGD([w], lr=1.0, momentum=0.9).step()
    assert w.item() == 99


def test_a_curvature_estimate_has_no_constant_sign_in_it() -> None:
    """kozistr draws Rademacher signs by randint(0, 1), which is always 0, and finds [6, 6] where the Hessian is [1, 1].

    Sophia's estimate here takes squared gradients with drawn labels: for a Gaussian of unit variance their mean is
    the Hessian of the loss, the identity.
    """
    torch.manual_seed(0)
    w = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = optim.Sophia([w], betas=(0.9, 0.99))
    for _ in range(4000):
        w.grad = torch.randn(64, 2, dtype=torch.float64).mean(0)  # the mean gradient of 64 samples
        optimizer.update_hessian(batch_size=64)
    # An average over about 200 draws of a chi-squared variable: a standard deviation of 0.1.
    torch.testing.assert_close(optimizer.state[w]["hessian"], torch.ones(2, dtype=torch.float64), rtol=0, atol=0.4)


def test_centered_rmsprop_survives_a_constant_gradient() -> None:
    """The variance that is left of a constant gradient may round below 0, whose root is NaN in torch."""
    torch.manual_seed(0)
    grad = torch.rand(1000) * 3
    w = nn.Parameter(torch.zeros(1000))
    optimizer = optim.RMSprop([w], lr=1e-3, centered=True)
    for _ in range(3000):
        w.grad = grad.clone()
        optimizer.step()
    assert torch.isfinite(w).all()


def test_counters_of_half_precision_parameters_survive_a_checkpoint() -> None:
    """torch casts all states but `step` to the parameter's type when it loads: NAdam's mu_product loses 16 bits."""
    w = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = optim.NAdam([w])
    for _ in range(3):
        w.grad = torch.ones(3, dtype=torch.bfloat16)
        optimizer.step()
    before = optimizer.state[w]["mu_product"].clone()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.state[w]["mu_product"].dtype == torch.float32
    assert torch.equal(optimizer.state[w]["mu_product"], before)


def test_states_are_matched_by_name_not_only_by_order() -> None:
    """pytorch 1489, open since 2017: a state loads silently into parameters in another order."""
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.full((3,), 2.0))
    first = optim.AdamW([("a", a), ("b", b)])
    a.grad, b.grad = torch.ones(3), torch.full((3,), 5.0)
    first.step()
    second = optim.AdamW([("b", b), ("a", a)])
    second.load_state_dict(first.state_dict())
    for p in (a, b):
        assert torch.equal(second.state[p]["exp_avg"], first.state[p]["exp_avg"])


def test_what_does_not_fit_is_said_by_name() -> None:
    """pytorch 3852: no strict loading for optimizers."""
    a, b, c = (nn.Parameter(torch.ones(size)) for size in (3, 3, 4))
    saved = optim.AdamW([("a", a), ("b", b)])
    a.grad = b.grad = torch.ones(3)
    saved.step()
    with pytest.raises(InputError, match="not in the saved state: c; only in the saved state: b"):
        optim.AdamW([("a", a), ("c", c)]).load_state_dict(saved.state_dict())
    unnamed = optim.AdamW([a, b])
    unnamed.step()
    with pytest.raises(InputError, match=r"exp_avg of number 1 has shape \(3,\), the parameter \(4,\)"):
        optim.AdamW([a, c]).load_state_dict(unnamed.state_dict())
    with pytest.raises(InputError, match=r"groups of \[2\] parameters, the optimizer of \[3\]"):
        optim.AdamW([a, b, c]).load_state_dict(unnamed.state_dict())


def test_the_executions_of_one_optimizer_agree() -> None:
    """kozistr's foreach forms differ from its own for-loops by 3e-3 to 1e-2 after 20 steps."""
    for cls in (optim.AdamW, optim.Lion, optim.Adagrad, optim.RAdam):
        made = []
        for backend in ("cpu", "torch"):
            torch.manual_seed(0)
            w = nn.Parameter(torch.randn(50, dtype=torch.float64))
            optimizer = cls([w], backend=backend)
            for _ in range(20):
                w.grad = torch.randn(50, dtype=torch.float64)
                optimizer.step()
            made.append(w.detach().numpy())
        np.testing.assert_allclose(made[0], made[1], rtol=1e-12, atol=1e-14)


def test_one_routed_object_follows_layer_rates_and_schedule() -> None:
    """Muon beside a second AdamW needs a second scheduler, and loses its schedule without an error (optax 1563)."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    groups = optim.param_groups(model, weight_decay=0.0, lr=0.1, layer_decay=0.5, roles=True)
    optimizer = optim.Muon(groups)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1)
    rates = {n: g["lr"] for g in optimizer.param_groups for n in g["param_names"]}
    assert rates["2.weight"] == pytest.approx(0.01)
    assert rates["0.weight"] == rates["0.bias"] == pytest.approx(0.0025)
    assert scheduler.get_last_lr()
