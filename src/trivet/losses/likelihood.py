"""Negative log likelihoods: counts (Poisson) and values with their own uncertainty (Gaussian)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.losses.contract import Loss, reduce, widen
from trivet.losses.pointwise import pointwise

__all__ = ["GaussianNLLLoss", "PoissonNLLLoss", "gaussian_nll_loss", "poisson_nll_loss"]


def _poisson_log_rate(x: Tensor, t: Tensor, constant: float) -> tuple[Tensor, Tensor]:
    rate = torch.exp(x)
    return rate - t * x + constant * _stirling(t), rate - t


def _poisson_rate(x: Tensor, t: Tensor, constant: float, eps: float) -> tuple[Tensor, Tensor]:
    return x - t * torch.log(x + eps) + constant * _stirling(t), 1 - t / (x + eps)


def _stirling(t: Tensor) -> Tensor:
    safe = torch.where(t > 1, t, 1)
    return torch.where(t > 1, t * torch.log(safe) - t + 0.5 * torch.log(2 * math.pi * safe), 0)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Negative log likelihood of counts under a Poisson distribution.

    .. math:: \ell = e^x - t x \;(\text{log rate } x), \qquad
              \ell = x - t \log(x + \epsilon) \;(\text{rate } x)

    Args:
        input: log rates ``(batch, ...)``, or rates with ``log_input=False``.
        target: counts of the same shape.
        log_input: whether input is the logarithm of the rate.
        full: add Stirling's form of :math:`\log t!` for counts above 1; it does not change the gradient.
        eps: keeps the logarithm of a rate finite; only with ``log_input=False``.
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` (over the weights of the elements that take part), ``"sum"`` or ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.

    >>> poisson_nll_loss(torch.tensor([0.0]), torch.tensor([3.0])).item()
    1.0
    """
    rule, parameters = (_poisson_log_rate, (float(full),)) if log_input else (_poisson_rate, (float(full), eps))
    return pointwise(
        rule,
        input,
        target,
        parameters,
        mask=mask,
        reduction=reduction,
        empty=empty,
        sample_weight=sample_weight,
    )


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | None = None,
    *,
    full: bool = False,
    eps: float = 1e-6,
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
) -> Tensor:
    r"""Negative log likelihood of values under a normal distribution whose variance is predicted too.

    .. math:: \ell = \tfrac12 \Bigl( \log v + \frac{(x - t)^2}{v} \Bigr)

    Called with ``var`` as torch's. Without, one tensor holds both: ``input[:, 0]`` the mean and ``input[:,
    1]`` the *logarithm* of the variance, which needs no clamp and has no dead zone.

    Args:
        input: means ``(batch, ...)``; or means and log variances ``(batch, 2, ...)``.
        target: values ``(batch, ...)``.
        var: variances ``(batch, ...)``, or broadcast to it.
        full: add :math:`\tfrac12 \log 2\pi`.
        eps: lower bound of ``var``; as in torch the gradient passes through the bound.
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` (over the weights of the elements that take part), ``"sum"`` or ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.

    >>> gaussian_nll_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([3.0])).item()  # variance exp(0)
    2.0

    Source: Nix and Weigend 1994, "Estimating the mean and variance of the target probability distribution".
    """
    if var is None:
        if input.ndim < 2 or input.shape[1] != 2 or input.select(1, 0).shape != target.shape:
            raise DataError(
                f"input {tuple(input.shape)} and target {tuple(target.shape)}; allowed are "
                "(batch, 2, ...), mean and log variance, and (batch, ...); or give var"
            )
        mean, log_var = widen(input).unbind(1)
        values = 0.5 * (log_var + (mean - target).square() * torch.exp(-log_var))
    else:
        if input.shape != target.shape:
            raise DataError(f"input {tuple(input.shape)} and target {tuple(target.shape)}; allowed are equal shapes")
        wide = widen(var)
        bounded = wide + (wide.detach().clamp_min(eps) - wide.detach())
        values = 0.5 * (torch.log(bounded) + (widen(input) - target).square() / bounded)
    if full:
        values = values + 0.5 * math.log(2 * math.pi)
    weight = None if mask is None else mask.expand_as(values).to(values.dtype)
    if sample_weight is not None:
        missing = (1,) * (values.ndim - sample_weight.ndim)
        expanded = sample_weight.reshape(sample_weight.shape + missing).expand_as(values)
        weight = expanded if weight is None else weight * expanded
    return reduce(values, weight, reduction=reduction, empty=empty)


class PoissonNLLLoss(Loss, function=poisson_nll_loss): ...


class GaussianNLLLoss(Loss, function=gaussian_nll_loss): ...
