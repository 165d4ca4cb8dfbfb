"""RAdam: Adam that trusts its second moment only once enough gradients have been seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from trivet.kernels.xp import reference as xp
from trivet.kernels.xp.reference import Value
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step
from trivet.optim.storage import Rounding, StateFormat

__all__ = ["RAdam"]


# theta, gradient, first and second moment -> theta', moments'; `rectified` is 1 or 0
def radam(
    p: Value,
    g: Value,
    exp_avg: Value,
    exp_avg_sq: Value,
    rate: float,
    rectified: float,
    beta1: float,
    beta2: float,
    eps: float,
    shrink: float,
    couple: float,
) -> tuple[Value, Value, Value]:
    g = g + couple * p
    m = exp_avg + (1 - beta1) * (g - exp_avg)
    v = beta2 * exp_avg_sq + (1 - beta2) * g * g
    # A square that overflowed must not turn 0 * inf into NaN while it does not count.
    size = xp.where(xp.maximum(rectified, 0.0) > 0.5, xp.sqrt(v) + eps, 1.0)
    return p * shrink - rate * m / size, m, v


class RAdam(ElementwiseOptimizer):
    r"""Adam with its own warmup: momentum first, then steps scaled by how reliable the second moment is.

    .. math::
        \rho_\infty &= 2 / (1 - \beta_2) - 1, \qquad \rho_t = \rho_\infty - 2 t \beta_2^t / (1 - \beta_2^t) \\
        \theta &\leftarrow \theta - \eta \hat m \cdot \begin{cases}
            r_t \sqrt{1 - \beta_2^t} / (\sqrt v + \epsilon) & \rho_t > 5 \\ 1 & \text{otherwise} \end{cases} \\
        r_t &= \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}}

    with Adam's moments :math:`m, v` and :math:`\hat m = m / (1 - \beta_1^t)`.

    *Memory*: two states, `exp_avg` and `exp_avg_sq` (8 bytes a parameter in float32), and `step`.
    *When*: no warmup is wanted, or its length unknown. *When not*: together with a warmup (twice the caution).
    *Failure*: its first 5 steps (at :math:`\beta_2 = 0.999`) are plain momentum, as long as the gradient is: a
    gradient of unusual scale makes them large.

    Args:
        params: parameters, or groups of them.
        lr: rate :math:`\eta`.
        betas: :math:`\beta_1, \beta_2`.
        eps: :math:`\epsilon`, added to the root before its bias is corrected, as in torch.
        weight_decay: :math:`\lambda`, added to the gradient, unless `decoupled_weight_decay`.
        decoupled_weight_decay: multiply the parameter by :math:`1 - \eta \lambda` instead.
        foreach, capturable, differentiable: torch's choices of execution; the first is accepted without effect,
            the others raise.
        maximize: climb instead of descend.
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> w.grad = torch.tensor([0.5])
    >>> RAdam([w], lr=0.1, backend="torch").step()
    >>> round(w.item(), 4)
    0.95

    Source: Liu et al., "On the variance of the adaptive learning rate and beyond", 2020, algorithm 2.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
        backend: Backend = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def rule(self, group: Mapping[str, Any]) -> Any:
        return radam

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        beta1, beta2 = map(float, group["betas"])
        lr, decay = float(group["lr"]), group["weight_decay"]
        decoupled = group.get("decoupled_weight_decay", False)
        unbias = 1 - beta2**step
        most = 2 / (1 - beta2) - 1
        length = most - 2 * step * beta2**step / unbias
        rectified = length > 5
        trusted = np.where(rectified, length, most)
        rectification = np.sqrt((trusted - 4) * (trusted - 2) * most / ((most - 4) * (most - 2) * trusted))
        return {
            "rate": lr / (1 - beta1**step) * np.where(rectified, rectification * np.sqrt(unbias), 1.0),
            "rectified": rectified.astype(np.float64),
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"],
            "shrink": 1 - lr * decay if decoupled else 1.0,
            "couple": 0.0 if decoupled else decay,
        }
