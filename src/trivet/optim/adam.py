"""Adam and AdamW: steps scaled by the running second moment of each coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from trivet.kernels.xp import reference as xp
from trivet.kernels.xp.reference import Value
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step

__all__ = ["Adam", "AdamW"]


# theta, gradient, first and second moment -> theta', moments'
def adam(
    p: Value,
    g: Value,
    exp_avg: Value,
    exp_avg_sq: Value,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    root: float,
    shrink: float,
    couple: float,
) -> tuple[Value, Value, Value]:
    g = g + couple * p
    m = exp_avg + (1 - beta1) * (g - exp_avg)
    v = beta2 * exp_avg_sq + (1 - beta2) * g * g
    return p * shrink - rate * m / (xp.sqrt(v) * root + eps), m, v


# as above; the denominator keeps the largest second moment that was seen
def amsgrad(
    p: Value,
    g: Value,
    exp_avg: Value,
    exp_avg_sq: Value,
    max_exp_avg_sq: Value,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    root: float,
    shrink: float,
    couple: float,
) -> tuple[Value, Value, Value, Value]:
    g = g + couple * p
    m = exp_avg + (1 - beta1) * (g - exp_avg)
    v = beta2 * exp_avg_sq + (1 - beta2) * g * g
    largest = xp.maximum(max_exp_avg_sq, v)
    return p * shrink - rate * m / (xp.sqrt(largest) * root + eps), m, v, largest


class Adam(ElementwiseOptimizer):
    r"""Adam; `weight_decay` is added to the gradient, unless `decoupled_weight_decay`.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \theta &\leftarrow \theta - \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    States, as torch's: `step`, `exp_avg`, `exp_avg_sq`, and `max_exp_avg_sq` with `amsgrad`.

    Args:
        params: parameters, or groups of them.
        lr: rate :math:`\eta`.
        betas: :math:`\beta_1, \beta_2`.
        eps: :math:`\epsilon`, outside the root.
        weight_decay: :math:`\lambda`.
        amsgrad: divide by the largest :math:`v` so far.
        foreach, fused, capturable, differentiable: torch's choices of execution; the first two are accepted
            without effect, the last two raise.
        maximize: climb instead of descend.
        decoupled_weight_decay: multiply the parameter by :math:`1 - \eta \lambda` instead, as `AdamW` does.
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> w.grad = torch.tensor([0.01, -100.0])
    >>> Adam([w], lr=0.1, backend="torch").step()
    >>> [round(x, 4) for x in w.tolist()]
    [0.9, 1.1]

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        backend: Backend = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, backend=backend)

    def rule(self, group: Mapping[str, Any]) -> Any:
        return amsgrad if group["amsgrad"] else adam

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        beta1, beta2 = map(float, group["betas"])
        lr, decay = float(group["lr"]), float(group["weight_decay"])
        decoupled = group.get("decoupled_weight_decay", False)
        return {
            "rate": lr / (1 - beta1**step),
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"],
            "root": 1 / np.sqrt(1 - beta2**step),
            "shrink": 1 - lr * decay if decoupled else 1.0,
            "couple": 0.0 if decoupled else decay,
        }


class AdamW(Adam):
    r"""Adam with decoupled weight decay: :math:`\theta` is first multiplied by :math:`1 - \eta \lambda`.

    All else is as in `Adam`; the decay does not pass through the moments.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> w.grad = torch.tensor([0.0])
    >>> AdamW([w], lr=0.1, weight_decay=0.5, backend="torch").step()
    >>> round(w.item(), 4)
    0.95

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            backend=backend,
        )
