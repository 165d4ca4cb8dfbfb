"""A look at all gradients before a step: clipping inside the update, and steps that are left out."""

from __future__ import annotations

import math
from typing import Any

from trivet.errors import InputError
from trivet.optim.clip import total_norm

__all__ = ["Guarded"]


class Guarded:
    """Gives an optimizer `guard`; whoever updates asks `_admits` first and multiplies gradients by `_scale`."""

    param_groups: list[dict[str, Any]]

    def _unguarded(self) -> None:
        self._guard: tuple[float | None, bool] | None = None
        self._scale = 1.0
        self.gradient_norm: float | None = None
        self.skipped_steps = 0

    def guard(self, *, max_norm: float | None = None, skip_nonfinite: bool = True) -> None:
        """Look at all gradients before each step: clip their norm inside the update, leave steps out that have none.

        From then on `gradient_norm` is the last norm before clipping, `skipped_steps` counts the steps that were left
        out because it was not finite. Gradients themselves stay as they are: the update multiplies them as it reads
        them, which saves the pass that writes clipped ones. On a GPU the step waits for the norm.

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
        """Take the norm of all gradients; return whether the step is made, with `_scale` set for it."""
        if self._guard is None:
            return True
        max_norm, skip = self._guard
        norm = float(total_norm(p for group in self.param_groups for p in group["params"]))
        self.gradient_norm = norm
        if skip and not math.isfinite(norm):
            self.skipped_steps += 1
            return False
        self._scale = 1.0 if max_norm is None else min(1.0, max_norm / (norm + 1e-6))
        return True
