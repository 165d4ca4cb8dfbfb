"""RMSprop: steps divided by the running size of each coordinate's gradient; centered, and with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trivet.errors import InputError
from trivet.kernels.xp import reference as xp
from trivet.kernels.xp.reference import Value
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step
from trivet.optim.hyperparameters import Convention, one_of
from trivet.optim.storage import Rounding, StateFormat

__all__ = ["RMSprop"]


# theta, gradient, running square -> theta', square'; epsilon is `inside` the root or `outside` of it
def plain(
    p: Value, g: Value, square_avg: Value, rate: float, alpha: float, outside: float, inside: float, weight_decay: float
) -> tuple[Value, Value]:
    g = g + weight_decay * p
    v = alpha * square_avg + (1 - alpha) * g * g
    return p - rate * g / (xp.sqrt(v + inside) + outside), v


# the running mean is taken out of the square; rounding must not make the rest negative
def centered(
    p: Value,
    g: Value,
    square_avg: Value,
    grad_avg: Value,
    rate: float,
    alpha: float,
    outside: float,
    inside: float,
    weight_decay: float,
) -> tuple[Value, Value, Value]:
    g = g + weight_decay * p
    v = alpha * square_avg + (1 - alpha) * g * g
    mean = grad_avg + (1 - alpha) * (g - grad_avg)
    return p - rate * g / (xp.sqrt(xp.maximum(v - mean * mean, 0.0) + inside) + outside), v, mean


# the last state is a velocity, in which the rate is `within` (Keras, optax) or with which it is multiplied `rate`
def momentum(
    p: Value,
    g: Value,
    square_avg: Value,
    buffer: Value,
    rate: float,
    alpha: float,
    outside: float,
    inside: float,
    weight_decay: float,
    mu: float,
    within: float,
) -> tuple[Value, Value, Value]:
    g = g + weight_decay * p
    v = alpha * square_avg + (1 - alpha) * g * g
    velocity = mu * buffer + within * g / (xp.sqrt(v + inside) + outside)
    return p - rate * velocity, v, velocity


def centered_momentum(
    p: Value,
    g: Value,
    square_avg: Value,
    grad_avg: Value,
    buffer: Value,
    rate: float,
    alpha: float,
    outside: float,
    inside: float,
    weight_decay: float,
    mu: float,
    within: float,
) -> tuple[Value, Value, Value, Value]:
    g = g + weight_decay * p
    v = alpha * square_avg + (1 - alpha) * g * g
    mean = grad_avg + (1 - alpha) * (g - grad_avg)
    size = xp.sqrt(xp.maximum(v - mean * mean, 0.0) + inside) + outside
    velocity = mu * buffer + within * g / size
    return p - rate * velocity, v, mean, velocity


RULES = {
    (False, False): plain,
    (True, False): centered,
    (False, True): momentum,
    (True, True): centered_momentum,
}


class RMSprop(ElementwiseOptimizer):
    r"""Divides each coordinate's step by the root of a running mean of its squared gradients.

    .. math::
        v &\leftarrow \alpha v + (1 - \alpha) g^2, \qquad
            \bar g \leftarrow \alpha \bar g + (1 - \alpha) g \quad \text{(centered)} \\
        b &\leftarrow \mu b + g / (\sqrt{v \; [- \bar g^2]} + \epsilon), \qquad \theta \leftarrow \theta - \eta b

    *Memory*: one state, `square_avg` (4 bytes a parameter in float32), one more with `momentum`
    (`momentum_buffer`), one more when `centered` (`grad_avg`), and `step`.
    *When*: recurrent networks, reinforcement learning, non-stationary targets. *When not*: where Adam's bias
    correction matters: the first steps are up to :math:`1 / \sqrt{1 - \alpha}` (10) times the later ones.
    *Failure*: an early jump (warm up, or lower `lr`); `centered` with tiny `eps` divides by almost nothing where a
    gradient is constant. Here the variance is kept from being negative by rounding, where torch returns NaN.

    Args:
        params: parameters, or groups of them.
        lr: rate :math:`\eta`.
        alpha: :math:`\alpha`, how slowly the running means forget (Keras and optax: 0.9).
        eps: :math:`\epsilon`, outside the root (Keras: 1e-7).
        weight_decay: :math:`\lambda`, added to the gradient.
        momentum: :math:`\mu`.
        centered: divide by the running standard deviation instead of the root mean square.
        foreach, capturable, differentiable: torch's choices of execution; the first is accepted without effect,
            the others raise.
        maximize: climb instead of descend.
        convention: "torch", or "keras" / "optax": :math:`\sqrt{v + \epsilon}`, and the rate inside the momentum, which
            differs once the rate changes.
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> w.grad = torch.tensor([5.0, -0.5])
    >>> RMSprop([w], lr=0.01, backend="torch").step()
    >>> [round(x, 4) for x in w.tolist()]
    [0.9, 1.1]

    Source: Tieleman and Hinton, "Lecture 6.5: RMSprop", 2012; centered: Graves, "Generating sequences", 2013, eq. 38.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        convention: Convention = "torch",
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
        backend: Backend = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "convention": convention,
        }
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        one_of("convention", group["convention"], ("torch", "keras", "optax"))
        if not group["momentum"] >= 0:
            raise InputError(f"momentum = {group['momentum']} must be at least 0")
        if not 0 <= group["alpha"] <= 1:
            raise InputError(f"alpha = {group['alpha']} must lie in [0, 1]")

    def rule(self, group: Mapping[str, Any]) -> Any:
        return RULES[bool(group["centered"]), group["momentum"] > 0]

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        centered = ("grad_avg",) if group["centered"] else ()
        return ("square_avg", *centered, *(("momentum_buffer",) if group["momentum"] > 0 else ()))

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        lr, eps, ours = float(group["lr"]), group["eps"], group.get("convention", "torch") == "torch"
        within = not ours and group["momentum"] > 0
        return {
            "rate": 1.0 if within else lr,
            "alpha": group["alpha"],
            "outside": eps if ours else 0.0,
            "inside": 0.0 if ours else eps,
            "weight_decay": group["weight_decay"],
            "mu": group["momentum"],
            "within": lr if within else 1.0,
        }
