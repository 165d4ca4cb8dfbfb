"""What rules reason from: a record as columns of numbers, with what is there and what is missing.

Every threshold of a rule is relative to numbers of this run: `prior` (the loss of the best constant output), `start`
(the first losses), `noise` (how far one loss lies from its neighbours). Medians throughout: one NaN or one huge loss
must neither hide a fault nor invent one.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trivet.record import Record, Setting

Column = NDArray[np.float64]
PER_LAYER = ("grad", "weight", "update", "rms", "std", "dead", "saturated")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """One record in columns; `steps`, `evals` and `probes` are three clocks of their own."""

    step: Column
    loss: Column
    lr: Column
    grad_norm: Column
    eval_step: Column
    eval_loss: Column
    metric: Column  # made so that higher is better
    recalls: tuple[tuple[float, ...], ...]
    probe_step: Column
    probe_loss: Column
    layers: dict[str, Column]  # name of `PER_LAYER` -> (probes, layers)
    numbers: dict[str, Column]  # name -> (probes,)
    setting: Setting
    planned: int | None
    per_epoch: int | None
    reason: str

    # -- what is there ------------------------------------------------------------------------------

    @cached_property
    def has(self) -> frozenset[str]:
        """The names of what this evidence can speak of; a rule's `needs` are among them or it is not asked."""
        found = {
            "loss": self.step.size >= 5,
            "lr": bool(np.isfinite(self.lr).any()),
            "grad_norm": bool(np.isfinite(self.grad_norm).any()),
            "eval_loss": bool(np.isfinite(self.eval_loss).sum() >= 3),
            "metric": bool(np.isfinite(self.metric).sum() >= 3),
            "recalls": any(self.recalls) or any(name.startswith("recall.") for name in self.numbers),
            "probes": self.probe_step.size >= 2,
            "prior": self.setting.prior is not None,
            "setting": bool(self.setting.layers),
        }
        found |= {name: bool(np.isfinite(column).any()) for name, column in self.layers.items()}
        found |= {f"number:{name}": bool(np.isfinite(column).any()) for name, column in self.numbers.items()}
        return frozenset(name for name, there in found.items() if there)

    def number(self, name: str) -> Column:
        """Return a whole-model number at every probe, NaN where it was not taken."""
        return self.numbers.get(name, np.full(self.probe_step.shape, np.nan))

    def layer(self, name: str) -> Column:
        """Return a per-layer number, (probes, layers)."""
        return self.layers.get(name, np.full((self.probe_step.size, len(self.setting.layers)), np.nan))

    # -- the loss and its own scale -----------------------------------------------------------------

    @cached_property
    def finite_loss(self) -> Column:
        return self.loss[np.isfinite(self.loss)]

    @cached_property
    def start(self) -> float:
        """The loss before anything was learned."""
        first = self.probe_loss[:1] if self.probe_loss.size and self.probe_step[0] <= 1 else self.loss[:1]
        return float(first[0]) if first.size and math.isfinite(first[0]) else median(self.finite_loss[:3])

    @cached_property
    def final(self) -> float:
        """The loss of the last tenth."""
        return median(tail(self.finite_loss, 0.1))

    @cached_property
    def prior(self) -> float:
        """The loss of the best constant output; without one, the loss at the start."""
        prior = self.setting.prior
        return float(prior) if prior is not None and math.isfinite(prior) else self.start

    @cached_property
    def unit(self) -> float:
        """The size of losses that matter here: the prior's, or the start's where that is zero."""
        return max(abs(self.prior), 1e-3 * abs(self.start), 1e-12)

    @cached_property
    def gained(self) -> float:
        """The share of the prior's loss that training took away: 0 has learned nothing, 1 has reached zero loss."""
        return 1.0 - self.final / self.unit if self.prior > 0 else (self.start - self.final) / self.unit

    @cached_property
    def learned(self) -> float:
        """What was gained, on validation where that is less: what training alone has gained may be memory."""
        val = self.eval_loss[np.isfinite(self.eval_loss)]
        if not val.size or not self.prior > 0:
            return self.gained
        return min(self.gained, 1.0 - float(running_median(val, 3).min()) / self.unit)

    @cached_property
    def delay(self) -> float:
        """The share of the run before the loss lay a tenth below the prior's for good; 1 if it never did."""
        if self.smooth.size < 5 or not self.prior > 0:
            return math.nan
        above = np.flatnonzero(self.smooth > 0.9 * self.prior)
        return float(above[-1] + 1) / self.smooth.size if above.size else 0.0

    @cached_property
    def noise(self) -> float:
        """The spread of one recorded loss about its neighbours' level over the last half, in standard deviations."""
        last = tail(self.finite_loss, 0.5)
        return 1.4826 * median(np.abs(np.diff(last))) / math.sqrt(2) if last.size > 3 else math.nan

    @cached_property
    def smooth(self) -> Column:
        """The running median of the loss over about a thirtieth of the run."""
        return running_median(self.finite_loss, max(3, self.finite_loss.size // 30))

    def drift(self, share: float = 0.5) -> float:
        """Return how far the loss fell over the last `share` of the run, in standard errors; about 0 on a plateau."""
        last = tail(self.finite_loss, share)
        if last.size < 8:
            return math.nan
        third = last.size // 3
        first, end = last[:third], last[-third:]
        error = 1.2533 * self.noise * math.sqrt(2 / third)
        fell = float(np.mean(np.clip(first, *_whiskers(first))) - np.mean(np.clip(end, *_whiskers(end))))
        return fell / max(error, 1e-12 * self.unit)

    # -- updates ------------------------------------------------------------------------------------

    @cached_property
    def total_update(self) -> Column:
        """The update-to-weight ratio of the whole model at every probe."""
        update, weight = self.layer("update"), self.layer("weight")
        moved = np.sqrt(np.nansum((update * weight) ** 2, axis=1))
        size = np.sqrt(np.nansum(np.where(np.isfinite(update), weight, np.nan) ** 2, axis=1))
        return np.where(size > 0, moved / np.maximum(size, 1e-30), np.nan)

    @cached_property
    def early_update(self) -> float:
        return median(self.total_update[self.probe_step <= max(20, self.probe_step[:1].sum())])

    @cached_property
    def late_update(self) -> float:
        return median(tail(self.total_update, 0.3))

    @cached_property
    def moved(self) -> float:
        """How far all steps together could carry the weights, in units of their own norm: the sum of the ratios."""
        ratios, at = self.total_update, self.probe_step
        keep = np.isfinite(ratios)
        if keep.sum() < 2:
            return math.nan
        span = np.trapezoid(ratios[keep], at[keep])
        return float(span + ratios[keep][0])

    @cached_property
    def top_rate(self) -> float:
        """The largest rate of the run, or the optimizer's own."""
        rates = self.lr[np.isfinite(self.lr)]
        return float(rates.max()) if rates.size else (self.setting.lr or math.nan)

    @cached_property
    def constant_rate(self) -> bool:
        """Whether the rate at the end is still (nearly) the largest one."""
        rates = self.lr[np.isfinite(self.lr)]
        return bool(rates.size >= 3 and tail(rates, 0.1).max() >= 0.7 * rates.max())


def as_evidence(record: Record) -> Evidence:
    """Turn a record into columns; raises nothing for a record that is empty or full of NaN."""
    start, evals = record.start, [e for e in record.evals if e.split == "val"]
    sign = -1.0 if start is not None and not start.higher_is_better else 1.0
    setting = record.setting or Setting()
    width = len(setting.layers)
    names = sorted({name for probe in record.probes for name in probe.numbers})
    return Evidence(
        step=_column([s.step for s in record.steps]),
        loss=_column([s.loss for s in record.steps]),
        lr=_column([s.lr for s in record.steps]),
        grad_norm=_column([math.nan if s.grad_norm is None else s.grad_norm for s in record.steps]),
        eval_step=_column([e.step for e in evals]),
        eval_loss=_column([e.loss for e in evals]),
        metric=sign * _column([e.metric for e in evals]),
        recalls=tuple(e.recalls for e in evals),
        probe_step=_column([p.step for p in record.probes]),
        probe_loss=_column([p.loss for p in record.probes]),
        layers={name: _rows([getattr(p, name) for p in record.probes], width) for name in PER_LAYER},
        numbers={name: _column([p.numbers.get(name, math.nan) for p in record.probes]) for name in names},
        setting=setting,
        planned=start.steps if start is not None else None,
        per_epoch=start.steps_per_epoch if start is not None else None,
        reason=record.end.reason if record.end is not None else "",
    )


def median(values: Column) -> float:
    """Return the median of the finite values, NaN where there is none.

    >>> median(np.array([1.0, float("nan"), 3.0])), median(np.array([]))
    (2.0, nan)
    """
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def tail(values: Column, share: float) -> Column:
    """Return the last `share` of a column, at least three values where it has them.

    >>> tail(np.arange(10.0), 0.2)
    array([7., 8., 9.])
    """
    return values[-max(3, math.ceil(share * len(values))) :]


def head(values: Column, share: float) -> Column:
    """Return the first `share` of a column, at least three values where it has them."""
    return values[: max(3, math.ceil(share * len(values)))]


def running_median(values: Column, width: int) -> Column:
    """Return the median of each value with its neighbours, `width` of them; shorter at the ends.

    >>> running_median(np.array([1.0, 9.0, 1.0, 1.0]), 3)
    array([5., 1., 1., 1.])
    """
    if values.size == 0:
        return values
    half = width // 2
    padded = np.concatenate((np.full(half, np.nan), values, np.full(half, np.nan)))
    smooth: Column = np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    return smooth


def _whiskers(values: Column) -> tuple[float, float]:
    low, middle, high = np.percentile(values, (25, 50, 75))
    reach = 3 * (high - low)
    return float(middle - reach), float(middle + reach)


def _column(values: list[int] | list[float]) -> Column:
    return np.array(values, dtype=np.float64)


def _rows(values: list[tuple[float, ...]], width: int) -> Column:
    rows = np.full((len(values), width), np.nan)
    for row, given in zip(rows, values, strict=True):
        row[: min(width, len(given))] = given[:width]
    return rows
