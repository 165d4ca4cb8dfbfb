"""What every integration shares: a watch that begins with training, evaluations by name, findings said once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from trivet.doctor import Watch, watch
from trivet.recipes import Edit, Finding
from trivet.record import Record
from trivet.record.foreign.columns import guess, higher_is_better


class Bedside:
    """Watches one training of somebody else's loop; findings are said once, as warnings or to `on_finding`."""

    def __init__(self, on_finding: Callable[[Finding], None] | None = None, guard: bool | None = None) -> None:
        self.on_finding, self.guard = on_finding or say, guard
        self.watch: Watch | None = None

    def begin(self, model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int | None) -> None:
        """Start to watch; a second training begins anew."""
        self.end()
        self.watch = watch(model, optimizers, steps=steps, guard=self.guard, on_finding=self.on_finding)

    def step(self, loss: Tensor | float | None, *, grad_norm: float | None = None) -> None:
        """Take the loss of a batch; None (the loop skipped it) is no loss."""
        if self.watch is not None and loss is not None:
            self.watch.step(loss, grad_norm=grad_norm)

    def evaluated(self, numbers: Mapping[str, object]) -> None:
        """Take the results of a validation pass, by the names that the loop gave them."""
        known = {k: float(v) for k, v in numbers.items() if isinstance(v, int | float | Tensor) and _single(v)}
        roles = guess(dict.fromkeys(known, 1))
        loss, metric = roles.get("val_loss"), roles.get("metric")
        if self.watch is None or (loss is None and metric is None):
            return
        nan = float("nan")
        self.watch.evaluated(
            loss=known[loss] if loss else nan,
            metric=known[metric] if metric else nan,
            name=metric or "metric",
            higher_is_better=higher_is_better(metric) if metric else True,
        )

    def end(self) -> None:
        """Take the hooks away; findings and record stay."""
        if self.watch is not None:
            self.watch.close()

    @property
    def findings(self) -> list[Finding]:
        """What is wrong so far, the root cause first; nothing before training has begun."""
        return self.watch.findings if self.watch is not None else []

    @property
    def record(self) -> Record:
        """What was seen; empty before training has begun."""
        return self.watch.record if self.watch is not None else Record()


def say(finding: Finding) -> None:
    """Say a finding as a warning, which every tool shows."""
    fix = f"set {finding.fix}" if isinstance(finding.fix, Edit) else finding.fix
    warnings.warn(f"{finding.code}: {finding.message} Do: {fix}", stacklevel=2)


def _single(value: object) -> bool:
    return not isinstance(value, Tensor) or value.numel() == 1
