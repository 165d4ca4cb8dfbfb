"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trivet.kernels.xp import reference as xp
from trivet.kernels.xp.reference import Value
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step
from trivet.optim.storage import Rounding, StateFormat

__all__ = ["Lion"]


# theta, gradient, momentum -> theta', momentum'
def lion(
    p: Value, g: Value, exp_avg: Value, lr: float, beta1: float, beta2: float, weight_decay: float
) -> tuple[Value, Value]:
    u = xp.sign(beta1 * exp_avg + (1 - beta1) * g)
    return p * (1 - lr * weight_decay) - lr * u, beta2 * exp_avg + (1 - beta2) * g


class Lion(ElementwiseOptimizer):
    r"""Moves every coordinate by the same amount, in the direction of a smoothed gradient's sign.

    .. math::
        u &= \mathrm{sign}(\beta_1 m + (1 - \beta_1) g) \\
        \theta &\leftarrow \theta (1 - \eta \lambda) - \eta u \\
        m &\leftarrow \beta_2 m + (1 - \beta_2) g

    The rate is 3 to 10 times smaller than AdamW's, the weight decay larger by the same factor.

    *Memory*: one state, `exp_avg` (4 bytes a parameter in float32), half of AdamW's.
    *When*: large batches, image models and language models where AdamW's memory hurts. *When not*: batches under
    about 64, where the sign is mostly noise. *Failure*: a rate taken over from AdamW diverges.

    Args:
        params: parameters, or groups of them.
        lr: rate :math:`\eta`, the distance that each coordinate moves in a step.
        betas: :math:`\beta_1` for the direction, :math:`\beta_2` for the momentum that is kept.
        weight_decay: :math:`\lambda`, decoupled, multiplied by the rate.
        maximize: climb instead of descend.
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    >>> w.grad = torch.tensor([0.001, -50.0])
    >>> Lion([w], lr=0.5, backend="torch").step()
    >>> w.tolist()
    [0.5, -0.5]

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2.
    """

    counts_steps = False

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
        backend: Backend = "auto",
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def rule(self, group: Mapping[str, Any]) -> Any:
        return lion

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg",)

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        beta1, beta2 = group["betas"]
        return {"lr": group["lr"], "beta1": beta1, "beta2": beta2, "weight_decay": group["weight_decay"]}
