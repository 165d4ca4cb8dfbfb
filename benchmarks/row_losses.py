"""Row-wise losses, value and gradient: against torch, over the memory floor, and against plain cross entropy.

Run: `python -m benchmarks.row_losses [--quick] [--only TEXT]`. Budget (2 cores, float32): cross entropy 3 times faster
than torch and at most 4 times the floor (8 bytes an element: read logits, write gradient) at 8192x1000 and 1024x32000,
4 times faster and 8 times the floor at 800000x10; smoothing, focal and distillation at most 1.3 times plain cross
entropy; 32x10 at most 20 microseconds over torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import arguments, compare, show
from benchmarks.store import store_rows
from trivet import losses

SHAPES = ((8192, 1000), (1024, 32000), (800_000, 10), (8, 21, 192, 192), (32, 10))
QUICK = ((256, 1000), (32, 32000), (20_000, 10), (1, 21, 96, 96), (32, 10))


def step(loss: Callable[..., Tensor], input: Tensor, target: Tensor) -> Callable[[], None]:
    leaf = input.clone().requires_grad_()

    def run() -> None:
        leaf.grad = None
        loss(leaf, target).backward()

    return run


def cases(shape: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    logits, labels = torch.randn(shape), torch.randint(shape[1], (shape[0], *shape[2:]))
    name, size = "x".join(map(str, shape)), logits.numel()
    plain = compare(
        {"trivet": step(losses.cross_entropy, logits, labels), "torch": step(F.cross_entropy, logits, labels)},
        title=f"cross entropy {name}", moved=8 * size, elements=size, baseline="torch", memory=True, rounds=rounds,
        seconds=4.0,
    )  # fmt: skip
    if size < 1000:
        return [plain]
    soft, teacher = torch.randn(shape).softmax(1), torch.randn(shape)
    smoothed = partial(losses.cross_entropy, label_smoothing=0.1)
    related = compare(
        {
            "cross entropy": step(losses.cross_entropy, logits, labels),
            "smoothed": step(smoothed, logits, labels),
            "softmax focal": step(losses.softmax_focal_loss, logits, labels),
            "probabilities": step(losses.cross_entropy, logits, soft),
            "distillation": step(partial(losses.kl_div_loss, temperature=2.0), logits, teacher),
        },
        title=f"softmax losses {name}", moved=8 * size, elements=size, baseline="cross entropy", memory=True,
        rounds=rounds, seconds=4.0,
    )  # fmt: skip
    return [plain, related]


def main() -> None:
    options = arguments(__doc__)
    for shape in QUICK if options.quick else SHAPES:
        if options.only not in "x".join(map(str, shape)):
            continue
        found = cases(shape, 5 if options.quick else 15)
        for case in found:
            show(case)
        if not options.quick:
            store_rows("row_losses", found)


if __name__ == "__main__":
    main()
