"""The groups that a model's parameters go into: weight decay and rate by what a parameter is, and where it lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from trivet.errors import InputError

__all__ = ["Groups", "check_groups", "param_groups"]

FAMILIES = ("bias", "norm", "embedding")
MATRICES = (nn.Linear, nn.Bilinear, _ConvNd, nn.RNNBase, nn.MultiheadAttention)


class Groups(list[dict[str, Any]]):
    """Parameter groups for any torch optimizer; printed, they are a table of every parameter."""

    def __init__(self, groups: Iterable[dict[str, Any]], frozen: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(groups)
        self.frozen = dict(frozen or {})

    def __str__(self) -> str:
        return self.table(
            decay=lambda group: f"{group.get('weight_decay', 0):g}", lr=lambda group: f"{float(group['lr']):.3g}"
        )

    def table(self, **columns: Callable[[dict[str, Any]], str]) -> str:
        """Return a line for each parameter: its name, its shape, and what `columns` say of its group."""
        rows = [("parameter", "shape", *columns)]
        for group in self:
            names = group.get("param_names") or [f"number {k}" for k in range(len(group["params"]))]
            told = [column(group) for column in columns.values()]
            rows += [(n, _shape(p), *told) for n, p in zip(names, group["params"], strict=True)]
        rows += [(name, _shape(p), *("frozen" for _ in columns)) for name, p in self.frozen.items()]
        rows[1:] = sorted(rows[1:], key=lambda row: _natural(row[0])) if "number 0" not in rows[1] else rows[1:]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def param_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    lr: float,
    no_decay: Sequence[str] = FAMILIES,
    layer_decay: float = 1.0,
    roles: bool = False,
) -> Groups:
    r"""Split a model's trainable parameters into groups with their weight decay and rate.

    A parameter's family follows its module's type and its own dimensions, not its name: *norm* (normalisation
    layers), *embedding*, *bias* (anything else with fewer than two axes longer than 1). Tied weights are one
    parameter, of the family found first. Frozen parameters are left out and listed in the printed table.

    Args:
        model: the model.
        weight_decay: for all but the families in `no_decay`.
        lr: rate of the last layer.
        no_decay: families without weight decay, of "bias", "norm", "embedding".
        layer_decay: the rate of layer :math:`l` of :math:`L` is `lr * layer_decay ** (L - l)`. Layers are the blocks
            of the model's main stack (`ModuleList` or `Sequential` of equal blocks), else its modules in their order;
            what comes before the first block is layer 0, what comes after the last one is layer :math:`L`.
        roles: make groups by role too ("hidden matrix", "output layer", ...), as Muon needs.

    Raises `InputError` for an unknown family or a decay out of (0, 1].

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    >>> print(param_groups(model, weight_decay=0.1, lr=1e-3, layer_decay=0.5))
    parameter  shape  decay  lr
    0.weight   8x4    0.1    0.0005
    0.bias     8      0      0.0005
    1.weight   8      0      0.0005
    1.bias     8      0      0.0005
    2.weight   1x8    0.1    0.001
    2.bias     1      0      0.001

    Source: layer-wise rates: Howard and Ruder 2018, section 3.2; Clark et al. 2020 (ELECTRA), appendix A.
    """
    for family in no_decay:
        if family not in FAMILIES:
            raise InputError(f"unknown family {family!r} in no_decay. Allowed: {', '.join(FAMILIES)}")
    if not 0 < layer_decay <= 1:
        raise InputError(f"layer_decay = {layer_decay} must lie in (0, 1]")
    layers = _layers(model) if layer_decay != 1 else {}
    last = max(layers.values(), default=0)
    groups: dict[tuple[object, ...], dict[str, Any]] = {}
    for name, parameter, role in _roles(model):
        free = any(family in no_decay for family in _families(role, name))
        rate = lr * layer_decay ** (last - layers[id(parameter)]) if layers else lr
        options = {"weight_decay": 0.0 if free else weight_decay, "lr": rate} | ({"role": role} if roles else {})
        group = groups.setdefault(tuple(options.values()), {"params": [], "param_names": [], **options})
        group["params"].append(parameter)
        group["param_names"].append(name)
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    return Groups(groups.values(), frozen)


def check_groups(model: nn.Module, groups: Iterable[Mapping[str, Any]]) -> None:
    """Raise `InputError` unless every trainable parameter of the model is in exactly one group, and nothing else is.

    >>> net = nn.Linear(2, 1)
    >>> check_groups(net, [{"params": [net.weight]}])
    Traceback (most recent call last):
    trivet.errors.InputError: no group has bias; it would never be trained
    """
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    counts: dict[int, int] = {}
    for group in groups:
        for entry in [group["params"]] if isinstance(group["params"], Tensor) else group["params"]:
            parameter = entry[1] if isinstance(entry, tuple) else entry
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
            if id(parameter) not in names and parameter.requires_grad:
                raise InputError(f"a parameter of shape {tuple(parameter.shape)} in the groups is not the model's")
    forgotten = [name for key, name in names.items() if key not in counts]
    twice = [name for key, name in names.items() if counts.get(key, 0) > 1]
    if forgotten:
        raise InputError(f"no group has {', '.join(forgotten)}; it would never be trained")
    if twice:
        raise InputError(f"more than one group has {', '.join(twice)}; it would be updated twice in a step")


def _roles(model: nn.Module) -> list[tuple[str, Tensor, str]]:
    """Return each trainable parameter once, with its full name and what it is."""
    output = [module for module in model.modules() if _is(module, "Linear", nn.Linear)][-1:]
    found: dict[int, tuple[str, Tensor, str]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in found:
                full = f"{prefix}.{name}" if prefix else name
                found[id(parameter)] = full, parameter, _role(module, parameter, module in output)
    return list(found.values())


def _role(module: nn.Module, parameter: Tensor, last: bool) -> str:
    if "Norm" in type(module).__name__:
        return "norm"
    if _is(module, "Embedding", nn.Embedding, nn.EmbeddingBag):
        return "embedding"
    if sum(size > 1 for size in parameter.shape) < 2 and not (parameter.dim() > 1 and _is_matrix(module)):
        return "bias"
    if not _is_matrix(module):
        return "other tensor"
    return "output layer" if last else "hidden matrix"


def _is_matrix(module: nn.Module) -> bool:
    return _is(module, "Linear", *MATRICES) or "Conv" in type(module).__name__


def _is(module: nn.Module, word: str, *types: type) -> bool:
    """Return whether a module is of one of these types, or of a type of the user's own that is named like them."""
    return isinstance(module, types) or word in type(module).__name__


