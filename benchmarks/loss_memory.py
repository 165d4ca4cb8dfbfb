"""Peak extra memory of every loss, value and gradient: how much more than the gradient itself.

Run: `python -m benchmarks.loss_memory [--quick] [--only TEXT]`. Budget: a fused loss (one that takes `backend=`) needs
the gradient and less than 1 MB more. The others are shown for comparison. Every loss runs on its example batch, with
so many rows that the input takes about 64 MB of float32 (those over all pairs: 4096 rows; region losses: maps of
256 x 256; the output layer's loss has a table of its own). Bytes are resident pages beyond those before the call
(`harness.peak_extra_bytes`); memory that a loss keeps from its last step counts as its gradient's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import arguments, peak_extra_bytes
from benchmarks.store import store_rows
from trivet import losses
from trivet.losses.examples import EXAMPLES

BYTES = 64 << 20
ROWS_OF_PAIRS = 4096


def measured(name: str, bytes: int) -> dict[str, Any]:
    """Return one loss's case: bytes of its input, and peak extra bytes beyond the gradient, the least of three."""
    example, kind = EXAMPLES[name], losses.catalogue()[name]
    per_row = 4 * example.batch(4, 1.0)[0][0].numel()
    if kind.kind == "region":
        return _case(
            name, torch.randn(bytes // (12 << 16), 3, 256, 256), torch.randint(3, (bytes // (12 << 16), 256, 256))
        )
    over_pairs = kind.kind in ("embedding", "views") and name not in ("arcface_loss", "cosface_loss")
    rows = min(bytes // per_row, ROWS_OF_PAIRS) if over_pairs else bytes // per_row
    torch.manual_seed(0)
    input, target = example.batch(rows, 1.0)
    return _case(name, input.float(), target.float() if target.is_floating_point() else target)


def _case(name: str, leaf: Tensor, target: Tensor) -> dict[str, Any]:
    kind = losses.catalogue()[name]
    loss = kind(**EXAMPLES[name].arguments)
    leaf.requires_grad_()

    def step() -> object:
        leaf.grad = None
        loss(leaf, target).backward()
        return None

    step()
    gradient = leaf.numel() * leaf.element_size()

    def alone() -> int | None:
        leaf.grad = None
        return peak_extra_bytes(step)

    seen = [found for found in (alone() for _ in range(3)) if found is not None]
    return {
        "case": name,
        "fused": "backend" in kind._hyperparameters(),
        "input_bytes": gradient,
        "beyond_the_gradient_bytes": max(0, min(seen) - gradient) if seen else None,
    }


def main() -> None:
    given = arguments(__doc__)
    cases = []
    for name in losses.catalogue():
        if given.only not in name or name == "linear_cross_entropy":
            continue
        case = measured(name, BYTES >> 5 if given.quick else BYTES)
        beyond = case["beyond_the_gradient_bytes"]
        said = "unknown here" if beyond is None else f"{beyond / 1e6:8.2f} MB beyond the gradient"
        print(f"{name:<34} {'fused' if case['fused'] else 'plain'}  {case['input_bytes'] / 1e6:6.1f} MB   {said}")
        cases.append(case)
    if not given.quick:
        store_rows("loss_memory", cases)


if __name__ == "__main__":
    main()
