"""Stochastic gradient descent: plain, with momentum, with Nesterov's momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from trivet.errors import InputError
from trivet.kernels.xp.reference import Value
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step
from trivet.optim.hyperparameters import Convention, one_of
from trivet.optim.storage import Rounding, StateFormat

__all__ = ["SGD"]


# theta, gradient -> theta'
def plain(p: Value, g: Value, lr: float, weight_decay: float) -> Value:
    return p - lr * (g + weight_decay * p)


# theta, gradient, velocity -> theta', velocity'; the rate is `within` the velocity (Keras) or multiplies it as `lr`
def momentum(
    p: Value, g: Value, buffer: Value, lr: float, weight_decay: float, mu: float, keep: float, within: float
) -> tuple[Value, Value]:
    v = mu * buffer + keep * (within * (g + weight_decay * p))
    return p - lr * v, v


def nesterov(
    p: Value, g: Value, buffer: Value, lr: float, weight_decay: float, mu: float, keep: float, within: float
) -> tuple[Value, Value]:
    d = within * (g + weight_decay * p)
    v = mu * buffer + keep * d
    return p - lr * (d + mu * v), v


class SGD(ElementwiseOptimizer):
    r"""Stochastic gradient descent, with torch's form of momentum: the velocity is multiplied by the rate.

    .. math::
        d &= g + \lambda \theta \\
        v &\leftarrow \mu v + (1 - \tau) d \qquad (v = d \text{ at the first step}) \\
        \theta &\leftarrow \theta - \eta v \quad \text{or, Nesterov,} \quad \theta - \eta (d + \mu v)

    *Memory*: nothing, or one state with momentum (4 bytes a parameter in float32).
    *When*: convolutional networks with normalisation, from scratch; any model whose rate is tuned. *When not*:
    transformers and sparse or badly scaled features, where one rate cannot fit all coordinates.
    *Failure*: above :math:`2 (1 + \mu) / L` (:math:`L` the largest curvature) it diverges.

    Args:
        params: parameters, or groups of them.
        lr: rate :math:`\eta`.
        momentum: :math:`\mu`; 0 keeps no state, otherwise there is one, `momentum_buffer`.
        dampening: :math:`\tau`.
        weight_decay: :math:`\lambda`, added to the gradient.
        nesterov: look ahead along the velocity; needs momentum and no dampening.
        maximize: climb instead of descend.
        foreach, fused, differentiable: torch's choices of execution; accepted, without effect here
            (`differentiable=True` raises).
        convention: "torch" (also optax's), or "keras" / "paper": the rate is inside the velocity, which differs once
            the rate changes: a velocity from a higher rate is carried on.
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> w.grad = torch.tensor([2.0])
    >>> SGD([w], lr=0.1, momentum=0.9, backend="torch").step()
    >>> round(w.item(), 4)
    0.8

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.
    """

    counts_steps = False

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        convention: Convention = "torch",
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
        backend: Backend = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
            "convention": convention,
        }
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        one_of("convention", group.get("convention", "torch"), ("torch", "optax", "keras", "paper"))
        if group["momentum"] < 0:
            raise InputError(f"momentum = {group['momentum']} must be at least 0")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise InputError("nesterov=True needs momentum > 0 and dampening = 0")

    def rule(self, group: Mapping[str, Any]) -> Any:
        if group["momentum"] == 0:
            return plain
        return nesterov if group["nesterov"] else momentum

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        keep = np.where(step == 1, 1.0, 1.0 - group["dampening"])
        lr, convention = float(group["lr"]), group.get("convention", "torch")
        inside = convention in ("keras", "paper") and group["momentum"] != 0
        return {
            "lr": 1.0 if inside else lr,
            "within": lr if inside else 1.0,
            "weight_decay": group["weight_decay"],
            "mu": group["momentum"],
            "keep": keep,
        }
