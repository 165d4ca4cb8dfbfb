"""Regression losses by what they do to an outlier: absolute, smooth absolute, log-cosh, and quantile."""

from __future__ import annotations

import math

from torch import Tensor

from trivet.errors import InputError
from trivet.kernels.xp import reference as xp
from trivet.losses.contract import Loss
from trivet.losses.pointwise import Backend, Evaluated, pointwise

__all__ = [
    "L1Loss",
    "LogCoshLoss",
    "QuantileLoss",
    "SmoothL1Loss",
    "l1_loss",
    "log_cosh_loss",
    "quantile_loss",
    "smooth_l1_loss",
]

LOG_2 = math.log(2)


def _absolute(x: Tensor, t: Tensor) -> Evaluated:
    e = x - t
    return xp.abs(e), xp.sign(e)


def _smooth_absolute(x: Tensor, t: Tensor, beta: float) -> Evaluated:
    e = x - t
    a = xp.abs(e)
    near = a < beta
    return xp.where(near, 0.5 * e * e / beta, a - 0.5 * beta), xp.where(near, e / beta, xp.sign(e))


def _log_cosh(x: Tensor, t: Tensor) -> Evaluated:
    e = x - t
    a, slope = xp.abs(e), xp.tanh(e)
    # Far out a - log 2, where cosh overflows; near 0, where that cancels, -log(1 - tanh^2) / 2.
    return xp.where(a < 1, -0.5 * xp.log1p(-slope * slope), a + xp.log1p(xp.exp(-2 * a)) - LOG_2), slope


def _pinball(x: Tensor, t: Tensor, tau: float) -> Evaluated:
    e = t - x
    return xp.maximum(tau * e, (tau - 1) * e), xp.where(e == 0, 0 * tau, 0.5 - tau - 0.5 * xp.sign(e))


