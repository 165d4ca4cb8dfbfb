"""Schedule-Free SGD and AdamW: averaging in place of a decaying rate.

The model holds :math:`y`, where gradients are taken, while training, and :math:`x`, the average, while evaluating:
`train()` and `eval()` switch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.kernels.xp import reference as xp
from trivet.kernels.xp.reference import Value
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step
from trivet.optim.storage import Rounding, StateFormat

__all__ = ["AdamWScheduleFree", "SGDScheduleFree"]


# y, gradient, z -> y', z'; y moves towards z by `share`, and by the step times `along`
def sgd(
    p: Value, g: Value, z: Value, lr: float, weight_decay: float, share: float, along: float
) -> tuple[Value, Value]:
    d = lr * (g + weight_decay * p)
    return p + share * (z - p) - along * d, z - d


# y, gradient, z, second moment -> y', z', moment'
def adamw(
    p: Value,
    g: Value,
    z: Value,
    exp_avg_sq: Value,
    lr: float,
    weight_decay: float,
    share: float,
    along: float,
    beta2: float,
    eps: float,
    root: float,
) -> tuple[Value, Value, Value]:
    v = beta2 * exp_avg_sq + (1 - beta2) * g * g
    d = lr * (g / (xp.sqrt(v) * root + eps) + weight_decay * p)
    return p + share * (z - p) - along * d, z - d, v


class _ScheduleFree(ElementwiseOptimizer):
    """What both share: the weights of the average, the warmup, and the two modes."""

    counts_steps = False

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        if not 0 < self._beta(group) < 1:
            raise InputError(f"momentum = {self._beta(group)} must lie between 0 and 1, both excluded")
        if group["warmup_steps"] < 0:
            raise InputError(f"warmup_steps = {group['warmup_steps']} must be at least 0")
        first = {"k": 0, "train_mode": True, "weight_sum": 0.0, "lr_max": -1.0, "scheduled_lr": 0.0, "average": 0.0}
        for name, value in first.items():
            group.setdefault(name, value)  # type: ignore[attr-defined]

    def _beta(self, group: Mapping[str, Any]) -> float:
        return float(group["momentum"] if "momentum" in group else group["betas"][0])

    def initial(self, name: str, group: Mapping[str, Any], param: Tensor) -> Tensor:
        return param.detach().clone() if name == "z" else super().initial(name, group, param)

    def begin(self, group: dict[str, Any]) -> None:
        if not group["train_mode"]:
            raise InputError("the optimizer is in eval mode; call optimizer.train() before training goes on")
        group["k"] += 1
        lr = float(group["lr"]) * min(1.0, group["k"] / max(group["warmup_steps"], 1))
        group["scheduled_lr"], group["lr_max"] = lr, max(lr, group["lr_max"])
        weight = group["k"] ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
        group["weight_sum"] += weight
        group["average"] = weight / group["weight_sum"] if group["weight_sum"] else 0.0

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        share = group["average"]
        return {
            "lr": group["scheduled_lr"],
            "weight_decay": group["weight_decay"],
            "share": share,
            "along": 1 - self._beta(group) * (1 - share),
        }

    def eval(self) -> None:
        """Put the average :math:`x` into the parameters: for evaluation and for saving the model."""
        self._switch(train=False)

    def train(self) -> None:
        """Put :math:`y` back into the parameters: for training."""
        self._switch(train=True)

    @torch.no_grad()
    def _switch(self, *, train: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] == train:
                continue
            group["train_mode"] = train
            beta = self._beta(group)
            for param in group["params"]:
                if "z" in self._state.get(param, {}):
                    # y = beta x + (1 - beta) z, solved for the one that is wanted
                    param.lerp_(self._state[param]["z"].to(param.dtype), 1 - beta if train else 1 - 1 / beta)


class SGDScheduleFree(_ScheduleFree):
    r"""SGD whose average of iterates replaces momentum and schedule.

    .. math::
        y &= (1 - \beta) z + \beta x, \qquad z \leftarrow z - \eta (\nabla f(y) + \lambda y) \\
        x &\leftarrow (1 - c) x + c z, \qquad c = w_t / \textstyle\sum_{i \le t} w_i,
            \quad w_t = t^r \max_{i \le t} \eta_i^2

    **Call `train()` before training and `eval()` before evaluating or saving**; a step in eval mode raises.

    *Memory*: one state, `z` (4 bytes a parameter in float32).
    *When*: the length of the run is not known in advance. *When not*: with a decaying schedule on top (a constant one,
    or warmup alone), or where batch norm statistics are not recomputed after `eval()`.

    Args:
        params: parameters, or groups of them.
        lr: rate :math:`\eta`; 10 to 50 times that of SGD with momentum.
        momentum: :math:`\beta`.
        weight_decay: :math:`\lambda`, at :math:`y`.
        warmup_steps: steps over which the rate rises linearly.
        r: power of the step in the average's weights.
        weight_lr_power: power of the rate in them.
        maximize: climb instead of descend.
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = SGDScheduleFree([w], lr=0.5, backend="torch")
    >>> for _ in range(60):
    ...     w.grad = 2 * w.detach(); optimizer.step()
    >>> optimizer.eval(); abs(w.item()) < 0.05
    True

    Source: Defazio et al., "The road less scheduled", 2024, equations 3 to 5.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
        backend: Backend = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "r": r,
            "weight_lr_power": weight_lr_power,
            "maximize": maximize,
        }
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def rule(self, group: Mapping[str, Any]) -> Any:
        return sgd

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("z",)


