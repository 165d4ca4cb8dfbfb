"""What the tests of the GPU's row and region kernels run in a process of their own: see `gpu_worker.py`.

`python gpu_loss_worker.py interpret OUT` runs all cases in Triton's interpreter, `compile OUT` compiles kernels for two
generations of GPUs that need not be there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

CAPABILITIES = (80, 90)
COMPILED = (
    "rows short, each",
    "rows short, smoothed",
    "rows of two tiles",
    "rows of two tiles, teacher",
    "rows apart, shares",
    "rows apart of two tiles",
    "rows torch.float64",
    "rows torch.bfloat16",
    "teacher torch.float16",
    "mixed torch.bfloat16",
    "rows of two tiles, mixed",
    "mixed and masked",
    "focal",
    "margins",
    "images apart",
    "images of one class, squared",
    "images short, shares",
    "images of many classes",
    "images torch.bfloat16",
)  # every branch of every kernel at least once: a kernel takes half a second for each generation


class Case(NamedTuple):
    """A loss of logits, `loss(x, backend=...)`, and what comes from above."""

    loss: Callable[..., Tensor]
    x: Tensor
    above: float = 3.0


def _draw(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _batch(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    logits = (3 * torch.randn(shape, generator=_draw())).to(dtype)
    labels = torch.randint(max(2, shape[1]), (shape[0], *shape[2:]), generator=_draw(6))
    labels.view(-1)[::4] = -100
    return logits, labels if shape[1] > 1 else labels.clamp_max(0)


ROWS = {
    "short": (50, 7),
    "long": (9, 300),
    "of two tiles": (2, 20_000),
    "apart": (3, 7, 5, 11),
    "apart of two tiles": (1, 600, 3, 20),
    "of one class": (20, 1),
}
IMAGES = {
    "apart": (2, 5, 23, 31),
    "short": (4, 3),
    "of one class": (2, 1, 40),
    "of many tiles": (1, 4, 100, 90),
    "of many classes": (1, 300, 9, 9),
}


def row_cases() -> dict[str, Case]:
    """Return every softmax loss, over every form of rows and every option."""
    from trivet import losses

    cases: dict[str, Case] = {}
    for name, shape in ROWS.items():
        x, t = _batch(shape)
        soft, weight = torch.rand(shape, generator=_draw(1)).softmax(1), torch.linspace(0.2, 2, shape[1])
        entropy, options = losses.cross_entropy, {"weight": weight, "label_smoothing": 0.2}
        cases |= {
            f"rows {name}": Case(partial(entropy, target=t), x),
            f"rows {name}, each": Case(partial(entropy, target=t, reduction="none"), x),
            f"rows {name}, smoothed": Case(partial(entropy, target=t, **options), x),
            f"rows {name}, shares": Case(partial(entropy, target=soft, **options), x),
            f"rows {name}, teacher": Case(partial(losses.kl_div_loss, target=2 * x.flip(0), temperature=2.0), x),
        }
    x, t = _batch(ROWS["short"])
    counts, weight = torch.arange(7) ** 2, torch.rand(50, generator=_draw(2)).round(decimals=1)
    cases |= {
        "focal": Case(partial(losses.softmax_focal_loss, target=t, gamma=1.5), x),
        "generalized": Case(partial(losses.generalized_cross_entropy_loss, target=t), x),
        "symmetric": Case(partial(losses.symmetric_cross_entropy_loss, target=t), x),
        "adjusted": Case(partial(losses.logit_adjusted_loss, target=t.clamp(0), counts=counts + 1), x),
        "margins": Case(partial(losses.ldam_loss, target=t, counts=counts, scale=2.0), x),
        "keras": Case(partial(losses.softmax_focal_loss, target=t, weight=counts / 9, convention="keras"), x),
        "monai": Case(partial(losses.softmax_focal_loss, target=t, convention="monai"), x),
        "torch's kl": Case(partial(losses.kl_div_loss, target=x.flip(0), mask=t > 0, convention="torch"), x),
        "sum of weighted": Case(partial(losses.cross_entropy, target=t, reduction="sum", sample_weight=weight), x),
        "mean of weighted": Case(partial(losses.cross_entropy, target=t, sample_weight=weight), x),
        "all ignored": Case(partial(losses.cross_entropy, target=torch.full_like(t, -100)), x),
        "empty": Case(partial(losses.cross_entropy, target=t[:0]), x[:0]),
        "strided": Case(partial(losses.cross_entropy, target=t), torch.stack([x, x], -1)[..., 0]),
        "int32 labels": Case(partial(losses.cross_entropy, target=t.int()), x),
        "far apart": Case(partial(losses.cross_entropy, target=t.clamp(0)), 3e3 * x),
        "large": Case(partial(losses.cross_entropy, target=torch.arange(4096) % 8), _batch((4096, 8))[0]),
    }
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        x, t = _batch(ROWS["short"], dtype)
        cases[f"rows {dtype}"] = Case(partial(losses.cross_entropy, target=t), x, 6e4)
        cases[f"teacher {dtype}"] = Case(partial(losses.kl_div_loss, target=x.flip(0)), x)
        cases[f"mixed {dtype}"] = Case(partial(losses.jensen_shannon_loss, target=2 * x.flip(0)), x)
    for name, shape in ROWS.items():
        x = _batch(shape)[0]
        mixed = partial(losses.jensen_shannon_loss, target=2 * x.flip(0), beta=0.3, temperature=2.0)
        cases[f"rows {name}, mixed"] = Case(mixed, x)
    x = _batch((9, 9))[0]
    cases["mixed, each"] = Case(partial(losses.jensen_shannon_loss, target=x.flip(0), reduction="none"), x.T)
    x, t = _batch(ROWS["apart"])
    cases["mixed and masked"] = Case(partial(losses.jensen_shannon_loss, target=x.flip(0), mask=t > 1), x)
    x, t = _batch((4, 7, 4, 6))
    last = x.to(memory_format=torch.channels_last)
    cases["rows last"] = Case(partial(losses.cross_entropy, target=t, sample_weight=torch.arange(4.0)), last)
    for classes in (9, 20_000):
        x, t = _batch((6, classes))
        x[:, 5:] = -torch.inf
        x[:, 0] -= 20
        soft = torch.rand(6, classes, generator=_draw(3)) * (x > -torch.inf)
        cases[f"masked {classes}"] = Case(partial(losses.cross_entropy, target=t.clamp(0, 4), label_smoothing=0.1), x)
        cases[f"masked {classes}, shares"] = Case(partial(losses.cross_entropy, target=soft), x)
        cases[f"masked {classes}, teacher"] = Case(partial(losses.kl_div_loss, target=x.flip(0)), x)
    return cases


def region_cases() -> dict[str, Case]:
    """Return every region loss, over every form of images and every option."""
    from trivet import losses

    cases: dict[str, Case] = {}
    for name, shape in IMAGES.items():
        x, t = _batch(shape)
        soft = torch.rand(shape, generator=_draw(1))
        mask = torch.rand(shape[:1] + shape[2:], generator=_draw(2)) > 0.3
        cases |= {
            f"images {name}": Case(partial(losses.dice_loss, target=t, reduction="none"), x),
            f"images {name}, squared": Case(partial(losses.dice_loss, target=t, convention="vnet", mask=mask), x),
            f"images {name}, shares": Case(partial(losses.focal_tversky_loss, target=soft, mask=mask), x),
            f"images {name}, multilabel": Case(partial(losses.jaccard_loss, target=soft > 0.5, multilabel=True), x),
        }
    x, t = _batch(IMAGES["apart"])
    last = x.to(memory_format=torch.channels_last)
    cases |= {
        "tversky": Case(partial(losses.tversky_loss, target=t, alpha=0.3, beta=0.7), x),
        "batch": Case(partial(losses.jaccard_loss, target=t, pooling="batch", classes="present"), x),
        "smp": Case(partial(losses.dice_loss, target=t, convention="smp"), x),
        "no pixel": Case(partial(losses.dice_loss, target=torch.full_like(t, -100)), x),
        "no image": Case(partial(losses.dice_loss, target=t[:0]), x[:0]),
        "images last": Case(partial(losses.dice_loss, target=t), last),
        "images strided": Case(partial(losses.dice_loss, target=t), torch.stack([x, x], -1)[..., 0]),
    }
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        x, t = _batch(IMAGES["apart"], dtype)
        cases[f"images {dtype}"] = Case(partial(losses.dice_loss, target=t), x, 1e3)
    x, t = _batch(IMAGES["apart"])
    x.movedim(1, -1)[t == -100] = torch.nan
    cases["images with holes"] = Case(partial(losses.dice_loss, target=t), x)
    return cases


def evaluated(case: Case, backend: str, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return value and gradient of a case."""
    leaf = (case.x if x is None else x).detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = case.loss(leaf, backend=backend)
    return value.detach(), torch.autograd.grad(case.above * value.sum(), leaf)[0]


