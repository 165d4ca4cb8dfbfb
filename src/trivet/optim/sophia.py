"""Sophia-G: a clipped second-order step, with the curvature estimated every few steps."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.kernels.xp import reference as xp
from trivet.kernels.xp.reference import Value
from trivet.optim import storage
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step
from trivet.optim.storage import Rounding, StateFormat

__all__ = ["Sophia"]


# theta, gradient, first moment, curvature -> theta', moment', curvature (unchanged)
def sophia(
    p: Value, g: Value, exp_avg: Value, hessian: Value, lr: float, beta1: float, rho: float, eps: float, shrink: float
) -> tuple[Value, Value, Value]:
    m = beta1 * exp_avg + (1 - beta1) * g
    ratio = xp.minimum(xp.abs(m) / (rho * hessian + eps), 1.0)
    return p * shrink - lr * xp.sign(m) * ratio, m, hessian


class Sophia(ElementwiseOptimizer):
    r"""Divides momentum by an estimate of the Hessian's diagonal and clips what comes out.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
            h \leftarrow \beta_2 h + (1 - \beta_2) B \hat g^2 \quad \text{(at } \mathtt{update\_hessian} \text{)} \\
        \theta &\leftarrow \theta (1 - \eta \lambda) -
            \eta \, \mathrm{clip}(m / (\rho h + \epsilon), -1, 1)

    where :math:`\hat g` is the gradient of the mean loss of :math:`B` samples **with labels drawn from the model's own
    output** (the Gauss-Newton-Bartlett estimate). Every 10 steps or so::

        logits = model(x)
        labels = torch.distributions.Categorical(logits=logits).sample()
        cross_entropy(logits, labels).backward()
        optimizer.update_hessian(batch_size=len(x)); optimizer.zero_grad()

    *Memory*: two states, `exp_avg` and `hessian` (8 bytes a parameter in float32), and `step`.
    *When*: language models, where curvature differs by orders of magnitude between coordinates. *When not*: losses
    that are no likelihood of sampled labels; short runs.
    *Failure*: without `update_hessian` every coordinate moves by the whole rate (Lion without its mixing); a warning
    says so after 20 steps.

    Args:
        params: parameters, or groups of them.
        lr: rate :math:`\eta`, the most that a coordinate moves in a step; about Lion's.
        betas: :math:`\beta_1` for the momentum, :math:`\beta_2` for the curvature.
        rho: :math:`\rho`; choose it so that a tenth to a half of the coordinates are not clipped.
        weight_decay: :math:`\lambda`, decoupled, multiplied by the rate.
        eps: :math:`\epsilon`.
        maximize: climb instead of descend.
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = Sophia([w], lr=0.1, weight_decay=0.0, backend="torch")
    >>> w.grad = torch.tensor([1.0, 100.0]); optimizer.update_hessian(batch_size=8)
    >>> w.grad = torch.tensor([0.001, 0.001]); optimizer.step()
    >>> [round(x, 4) for x in w.tolist()]
    [0.9989, 1.0]

    Source: Liu et al., "Sophia: a scalable stochastic second-order optimizer", 2023, algorithms 2 and 3; epsilon is
    added as in the authors' code, and their `bs` is inside :math:`h` here.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.965, 0.99),
        rho: float = 0.04,
        weight_decay: float = 0.1,
        *,
        eps: float = 1e-15,
        maximize: bool = False,
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
        backend: Backend = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "rho": rho,
            "weight_decay": weight_decay,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        if not group["rho"] > 0:
            raise InputError(f"rho = {group['rho']} must be above 0")
        group.setdefault("hessian_updates", 0)  # type: ignore[attr-defined]

    def rule(self, group: Mapping[str, Any]) -> Any:
        return sophia

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "hessian")

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        if group["hessian_updates"] == 0 and 20 in step:
            warnings.warn(
                "Sophia has made 20 steps without a Hessian estimate, so every coordinate moves by the whole rate; "
                "call update_hessian() every 10 steps (its page shows how)",
                stacklevel=2,
            )
        lr = float(group["lr"])
        return {
            "lr": lr,
            "beta1": group["betas"][0],
            "rho": group["rho"],
            "eps": group["eps"],
            "shrink": 1 - lr * group["weight_decay"],
        }

    @torch.no_grad()
    def update_hessian(self, batch_size: int) -> None:
        """Take the present gradients, of a mean over `batch_size` samples with drawn labels, into the curvature."""
        for group in self.param_groups:
            beta2 = float(group["betas"][1])
            group["hessian_updates"] += 1
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self._state_of(group, param, self.states(group))
                stored = storage.decode(state, "hessian")
                wide = torch.promote_types(stored.dtype, torch.float32)
                hessian, grad = stored.to(wide), param.grad.to(wide)
                square = grad.abs().square() if grad.is_complex() else grad * grad
                hessian.mul_(beta2).add_(square, alpha=batch_size * (1 - beta2))
                if hessian is not state.get("hessian"):
                    self._write(group, param, state, "hessian", hessian, group["hessian_updates"])
