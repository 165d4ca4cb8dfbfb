"""Bounding gradients before a step: by the norm of all together, by value, or by each unit's weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.kernels import norms

__all__ = ["clip_adaptive_", "clip_norm_", "clip_value_", "total_norm"]


def total_norm(params: Tensor | Iterable[Tensor]) -> Tensor:
    """Return the Euclidean norm of all gradients together, a scalar tensor; 0 where there are none.

    On the CPU it is one pass over memory in double precision, elsewhere torch's `get_total_norm`.

    >>> w = torch.nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, 4.0])
    >>> total_norm([w]).item()
    5.0
    """
    grads = [p.grad for p in _listed(params) if p.grad is not None]
    if grads and norms.fits(grads):
        return torch.tensor(norms.norm(grads), dtype=torch.promote_types(grads[0].dtype, torch.float32))
    return torch.nn.utils.get_total_norm(grads)


def clip_norm_(params: Tensor | Iterable[Tensor], max_norm: float) -> Tensor:
    r"""Scale all gradients so that their norm together is at most `max_norm`; return the norm before that.

    .. math:: g \leftarrow g \cdot \min(1, c / (\lVert g \rVert + 10^{-6}))

    Gradients that need no scaling are not touched on the CPU, and on no device is a value waited for.

    >>> w = torch.nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, 4.0])
    >>> clip_norm_([w], 1.0).item(), [round(x, 4) for x in w.grad.tolist()]
    (5.0, [0.6, 0.8])

    Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", 2013, algorithm 1.
    """
    if not max_norm > 0:
        raise InputError(f"max_norm = {max_norm} must be above 0")
    params = _listed(params)
    norm = total_norm(params)
    if norm.device.type != "cpu" or norm > max_norm or not torch.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(params, max_norm, norm)
    return norm


def clip_value_(params: Tensor | Iterable[Tensor], value: float) -> None:
    """Bound every coordinate of every gradient to [-value, value]; this changes the direction.

    >>> w = torch.nn.Parameter(torch.zeros(2)); w.grad = torch.tensor([3.0, -0.2])
    >>> clip_value_([w], 1.0); [round(x, 4) for x in w.grad.tolist()]
    [1.0, -0.2]
    """
    if not value > 0:
        raise InputError(f"value = {value} must be above 0")
    torch.nn.utils.clip_grad_value_(_listed(params), value)


@torch.no_grad()
def clip_adaptive_(params: Tensor | Iterable[Tensor], factor: float = 0.01, eps: float = 1e-3) -> None:
    r"""Bound each unit's gradient to a fraction of the unit's own weights (AGC).

    .. math:: g_i \leftarrow g_i \cdot \min\left(1, \lambda \frac{\max(\lVert\theta_i\rVert, \epsilon)}
        {\lVert g_i \rVert}\right)

    A unit is what one output is made of: a row of a matrix, a filter of a convolution; a vector is one unit per
    element. Leave the output layer out, as the paper does.

    >>> w = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]])); w.grad = torch.tensor([[3.0, 4.0], [0.0, 1e-3]])
    >>> clip_adaptive_([w], factor=0.1); [[round(x, 4) for x in row] for row in w.grad.tolist()]
    [[0.3, 0.4], [0.0, 0.001]]

    Source: Brock et al., "High-performance large-scale image recognition without normalization", 2021, equation 3.
    """
    if not factor > 0:
        raise InputError(f"factor = {factor} must be above 0")
    for param in _listed(params):
        if param.grad is None:
            continue
        axes = tuple(range(1, param.dim()))
        weight, slope = (
            (torch.linalg.vector_norm(t, dim=axes, keepdim=True) if axes else t.abs()) for t in (param, param.grad)
        )
        tiny = torch.finfo(slope.dtype).tiny
        param.grad.mul_((factor * weight.clamp_min(eps) / slope.clamp_min(tiny)).clamp_max(1.0))


def _listed(params: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [params] if isinstance(params, Tensor) else list(params)
