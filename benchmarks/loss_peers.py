"""Losses beside their counterparts in other libraries: errors against float64, extreme inputs included, and times.

Run: `python -m benchmarks.loss_peers [--quick] [--only TEXT]`, in an environment of its own beside the one that has
trivet, since some of these libraries ask for another torch:

    pip install --no-deps monai kornia kornia-rs pytorch-metric-learning segmentation-models-pytorch timm
    pip install --no-deps keras absl-py namex h5py optree ml-dtypes

A library that is absent is left out and said. Each peer is called in its own convention, and trivet with the
`convention=` that asks for it. Errors are relative to the formula of that convention in float64, written out here in
log space; inputs are float32: "ordinary" is a spread of 2, "extreme" one of 50, "half" bfloat16. A gradient's error is
the norm of the difference over the norm. Times are of value and gradient. Nothing ran on a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import arguments, compare, show
from benchmarks.store import store_rows
from trivet import losses

os.environ.setdefault("KERAS_BACKEND", "torch")
Loss = Callable[[Tensor, Tensor], Tensor]
Batch = Callable[[float, bool], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Case:
    """One loss of one library, ours that agrees with it, and the formula of both."""

    title: str
    library: str
    ours: Loss
    theirs: Callable[[ModuleType], Loss]
    formula: Loss
    batch: Batch


def library(name: str) -> ModuleType | None:
    """Return the losses of a library, without the rest of a package that needs what is not here (torchvision)."""
    package, part = LIBRARIES[name]
    warnings.simplefilter("ignore")
    try:
        if part and name in ("segmentation-models-pytorch", "timm"):
            return _alone(package, part)
        return importlib.import_module(f"{package}.{part}" if part else package)
    except ImportError:
        return None


LIBRARIES = {
    "keras": ("keras", "losses"),
    "kornia": ("kornia", "losses"),
    "monai": ("monai", "losses"),
    "pytorch-metric-learning": ("pytorch_metric_learning", "losses"),
    "segmentation-models-pytorch": ("segmentation_models_pytorch", "losses"),
    "timm": ("timm", "loss"),
}


def _alone(package: str, part: str) -> ModuleType:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(package)
    folder = f"{found.submodule_search_locations[0]}/{part}"
    name = f"{package}_{part}"
    spec = importlib.util.spec_from_file_location(name, f"{folder}/__init__.py", submodule_search_locations=[folder])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def answers(size: float, large: bool) -> tuple[Tensor, Tensor]:
    shape = (4096, 256) if large else (64, 8)
    return size * torch.randn(shape), (torch.rand(shape) < 0.2).float()


def maps(size: float, large: bool) -> tuple[Tensor, Tensor]:
    shape = (8, 8, 96, 96) if large else (3, 4, 12, 12)
    return size * torch.randn(shape), torch.randint(shape[1], (shape[0], *shape[2:]))


def rows(size: float, large: bool) -> tuple[Tensor, Tensor]:
    shape = (8192, 100) if large else (64, 10)
    return size * torch.randn(shape), torch.randint(shape[1], shape[:1])


def numbers(size: float, large: bool) -> tuple[Tensor, Tensor]:
    shape = (1 << 20,) if large else (200,)
    return size * torch.randn(shape), size * torch.randn(shape)


def vectors(size: float, large: bool) -> tuple[Tensor, Tensor]:
    shape = (512, 64) if large else (24, 6)
    return size * torch.randn(shape), torch.arange(shape[0]) % (shape[0] // 4)


def two_views(size: float, large: bool) -> tuple[Tensor, Tensor]:
    x, y = vectors(size, large)
    return x, torch.arange(len(y) // 2).repeat(2)


def _one_hot(t: Tensor, classes: int) -> Tensor:
    return F.one_hot(t, classes).movedim(-1, 1).double()


# The formulas, in float64 and in log space. Their gradients are autograd's.


def focal(z: Tensor, t: Tensor, gamma: float = 2.0) -> Tensor:
    log_p, log_q = F.logsigmoid(z), F.logsigmoid(-z)
    return -(0.25 * t * (gamma * log_q).exp() * log_p + 0.75 * (1 - t) * (gamma * log_p).exp() * log_q).mean()


def softmax_focal(z: Tensor, t: Tensor, gamma: float = 2.0) -> Tensor:
    log_p = z.log_softmax(1).gather(1, t[:, None])
    others = z.scatter(1, t[:, None], -torch.inf).logsumexp(1, keepdim=True) - z.logsumexp(1, keepdim=True)
    return -((gamma * others).exp() * log_p).mean()


def _masses(z: Tensor, t: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    p, y = z.softmax(1), _one_hot(t, z.shape[1])
    return (p * y).sum(axes), p.sum(axes), y.sum(axes)


def dice(z: Tensor, t: Tensor) -> Tensor:
    shared, predicted, true = _masses(z, t, (2, 3))
    return (1 - (2 * shared + 1e-5) / (predicted + true + 1e-5)).mean()


def dice_of_the_batch(z: Tensor, t: Tensor) -> Tensor:
    shared, predicted, true = _masses(z, t, (0, 2, 3))
    return (1 - 2 * shared / (predicted + true)).mean()


def dice_of_all(z: Tensor, t: Tensor) -> Tensor:
    shared, predicted, true = _masses(z, t, (0, 1, 2, 3))
    return 1 - 2 * shared / (predicted + true)


def tversky(z: Tensor, t: Tensor, alpha: float = 0.3, beta: float = 0.7) -> Tensor:
    shared, predicted, true = _masses(z, t, (2, 3))
    return (1 - (shared + 1e-5) / (shared + alpha * (predicted - shared) + beta * (true - shared) + 1e-5)).mean()


def tversky_of_the_batch(z: Tensor, t: Tensor) -> Tensor:
    shared, predicted, true = _masses(z, t, (0, 2, 3))
    return (1 - shared / (shared + 0.3 * (predicted - shared) + 0.7 * (true - shared))).mean()


def lovasz(z: Tensor, t: Tensor) -> Tensor:
    p, parts = z.softmax(1).movedim(1, 0).flatten(1), []
    for k in range(len(p)):
        foreground = (t.flatten() == k).double()
        if not foreground.sum():
            continue
        errors, order = (foreground - p[k]).abs().sort(descending=True)
        y = foreground[order]
        jaccard = 1 - (y.sum() - y.cumsum(0)) / (y.sum() + (1 - y).cumsum(0))
        parts.append((errors * torch.diff(jaccard, prepend=jaccard.new_zeros(1))).sum())
    return torch.stack(parts).mean()


def nt_xent(z: Tensor, t: Tensor, temperature: float = 0.07) -> Tensor:
    u = F.normalize(z)
    scores = (u @ u.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(scores, torch.arange(len(z)).roll(len(z) // 2))


def sup_con(z: Tensor, t: Tensor) -> Tensor:
    u, own = F.normalize(z), torch.eye(len(z), dtype=torch.bool)
    log_p = (u @ u.T / 0.1).masked_fill(own, -torch.inf).log_softmax(1)
    same = (t[:, None] == t) & ~own
    return -(torch.where(same, log_p, 0).sum(1) / same.sum(1)).mean()


def triplets(z: Tensor, t: Tensor) -> Tensor:
    u = F.normalize(z)
    d = (u[:, None] - u).square().sum(-1).clamp_min(1e-24).sqrt()
    same, own = t[:, None] == t, torch.eye(len(z), dtype=torch.bool)
    gaps = d[:, :, None] - d[:, None, :] + 0.05
    values = gaps[(same & ~own)[:, :, None] & ~same[:, None, :]].relu()
    return values[values > 0].mean()


def arcface(z: Tensor, t: Tensor, prototypes: Tensor) -> Tensor:
    cosine = F.normalize(z) @ F.normalize(prototypes.double()).T
    turned = torch.cos(torch.acos(cosine) + torch.deg2rad(torch.tensor(28.6, dtype=torch.float64)))
    own = F.one_hot(t, len(prototypes)).bool()
    return F.cross_entropy(64 * torch.where(own, turned, cosine), t)


def asymmetric(z: Tensor, t: Tensor) -> Tensor:
    p, log_p = z.sigmoid(), F.logsigmoid(z)
    shifted = (p - 0.05).clamp_min(0)
    return -(t * (1 - p) * log_p + (1 - t) * shifted**4 * torch.log1p(-shifted)).sum()


def smoothed(z: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(z, t, label_smoothing=0.1)


def log_cosh(x: Tensor, t: Tensor) -> Tensor:
    e = (x - t).abs()
    return (e + torch.log1p(torch.exp(-2 * e)) - torch.log(torch.tensor(2.0, dtype=torch.float64))).mean()


_PROTOTYPES = F.normalize(torch.randn(128, 64, generator=torch.Generator().manual_seed(5)))


def _arcface_of_pml(module: ModuleType) -> Loss:
    def loss(z: Tensor, t: Tensor) -> Tensor:
        count, size = len(torch.unique(t)), z.shape[1]
        made = module.ArcFaceLoss(count, size, margin=28.6, scale=64)
        made.W.data = _PROTOTYPES[:count, :size].T.clone().to(z.dtype)
        return made(z, t)  # type: ignore[no-any-return]

    return loss


def _prototypes_for(z: Tensor, t: Tensor) -> Tensor:
    return _PROTOTYPES[: len(torch.unique(t)), : z.shape[1]]


def _halves(z: Tensor, t: Tensor) -> Tensor:
    return losses.nt_xent_loss(*z.chunk(2), temperature=0.07)


CASES = (
    Case(
        "focal loss", "monai", losses.focal_loss,
        lambda m: m.FocalLoss(gamma=2.0, alpha=0.25), focal, answers,
    ),
    Case(
        "focal loss of gamma 0.5", "monai", partial(losses.focal_loss, gamma=0.5),
        lambda m: m.FocalLoss(gamma=0.5, alpha=0.25), partial(focal, gamma=0.5), answers,
    ),
    Case(
        "focal loss", "kornia", losses.focal_loss,
        lambda m: m.BinaryFocalLossWithLogits(0.25, 2.0, "mean"), focal, answers,
    ),
    Case(
        "focal loss", "segmentation-models-pytorch", losses.focal_loss,
        lambda m: m.FocalLoss("binary", alpha=0.25), focal, answers,
    ),
    Case(
        "focal loss", "keras", losses.focal_loss,
        lambda m: lambda z, t: m.binary_focal_crossentropy(
            t, z, apply_class_balancing=True, from_logits=True
        ).mean(),
        focal, answers,
    ),
    Case(
        "softmax focal loss", "monai", partial(losses.softmax_focal_loss, convention="monai"),
        lambda m: m.FocalLoss(use_softmax=True, to_onehot_y=True), lambda z, t: softmax_focal(z, t) / z.shape[1], rows,
    ),
    Case(
        "softmax focal loss of gamma 0.5", "monai",
        partial(losses.softmax_focal_loss, gamma=0.5, convention="monai"),
        lambda m: m.FocalLoss(use_softmax=True, to_onehot_y=True, gamma=0.5),
        lambda z, t: softmax_focal(z, t, gamma=0.5) / z.shape[1], rows,
    ),
    Case(
        "softmax focal loss", "segmentation-models-pytorch", losses.softmax_focal_loss,
        lambda m: m.FocalLoss("multiclass"), softmax_focal, rows,
    ),
    Case(
        "softmax focal loss", "keras", losses.softmax_focal_loss,
        lambda m: lambda z, t: m.categorical_focal_crossentropy(
            F.one_hot(t, z.shape[1]).to(z.dtype), z, alpha=1.0, from_logits=True
        ).mean(),
        softmax_focal, rows,
    ),
    Case(
        "asymmetric loss", "timm", partial(losses.asymmetric_loss, reduction="sum"),
        lambda m: m.AsymmetricLossMultiLabel(reduction="sum"), asymmetric, answers,
    ),
    Case(
        "smoothed cross entropy", "timm", partial(losses.cross_entropy, label_smoothing=0.1),
        lambda m: m.LabelSmoothingCrossEntropy(0.1), smoothed, rows,
    ),
    Case(
        "smoothed cross entropy", "segmentation-models-pytorch", partial(losses.cross_entropy, label_smoothing=0.1),
        lambda m: m.SoftCrossEntropyLoss(smooth_factor=0.1), smoothed, rows,
    ),
    Case(
        "log-cosh loss", "keras", losses.log_cosh_loss,
        lambda m: lambda x, t: m.log_cosh(t, x).mean(), log_cosh, numbers,
    ),
    Case(
        "Dice loss", "monai", partial(losses.dice_loss, convention="monai"),
        lambda m: lambda z, t: m.DiceLoss(softmax=True, to_onehot_y=True)(z, t[:, None]), dice, maps,
    ),
    Case(
        "Dice loss", "segmentation-models-pytorch", partial(losses.dice_loss, convention="smp"),
        lambda m: m.DiceLoss("multiclass"), dice_of_the_batch, maps,
    ),
    Case(
        "Dice loss", "keras", partial(losses.dice_loss, convention="keras", smooth=0.0),
        lambda m: lambda z, t: m.dice(F.one_hot(t, z.shape[1]).movedim(-1, 1).to(z.dtype), z.softmax(1)),
        dice_of_all, maps,
    ),
    Case(
        "Tversky loss", "monai", partial(losses.tversky_loss, alpha=0.3, beta=0.7, convention="monai"),
        lambda m: lambda z, t: m.TverskyLoss(softmax=True, to_onehot_y=True, alpha=0.3, beta=0.7)(z, t[:, None]),
        tversky, maps,
    ),
    Case(
        "Tversky loss", "segmentation-models-pytorch",
        partial(losses.tversky_loss, alpha=0.3, beta=0.7, convention="smp"),
        lambda m: m.TverskyLoss("multiclass", alpha=0.3, beta=0.7), tversky_of_the_batch, maps,
    ),
    Case(
        "Lovasz loss", "segmentation-models-pytorch", losses.lovasz_loss,
        lambda m: m.LovaszLoss("multiclass"), lovasz, maps,
    ),
    Case("Lovasz loss", "kornia", losses.lovasz_loss, lambda m: m.lovasz_softmax_loss, lovasz, maps),
    Case("NT-Xent of T 0.07", "pytorch-metric-learning", _halves, lambda m: m.NTXentLoss(0.07), nt_xent, two_views),
    Case(
        "NT-Xent of T 0.005", "pytorch-metric-learning",
        lambda z, t: losses.nt_xent_loss(*z.chunk(2), temperature=0.005),
        lambda m: m.NTXentLoss(0.005), partial(nt_xent, temperature=0.005), two_views,
    ),
    Case(
        "supervised contrastive loss", "pytorch-metric-learning", losses.supervised_contrastive_loss,
        lambda m: m.SupConLoss(0.1), sup_con, vectors,
    ),
    Case(
        "triplet loss", "pytorch-metric-learning", partial(losses.triplet_loss, convention="pml", margin=0.05),
        lambda m: m.TripletMarginLoss(0.05), triplets, vectors,
    ),
    Case(
        "ArcFace", "pytorch-metric-learning",
        lambda z, t: losses.arcface_loss(z, t, prototypes=_prototypes_for(z, t), margin=28.6, convention="pml"),
        _arcface_of_pml, lambda z, t: arcface(z, t, _prototypes_for(z, t)), vectors,
    ),
)  # fmt: skip
INPUTS = (("ordinary", 2.0, torch.float32), ("extreme", 50.0, torch.float32), ("half", 2.0, torch.bfloat16))


def errors(loss: Loss, formula: Loss, x: Tensor, t: Tensor) -> dict[str, float | str]:
    """Return how far value and gradient lie from the formula's; NaN is said as such."""
    t = t.to(x.dtype) if t.is_floating_point() else t
    leaf, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    true = formula(wide, t.double() if t.is_floating_point() else t)
    (true_gradient,) = torch.autograd.grad(true, wide)
    try:
        value = loss(leaf, t)
        (gradient,) = torch.autograd.grad(value, leaf)
    except (RuntimeError, ValueError, TypeError) as error:
        return {"value": f"raises {type(error).__name__}", "gradient": "none"}
    norm = true_gradient.norm().clamp_min(1e-300)
    return {
        "value": _number(abs(value.double() - true) / abs(true).clamp_min(1e-300)),
        "gradient": _number((gradient.double() - true_gradient).norm() / norm),
    }


