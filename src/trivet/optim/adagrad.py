"""Adagrad: each coordinate's rate falls with all the gradient it has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trivet.errors import InputError
from trivet.kernels.xp import reference as xp
from trivet.kernels.xp.reference import Value
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step, filled
from trivet.optim.hyperparameters import Convention, one_of
from trivet.optim.storage import Rounding, StateFormat

__all__ = ["Adagrad"]


# theta, gradient, sum of squares -> theta', sum'; epsilon is `inside` the root or `outside` of it
def adagrad(
    p: Value, g: Value, total: Value, rate: float, outside: float, inside: float, weight_decay: float
) -> tuple[Value, Value]:
    g = g + weight_decay * p
    s = total + g * g
    return p - rate * g / (xp.sqrt(s + inside) + outside), s


class Adagrad(ElementwiseOptimizer):
    r"""Divides each coordinate's step by the root of the sum of all its squared gradients.

    .. math::
        s &\leftarrow s + g^2, \qquad \eta_t = \eta / (1 + (t - 1) \delta) \\
        \theta &\leftarrow \theta - \eta_t \, g / (\sqrt{s} + \epsilon)

    *Memory*: one state, `sum` (4 bytes a parameter in float32), and `step`.
    *When*: sparse or rare features (bag of words, embeddings of rare items): a coordinate seldom touched keeps a
    large rate. *When not*: long trainings of deep networks; the sum only grows.
    *Failure*: the rate vanishes before the loss is low; raise `lr`, or take RMSprop, whose memory fades.

    Args:
        params: parameters, or groups of them.
        lr: rate :math:`\eta`.
        lr_decay: :math:`\delta`, an additional decay of the rate over steps.
        weight_decay: :math:`\lambda`, added to the gradient.
        initial_accumulator_value: the sum's first value; above 0 it tames the first steps.
        eps: :math:`\epsilon`, outside the root.
        foreach, fused, differentiable: torch's choices of execution; accepted, without effect here
            (`differentiable=True` raises).
        maximize: climb instead of descend.
        convention: "torch", or "keras" / "optax": :math:`\sqrt{s + \epsilon}` (their defaults are
            `initial_accumulator_value=0.1`, `eps=1e-7`, and Keras's `lr=1e-3`).
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = Adagrad([w], lr=0.1, backend="torch")
    >>> for _ in range(2):
    ...     w.grad = torch.tensor([3.0, -0.01]); optimizer.step()
    >>> [round(x, 4) for x in w.tolist()]
    [0.8293, 1.1707]

    Source: Duchi, Hazan and Singer, "Adaptive subgradient methods", 2011, figure 1 (diagonal form).
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        convention: Convention = "torch",
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
        backend: Backend = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
            "convention": convention,
        }
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        one_of("convention", group["convention"], ("torch", "keras", "optax"))
        for name in ("lr_decay", "initial_accumulator_value"):
            if not group[name] >= 0:
                raise InputError(f"{name} = {group[name]} must be at least 0")

    def rule(self, group: Mapping[str, Any]) -> Any:
        return adagrad

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("sum",)

    def initial(self, name: str, group: Mapping[str, Any], param: Tensor) -> Tensor:
        return filled(param, group["initial_accumulator_value"])

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        eps, inside = group["eps"], group.get("convention", "torch") != "torch"
        return {
            "rate": float(group["lr"]) / (1 + (step - 1) * group["lr_decay"]),
            "outside": 0.0 if inside else eps,
            "inside": eps if inside else 0.0,
            "weight_decay": group["weight_decay"],
        }
