"""Prodigy: Adam that estimates its own rate from the distance travelled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.optim.base import Params
from trivet.optim.whole import WholeTensorOptimizer, keep, zeros

__all__ = ["Prodigy"]


class Prodigy(WholeTensorOptimizer):
    r"""Adam whose rate is :math:`\eta d`, where :math:`d` grows towards the distance from the start to the solution.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) d g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) d^2 g^2 \\
        r &\leftarrow \beta_3 r + \tfrac{d}{d_0} \, d \eta \langle g, \theta_0 - \theta \rangle, \qquad
            s \leftarrow \beta_3 s + \tfrac{d}{d_0} \, d \eta \, g \\
        \theta &\leftarrow \theta (1 - d \eta \lambda) - d \eta \, m / (\sqrt v + d' \epsilon), \qquad
            d' = \max(d, c \, r / \lVert s \rVert_1)

    with :math:`\beta_3 = \sqrt{\beta_2}`; :math:`d' ` is the next step's :math:`d`.

    *Memory*: four states, `exp_avg`, `exp_avg_sq`, `s` and `p0` (16 bytes a parameter in float32). `d` is in the
    groups; it is one number for all of them.
    *When*: no time to look for a rate; fine-tuning of image models. *When not*: memory is short; very long runs.
    *Failure*: `d` never leaves :math:`d_0` (1e-6) when gradients disagree from step to step: raise `d0`; it grows too
    far with a long warmup: `safeguard_warmup=True`.

    Args:
        params: parameters, or groups of them.
        lr: factor :math:`\eta` of the estimated rate, the schedule's factor; leave its peak at 1.
        betas: :math:`\beta_1, \beta_2`.
        eps: :math:`\epsilon`.
        weight_decay: :math:`\lambda`, decoupled, multiplied by the rate.
        d0: the first :math:`d`.
        d_coef: :math:`c`; 0.5 and 2 are worth a trial.
        growth_rate: the most that :math:`d` may grow by in a step.
        bias_correction: Adam's; the paper has none.
        safeguard_warmup: leave :math:`\eta` out of :math:`s`.
        maximize: climb instead of descend.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([3.0]))
    >>> optimizer = Prodigy([w])
    >>> for _ in range(200):
    ...     w.grad = 2 * w.detach(); optimizer.step()
    >>> abs(w.item()) < 0.5, optimizer.d > 0.1
    (True, True)

    Source: Mishchenko and Defazio, "Prodigy: an expeditiously adaptive parameter-free learner", 2023, algorithm 4.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        bias_correction: bool = False,
        safeguard_warmup: bool = False,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "d0": d0,
            "d": d0,
            "d_max": d0,
            "d_numerator": 0.0,
            "d_coef": d_coef,
            "k": 0,
            "growth_rate": growth_rate,
            "bias_correction": bias_correction,
            "safeguard_warmup": safeguard_warmup,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    @property
    def d(self) -> float:
        """The present estimate of the distance, which is the rate where `lr` is 1."""
        return float(self.param_groups[0]["d"])

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        if not group["d0"] > 0:
            raise InputError(f"d0 = {group['d0']} must be above 0")

    def before(self) -> None:
        """Estimate the distance from all parameters together; this is the one value that is fetched from the device."""
        lead = self.param_groups[0]
        lr = max(float(group["lr"]) for group in self.param_groups)
        beta2 = float(lead["betas"][1])
        beta3, d, d0 = math.sqrt(beta2), lead["d"], lead["d0"]
        self._rate = d * lr * self._correction(lead)
        weight = (d / d0) * (d if lead["safeguard_warmup"] else self._rate)
        inner, size = [], []
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None or not float(group["lr"]):
                    continue
                grad, state = self._gradient(group, param), self.state[param]
                if "p0" not in state:
                    state["p0"] = param.detach().clone()
                s = zeros(state, "s", param)
                fresh = s.to(grad.dtype).mul_(beta3).add_(grad, alpha=weight)
                keep(s, fresh)
                inner.append((state["p0"].to(grad.dtype) - param.to(grad.dtype)).mul_(grad).sum().double())
                size.append(torch.linalg.vector_norm(fresh, 1).double())
        if not inner or inner[0].is_meta:  # on the meta device states have no values to estimate from
            return
        numerator, denominator = (float(torch.stack([_whole(t) for t in parts]).sum()) for parts in (inner, size))
        numerator = beta3 * lead["d_numerator"] + (d / d0) * self._rate * numerator
        if denominator == 0:
            return
        estimate = lead["d_coef"] * numerator / denominator
        largest = max(lead["d_max"], estimate)
        following = min(largest, (max(d, estimate) if d == d0 else d) * lead["growth_rate"])
        for group in self.param_groups:
            group.update(d_numerator=numerator, d_max=largest, d_before=d, d=following, k=group["k"] + 1)

    def _correction(self, group: Mapping[str, Any]) -> float:
        if not group["bias_correction"]:
            return 1.0
        beta1, beta2 = group["betas"]
        return float(math.sqrt(1 - beta2 ** (group["k"] + 1)) / (1 - beta1 ** (group["k"] + 1)))

    def update(self, group: Mapping[str, Any], param: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
        if not float(group["lr"]):
            return
        (beta1, beta2), d = group["betas"], group.get("d_before", group["d"])
        exp_avg, exp_avg_sq = zeros(state, "exp_avg", param), zeros(state, "exp_avg_sq", param)
        m = exp_avg.to(grad.dtype).mul_(beta1).add_(grad, alpha=d * (1 - beta1))
        v = exp_avg_sq.to(grad.dtype).mul_(beta2).addcmul_(grad, grad, value=d * d * (1 - beta2))
        keep(exp_avg, m)
        keep(exp_avg_sq, v)
        weight = param.to(grad.dtype)
        if group["weight_decay"]:
            weight.mul_(1 - self._rate * group["weight_decay"])
        size = v.sqrt().add_(group["d"] * group["eps"])
        # Before any gradient was seen both are 0, and so is the step.
        keep(param, weight.addcdiv_(m, size.clamp_min_(torch.finfo(size.dtype).tiny), value=-self._rate))


def _whole(value: Tensor) -> Tensor:
    """Return a sum over all shards of a distributed tensor."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
