"""The groups that a model's parameters go into."""

from __future__ import annotations

from torch import nn

__all__ = ["param_groups"]


def param_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    lr: float,
    no_decay: tuple[str, ...] = ("bias", "norm", "embedding"),
    layer_decay: float = 1.0,
) -> list[dict[str, object]]:
    """Split trainable parameters into those with weight decay and those whose family has none."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in model.modules():
        norm = "Norm" in type(module).__name__
        embedding = isinstance(module, nn.Embedding | nn.EmbeddingBag)
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            family = "norm" if norm else "embedding" if embedding else "bias" if name.endswith("bias") else ""
            (free if family in no_decay or (name == "bias" and "bias" in no_decay) else decayed).append(parameter)
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": weight_decay}]
    return groups + ([{"params": free, "weight_decay": 0.0}] if free else [])
