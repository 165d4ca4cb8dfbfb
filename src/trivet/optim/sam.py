"""SAM: step by the gradient at the worst point nearby; a wrapper around any optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trivet.errors import InputError

__all__ = ["SAM"]


class SAM(torch.optim.Optimizer):
    r"""Takes the gradient where the loss is highest within a distance, and lets another optimizer step with it.

    .. math::
        \hat\theta = \theta + \rho \, g(\theta) / \lVert g(\theta) \rVert, \qquad
        \theta \leftarrow \mathrm{base}(\theta, g(\hat\theta))

    `step` needs a closure that clears the gradients, computes the loss and calls `backward`; it is called twice, so a
    step costs two. Schedules, groups and the state are the base optimizer's.

    *Memory*: a copy of the parameters during a step, beside the base's states.
    *When*: generalisation matters more than time: vision from scratch, label noise, small data. *When not*: time is
    short, or one more epoch would do as much.
    *Failure*: batch norm statistics are updated twice a step, the second time at :math:`\hat\theta`.

    Args:
        base: the optimizer that steps.
        rho: :math:`\rho`, the distance, 0.05 to 0.2.
        adaptive: distances relative to each weight's size (ASAM; :math:`\rho` is then 10 times larger).

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([3.0]))
    >>> base = torch.optim.SGD([w], lr=0.1)
    >>> optimizer = SAM(base, rho=0.5)
    >>> def closure():
    ...     optimizer.zero_grad(); loss = (w * w).sum(); loss.backward(); return loss
    >>> optimizer.step(closure).item(), round(w.item(), 4)
    (9.0, 2.3)

    Source: Foret et al., "Sharpness-aware minimization", 2021, algorithm 1; adaptive: Kwon et al. 2021.
    """

    def __init__(self, base: torch.optim.Optimizer, rho: float = 0.05, *, adaptive: bool = False) -> None:
        if not rho >= 0:
            raise InputError(f"rho = {rho} must be at least 0")
        super().__init__(base.param_groups, dict(base.defaults))
        self.base, self.rho, self.adaptive = base, rho, adaptive
        self.param_groups, self.state = base.param_groups, base.state  # shared: a schedule on either drives both

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step and return the loss at the parameters, before it."""
        if closure is None:
            raise InputError("SAM.step needs a closure that clears the gradients, computes the loss and goes backward")
        with torch.enable_grad():
            loss = closure()
        with torch.no_grad():
            moved = self._climb()
            try:
                with torch.enable_grad():
                    closure()
            finally:
                for param, before in moved:
                    param.copy_(before)
        self.base.step()
        return loss

    def _climb(self) -> list[tuple[Tensor, Tensor]]:
        """Move the parameters to the worst point nearby; return them with what they were."""
        pairs = [(p, p.grad) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not pairs:
            return []
        scaled = [p.abs() * g if self.adaptive else g for p, g in pairs]
        norm = torch.nn.utils.get_total_norm(scaled)
        factor = self.rho / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        moved = [(p, p.detach().clone()) for p, _ in pairs]
        for (p, g), s in zip(pairs, scaled, strict=True):
            p.add_(((p * p * g) if self.adaptive else s) * factor.to(p.dtype))
        return moved

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("base", "rho", "adaptive", "defaults")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        base = state["base"]
        super().__setstate__(state | {"param_groups": base.param_groups, "state": base.state})

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state; between steps there is none of SAM's own."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if hasattr(self, "base"):
            self.base.add_param_group(param_group)
        else:
            super().add_param_group(param_group)
