"""Defects that were seen in other libraries, each as a test that ours has not."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from optimizer_cases import CASES, everything
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


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Sophia has made 20 steps")
def test_every_state_takes_part(name: str) -> None:
    """AdaNorm's running norm of gradients in kozistr is made out of place: it stays 0, and so does its branch."""
    for options in CASES[name].options:
        params = [nn.Parameter(torch.full((4, 3), 0.5, dtype=torch.float64)), nn.Parameter(torch.ones(3).double())]
        optimizer = everything()[name](params, **options)
        seen: list[dict[tuple[int, str], torch.Tensor]] = []
        for step in range(4):
            generator = torch.Generator().manual_seed(step)
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            if isinstance(optimizer, optim.Sophia):
                optimizer.update_hessian(batch_size=8)
            optimizer.step()
            states = [(k, optimizer.state[p]) for k, p in enumerate(params)]
            seen.append({(k, key): v.clone() for k, s in states for key, v in s.items() if torch.is_tensor(v)})
        # p0: the first weights, kept to measure the way from them.
        moving = [key for key in seen[0] if key[1] != "p0" and seen[0][key].numel()]
        stuck = [key for key in moving if all(torch.equal(seen[0][key], later[key]) for later in seen[1:])]
        assert not stuck, (options, stuck)


@pytest.mark.parametrize("cls", [optim.AdamW, optim.LAMB, optim.Muon, optim.AdamWScheduleFree])
def test_groups_do_not_share_a_rate_that_is_a_tensor(cls: type[torch.optim.Optimizer]) -> None:
    """pytorch 162359, 163093: a schedule fills the one tensor of all groups, which then have the last group's rate."""
    rate = torch.tensor(0.1)
    a, b, c = (nn.Parameter(torch.ones(3, 3)) for _ in range(3))
    optimizer = cls([{"params": [a]}, {"params": [b]}], lr=rate)  # type: ignore[call-arg]
    optimizer.add_param_group({"params": [c]})
    factors = [lambda k: 1.0, lambda k: 0.1, lambda k: 0.01]
    torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.1, 0.01, 0.001])
    assert float(rate) == pytest.approx(0.1)


def test_shared_rates_of_a_checkpoint_of_torch_are_parted() -> None:
    a, b = (nn.Parameter(torch.ones(3)) for _ in range(2))
    saved = torch.optim.AdamW([{"params": [a]}, {"params": [b]}], lr=torch.tensor(0.1)).state_dict()
    optimizer = optim.AdamW([{"params": [a]}, {"params": [b]}])
    optimizer.load_state_dict(saved)
    optimizer.param_groups[0]["lr"].fill_(7.0)
    assert float(optimizer.param_groups[1]["lr"]) == pytest.approx(0.1)


def test_a_single_group_keeps_the_tensor_it_was_given() -> None:
    """As in torch: whoever holds the tensor may set the rate by it."""
    rate = torch.tensor(0.1)
    w = nn.Parameter(torch.zeros(1))
    optimizer = optim.SGD([w], lr=rate)
    rate.fill_(0.5)
    w.grad = torch.ones(1)
    optimizer.step()
    assert w.item() == -0.5


def test_decoupled_decay_follows_the_schedule_of_the_rate() -> None:
    """apex 1849, optax 292: whether decay is times the rate differs between libraries. Here, as in torch, it is."""
    for cls in (optim.AdamW, optim.Lion, optim.Muon):
        w = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
        optimizer = cls([w], lr=0.1, weight_decay=0.5)
        expected = 1.0
        for rate in (0.1, 0.02, 0.3):
            optimizer.param_groups[0]["lr"] = rate
            w.grad = torch.zeros_like(w)
            optimizer.step()
            expected *= 1 - rate * 0.5
        torch.testing.assert_close(w.detach(), torch.full_like(w, expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_a_kernel_of_a_convolution_is_the_matrix_of_its_rows(adjust: str) -> None:
    """The first Muon takes a convolution's factor from its kernel's height and width: 1 here, not its matrix's."""
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(64, 2, 3, 3))
    matrix = nn.Parameter(kernel.detach().clone().flatten(1))
    for w in (kernel, matrix):
        w.grad = torch.randn(64, 18, generator=torch.Generator().manual_seed(1)).view_as(w)
        optim.Muon([w], lr=0.1, weight_decay=0.0, adjust_lr_fn=adjust).step()  # type: ignore[arg-type]
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach(), rtol=1e-6, atol=1e-7)


def test_the_first_steps_of_radam_are_those_of_momentum() -> None:
    """kozistr's RAdam skips them by default; torch's and the paper's take the averaged gradient."""
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = optim.RAdam([w], lr=0.1)
    for _ in range(5):  # the variance is tractable from the sixth step on
        w.grad = torch.full((1,), 3.0, dtype=torch.float64)
        optimizer.step()
    assert w.item() == pytest.approx(-5 * 0.1 * 3.0, rel=1e-12)
