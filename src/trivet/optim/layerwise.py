"""LARS and LAMB: each tensor moves by a fraction of its own norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.optim.base import Params
from trivet.optim.whole import WholeTensorOptimizer, count, keep, wide, zeros

__all__ = ["LAMB", "LARS"]


def _trust(weight: Tensor, update: Tensor) -> Tensor:
    """Return the ratio of norms, 1 where either is 0; no value is fetched from the device."""
    a, b = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(update)
    return torch.where((a > 0) & (b > 0), a / b.clamp_min(torch.finfo(b.dtype).tiny), torch.ones_like(a))


class LARS(WholeTensorOptimizer):
    r"""SGD with momentum whose rate is scaled per tensor to its norm.

    .. math::
        v &\leftarrow \mu v + \eta \, \frac{\kappa \lVert\theta\rVert}{\lVert g \rVert + \lambda \lVert\theta\rVert}
            \, (g + \lambda \theta), \qquad \theta \leftarrow \theta - v

    The rate is inside the velocity, as in the paper (torch's SGD has it outside).

    *Memory*: one state, `momentum_buffer` (4 bytes a parameter in float32).
    *When*: convolutional networks in batches of 8k and more. *When not*: small batches, where SGD is as good and has
    one number less to tune.

    Args:
        params: parameters, or groups of them.
        lr: global rate :math:`\eta`.
        momentum: :math:`\mu`.
        weight_decay: :math:`\lambda`, added to the gradient.
        trust_coefficient: :math:`\kappa`.
        adapt_vectors: scale tensors with fewer than two dimensions too (biases, norm scales), as in the paper; by
            default they move as in SGD, which is the practice since.
        maximize: climb instead of descend.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    >>> w.grad = torch.tensor([[1000.0, 0.0]])
    >>> LARS([w], lr=1.0, trust_coefficient=0.1).step()
    >>> [round(x, 4) for x in w[0].tolist()]
    [2.5, 4.0]

    Source: You, Gitman and Ginsburg, "Large batch training of convolutional networks", 2017, algorithm 1.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        *,
        adapt_vectors: bool = False,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapt_vectors": adapt_vectors,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        if not group["momentum"] >= 0:
            raise InputError(f"momentum = {group['momentum']} must be at least 0")
        if not group["trust_coefficient"] > 0:
            raise InputError(f"trust_coefficient = {group['trust_coefficient']} must be above 0")

    def update(self, group: Mapping[str, Any], param: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
        weight, decay = param.to(grad.dtype), group["weight_decay"]
        rate: float | Tensor = float(group["lr"])
        if param.dim() > 1 or group["adapt_vectors"]:
            own, slope = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(grad)
            local = group["trust_coefficient"] * own / (slope + decay * own).clamp_min(torch.finfo(own.dtype).tiny)
            rate = rate * torch.where((own > 0) & (slope > 0), local, torch.ones_like(local))
        velocity = zeros(state, "momentum_buffer", param)
        step = grad.add(weight, alpha=decay).mul_(rate)
        fresh = velocity.to(grad.dtype).mul_(group["momentum"]).add_(step)
        keep(velocity, fresh)
        keep(param, weight.sub_(fresh))


class LAMB(WholeTensorOptimizer):
    r"""AdamW whose step is scaled per tensor to its norm.

    .. math::
        u = \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda \theta, \qquad
        \theta \leftarrow \theta - \eta \, \frac{\lVert\theta\rVert}{\lVert u \rVert} \, u

    with Adam's moments :math:`m, v`.

    *Memory*: two states, `exp_avg` and `exp_avg_sq` (8 bytes a parameter in float32), and `step`.
    *When*: transformers in batches of 8k and more. *When not*: usual batches, where AdamW is as good.
    *Failure*: tensors that start near 0 (adapters, the last layer of a block) move little: give them a group of their
    own, or AdamW.

    Args:
        params: parameters, or groups of them.
        lr: rate :math:`\eta`.
        betas: :math:`\beta_1, \beta_2`.
        eps: :math:`\epsilon`, outside the root.
        weight_decay: :math:`\lambda`, part of the step whose norm is taken.
        max_grad_norm: clip the norm of all gradients together first, as in the authors' code; `None` to leave it.
        adapt_vectors: scale tensors with fewer than two dimensions too, as in the paper.
        maximize: climb instead of descend.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    >>> w.grad = torch.tensor([[0.1, 0.0]])
    >>> LAMB([w], lr=0.1, weight_decay=0.0).step()
    >>> [round(x, 4) for x in w[0].tolist()]
    [2.5, 4.0]

    Source: You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020, algorithm 2.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        max_grad_norm: float | None = 1.0,
        adapt_vectors: bool = False,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "adapt_vectors": adapt_vectors,
            "maximize": maximize,
        }
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise InputError(f"max_grad_norm = {max_grad_norm} must be above 0, or None")
        self.max_grad_norm = max_grad_norm
        self._factor: Tensor | float = 1.0
        super().__init__(params, defaults)

    def before(self) -> None:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.max_grad_norm is not None and grads and not any(grad.is_sparse for grad in grads):
            norm = torch.nn.utils.get_total_norm([grad.to(wide(grad.dtype)) for grad in grads])
            self._factor = (self.max_grad_norm / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1.0)

    def update(self, group: Mapping[str, Any], param: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
        (beta1, beta2), step = group["betas"], count(state)
        grad = grad * self._factor
        exp_avg, exp_avg_sq = zeros(state, "exp_avg", param), zeros(state, "exp_avg_sq", param)
        m = exp_avg.to(grad.dtype).lerp_(grad, 1 - beta1)
        v = exp_avg_sq.to(grad.dtype).mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        keep(exp_avg, m)
        keep(exp_avg_sq, v)
        weight = param.to(grad.dtype)
        size = (v / (1 - beta2**step)).sqrt_().add_(group["eps"]).mul_(1 - beta1**step)
        u = m / size
        u.add_(weight, alpha=group["weight_decay"])
        if param.dim() > 1 or group["adapt_vectors"]:
            u.mul_(_trust(weight, u))
        keep(param, weight.sub_(u, alpha=float(group["lr"])))

    def __getstate__(self) -> dict[str, Any]:
        return dict(super().__getstate__()) | {"max_grad_norm": self.max_grad_norm, "_factor": 1.0}