def _families(role: str, name: str) -> tuple[str, ...]:
    return (role, "bias") if role == "norm" and name.endswith("bias") else (role,)


def _layers(model: nn.Module) -> dict[int, int]:
    """Return the layer of each trainable parameter, 0 for what comes first."""
    blocks = _blocks(model)
    owner = {id(p): k for k, block in enumerate(blocks, 1) for p in block.parameters()}
    layers, reached = {}, 0
    for _, parameter, _ in _roles(model):
        if blocks and id(parameter) not in owner:
            layers[id(parameter)] = len(blocks) + 1 if reached == len(blocks) else reached
            continue
        reached = owner.get(id(parameter), reached)
        layers[id(parameter)] = reached
    return layers if blocks else _in_order(model)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return the equal blocks of the outermost stacks, in order; none in models without such a stack."""
    blocks: list[nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():
        if id(module) in inside or not isinstance(module, nn.Sequential | nn.ModuleList):
            continue
        children = [child for child in module.children() if any(True for _ in child.children())]
        if len(children) >= 2 and len({type(child) for child in children}) == 1:
            blocks += children
            inside |= {id(part) for child in children for part in child.modules()}
    return blocks


def _in_order(model: nn.Module) -> dict[int, int]:
    """Return layers that begin with each module that has a matrix; vectors belong to the matrix before them."""
    layers: dict[int, int] = {}
    layer = -1
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad and id(p) not in layers]
        layer += any(p.dim() > 1 for p in own)
        layers |= {id(p): max(layer, 0) for p in own}
    return layers


def _shape(parameter: Tensor) -> str:
    return "x".join(map(str, parameter.shape)) or "scalar"


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Order `layer.2.weight` before `layer.10.bias`, and a weight before its bias."""
    return [
        (0, int(part)) if part.isdigit() else (1, {"weight": "", "bias": " "}.get(part, part))
        for part in name.split(".")
    ]
