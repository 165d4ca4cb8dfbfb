"""How much memory training will take for parameters, gradients and the optimizer's states, before any is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trivet.optim.base import ElementwiseOptimizer
from trivet.optim.groups import param_groups

__all__ = ["MemoryPlan", "memory_plan"]


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of each kind; printed, they are a table. Activations are not in it: they depend on the batch."""

    trainable: int  # parameters that are trained
    parameters: int  # bytes, frozen ones and buffers included
    gradients: int
    states: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of all together."""
        return self.parameters + self.gradients + sum(self.states.values())

    @property
    def state_bytes_per_parameter(self) -> float:
        """Bytes of the optimizer's states for each trained parameter."""
        return sum(self.states.values()) / max(self.trainable, 1)

    def __str__(self) -> str:
        rows = {"parameters": self.parameters, "gradients": self.gradients}
        rows |= {f"state {name}": size for name, size in self.states.items()} | {"total": self.total}
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {_readable(size):>9}" for name, size in rows.items())


def memory_plan(
    model: nn.Module, optimizer: torch.optim.Optimizer | type[torch.optim.Optimizer], **options: Any
) -> MemoryPlan:
    """Say what training this model with this optimizer takes, without allocating any of it.

    The optimizer makes one step on parameters of the "meta" device, which have shapes and types but no memory: the
    states that it makes there are the ones that it will make, formats (`state_format`, `rounding`) included.
    `optimizer` is an optimizer, or a class with `options`. Others build on this: the arguments, `total`, `states`,
    `parameters`, `gradients` and `state_bytes_per_parameter` stay what they are.

    >>> from trivet.optim import AdamW, Lion
    >>> model = nn.Linear(1000, 1000, bias=False)
    >>> print(memory_plan(model, AdamW))
    parameters          4.00 MB
    gradients           4.00 MB
    state exp_avg       4.00 MB
    state exp_avg_sq    4.00 MB
    state step              4 B
    total              16.00 MB
    >>> round(memory_plan(model, AdamW, state_format="8bit").state_bytes_per_parameter, 2)
    2.03
    >>> memory_plan(model, Lion).state_bytes_per_parameter
    4.0
    """
    twins: dict[Tensor, nn.Parameter] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            twins[parameter] = nn.Parameter(torch.empty_like(parameter, device="meta"))
            twins[parameter].grad = torch.empty_like(parameter, device="meta")
    made = _on_meta(model, optimizer, twins, options)
    if isinstance(made, ElementwiseOptimizer):
        made.backend = "torch"  # no kernel could take what has no memory; nothing to warn of
    made.step()
    states: dict[str, int] = {}
    for state in made.state.values():
        for name, value in state.items():
            states[name] = states.get(name, 0) + (value.nbytes if isinstance(value, Tensor) else 0)
    return MemoryPlan(
        trainable=sum(p.numel() for p in twins),
        parameters=sum(t.nbytes for t in (*model.parameters(), *model.buffers())),
        gradients=sum(p.nbytes for p in twins),
        states=states,
    )


def _on_meta(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | type[torch.optim.Optimizer],
    twins: dict[Tensor, nn.Parameter],
    options: dict[str, Any],
) -> torch.optim.Optimizer:
    if isinstance(optimizer, torch.optim.Optimizer):
        cls, groups = type(optimizer), [dict(group) for group in optimizer.param_groups]
    elif getattr(optimizer, "wants_roles", False):
        cls, groups = optimizer, list(param_groups(model, weight_decay=0.0, lr=1.0, roles=True))
    else:
        cls, groups = optimizer, [{"params": list(twins)}]
    for group in groups:
        group["params"] = [twins[p] for p in group["params"]]
        group.pop("fused", None)  # torch's fused kernels know no such device, and keep the same states
    return cls(groups, **options)


def _readable(size: int) -> str:
    """Return bytes in the unit that gives them one to three digits before the point."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.2f} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1000  # type: ignore[assignment]
    raise AssertionError
