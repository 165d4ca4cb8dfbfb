"""Losses whose usual powers have rules of their own: the same numbers as the general rule, at every logit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trivet import losses
from trivet.losses import binary, yes_no
from trivet.losses.pointwise import Rule

LOGITS = torch.cat([torch.linspace(-60, 60, 4001), torch.tensor([-1e4, -0.0, 1e4])])
SPECIAL = {
    "focal": (losses.focal_loss, binary._focal_by_square, (0.25, 0.75), binary._focal, (2.0, 0.25, 0.75)),
    "asymmetric": (
        losses.asymmetric_loss, yes_no._asymmetric_as_published, (0.05,), yes_no._asymmetric_clipped, (4.0, 1.0, 0.05),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_the_rule_of_whole_powers_is_the_general_one(name: str, target: float) -> None:
    _, special, numbers, general, more = SPECIAL[name]
    z = LOGITS.double()
    t = torch.full_like(z, target)
    for ours, expected in zip(special(z, t, *numbers), general(z, t, *more), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("name", SPECIAL)
def test_the_kernel_of_whole_powers_agrees_with_double_precision(name: str) -> None:
    loss, special, numbers, _, _ = SPECIAL[name]
    t = (torch.arange(len(LOGITS)) % 3) / 2
    z = LOGITS.clone().requires_grad_()
    values = loss(z, t, reduction="none", backend="cpu")
    values.sum().backward()
    value, slope = special(LOGITS.double(), t.double(), *numbers)
    # Where an easy negative begins to count, p - clip loses digits, and its powers as many times more.
    torch.testing.assert_close(values.double(), value, rtol=3e-6, atol=1e-37 if name == "focal" else 1e-12)
    assert z.grad is not None
    torch.testing.assert_close(z.grad.double(), slope, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("name", SPECIAL)
def test_the_usual_powers_take_their_rule(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Rule] = []

    def note(rule: Rule, input: Tensor, *others: object, **options: object) -> Tensor:
        taken.append(rule)
        return input.sum()

    module = binary if name == "focal" else yes_no
    monkeypatch.setattr(module, "pointwise", note)
    SPECIAL[name][0](torch.zeros(2), torch.zeros(2))
    assert taken == [SPECIAL[name][1]]