def l1_loss(
    input: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Mean absolute error: every error counts by its size, so outliers pull no harder than others.

    .. math:: \ell = |x - t|

    Its minimiser is the median. The slope does not fall near the minimum: let the learning rate fall instead.

    When: the median is wanted, or the metric is the mean absolute error, or many targets are wrong.
    When not: a mean or a total is wanted of skewed targets: the median lies below it. Where steps near the minimum
      must shrink by themselves, :func:`smooth_l1_loss`.
    Cost: one pass over input and target for value and gradient together; no memory but the gradient.

    Args:
        input: predictions ``(batch, ...)``.
        target: values of the same shape.
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` (over the weights of the elements that take part), ``"sum"`` or ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.
        backend: ``"auto"``, or the execution that must be used: ``"cpu"``, ``"triton"`` or ``"torch"``.

    >>> import torch
    >>> l1_loss(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0])).item()
    2.0

    Source: Laplace 1774, "Memoire sur la probabilite des causes par les evenemens".
    """
    return pointwise(
        _absolute,
        input,
        target,
        (),
        mask=mask,
        reduction=reduction,
        empty=empty,
        sample_weight=sample_weight,
        backend=backend,
        targets="difference",
    )


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    *,
    beta: float = 1.0,
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Absolute error with a rounded tip: quadratic within ``beta``, slope 1 beyond.

    .. math:: \ell = \begin{cases} e^2 / (2\beta) & |e| < \beta \\ |e| - \beta / 2 & \text{else} \end{cases}

    Huber's loss with delta = beta is ``beta`` times this.

    When: box coordinates and the like: slope 1 whatever the size of an error, and a smooth minimum.
    When not: errors much smaller than ``beta`` throughout, where it is squared error divided by 2 beta.
    Cost: one pass over input and target for value and gradient together; no memory but the gradient.

    Args:
        input: predictions ``(batch, ...)``.
        target: values of the same shape.
        beta: half width of the quadratic part, in units of the target; 0 is :func:`l1_loss`.
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` (over the weights of the elements that take part), ``"sum"`` or ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.
        backend: ``"auto"``, or the execution that must be used: ``"cpu"``, ``"triton"`` or ``"torch"``.

    >>> import torch
    >>> smooth_l1_loss(torch.tensor([0.5, 3.0]), torch.zeros(2), reduction="none")
    tensor([0.1250, 2.5000])

    Source: Girshick 2015, "Fast R-CNN", eq. 3.
    """
    if beta < 0:
        raise InputError(f"beta={beta}; allowed is a width of 0 or more")
    rule, parameters = (_smooth_absolute, (beta,)) if beta else (_absolute, ())
    return pointwise(
        rule,
        input,
        target,
        parameters,
        mask=mask,
        reduction=reduction,
        empty=empty,
        sample_weight=sample_weight,
        backend=backend,
        targets="difference",
    )


def log_cosh_loss(
    input: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Logarithm of the hyperbolic cosine of the error: half its square near 0, its size far out, smooth
    throughout.

    .. math:: \ell = \log\cosh(x - t)

    When: Huber's behaviour without a threshold to choose, twice differentiable everywhere (second-order
      optimizers).
    When not: targets in units far from 1: errors count as large or small by their size against 1, so standardise
      the target.
    Cost: one pass over input and target for value and gradient together; no memory but the gradient, about 4 times
      a squared error's time (exponentials).

    Args:
        input: predictions ``(batch, ...)``.
        target: values of the same shape.
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` (over the weights of the elements that take part), ``"sum"`` or ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.
        backend: ``"auto"``, or the execution that must be used: ``"cpu"``, ``"triton"`` or ``"torch"``.

    >>> import torch
    >>> log_cosh_loss(torch.tensor([1e-4, 1e4]), torch.zeros(2), reduction="none")
    tensor([5.0000e-09, 9.9993e+03])

    Source: Green 1990, "Bayesian reconstructions from emission tomography data using a modified EM algorithm".
    """
    return pointwise(
        _log_cosh,
        input,
        target,
        (),
        mask=mask,
        reduction=reduction,
        empty=empty,
        sample_weight=sample_weight,
        backend=backend,
        targets="difference",
    )


def quantile_loss(
    input: Tensor,
    target: Tensor,
    *,
    quantile: float = 0.5,
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Pinball loss: its minimiser is the quantile of the target.

    .. math:: \ell = \max(\tau (t - x), (\tau - 1)(t - x))

    At 0.9 being too low costs nine times being too high. At 0.5 it is half the absolute error.

    When: an interval or a cautious forecast is wanted: train one output for each quantile. At 0.5 it trains the
      median.
    When not: quantiles beyond what the data can show (0.999 from 500 rows); outputs for several quantiles may cross
      and need sorting.
    Cost: one pass over input and target for value and gradient together; no memory but the gradient.

    Args:
        input: predicted quantiles ``(batch, ...)``.
        target: values of the same shape.
        quantile: :math:`\tau` in (0, 1).
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` (over the weights of the elements that take part), ``"sum"`` or ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.
        backend: ``"auto"``, or the execution that must be used: ``"cpu"``, ``"triton"`` or ``"torch"``.

    >>> import torch
    >>> quantile_loss(torch.tensor([0.0, 2.0]), torch.ones(2), quantile=0.9, reduction="none")
    tensor([0.9000, 0.1000])

    Source: Koenker and Bassett 1978, "Regression quantiles".
    """
    if not 0 < quantile < 1:
        raise InputError(f"quantile={quantile}; allowed is a number between 0 and 1, such as 0.9")
    return pointwise(
        _pinball,
        input,
        target,
        (quantile,),
        mask=mask,
        reduction=reduction,
        empty=empty,
        sample_weight=sample_weight,
        backend=backend,
        targets="difference",
    )


class L1Loss(Loss, function=l1_loss, kind="regression"): ...


class SmoothL1Loss(Loss, function=smooth_l1_loss, kind="regression"): ...


class LogCoshLoss(Loss, function=log_cosh_loss, kind="regression"): ...


class QuantileLoss(Loss, function=quantile_loss, kind="regression"): ...
