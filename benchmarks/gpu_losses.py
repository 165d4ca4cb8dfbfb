"""What the fused losses cost on a GPU, value and gradient: against torch eager, torch.compile, and a plain copy.

    python -m benchmarks.gpu_losses [--quick]

Times come from CUDA events in interleaved rounds. The floor is a copy of the logits, which moves what value and
gradient must move at least: the logits once, the gradient once. Each kernel's gradient is also compared with the plain
form's in double precision. Without a GPU it says so and stores nothing.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu_optimizers import launches, milliseconds
from benchmarks.region_losses import eager_dice
from benchmarks.store import store
from trivet import losses

ROUNDS = 30


class Case(NamedTuple):
    """A loss of ours, torch's operations for the same, and the logits."""

    title: str
    ours: Callable[..., Tensor]
    eager: Callable[[Tensor], Tensor]
    input: Tensor


def eager_focal(target: Tensor, gamma: float, input: Tensor) -> Tensor:
    cost = F.cross_entropy(input, target, reduction="none")
    return ((1 - torch.exp(-cost)) ** gamma * cost).mean()


def eager_divergence(teacher: Tensor, input: Tensor) -> Tensor:
    p, q = ((x.float() / 2).log_softmax(1) for x in (input, teacher))
    return 4 * F.kl_div(p, q, log_target=True, reduction="batchmean")


def eager_sigmoid_focal(target: Tensor, input: Tensor) -> Tensor:
    cost = F.binary_cross_entropy_with_logits(input, target, reduction="none")
    p = input.sigmoid()
    wrong = p * (1 - target) + (1 - p) * target
    return ((0.25 * target + 0.75 * (1 - target)) * wrong**2 * cost).mean()


def cases(quick: bool) -> Iterator[Case]:
    """Yield one case at a time, so that one batch of logits lies on the GPU."""
    shrink = 16 if quick else 1
    rows = [(8192, 1000, torch.float32), (4096, 32_000, torch.float32), (4096, 128_256, torch.bfloat16)]
    for count, classes, dtype in [*rows, (800_000, 10, torch.float32)]:
        x = torch.randn(count // shrink, classes, device="cuda").to(dtype)
        t = torch.randint(classes, (len(x),), device="cuda")
        name = f"{len(x)}x{classes} {str(dtype).removeprefix('torch.')}"
        entropy = losses.cross_entropy
        yield Case(f"cross entropy {name}", partial(entropy, target=t), partial(F.cross_entropy, target=t), x)
        smoothed = {"target": t, "label_smoothing": 0.1}
        yield Case(f"smoothed {name}", partial(entropy, **smoothed), partial(F.cross_entropy, **smoothed), x)
        focal = partial(losses.softmax_focal_loss, target=t, gamma=2.0)
        yield Case(f"softmax focal {name}", focal, partial(eager_focal, t, 2.0), x)
        if dtype == torch.float32:
            teacher = torch.randn_like(x)
            ours = partial(losses.kl_div_loss, target=teacher, temperature=2.0)
            yield Case(f"distillation {name}", ours, partial(eager_divergence, teacher), x)
    x = torch.randn(8, 21, 192 // (4 if quick else 1), 192, device="cuda")
    t = torch.randint(21, (8, *x.shape[2:]), device="cuda")
    for dtype in (torch.float32, torch.bfloat16):
        name = f"{'x'.join(map(str, x.shape))} {str(dtype).removeprefix('torch.')}"
        logits = x.to(dtype)
        yield Case(f"dice {name}", partial(losses.dice_loss, target=t), lambda z: eager_dice(z.float(), t), logits)
        yield Case(
            f"cross entropy {name}",
            partial(losses.cross_entropy, target=t),
            partial(F.cross_entropy, target=t),
            logits,
        )
    x = torch.randn(8_000_000 // shrink, device="cuda")
    t = (torch.rand_like(x) < 0.1).float()
    yield Case(f"focal {x.numel()}", partial(losses.focal_loss, target=t), partial(eager_sigmoid_focal, t), x)


def step(loss: Callable[[Tensor], Tensor], input: Tensor) -> Callable[[], None]:
    leaf = input.clone().requires_grad_()

    def run() -> None:
        leaf.grad = None
        loss(leaf).backward()

    return run


def difference(case: Case) -> float:
    """Return how far the kernel's gradient is from the plain form's in double precision, over the largest of it."""
    part = case.input[:256] if case.input.ndim == 2 else case.input
    keywords = {
        key: value[: len(part)] if isinstance(value, Tensor) else value
        for key, value in case.ours.keywords.items()  # type: ignore[attr-defined]
    }
    loss = case.ours.func  # type: ignore[attr-defined]
    gradients = []
    for x, backend in ((part, "triton"), (part.double(), "torch")):
        leaf = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(loss(leaf, **keywords, backend=backend), leaf)[0].double())
    return float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max())


def extra_bytes(run: Callable[[], None]) -> int:
    """Return the peak of what a step allocates."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measured(case: Case) -> list[dict[str, object]]:
    """Return a row for each contender: median and quartiles of milliseconds, ratios to eager and to the copy."""
    x = case.input
    room = torch.empty_like(x)
    torch._dynamo.reset()
    compiled = torch.compile(case.eager)
    contenders: dict[str, Callable[[], object]] = {
        "trivet": step(partial(case.ours, backend="triton"), x),
        "torch": step(case.eager, x),
        "torch.compile": step(compiled, x),
        "plain copy": lambda: room.copy_(x),
    }
    for run in contenders.values():
        for _ in range(3):
            run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(ROUNDS):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(milliseconds(contenders[name]))
    rows: list[dict[str, object]] = []
    for name, run in contenders.items():
        low, median, high = statistics.quantiles(times[name], n=4)
        over = {
            what: statistics.median(a / b for a, b in zip(times[name], times[other], strict=True))
            for what, other in (("of_torch", "torch"), ("of_floor", "plain copy"))
        }
        row: dict[str, object] = {"case": case.title, "name": name, "median_ms": median, "low_ms": low, "high_ms": high}
        rows.append(row | over | {"kernels": launches(run), "extra_bytes": extra_bytes(run)})  # type: ignore[arg-type]
    rows[0]["difference"] = difference(case)
    return rows


def main() -> None:
    """Measure every case, print a table and store it."""
    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured and nothing was stored")
        return
    quick = "--quick" in sys.argv
    print(f"{'':34} {'':14} {'ms':>9} {'of torch':>9} {'of copy':>8} {'kernels':>7} {'MB':>8} difference")
    rows = []
    for case in cases(quick):
        for row in measured(case):
            rows.append(row)
            shown = f"{row['median_ms']:9.3f} {row['of_torch']:9.2f} {row['of_floor']:8.2f} {row['kernels']:7}"
            print(f"{row['case']:34} {row['name']:14} {shown} {int(str(row['extra_bytes'])) / 1e6:8.1f}", end=" ")
            print(f"{row['difference']:.1e}" if "difference" in row else "")
        torch.cuda.empty_cache()
    if not quick:
        store("gpu_losses", {"gpu": torch.cuda.get_device_name(), "rounds": ROUNDS, "rows": rows})


if __name__ == "__main__":
    main()
