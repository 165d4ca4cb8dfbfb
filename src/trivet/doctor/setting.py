"""What can be said of a run before and shortly after it begins: parameters, data, and the loss of a constant."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trivet.doctor.signals import CLASSES, Sampler, _labels
from trivet.record import Setting
from trivet.training import best_constant

ADAPTIVE = ("Adam", "NAdam", "RAdam", "Adamax", "RMSprop", "Adagrad", "Adadelta")
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
# Modules that behave differently while a model trains.
HUNGRY = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def of_model(sampler: Sampler, criterion: nn.Module | None) -> Setting:
    """Return what the model and its optimizers say by themselves."""
    model, owned = sampler.whole, {id(p) for p in sampler.owned}
    named = [(name, p) for name, p in model.named_parameters() if not is_lazy(p)]
    groups = [g for o in sampler.optimizers for g in o.param_groups]
    kind = type(sampler.optimizers[0]).__name__ if sampler.optimizers else ""
    decays = [float(g.get("weight_decay", 0.0) or 0.0) for g in groups]
    vectors = {id(p) for _, p in named if p.ndim <= 1}
    decayed_vectors = any(
        d > 0 and any(id(p) in vectors for p in g["params"]) for d, g in zip(decays, groups, strict=True)
    )
    return Setting(
        layers=sampler.names,
        kinds=tuple(type(m).__name__ for m in sampler.modules),
        optimizer=kind,
        lr=float(groups[0]["lr"]) if groups and "lr" in groups[0] else None,
        weight_decay=max(decays, default=0.0),
        coupled=kind in ADAPTIVE
        and max(decays, default=0.0) > 0
        and not any(g.get("decoupled_weight_decay") for g in groups),
        decays_all=decayed_vectors,
        maximize=any(bool(g.get("maximize")) for g in groups),
        loss=type(criterion).__name__ if criterion is not None else "",
        normalised=any(isinstance(m, NORMS) for m in model.modules()),
        unowned=tuple(name for name, p in named if p.requires_grad and id(p) not in owned),
        frozen=tuple(name for name, p in named if not p.requires_grad),
        symmetric=tuple(n for n, m in zip(sampler.names, sampler.modules, strict=True) if _symmetric(m)),
        hungry=tuple(n for n, m in model.named_modules() if isinstance(m, HUNGRY) and not _inert(m)),
    )


@torch.no_grad()
def of_inputs(inputs: Tensor | None) -> dict[str, float]:
    """Return how large the inputs are and how unlike in scale their features are."""
    if inputs is None or inputs.ndim < 2 or inputs.shape[0] < 4:
        return {}
    x = inputs.float()
    x = x[torch.isfinite(x.flatten(1)).all(dim=1)]
    if x.shape[0] < 4:
        return {}
    said = {"input_rms": float(x.square().mean().sqrt())}
    if x.ndim == 2 and x.shape[1] >= 2:
        spread = x.std(dim=0)
        spread = spread[spread > 0]
        if spread.numel() >= 2:
            said["input_spread"] = float(spread.max() / spread.median())
    return said


def of_targets(output: Tensor, targets: Sequence[Tensor], criterion: nn.Module | None, named: str) -> dict[str, object]:
    """Return what the pooled targets say: class shares, or mean and spread, and the loss of the best constant.

    `named` says which loss the numbers have turned out to be ("ce", "mse" or ""), for loops whose criterion is a
    function and cannot be asked.
    """
    pooled = torch.cat([t.reshape(t.shape[0], *t.shape[1:]) for t in targets])
    rows = output[:1].expand(pooled.shape[0], *output.shape[1:])
    said: dict[str, object] = {}
    labels, _ = _labels(rows, pooled)
    entropy = None
    if labels is not None and labels.numel():
        counts = torch.bincount(labels).double()
        shares = counts / counts.sum()
        present = shares[shares > 0]
        entropy = float(-(present * present.log()).sum())
        said["classes"] = len(shares)
        if len(shares) <= CLASSES:
            said["class_shares"] = tuple(round(float(s), 4) for s in shares)
    elif pooled.is_floating_point():
        said |= {"target_mean": float(pooled.float().mean()), "target_std": float(pooled.float().std())}
    prior = None
    if named == "ce":
        prior = entropy
    elif named == "mse" and pooled.is_floating_point():
        prior = float(pooled.float().var(dim=0, correction=0).mean())
    if prior is None and criterion is not None:
        known = best_constant(criterion, output, pooled[:512])
        prior = None if known is None else known[1]
    if prior is not None and math.isfinite(prior):
        said["prior"] = prior
    return said


@torch.no_grad()
def _symmetric(module: nn.Module) -> bool:
    """Return whether all units of a layer start the same, so that they will stay the same."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or is_lazy(weight) or weight.ndim < 2 or weight.shape[0] < 2:
        return False
    return weight.shape[1:].numel() > 1 and bool((weight == weight[:1]).all()) and isinstance(module, nn.Module)


def _inert(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.p == 0
