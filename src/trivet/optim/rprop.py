"""Rprop: each coordinate has its own step length, which grows while the gradient keeps its sign."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trivet.errors import InputError
from trivet.kernels.xp import reference as xp
from trivet.kernels.xp.reference import Value
from trivet.optim.base import Backend, ElementwiseOptimizer, Number, Params, Step, filled
from trivet.optim.storage import Rounding, StateFormat

__all__ = ["Rprop"]


# theta, gradient, last gradient, step length -> theta', gradient kept, length'
def rprop(
    p: Value, g: Value, prev: Value, step_size: Value, shorter: float, longer: float, least: float, most: float
) -> tuple[Value, Value, Value]:
    agree = xp.sign(g) * xp.sign(prev)
    length = xp.where(agree > 0, longer * step_size, xp.where(agree < 0, shorter * step_size, step_size))
    length = xp.minimum(xp.maximum(length, least), most)
    kept = xp.where(agree < 0, 0.0, g)
    return p - xp.sign(kept) * length, kept, length


class Rprop(ElementwiseOptimizer):
    r"""Follows the gradient's sign alone, with step lengths that adapt to whether the sign repeats.

    .. math::
        \Delta &\leftarrow \mathrm{clip}(\Delta \cdot \{\eta^+ \text{ if } g g' > 0,\; \eta^- \text{ if } g g' < 0,\;
            1\},\; \Delta_{\min}, \Delta_{\max}) \\
        \theta &\leftarrow \theta - \mathrm{sign}(g) \, \Delta
            \qquad (g = 0 \text{ where the sign has changed})

    *Memory*: two states, `prev` and `step_size` (8 bytes a parameter in float32), and `step`.
    *When*: full-batch training of small models: no rate to tune, indifferent to scale. *When not*: mini-batches; a
    coordinate's sign then flips by noise and its length shrinks to nothing.

    Args:
        params: parameters, or groups of them.
        lr: the first step length.
        etas: :math:`\eta^-, \eta^+`.
        step_sizes: :math:`\Delta_{\min}, \Delta_{\max}`.
        foreach, capturable, differentiable: torch's choices of execution; the first is accepted without effect,
            the others raise.
        maximize: climb instead of descend.
        state_format: None (as the parameter), "float32", "bfloat16" or "8bit"; see `trivet.optim.storage`.
        rounding: of bfloat16 and float16 parameters: "nearest", "stochastic" or "kahan".
        backend: "auto", or the execution that must be used.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Rprop([w], lr=0.1, backend="torch")
    >>> for gradient in (3.0, 0.001, -7.0):
    ...     w.grad = torch.tensor([gradient]); optimizer.step()
    ...     print(round(w.item(), 4))
    0.9
    0.78
    0.78

    Source: Riedmiller and Braun, "A direct adaptive method for faster backpropagation: Rprop", 1993 (the form without
    backtracking, as in torch).
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_format: StateFormat | None = None,
        rounding: Rounding = "nearest",
        backend: Backend = "auto",
    ) -> None:
        defaults = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults, backend=backend, state_format=state_format, rounding=rounding)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        if not 0 < group["etas"][0] < 1 < group["etas"][1]:
            raise InputError(f"etas = {tuple(group['etas'])} must be a factor in (0, 1) and one above 1")
        if not 0 <= group["step_sizes"][0] <= group["step_sizes"][1]:
            raise InputError(f"step_sizes = {tuple(group['step_sizes'])} must be a least and a most, not below 0")

    def rule(self, group: Mapping[str, Any]) -> Any:
        return rprop

    def states(self, group: Mapping[str, Any]) -> tuple[str, ...]:
        return ("prev", "step_size")

    def initial(self, name: str, group: Mapping[str, Any], param: Tensor) -> Tensor:
        return filled(param, float(group["lr"])) if name == "step_size" else super().initial(name, group, param)

    def numbers(self, group: Mapping[str, Any], step: Step) -> dict[str, Number]:
        (shorter, longer), (least, most) = group["etas"], group["step_sizes"]
        return {"shorter": shorter, "longer": longer, "least": least, "most": most}
