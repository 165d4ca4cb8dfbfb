"""Facts measured on a freshly made model."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from trivet.facts.attention import attending

if TYPE_CHECKING:
    from trivet.tasks import Task

# Module types by the family that decides what they need; the first match counts.
FAMILIES: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    ("convolution", (_ConvNd,)),
    ("attention", (nn.MultiheadAttention,)),
    ("recurrence", (nn.RNNBase, nn.RNNCellBase)),
    ("embedding", (nn.Embedding, nn.EmbeddingBag)),
    ("batch_norm", (_BatchNorm,)),
    ("layer_norm", (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)),
    ("dropout", (nn.Dropout, nn.Dropout1d, nn.Dropout2d)),
    ("linear", (nn.Linear,)),
)

TRANSFORMER = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the model is made of.

    `layers` counts modules by family; `depth` counts the layers that carry weight matrices. `pretrained` means
    that two models made with different seeds share most of their weight matrices (they were loaded, not drawn) and
    that these show signs of training. `post_norm` means that one of torch's transformer layers normalises after the
    residual sum (`norm_first=False`). `flops_per_sample` counts multiplications and additions of one forward pass.
    `layers["attention"]` counts the modules in which attention was seen in that pass, whatever they are called, and
    torch's own. `tied` names the parameters that are one tensor, `frozen_parts` the largest modules (or single
    parameters) that are not trained.
    """

    parameters: int
    trainable: int
    layers: dict[str, int]
    depth: int
    normalised: bool
    pretrained: bool
    flops_per_sample: float | None = None
    post_norm: bool = False
    tied: tuple[tuple[str, ...], ...] = ()
    frozen_parts: tuple[str, ...] = ()


def measure_model(task: Task, *, seed: int = 0) -> ModelFacts:
    """Measure the model that the task makes."""
    model = task.make_model(seed)
    layers = Counter(family for module in model.modules() if (family := _family(module)))
    parameters = list(model.parameters())
    depth = sum(layers[f] for f in ("linear", "convolution", "recurrence", "attention"))
    flops, attends = _forward(task, model)
    if attends:
        own = {name for name, module in model.named_modules() if _family(module) == "attention"}
        layers["attention"] = len(own | attends)
    return ModelFacts(
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        layers=dict(sorted(layers.items())),
        depth=depth,
        normalised=bool(layers["batch_norm"] or layers["layer_norm"]),
        pretrained=_is_pretrained(model, task.make_model(seed + 1)),
        flops_per_sample=flops,
        post_norm=any(isinstance(m, TRANSFORMER) and not m.norm_first for m in model.modules()),
        tied=tied_weights(model),
        frozen_parts=frozen_parts(model),
    )


def tied_weights(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Return the names of parameters that are one and the same tensor.

    >>> net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    >>> net[1].weight = net[0].weight
    >>> tied_weights(net)
    (('0.weight', '1.weight'),)
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return tuple(tuple(same) for same in names.values() if len(same) > 1)


def frozen_parts(model: nn.Module, prefix: str = "") -> tuple[str, ...]:
    """Return the largest modules, and single parameters outside of these, that require no gradient.

    >>> net = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))
    >>> _, _ = net[0].requires_grad_(False), net[1].bias.requires_grad_(False)
    >>> frozen_parts(net)
    ('0', '1.bias')
    """
    found = [prefix + n for n, p in model.named_parameters(recurse=False) if not p.requires_grad]
    for name, child in model.named_children():
        held = [p.requires_grad for p in child.parameters()]
        if held and not any(held):
            found.append(prefix + name)
        elif not all(held):
            found += frozen_parts(child, f"{prefix}{name}.")
    return tuple(found)


def _family(module: nn.Module) -> str | None:
    return next((name for name, types in FAMILIES if isinstance(module, types)), None)


def _is_pretrained(one: nn.Module, other: nn.Module) -> bool:
    """Say whether most weight matrices are loaded (the same for both seeds) and show signs of training."""
    pairs = [(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True) if a.ndim >= 2]
    same = sum(a.numel() for a, b in pairs if torch.equal(a, b))
    return same > 0.5 * sum(a.numel() for a, _ in pairs) and shows_training(one)


def shows_training(model: nn.Module) -> bool:
    """Fresh norm layers have scale 1 and fresh statistics; fresh matrices are uniform or normal, never heavy-tailed.

    A module that is handed over instead of a factory has the same weights at every seed, trained or not.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_mean.any():
            return True
        if isinstance(module, nn.LayerNorm) and module.weight is not None and (module.weight != 1).any():
            return True
    kurtoses = []
    for weight in (p.detach().double().flatten() for p in model.parameters() if p.ndim >= 2 and p.numel() >= 256):
        kurtoses.append(float((weight - weight.mean()).pow(4).mean() / weight.var().pow(2)) - 3)
    return bool(kurtoses) and statistics.median(kurtoses) > 0.5


def _forward(task: Task, model: nn.Module) -> tuple[float | None, set[str]]:
    """Run a few rows; return the operations per row (None where there are none) and the modules that attend."""
    from torch.utils.flop_counter import FlopCounterMode

    rows = min(8, len(task.train))
    inputs, _ = task.train.batch(torch.arange(rows))
    model.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), warnings.catch_warnings(), attending(model) as names, counter:
        warnings.simplefilter("ignore")
        model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return counter.get_total_flops() / rows or None, names