def _number(value: Tensor) -> float | str:
    return float(value.detach()) if value.isfinite() else "NaN or infinite"


def measured(case: Case, module: ModuleType, quick: bool) -> dict[str, Any]:
    """Return one case: errors of both on every kind of input, and the times of both."""
    torch.manual_seed(0)
    theirs = case.theirs(module)
    found = {
        name: {"trivet": errors(case.ours, case.formula, x, t), case.library: errors(theirs, case.formula, x, t)}
        for name, size, dtype in INPUTS
        for x, t in [[part.to(dtype) if k == 0 else part for k, part in enumerate(case.batch(size, False))]]
    }
    x, t = case.batch(2.0, not quick)
    leaf = x.requires_grad_()

    def step(loss: Loss) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(leaf, t), leaf)

    result = compare(
        {"trivet": step(case.ours), case.library: step(theirs)},
        title=f"{case.title}, {case.library}, {'x'.join(map(str, x.shape))}", baseline=case.library, rounds=11,
        seconds=1.5, memory=True,
    )  # fmt: skip
    return {**result, "peer": f"{case.library} {_version(case.library)}", "errors": found}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def main() -> None:
    given = arguments(__doc__)
    stored, modules = [], {name: library(name) for name in LIBRARIES}
    absent = [name for name, module in modules.items() if module is None]
    if absent:
        print(f"not installed here, so left out: {', '.join(absent)}", file=sys.stderr)
    for case in CASES:
        module = modules[case.library]
        if module is None or given.only not in f"{case.title}, {case.library}":
            continue
        row = measured(case, module, given.quick)
        show(row)
        for name, both in row["errors"].items():
            said = "; ".join(
                f"{who} {_said(error['value'])}, {_said(error['gradient'])}" for who, error in both.items()
            )
            print(f"  {name}: error of value and gradient: {said}")
        stored.append(row)
    if not given.quick and stored:
        store_rows("loss_peers", stored)


def _said(error: float | str) -> str:
    return error if isinstance(error, str) else f"{error:.0e}"


if __name__ == "__main__":
    main()
