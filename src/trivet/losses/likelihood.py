"""Negative log likelihoods: counts (Poisson) and values with their own uncertainty (Gaussian)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trivet.errors import DataError
from trivet.kernels.xp import reference as xp
from trivet.losses.contract import Loss, reduce, widen
from trivet.losses.pointwise import Backend, Evaluated, Rule, pointwise
from trivet.losses.two_inputs import two_inputs

__all__ = ["GaussianNLLLoss", "PoissonNLLLoss", "gaussian_nll_loss", "poisson_nll_loss"]

TWO_PI = 2 * math.pi


def _poisson_log_rate(x: Tensor, t: Tensor) -> Evaluated:
    rate = xp.exp(x)
    return rate - xp.where(t == 0, 0, t * x), rate - t


def _poisson_log_rate_full(x: Tensor, t: Tensor) -> Evaluated:
    value, slope = _poisson_log_rate(x, t)
    return value + _stirling(t), slope


def _poisson_rate(x: Tensor, t: Tensor, eps: float) -> Evaluated:
    return x - t * xp.log(x + eps), 1 - t / (x + eps)


def _poisson_rate_full(x: Tensor, t: Tensor, eps: float) -> Evaluated:
    value, slope = _poisson_rate(x, t, eps)
    return value + _stirling(t), slope


def _stirling(t: Tensor) -> Tensor:
    many = xp.where(t > 1, t, 1)
    return xp.where(t > 1, many * xp.log(many) - many + 0.5 * xp.log(TWO_PI * many), 0)


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
    backend: Backend = "auto",
) -> Tensor:
    r"""Negative log likelihood of counts under a Poisson distribution.

    .. math:: \ell = e^x - t x \;(\text{log rate } x), \qquad
              \ell = x - t \log(x + \epsilon) \;(\text{rate } x)

    When: counts per sample (events, visits, demand), whose variance is about their mean.
    When not: counts spread much wider than their mean, or mostly zeros: the mean is still right, its stated
      certainty is not.
    Cost: one pass over input and target for value and gradient together; no memory but the gradient (about 2 times
      a squared error's time).

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
        backend: ``"auto"``, or the execution that must be used: ``"cpu"``, ``"triton"`` or ``"torch"``.

    >>> poisson_nll_loss(torch.tensor([0.0]), torch.tensor([3.0])).item()
    1.0

    Source: McCullagh and Nelder 1989, "Generalized linear models", chapter 6.
    """
    if log_input:
        rule: Rule = _poisson_log_rate_full if full else _poisson_log_rate
    else:
        rule = _poisson_rate_full if full else _poisson_rate
    return pointwise(
        rule,
        input,
        target,
        () if log_input else (eps,),
        mask=mask,
        reduction=reduction,
        empty=empty,
        sample_weight=sample_weight,
        backend=backend,
    )


def _gaussian(x, log_var, t):  # type: ignore[no-untyped-def]
    e, precision = x - t, xp.exp(-log_var)
    pull = e * precision
    return 0.5 * (log_var + e * pull), pull, 0.5 - 0.5 * e * pull


def _gaussian_of_variance(x, var, t, eps):  # type: ignore[no-untyped-def]
    e, bounded = x - t, xp.maximum(var, eps)
    pull = e / bounded
    return 0.5 * (xp.log(bounded) + e * pull), pull, 0.5 * (1 - e * pull) / bounded


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
    backend: Backend = "auto",
) -> Tensor:
    r"""Negative log likelihood of values under a normal distribution whose variance is predicted too.

    .. math:: \ell = \tfrac12 \Bigl( \log v + \frac{(x - t)^2}{v} \Bigr)

    Called with ``var`` as torch's. Without, one tensor holds both: ``input[:, 0]`` the mean and ``input[:,
    1]`` the *logarithm* of the variance, which needs no clamp and has no dead zone.

    When: each prediction needs its own error bar, and noise differs from sample to sample.
    When not: few data or outliers: the variance then explains away what the mean should learn. Begin with squared
      error, add this later.
    Cost: one pass over input and target for value and gradient together; no memory but the gradient.

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
        backend: ``"auto"``, or the execution that must be used: ``"cpu"`` (float32 and float64) or ``"torch"``.

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
    elif input.shape != target.shape:
        raise DataError(f"input {tuple(input.shape)} and target {tuple(target.shape)}; allowed are equal shapes")
    weight = _element_weight(target, mask, sample_weight)
    rule, numbers = (_gaussian, ()) if var is None else (_gaussian_of_variance, (eps,))
    values = two_inputs(rule, numbers, input, var, target, weight, reduction=reduction, empty=empty, backend=backend)
    if not full:
        return values
    # Mean: the weights cancel, but where nothing takes part. Sum and rows: each counts by its weight.
    constant = torch.full_like(target, 0.5 * math.log(TWO_PI), dtype=values.dtype)
    return values + reduce(constant, weight, reduction=reduction, empty="zero")


def _element_weight(target: Tensor, mask: Tensor | None, sample_weight: Tensor | None) -> Tensor | None:
    """Return a weight for each element, or None."""
    weight = None if mask is None else mask.expand_as(target).to(widen(target).dtype)
    if sample_weight is not None:
        missing = (1,) * (target.ndim - sample_weight.ndim)
        expanded = sample_weight.reshape(sample_weight.shape + missing).expand_as(target)
        weight = expanded if weight is None else weight * expanded
    return weight


class PoissonNLLLoss(Loss, function=poisson_nll_loss, kind="regression"): ...


class GaussianNLLLoss(Loss, function=gaussian_nll_loss, kind="regression"): ...
