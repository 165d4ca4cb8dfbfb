"""A look at all gradients before a step: clipping inside the update, and steps that are left out.

On a GPU what is decided stays there: the update reads it, and the host reads it at the next step, when it has long
arrived. A step that was not made is taken out of the counts then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.kernels import norms
from trivet.optim.clip import total_norm

__all__ = ["Guarded"]


class _Sent(NamedTuple):
    """A status on its way to the host: norm, factor, whether the step was made."""

    values: Tensor
    arrived: torch.cuda.Event | None

    def read(self) -> tuple[float, float, float]:
        """Return it, and wait for it if it has not arrived; the device goes on."""
        if self.arrived is not None:
            self.arrived.synchronize()
        norm, factor, made = self.values.tolist()
        return norm, factor, made


def _sent(status: Tensor) -> _Sent:
    if not status.is_cuda:
        return _Sent(status, None)
    values = torch.empty(status.shape, dtype=status.dtype, pin_memory=True)
    with torch.cuda.device(status.device):
        values.copy_(status, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
    return _Sent(values, arrived)


class Guarded:
    """Gives an optimizer `guard`; whoever updates asks `_admits` first and multiplies gradients by `_scale`.

    Where `_defers` says so, `_scale` stays 1 and the update takes its factor, and whether it is made, from `_status`.
    """

    param_groups: list[dict[str, Any]]
    _new: set[Tensor]

    def _unguarded(self) -> None:
        self._guard: tuple[float | None, bool] | None = None
        self._scale = 1.0
        self._norm: float | None = None
        self._skipped = 0
        self._status: Tensor | None = None
        self._pending: _Sent | None = None
        self._counted: list[Tensor] = []  # the step counts that a step has moved whose status is pending
        self._begun: set[Tensor] = set()  # and the parameters whose first update it was

    @property
    def gradient_norm(self) -> float | None:
        """The norm of all gradients at the last guarded step, before clipping; waits if a GPU is not that far."""
        self._settle()
        return self._norm

    @property
    def skipped_steps(self) -> int:
        """How many steps were left out since their norm was not finite; waits if a GPU is not that far."""
        self._settle()
        return self._skipped

    @property
    def step_status(self) -> Tensor | None:
        """Norm, factor, and 1 or 0 for whether the last step was made, on the GPU that it was made on.

        To be used there: nothing waits for it. None where the host decided.
        """
        return self._status

    def _defers(self, grads: Sequence[Tensor]) -> bool:
        return False

    def guard(self, *, max_norm: float | None = None, skip_nonfinite: bool = True) -> None:
        """Look at all gradients before each step: clip their norm inside the update, leave steps out that have none.

        From then on `gradient_norm` is the last norm before clipping, `skipped_steps` counts the steps that were left
        out because it was not finite. Gradients themselves stay as they are: the update multiplies them as it reads
        them, which saves the pass that writes clipped ones.

        On a GPU nothing waits: the update reads there what was decided, and the counts of a step that was left out are
        put right at the next one. Only what keeps more than counts (Muon, NAdam, Schedule-Free, narrow states), and
        gradients on several devices, wait for the norm.

        >>> import torch
        >>> from trivet.optim import SGD
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> optimizer = SGD([w], lr=1.0); optimizer.guard(max_norm=1.0)
        >>> w.grad = torch.tensor([3.0, 4.0]); optimizer.step(); [round(x, 4) for x in w.tolist()]
        [0.4, 0.2]
        >>> w.grad = torch.tensor([float("nan"), 4.0]); optimizer.step(); [round(x, 4) for x in w.tolist()]
        [0.4, 0.2]
        >>> optimizer.skipped_steps
        1
        """
        if max_norm is not None and not max_norm > 0:
            raise InputError(f"max_norm = {max_norm} must be above 0, or None")
        self._guard = (max_norm, skip_nonfinite)

    def _admits(self) -> bool:
        """Take the norm of all gradients; return whether the step is made, with `_scale` or `_status` set for it."""
        if self._guard is None:
            return True
        self._settle()
        self._status, self._scale = None, 1.0
        max_norm, skip = self._guard
        params = [p for group in self.param_groups for p in group["params"]]
        grads = [p.grad for p in params if p.grad is not None]
        if grads and self._defers(grads):
            self._status = norms.status(grads, max_norm, skip)
            self._pending = _sent(self._status)
            return True
        self._norm = norm = float(total_norm(params))
        if skip and not math.isfinite(norm):
            self._skipped += 1
            return False
        self._scale = 1.0 if max_norm is None else min(1.0, max_norm / (norm + 1e-6))
        return True

    def _settle(self) -> None:
        """Take up the status of the last step, and undo the counts of one that was not made."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._norm, _, made = pending.read()
            if not made:
                self._skipped += 1
                self._new |= self._begun
                for count in self._counted:
                    count -= 1
        self._counted, self._begun = [], set()
