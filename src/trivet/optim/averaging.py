"""Averages of weights along a run: exponential (EMA) and equal (SWA), kept beside the model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from trivet.errors import InputError

__all__ = ["EMA", "SWA"]


class _Average:
    """A second set of a model's weights; `update` after every optimizer step, `applied` around an evaluation."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.updates = 0
        self.weights = {name: value.detach().clone() for name, value in self._live().items()}

    def _live(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters()) | dict(self.model.named_buffers())

    def _share(self) -> float:
        """Return how far the average moves towards the present weights at this update."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's present weights into the average; integer buffers are copied."""
        self.updates += 1
        share = self._share()
        live = self._live()
        floats = [name for name in live if live[name].is_floating_point() or live[name].is_complex()]
        averages, present = [self.weights[name] for name in floats], [live[name].detach() for name in floats]
        if averages:
            torch._foreach_lerp_(averages, present, share)
        for name in live.keys() - set(floats):
            self.weights[name].copy_(live[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """Put the average into the model inside the `with` block, and the weights back after it."""
        before = {name: value.detach().clone() for name, value in self._live().items()}
        self._write(self.weights)
        try:
            yield self.model
        finally:
            self._write(before)

    def apply(self) -> None:
        """Put the average into the model for good."""
        self._write(self.weights)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, tensor in self._live().items():
            tensor.copy_(values[name])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": dict(self.weights)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["weights"].keys() != self.weights.keys():
            different = sorted(state_dict["weights"].keys() ^ self.weights.keys())
            raise InputError(f"the averaged weights belong to another model; they differ in {', '.join(different[:5])}")
        self.updates = state_dict["updates"]
        for name, value in state_dict["weights"].items():
            self.weights[name].copy_(value)


class EMA(_Average):
    r"""An exponential moving average of a model's weights.

    .. math::
        \bar\theta \leftarrow \bar\theta + (1 - d_t) (\theta - \bar\theta), \qquad
            d_t = \min(d, (1 + t) / (10 + t)) \text{ with } \mathtt{warmup}

    A decay of 0.999 averages over about the last 1000 updates; with `warmup` a short run is not stuck at its start.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> ema = EMA(model, decay=0.9, warmup=False)
    >>> _ = nn.init.ones_(model.weight)
    >>> ema.update()
    >>> with ema.applied():
    ...     round(model.weight.item(), 4)
    0.1
    >>> model.weight.item()
    1.0

    Source: Polyak and Juditsky 1992; the warmup as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, *, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"decay = {decay} must lie in [0, 1)")
        super().__init__(model)
        self.decay, self.warmup = decay, warmup

    def _share(self) -> float:
        return 1 - (min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay)


class SWA(_Average):
    r"""The equal average of the weights at every `update`: stochastic weight averaging.

    .. math::
        \bar\theta_n = \frac1n \sum_{i \le n} \theta_i

    Update once an epoch over the last quarter of a run, at a constant or cyclic rate. Models with batch norm need
    their statistics computed anew for the averaged weights (`torch.optim.swa_utils.update_bn`).

    >>> model = nn.Linear(1, 1, bias=False)
    >>> swa = SWA(model)
    >>> for value in (1.0, 2.0, 6.0):
    ...     _ = nn.init.constant_(model.weight, value); swa.update()
    >>> swa.apply(); model.weight.item()
    3.0

    Source: Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018.
    """

    def _share(self) -> float:
        return 1 / self.updates
