"""The output layer and its cross entropy in one, beside the two steps, in time, memory and value.

Run: `python -m benchmarks.linear_cross_entropy [--quick] [--only TEXT]`. Budgets of the project for 1024 tokens, 256
features and 32000 classes, value and gradients, on two CPU cores: no more time than the eager two steps, at most a
third of their peak extra memory. In bfloat16 the value is compared with float64's: torch 2.13 adds the chunks of its
own fused form up in bfloat16. Nothing ran on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness import arguments, compare, show
from benchmarks.store import store_rows
from trivet.losses import linear_cross_entropy

Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def two_steps(hidden: Tensor, output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, output), target)


def torch_chunked(hidden: Tensor, output: Tensor, target: Tensor) -> Tensor:
    return F.linear_cross_entropy(hidden, output, target, options=nn.LinearCrossEntropyOptions())


def products(hidden: Tensor, output: Tensor, target: Tensor) -> Callable[[], object]:
    """The three matrix products alone."""

    def run() -> object:
        with torch.no_grad():
            logits = F.linear(hidden, output)
            return logits @ output, logits.T @ hidden

    return run


FORMS: dict[str, Form] = {
    "linear, then cross entropy": two_steps,
    "trivet": linear_cross_entropy,
    "torch chunked": torch_chunked,
}


def problem(tokens: int, features: int, classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, features, generator=generator).to(dtype).requires_grad_()
    output = (0.05 * torch.randn(classes, features, generator=generator)).to(dtype).requires_grad_()
    return hidden, output, torch.randint(classes, (tokens,), generator=generator)


def measured(tokens: int, features: int, classes: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return one case: times and memory of all forms, and how far each value lies from float64's."""
    hidden, output, target = problem(tokens, features, classes, dtype)

    def step(form: Form) -> Callable[[], object]:
        return lambda: torch.autograd.grad(form(hidden, output, target), (hidden, output))

    title = f"{tokens} tokens, {features} features, {classes} classes, {str(dtype).removeprefix('torch.')}"
    contenders = {name: step(form) for name, form in FORMS.items()}
    contenders["its matrix products"] = products(hidden, output, target)
    case = compare(contenders, title=title, rounds=11, warmup=1, baseline=next(iter(FORMS)), memory=True)
    with torch.no_grad():
        true = two_steps(hidden.double(), output.double(), target).item()
        case["value_errors"] = {
            name: form(hidden, output, target).item() / true - 1 for name, form in FORMS.items() if name in FORMS
        }
    return case


def main() -> None:
    given = arguments(__doc__)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        if given.only in str(dtype):
            case = measured(*((128, 64, 4000) if given.quick else (1024, 256, 32000)), dtype)
            show(case)
            print("  value off by " + ", ".join(f"{name} {error:+.1e}" for name, error in case["value_errors"].items()))
            rows.append(case)
    if not given.quick:
        store_rows("linear_cross_entropy", rows)


if __name__ == "__main__":
    main()
