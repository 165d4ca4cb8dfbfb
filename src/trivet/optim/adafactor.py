"""Adafactor: the second moment of a matrix kept as one row and one column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.optim.base import Params
from trivet.optim.whole import WholeTensorOptimizer, count, keep

__all__ = ["Adafactor"]


class Adafactor(WholeTensorOptimizer):
    r"""Scales the gradient by a factored second moment, and the step to the tensor's own size.

    .. math::
        \beta_t &= 1 - t^{\kappa}, \qquad R \leftarrow \beta_t R + (1 - \beta_t) \, \overline{g^2}^{\,cols}, \qquad
            C \leftarrow \beta_t C + (1 - \beta_t) \, \overline{g^2}^{\,rows} \\
        U &= g \Big/ \sqrt{R C / \overline{R}}, \qquad
            U \leftarrow U / \max(1, \mathrm{RMS}(U) / d) \\
        \theta &\leftarrow \theta (1 - \eta \lambda) -
            \max(\epsilon_2, \mathrm{RMS}(\theta)) \min(\eta, 1 / \sqrt t) \, U

    *Memory*: two states of a row and a column, `row_var` and `col_var` (about nothing for a large matrix), or
    `variance` for vectors (4 bytes a parameter), and `step`. No first moment.
    *When*: the memory of AdamW's states is not there. *When not*: where it is: AdamW or Lion reach lower losses.
    *Failure*: without warmup the first steps are as large as `lr` allows; raise :math:`d` only with care.

    Unlike torch's, the step waits for no device value, and `eps[0]` follows each parameter's own type.

    Args:
        params: parameters, or groups of them.
        lr: the most that the relative rate may be, :math:`\eta`.
        beta2_decay: :math:`\kappa`, at most 0.
        eps: :math:`\epsilon_1`, the least size of the root (`None`: the type's epsilon), and :math:`\epsilon_2`.
        d: :math:`d`, at least 1, where a step is clipped.
        weight_decay: :math:`\lambda`, decoupled, multiplied by `lr`.
        foreach: accepted, without effect here.
        maximize: climb instead of descend.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.ones(2, 3))
    >>> w.grad = torch.full((2, 3), 0.5)
    >>> Adafactor([w], lr=0.1).step()
    >>> round(w[0, 0].item(), 4)
    0.9

    Source: Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018, algorithms 4, 5;
    :math:`\epsilon_1` bounds the estimate from below instead of being added to :math:`g^2`, as in torch.
    """

    gathers: ClassVar[bool] = True

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        if not group["beta2_decay"] <= 0:
            raise InputError(f"beta2_decay = {group['beta2_decay']} must be at most 0")
        if not group["d"] >= 1:
            raise InputError(f"d = {group['d']} must be at least 1")
        if any(value is not None and not value >= 0 for value in group["eps"]):
            raise InputError(f"eps = {group['eps']} must each be at least 0 (the first may be None)")

    def update(self, group: Mapping[str, Any], param: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
        step, lr = count(state), float(group["lr"])
        eps1, eps2 = group["eps"]
        eps1 = torch.finfo(param.dtype).eps if eps1 is None else eps1
        weight = param.to(grad.dtype)
        scale = (torch.linalg.vector_norm(weight) / max(param.numel(), 1) ** 0.5).clamp_min(eps2)
        update = _second_moment(state, param, grad, step ** group["beta2_decay"], eps1)
        update = update.clamp_min_(eps1 * eps1).rsqrt_().mul_(grad)
        size = torch.linalg.vector_norm(update) / (max(param.numel(), 1) ** 0.5 * group["d"])
        factor = min(lr, step**-0.5) * scale / size.clamp_min(1.0)
        if group["weight_decay"]:
            weight.mul_(1 - lr * group["weight_decay"])
        keep(param, weight.sub_(update.mul_(factor)))


def _second_moment(state: dict[str, Any], param: Tensor, grad: Tensor, new: float, eps1: float) -> Tensor:
    """Move the estimate on by the weight of the new gradient and return it in full."""
    if grad.dim() < 2:
        if "variance" not in state:
            state["variance"] = torch.zeros_like(param)
        variance: Tensor = state["variance"].to(grad.dtype).lerp(grad * grad, new)
        keep(state["variance"], variance)
        return variance
    if "row_var" not in state:
        state["row_var"] = param.new_zeros((*param.shape[:-1], 1))
        state["col_var"] = param.new_zeros((*param.shape[:-2], 1, param.shape[-1]))
    means = []
    for name, dim in (("row_var", -1), ("col_var", -2)):
        # The norm squares without a matrix in between.
        fresh = torch.linalg.vector_norm(grad, dim=dim, keepdim=True).square().div(grad.size(dim))
        means.append(state[name].to(grad.dtype).lerp(fresh, new))
        state[name].copy_(means[-1])
    row, column = means
    estimate: Tensor = (row / row.mean(dim=-2, keepdim=True).clamp_min(eps1)) @ column
    return estimate
