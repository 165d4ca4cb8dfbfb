"""What the value and the gradient of each pointwise loss cost, beside torch's own and beside the eager formula.

Run: `python -m benchmarks.pointwise_losses [--quick] [--only TEXT]`. Budgets of the project, on two CPU cores in
float32, 8M elements: at most 3 times the floor (12 bytes an element: read input and target, write the gradient), never
slower than torch's own, 5 times faster than the formula in torch's operations where torch has none; the focal loss 10
times faster than its formula and twice as fast as torch.compile's. Nothing ran on a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import arguments, compare, show
from benchmarks.store import store_rows
from trivet import losses

LARGE = 1 << 23
SMALL = (32, 10)


def torchvision_focal(z: Tensor, t: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """The formula as torchvision writes it."""
    p = torch.sigmoid(z)
    cost = F.binary_cross_entropy_with_logits(z, t, reduction="none")
    p_t = p * t + (1 - p) * (1 - t)
    alpha_t = alpha * t + (1 - alpha) * (1 - t)
    return (alpha_t * cost * (1 - p_t) ** gamma).mean()


def asymmetric(z: Tensor, t: Tensor, clip: float = 0.05) -> Tensor:
    """The formula as its authors' code writes it, without detours through no_grad."""
    p = torch.sigmoid(z)
    no = (1 - p + clip).clamp(max=1)
    cost = t * torch.log(p.clamp(min=1e-8)) + (1 - t) * torch.log(no.clamp(min=1e-8))
    return -(cost * torch.pow(1 - p * t - no * (1 - t), 1.0 * t + 4.0 * (1 - t))).mean()


def log_cosh(x: Tensor, t: Tensor) -> Tensor:
    e = x - t
    return (e + F.softplus(-2 * e) - 0.6931471805599453).mean()


def quantile(x: Tensor, t: Tensor, tau: float = 0.9) -> Tensor:
    e = t - x
    return torch.maximum(tau * e, (tau - 1) * e).mean()


def hinge(z: Tensor, t: Tensor) -> Tensor:
    return (1 - (2 * t - 1) * z).relu().mean()


def squared_hinge(z: Tensor, t: Tensor) -> Tensor:
    return (1 - (2 * t - 1) * z).relu().square().mean()


# name -> ours, what it is measured against, and whether that is torch's own or a formula in its operations
SUBJECTS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], str]] = {
    "mse_loss": (losses.mse_loss, F.mse_loss, "torch"),
    "l1_loss": (losses.l1_loss, F.l1_loss, "torch"),
    "huber_loss": (losses.huber_loss, F.huber_loss, "torch"),
    "smooth_l1_loss": (losses.smooth_l1_loss, F.smooth_l1_loss, "torch"),
    "binary_cross_entropy_with_logits": (
        losses.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, "torch",
    ),
    "poisson_nll_loss": (losses.poisson_nll_loss, F.poisson_nll_loss, "torch"),
    "log_cosh_loss": (losses.log_cosh_loss, log_cosh, "formula"),
    "quantile_loss": (partial(losses.quantile_loss, quantile=0.9), quantile, "formula"),
    "focal_loss": (losses.focal_loss, torchvision_focal, "formula"),
    "asymmetric_loss": (losses.asymmetric_loss, asymmetric, "formula"),
    "hinge_loss": (losses.hinge_loss, hinge, "formula"),
    "squared hinge": (partial(losses.hinge_loss, squared=True), squared_hinge, "formula"),
}  # fmt: skip


def both(loss: Callable[..., Tensor], input: Tensor, target: Tensor) -> Callable[[], None]:
    """Return a call that computes value and gradient as a training step does."""

    def run() -> None:
        loss(input, target).backward()
        input.grad = None

    return run


def cases(shape: tuple[int, ...], only: str, quick: bool) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    input = torch.randn(shape, requires_grad=True)
    target = torch.rand(shape).round()
    large = input.numel() > 1 << 15
    found = []
    for name, (ours, other, kind) in SUBJECTS.items():
        fields = {kind: other}
        if name == "focal_loss" and large and not quick:
            fields["torch.compile"] = torch.compile(torchvision_focal, fullgraph=True)
        for rival, function in fields.items():
            title = f"{name} against {rival}, {' x '.join(map(str, shape))}"
            if only not in title:
                continue
            case = compare(
                {"trivet": both(ours, input, target), rival: both(function, input, target)},
                title=title, rounds=7 if quick else 15, warmup=2, seconds=8.0, baseline=rival, memory=large,
                moved=12 * input.numel() if large else None,
            )  # fmt: skip
            show(case)
            found.append(case)
    return found


def main() -> int:
    given = arguments(__doc__)
    large = (1 << 20 if given.quick else LARGE,)
    found = [case for shape in (large, SMALL) for case in cases(shape, given.only, given.quick)]
    if not given.quick:
        store_rows("pointwise_losses", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
