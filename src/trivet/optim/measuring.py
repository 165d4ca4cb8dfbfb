"""What a step did to each parameter, measured while it is made, for whoever watches a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Measured", "Norms"]


class Norms(NamedTuple):
    """Euclidean norms of one parameter's gradient, of the change that the step made, and of the parameter before it."""

    gradient: float
    update: float
    weight: float

    @property
    def ratio(self) -> float:
        """Update to weight: about 1e-3 in a healthy training; 0 where the weight is 0."""
        return self.update / self.weight if self.weight else 0.0


class Measured:
    """Gives an optimizer `measure_next_step` and `measured`."""

    param_groups: list[dict[str, Any]]

    def _unmeasured(self) -> None:
        self._armed = False
        self._found: dict[Tensor, Norms] = {}

    def measure_next_step(self) -> None:
        """Let the next step note, for each parameter that it updates, three norms: see `measured`.

        Off, this costs nothing. On, kernel optimizers on the CPU take the norms in the update's own pass over memory;
        others keep a copy of the parameters during that one step. A step that `guard` leaves out measures nothing,
        and the request stands.
        """
        self._armed = True

    @property
    def measured(self) -> dict[str | int, Norms]:
        """Norms of the last step that was measured, by the parameter's name, or its number where names are not known.

        Names are known to an optimizer that was made from `named_parameters()`; numbers count over all groups, as in
        `state_dict`. The gradient is taken as it lies in `.grad`, before any clipping inside the step; the update
        is what was added to the parameter before it was rounded, weight decay included. Of a sharded parameter these
        are the norms of the local shard.

        >>> from trivet.optim import SGD
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0])); w.grad = torch.tensor([1.0, 0.0])
        >>> optimizer = SGD([("w", w)], lr=0.5); optimizer.measure_next_step(); optimizer.step()
        >>> {name: tuple(map(float, norms)) for name, norms in optimizer.measured.items()}
        {'w': (1.0, 0.5, 5.0)}
        >>> round(optimizer.measured["w"].ratio, 3)
        0.1
        """
        named: dict[str | int, Norms] = {}
        number = 0
        for group in self.param_groups:
            names = group.get("param_names")
            for place, param in enumerate(group["params"]):
                if param in self._found:
                    named[number if names is None else names[place]] = self._found[param]
                number += 1
        return named

    @contextmanager
    def _measuring(self, params: Sequence[Tensor]) -> Iterator[None]:
        """Measure what happens to these inside, by a copy, if that was asked for."""
        if not self._armed or not params:
            yield
            return
        before = [_local(p).detach().clone() for p in params]
        grads = [_local(p.grad).detach() for p in params if p.grad is not None]
        yield
        changes = torch._foreach_sub([_local(p).detach() for p in params], before)
        norms = [torch._foreach_norm(some) for some in (grads, changes, before)]
        for param, *three in zip(params, *norms, strict=True):
            self._found[param] = Norms(*(float(norm) for norm in three))


def _local(tensor: Tensor) -> Tensor:
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return torch.view_as_real(local.resolve_conj()) if local.is_complex() else local
