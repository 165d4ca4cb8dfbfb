"""NAdam: Adam with Nesterov's look-ahead and a slowly growing momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from trivet.errors import InputError
from trivet.kernels import multi_tensor
from trivet.kernels.xp import reference as xp
from trivet.kernels.xp.reference import Value
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step
from trivet.optim.hyperparameters import Convention, one_of
from trivet.optim.storage import Rounding, StateFormat

__all__ = ["NAdam"]


# theta, gradient, first and second moment -> theta', moments'
def nadam(
    p: Value,
    g: Value,
    exp_avg: Value,
    exp_avg_sq: Value,
    ahead: float,
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
    return p * shrink - (ahead * g + rate * m) / (xp.sqrt(v) * root + eps), m, v


class NAdam(ElementwiseOptimizer):
    r"""Adam that steps from where the momentum will have carried it.

    .. math::
        \mu_t &= \beta_1 (1 - \tfrac12 \, 0.96^{t \psi}), \qquad \hat v = v / (1 - \beta_2^t) \\
        \theta &\leftarrow \theta - \frac{\eta}{\sqrt{\hat v} + \epsilon} \left(
            \frac{(1 - \mu_t) g}{1 - \prod_{i \le t} \mu_i} + \frac{\mu_{t+1} m}{1 - \prod_{i \le t+1} \mu_i} \right)

    with Adam's moments :math:`m, v`.

    *Memory*: two states, `exp_avg` and `exp_avg_sq` (8 bytes a parameter in float32), `step` and `mu_product`.
    *When*: as Adam; it tends to be a little faster early and was the AlgoPerf benchmark's strongest baseline.
    *When not*: noisy gradients with small batches; the fresh gradient counts more than in Adam.

    Args:
        params: parameters, or groups of them.
        lr: rate :math:`\eta`.
        betas: :math:`\beta_1, \beta_2`.
        eps: :math:`\epsilon`, outside the root.
        weight_decay: :math:`\lambda`, added to the gradient, unless `decoupled_weight_decay`.
        momentum_decay: :math:`\psi`.
        decoupled_weight_decay: multiply the parameter by :math:`1 - \eta \lambda` instead.
        foreach, capturable, differentiable: torch's choices of execution; the first is accepted without effect,
            the others raise.
        maximize: climb instead of descend.
        convention: "torch"; "keras": :math:`\psi = 1` whatever `momentum_decay` says; "optax": no growing momentum,
            :math:`\hat m = \beta_1 m / (1 - \beta_1^{t+1}) + (1 - \beta_1) g / (1 - \beta_1^t)`.
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> w.grad = torch.tensor([0.01, -100.0])
    >>> NAdam([w], lr=0.1, convention="optax", backend="torch").step()
    >>> [round(x, 4) for x in w.tolist()]
    [0.8526, 1.1474]

    Source: Dozat, "Incorporating Nesterov momentum into Adam", 2016.
    """

    counters: ClassVar[dict[str, float]] = {"mu_product": 1.0}

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
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
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "convention": convention,
        }
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        one_of("convention", group["convention"], ("torch", "keras", "optax"))
        if not group["momentum_decay"] >= 0:
            raise InputError(f"momentum_decay = {group['momentum_decay']} must be at least 0")

    def rule(self, group: Mapping[str, Any]) -> Any:
        return nadam

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        beta1, beta2 = map(float, group["betas"])
        lr, decay = float(group["lr"]), group["weight_decay"]
        decoupled = group.get("decoupled_weight_decay", False)
        return {
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"],
            "root": 1 / np.sqrt(1 - beta2**step),
            "shrink": 1 - lr * decay if decoupled else 1.0,
            "couple": 0.0 if decoupled else decay,
        }

    def counted(self, group: Mapping[str, Any], step: Step, counters: Mapping[str, list[Tensor]]) -> dict[str, Number]:
        lr, beta1 = float(group["lr"]), float(group["betas"][0])
        convention = group.get("convention", "torch")
        psi = {"torch": group["momentum_decay"], "keras": 1.0, "optax": np.inf}[convention]
        mu, following = (beta1 * (1 - 0.5 * 0.96 ** (t * psi)) for t in (step, step + 1))
        product = multi_tensor.multiply(counters["mu_product"], mu)
        return self.numbers(group, step) | {
            "ahead": lr * (1 - mu) / (1 - product),
            "rate": lr * following / (1 - product * following),
        }
