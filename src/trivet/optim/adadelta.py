"""Adadelta: steps in the parameter's own unit, from running sizes of gradients and of past steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trivet.errors import InputError
from trivet.kernels.xp import reference as xp
from trivet.kernels.xp.reference import Value
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step
from trivet.optim.storage import Rounding, StateFormat

__all__ = ["Adadelta"]


# theta, gradient, squares of gradients and of steps -> theta', both squares'
def adadelta(
    p: Value, g: Value, square_avg: Value, acc_delta: Value, lr: float, rho: float, eps: float, weight_decay: float
) -> tuple[Value, Value, Value]:
    g = g + weight_decay * p
    v = rho * square_avg + (1 - rho) * g * g
    delta = xp.sqrt(acc_delta + eps) / xp.sqrt(v + eps) * g
    return p - lr * delta, v, rho * acc_delta + (1 - rho) * delta * delta


class Adadelta(ElementwiseOptimizer):
    r"""Divides by the running size of gradients and multiplies by that of past steps.

    .. math::
        v &\leftarrow \rho v + (1 - \rho) g^2, \qquad \Delta = \frac{\sqrt{u + \epsilon}}{\sqrt{v + \epsilon}} \, g \\
        u &\leftarrow \rho u + (1 - \rho) \Delta^2, \qquad \theta \leftarrow \theta - \eta \Delta

    *Memory*: two states, `square_avg` and `acc_delta` (8 bytes a parameter in float32), and `step`.
    *When*: no rate is to be tuned and the run is long. *When not*: short runs; the first steps are about
    :math:`\sqrt\epsilon` long and grow slowly.
    *Failure*: it crawls at the start; a larger `eps` makes the first steps longer.

    Args:
        params: parameters, or groups of them.
        lr: factor :math:`\eta` of the step; 1 is the paper's (Keras: 1e-3, with `rho` 0.95).
        rho: :math:`\rho`, how slowly both running means forget.
        eps: :math:`\epsilon`, inside both roots.
        weight_decay: :math:`\lambda`, added to the gradient.
        foreach, capturable, differentiable: torch's choices of execution; the first is accepted without effect,
            the others raise.
        maximize: climb instead of descend.
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> w.grad = torch.tensor([5.0, -0.5])
    >>> Adadelta([w], backend="torch").step()
    >>> [round(x, 4) for x in w.tolist()]
    [0.9968, 1.0032]

    Source: Zeiler, "Adadelta: an adaptive learning rate method", 2012, algorithm 1.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
        backend: Backend = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        if not 0 <= group["rho"] <= 1:
            raise InputError(f"rho = {group['rho']} must lie in [0, 1]")

    def rule(self, group: Mapping[str, Any]) -> Any:
        return adadelta

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("square_avg", "acc_delta")

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        return {name: float(group[name]) for name in ("lr", "rho", "eps", "weight_decay")}