class AdamWScheduleFree(_ScheduleFree):
    r"""AdamW whose average of iterates replaces the first moment and the schedule.

    .. math::
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
            z \leftarrow z - \eta_t \left( g / (\sqrt{v / (1 - \beta_2^t)} + \epsilon) + \lambda y \right)

    with :math:`y, x` and the weights as in `SGDScheduleFree`, :math:`\beta = \beta_1`.

    **Call `train()` before training and `eval()` before evaluating or saving**; a step in eval mode raises.

    *Memory*: two states, `z` and `exp_avg_sq` (8 bytes a parameter in float32), as AdamW.
    *When*: as AdamW, where the length of the run is not known in advance; it won AlgoPerf's self-tuning track.
    *When not*: as `SGDScheduleFree`.

    Args:
        params: parameters, or groups of them.
        lr: rate :math:`\eta`; 1 to 10 times AdamW's.
        betas: :math:`\beta_1` of the average (0.9; 0.95 to 0.98 for long runs), :math:`\beta_2`.
        eps: :math:`\epsilon`, outside the root.
        weight_decay: :math:`\lambda`, at :math:`y`, multiplied by the rate.
        warmup_steps: steps over which the rate rises linearly; some warmup is needed.
        r: power of the step in the average's weights.
        weight_lr_power: power of the rate in them.
        maximize: climb instead of descend.
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = AdamWScheduleFree([w], lr=0.1, backend="torch")
    >>> for _ in range(100):
    ...     w.grad = 2 * w.detach(); optimizer.step()
    >>> optimizer.eval(); abs(w.item()) < 0.1
    True

    Source: Defazio et al., "The road less scheduled", 2024, algorithm 1.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        *,
        maximize: bool = False,
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
        backend: Backend = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "r": r,
            "weight_lr_power": weight_lr_power,
            "maximize": maximize,
        }
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def rule(self, group: Mapping[str, Any]) -> Any:
        return adamw

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("z", "exp_avg_sq")

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        beta2 = float(group["betas"][1])
        return super().numbers(group, step) | {
            "beta2": beta2,
            "eps": group["eps"],
            "root": 1 / np.sqrt(1 - beta2 ** group["k"]),
        }
