"""Adam and AdamW: steps scaled by the running second moment of each coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from trivet.kernels.xp import reference as xp
from trivet.kernels.xp.reference import Value
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step
from trivet.optim.hyperparameters import Convention, one_of
from trivet.optim.storage import Rounding, StateFormat

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

    *Memory*: two states, `exp_avg` and `exp_avg_sq` (8 bytes a parameter in float32), a third with `amsgrad`
    (`max_exp_avg_sq`), and `step`.
    *When*: coordinates of unlike scale, noisy or sparse gradients. *When not*: together with weight decay, for which
    there is `AdamW`; where memory is short (`Lion`, `Adafactor`).
    *Failure*: the second moment lags behind a sudden larger gradient, which gives a spike: lower :math:`\beta_2`, warm
    up, or clip.

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
        convention: "torch" (also optax's); "keras": :math:`\epsilon` is added before the root's bias is corrected
            (its default is 1e-7); "paper": a decoupled decay is multiplied by the schedule's factor alone, not by
            the base rate (`initial_lr`, which schedulers set): :math:`\lambda` is then about 1000 times smaller.
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
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
        convention: Convention = "torch",
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
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
            "convention": convention,
        }
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        one_of("convention", group.get("convention", "torch"), ("torch", "optax", "keras", "paper"))

    def rule(self, group: Mapping[str, Any]) -> Any:
        return amsgrad if group["amsgrad"] else adam

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        beta1, beta2 = map(float, group["betas"])
        lr, decay = float(group["lr"]), float(group["weight_decay"])
        decoupled, convention = group.get("decoupled_weight_decay", False), group.get("convention", "torch")
        root = 1 / np.sqrt(1 - beta2**step)
        factor = lr / float(group.get("initial_lr", lr) or 1.0) if convention == "paper" else lr
        return {
            "rate": lr / (1 - beta1**step),
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"] * root if convention == "keras" else group["eps"],
            "root": root,
            "shrink": 1 - factor * decay if decoupled else 1.0,
            "couple": 0.0 if decoupled else decay,
        }


class AdamW(Adam):
    r"""Adam with decoupled weight decay: :math:`\theta` is first multiplied by :math:`1 - \eta \lambda`.

    .. math::
        \theta \leftarrow \theta (1 - \eta \lambda) -
            \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    The moments are Adam's; the decay does not pass through them.

    *Memory*: as Adam. *When*: the first choice for transformers, fine-tuning and tables. *When not*: memory is short.
    *Failure*: as Adam; decay on biases and norm scales hurts the fit (`param_groups`).

    Args:
        params, lr, betas, eps, amsgrad, maximize, foreach, fused, capturable, differentiable, convention, state_format,
            rounding, backend: as in `Adam`.
        weight_decay: :math:`\lambda`, multiplied by the rate.

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
        convention: Convention = "torch",
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
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
            convention=convention,
            state_format=state_format,
            rounding=rounding,
            backend=backend,
        )
