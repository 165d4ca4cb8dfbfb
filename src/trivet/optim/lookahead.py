"""Lookahead: slow weights that follow the fast ones every few steps; a wrapper around any optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trivet.errors import InputError

__all__ = ["Lookahead"]


class Lookahead(torch.optim.Optimizer):
    r"""Every `k` steps the weights go back to a point between where they started and where they came.

    .. math::
        \phi \leftarrow \phi + \alpha (\theta - \phi), \qquad \theta \leftarrow \phi

    Groups, schedules and the inner state are the base optimizer's; its momentum is kept.

    *Memory*: one copy of the parameters (4 bytes a parameter in float32), beside the base's states.
    *When*: a cheap variance reduction around SGD or Adam at a rate that is a little too high. *When not*: together
    with averaging of weights (EMA, SWA), which does the same at the end.
    *Failure*: an evaluation between two synchronisations sees the fast weights; evaluate after a multiple of `k`.

    Args:
        base: the optimizer that steps.
        k: steps between synchronisations.
        alpha: :math:`\alpha`, how far the slow weights follow.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Lookahead(torch.optim.SGD([w], lr=0.1), k=2, alpha=0.5)
    >>> for _ in range(2):
    ...     w.grad = torch.tensor([1.0]); optimizer.step()
    >>> round(w.item(), 4)
    0.9

    Source: Zhang et al., "Lookahead optimizer: k steps forward, 1 step back", 2019, algorithm 1.
    """

    def __init__(self, base: torch.optim.Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        if k < 1 or not 0 < alpha <= 1:
            raise InputError(f"k = {k} must be at least 1, alpha = {alpha} must lie in (0, 1]")
        super().__init__(base.param_groups, dict(base.defaults))
        self.base, self.k, self.alpha, self.steps = base, k, alpha, 0
        self.param_groups, self.state = base.param_groups, base.state  # shared: a schedule on either drives both
        self.slow: dict[Tensor, Tensor] = {}
        self._remember()

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _remember(self) -> None:
        for param in self._params():
            if param not in self.slow:
                self.slow[param] = param.detach().clone()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let the base optimizer step; synchronise after every `k`-th."""
        loss = self.base.step(closure)
        self.steps += 1
        if self.steps % self.k == 0:
            with torch.no_grad():
                for param, slow in self.slow.items():
                    slow.lerp_(param, self.alpha)
                    param.copy_(slow)
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("base", "k", "alpha", "steps", "slow", "defaults")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        base = state["base"]
        super().__setstate__(state | {"param_groups": base.param_groups, "state": base.state})

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state, with the slow weights and the count of steps beside it."""
        own = {"steps": self.steps, "slow": [self.slow[param] for param in self._params()]}
        return self.base.state_dict() | {"lookahead": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of a Lookahead; raises `InputError` for a state without slow weights."""
        if "lookahead" not in state_dict:
            raise InputError("the state has no slow weights: it was saved by the base optimizer; load it into `.base`")
        own = state_dict["lookahead"]
        self.base.load_state_dict({key: value for key, value in state_dict.items() if key != "lookahead"})
        self.param_groups, self.state = self.base.param_groups, self.base.state
        self.steps = own["steps"]
        with torch.no_grad():
            for param, slow in zip(self._params(), own["slow"], strict=True):
                self.slow[param].copy_(slow)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if hasattr(self, "base"):
            self.base.add_param_group(param_group)
            self._remember()
        else:
            super().add_param_group(param_group)
