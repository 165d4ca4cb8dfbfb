"""Adamax: Adam with the largest recent gradient in place of the second moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trivet.kernels.xp import reference as xp
from trivet.kernels.xp.reference import Value
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step
from trivet.optim.storage import Rounding, StateFormat

__all__ = ["Adamax"]


# theta, gradient, first moment, decayed maximum -> theta', moment', maximum'
def adamax(
    p: Value,
    g: Value,
    exp_avg: Value,
    exp_inf: Value,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> tuple[Value, Value, Value]:
    g = g + weight_decay * p
    m = exp_avg + (1 - beta1) * (g - exp_avg)
    u = xp.maximum(beta2 * exp_inf, xp.abs(g) + eps)
    return p - rate * m / u, m, u


class Adamax(ElementwiseOptimizer):
    r"""Adam in the infinity norm.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad u \leftarrow \max(\beta_2 u, |g| + \epsilon) \\
        \theta &\leftarrow \theta - \frac{\eta}{1 - \beta_1^t} \, m / u

    *Memory*: two states, `exp_avg` and `exp_inf` (8 bytes a parameter in float32), and `step`.
    *When*: sparse or bursty gradients: a step is at most about :math:`\eta`, whatever came before. *When not*: dense
    gradients with rare outliers, which hold all later steps down for about :math:`1 / (1 - \beta_2)` steps.

    Args:
        params: parameters, or groups of them.
        lr: rate :math:`\eta`.
        betas: :math:`\beta_1, \beta_2`.
        eps: :math:`\epsilon`, added to the gradient's size.
        weight_decay: :math:`\lambda`, added to the gradient.
        foreach, capturable, differentiable: torch's choices of execution; the first is accepted without effect,
            the others raise.
        maximize: climb instead of descend.
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> w.grad = torch.tensor([0.01, -100.0])
    >>> Adamax([w], lr=0.1, backend="torch").step()
    >>> [round(x, 4) for x in w.tolist()]
    [0.9, 1.1]

    Source: Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 2.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
        backend: Backend = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def rule(self, group: Mapping[str, Any]) -> Any:
        return adamax

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_inf")

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        beta1, beta2 = map(float, group["betas"])
        return {
            "rate": float(group["lr"]) / (1 - beta1**step),
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"],
            "weight_decay": group["weight_decay"],
        }
