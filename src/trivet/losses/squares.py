"""Squared error and its tamed form: mean squared error and Huber's loss."""

from __future__ import annotations

from torch import Tensor

from trivet.errors import InputError
from trivet.kernels.xp import reference as xp
from trivet.losses.contract import Loss, check_choice
from trivet.losses.pointwise import Backend, Evaluated, pointwise

__all__ = ["HuberLoss", "MSELoss", "huber_loss", "mse_loss"]


def _square(x: Tensor, t: Tensor, factor: float) -> Evaluated:
    e = x - t
    return factor * e * e, 2 * factor * e


def _huber(x: Tensor, t: Tensor, delta: float) -> Evaluated:
    e = x - t
    a = xp.abs(e)
    near = a <= delta
    return xp.where(near, 0.5 * e * e, delta * (a - 0.5 * delta)), xp.where(near, e, delta * xp.sign(e))


def mse_loss(
    input: Tensor,
    target: Tensor,
    *,
    convention: str = "torch",
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Mean squared error: an error twice as large costs four times as much, so outliers lead.

    .. math:: \ell = (x - t)^2

    Its minimiser is the mean, and it is the likelihood of normal noise of one size.

    When: the mean of the target is wanted and errors are about normal and of one size. Standardise the target
      first.
    When not: outliers or wrong values (:func:`huber_loss`, :func:`l1_loss`), counts (:func:`poisson_nll_loss`), a
      spread that differs between samples (:func:`gaussian_nll_loss`).
    Cost: one pass over input and target for value and gradient together; no memory but the gradient.

    Args:
        input: predictions ``(batch, ...)``.
        target: values of the same shape.
        convention: ``"torch"``, or ``"optax"``: half of it.
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` (over the weights of the elements that take part), ``"sum"`` or ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.
        backend: ``"auto"``, or the execution that must be used: ``"cpu"``, ``"triton"`` or ``"torch"``.

    >>> import torch
    >>> mse_loss(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0])).item()
    5.0

    Source: Gauss 1809, "Theoria motus".
    """
    check_choice("convention", convention, ("torch", "optax"))
    parameters = (1.0 if convention == "torch" else 0.5,)
    return pointwise(
        _square, input, target, parameters, mask=mask, reduction=reduction, empty=empty,
        sample_weight=sample_weight, backend=backend, targets="difference",
    )  # fmt: skip


def huber_loss(
    input: Tensor,
    target: Tensor,
    *,
    delta: float = 1.0,
    mask: Tensor | None = None,
    reduction: str = "mean",
    empty: str = "zero",
    sample_weight: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Squared error for small errors, absolute error for large: outliers pull with a bounded force.

    .. math:: \ell = \begin{cases} e^2 / 2 & |e| \le \delta \\
              \delta (|e| - \delta / 2) & \text{else} \end{cases}

    ``delta`` times :func:`smooth_l1_loss` with beta = delta. As delta grows it becomes half the squared
    error.

    When: a mean is wanted, and a few targets are far off or wrong. Choose ``delta`` near the size of an ordinary
      error.
    When not: errors without outliers, where squares use the data better; errors mostly above ``delta``, where it is
      the absolute error with another name.
    Cost: one pass over input and target for value and gradient together; no memory but the gradient.

    Args:
        input: predictions ``(batch, ...)``.
        target: values of the same shape.
        delta: the error at which the loss turns linear, in units of the target.
        mask: True where an element takes part ``(batch, ...)``.
        reduction: ``"mean"`` (over the weights of the elements that take part), ``"sum"`` or ``"none"``.
        empty: value when nothing takes part, ``"zero"`` or ``"nan"``.
        sample_weight: weight of each sample ``(batch,)`` or element ``(batch, ...)``.
        backend: ``"auto"``, or the execution that must be used: ``"cpu"``, ``"triton"`` or ``"torch"``.

    >>> import torch
    >>> huber_loss(torch.tensor([0.5, 3.0]), torch.zeros(2), reduction="none")
    tensor([0.1250, 2.5000])

    Source: Huber 1964, "Robust estimation of a location parameter".
    """
    if not delta > 0:
        raise InputError(f"delta={delta}; allowed is a positive error")
    return pointwise(
        _huber,
        input,
        target,
        (delta,),
        mask=mask,
        reduction=reduction,
        empty=empty,
        sample_weight=sample_weight,
        backend=backend,
        targets="difference",
    )


class MSELoss(Loss, function=mse_loss, kind="regression"): ...


class HuberLoss(Loss, function=huber_loss, kind="regression"): ...