def _edges() -> dict[str, Any]:
    """What is said of single values: what a NaN and a wrong label give, and gradients taken again."""
    from trivet import losses

    found: dict[str, Any] = {}
    for name, (x, t) in {"rows": _batch((6, 9)), "images": _batch((2, 5, 4, 6))}.items():
        loss = losses.cross_entropy if name == "rows" else losses.dice_loss
        spoiled, wrong = x.clone(), t.clone()
        spoiled.movedim(1, -1).reshape(-1, x.shape[1])[1, 2] = torch.nan
        spoiled.view(-1)[spoiled.numel() // 2] = torch.nan
        wrong.view(-1)[-1] = x.shape[1]
        found[f"{name} nan"] = loss(spoiled, t.clamp(0), backend="triton")
        found[f"{name} wrong"] = loss(x, wrong, backend="triton")
        leaf = x.clone().requires_grad_()
        value = loss(leaf, t, backend="triton")
        found[f"{name} again"] = [torch.autograd.grad(2 * value, leaf, retain_graph=True)[0].clone() for _ in range(3)]
        (first,) = torch.autograd.grad(value, leaf, create_graph=True)
        found[f"{name} twice"] = torch.autograd.grad(first.square().sum(), leaf)[0]
    x, t = _batch((6, 9))
    found["empty nan"] = losses.cross_entropy(x, torch.full_like(t, -100), empty="nan", backend="triton")
    return found


def _compiled() -> dict[str, str]:
    """Compile what would be launched, and refuse whatever waits for a device, in every case."""
    import gpu_worker

    from trivet.kernels import gpu

    def waits(*_: object) -> None:
        raise AssertionError("a value was asked for, which on a GPU waits for it")

    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        setattr(Tensor, name, waits)
    compiler = gpu_worker.Compiler(*CAPABILITIES)
    compiler.install()
    for name, case in {**row_cases(), **region_cases()}.items():
        compiler.case = f"{name}:"
        gpu.launch = compiler.launch if name in COMPILED else _nothing  # type: ignore[assignment]
        evaluated(case, "triton")
    return compiler.found


def _nothing(kernel: object, programs: int, *arguments: object, like: Tensor, **constants: object) -> None:
    """Stand in for a launch whose kernel is not compiled here."""


def main(what: str, out: str) -> None:
    """Run every case and store what it gave."""
    if what == "interpret":
        found: dict[str, Any] = {name: evaluated(case, "triton") for name, case in row_cases().items()}
        found |= {name: evaluated(case, "triton") for name, case in region_cases().items()}
        found |= _edges()
    else:
        found = _compiled()
    torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
