"""From named series to a record: the events that trivet's own runs write, in the same units."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trivet.errors import RunError
from trivet.record.events import End, Eval, Resume, Start, Step
from trivet.record.foreign import clock
from trivet.record.foreign.columns import guess, higher_is_better
from trivet.record.foreign.log import Log, Numbers, Raw, Series
from trivet.record.journal import Record

MOST = 4000  # steps that a record of a long log keeps; more are joined
ALONE = 100  # rows that are kept by themselves, because they are unlike their neighbours
HOLE = 20  # a gap this many times the usual distance between rows is said


def assemble(raw: Raw, path: object, given: dict[str, str] | None = None) -> Log:
    """Decide which column is what, put the rows in order, and build the record."""
    counts = raw.counts()
    roles = guess(counts, {**raw.known, **(given or {})})
    if "loss" not in roles and "val_loss" not in roles:
        raise RunError(f"{path}: no column looks like a loss; it has {_listed(counts)}; say which: --column loss=NAME")
    made, unit, per_epoch, restarts = clock.series(raw, roles)
    notes, loss = raw.notes, made.get("loss")
    if loss is None:
        notes.append("no training loss in this log, only a validation loss: most faults cannot be seen")
    elif not loss.step.size:
        raise RunError(f"{path}: column {roles['loss']} has no numbers with a {unit}")
    if raw.lost_is_zero and loss is not None:
        _restore_nan(loss, made.get("grad_norm"), notes)
    _say_holes(loss or made["val_loss"], unit, notes)
    metric = roles.get("metric") or roles.get("train_metric") or ""
    steps = _steps(made, notes)
    evals = _evals(made)
    last = max([s.step for s in steps[-1:]] + [e.step for e in evals[-1:]], default=0)
    start = Start(
        raw.planned or last, per_epoch or max(raw.planned or last, 1), raw.batch_size or 0, 0, "", metric or "metric",
        higher_is_better(metric) if metric else True,
    )  # fmt: skip
    done = raw.planned is not None and last >= raw.planned
    end = End(last, "finished", steps[-1].seconds if steps else 0.0) if done else None
    record = Record(start, steps, evals, (), tuple(Resume(max(0, s - 1)) for s in restarts), end)
    left = sorted(set(counts) - set(roles.values()))
    if left and raw.format.startswith("a CSV"):
        notes.append(f"columns not used: {_listed(left)}")
    return Log(Path(str(path)), raw.format, record, tuple(dict.fromkeys(notes)), roles, unit)


def _steps(made: dict[str, Series], notes: list[str]) -> tuple[Step, ...]:
    loss = made.get("loss")
    if loss is None:
        return ()
    rates = _at(made.get("lr"), loss.step, hold=True)
    norms = _at(made.get("grad_norm"), loss.step, hold=False)
    seconds = _seconds(loss)
    step, value = loss.step, loss.value
    if step.size > MOST:
        ends = _joined(value)
        notes.append(f"{step.size:,} rows are read as {ends.size:,} means of neighbours, peaks by themselves")
        value = _means(value, ends)
        norms = _peaks(norms, ends)
        step, rates, seconds = step[ends], rates[ends], seconds[ends]
    bare: list[float | None] = [None if math.isnan(n) else n for n in norms.tolist()]
    if "grad_norm" in made:  # a norm that was logged as NaN is a norm, not a missing one
        bare = norms.tolist()
    whole = step.astype(np.int64).tolist()
    return tuple(map(Step, whole, value.tolist(), rates.tolist(), seconds.tolist(), bare))


def _evals(made: dict[str, Series]) -> tuple[Eval, ...]:
    events = []
    for split, loss, metric in (
        ("val", made.get("val_loss"), made.get("metric")),
        ("train", None, made.get("train_metric")),
    ):
        given = [s for s in (loss, metric) if s is not None]
        if not given:
            continue
        at = np.unique(np.concatenate([s.step for s in given]))
        losses, metrics = _exact(loss, at), _exact(metric, at)
        if at.size > MOST:
            at, losses, metrics = (a[:: math.ceil(at.size / MOST)] for a in (at, losses, metrics))
        events += [
            Eval(int(s), split, m, one, 0.0) for s, one, m in zip(at, losses.tolist(), metrics.tolist(), strict=True)
        ]
    return tuple(sorted(events, key=lambda e: e.step))


def _at(one: Series | None, step: Numbers, *, hold: bool) -> Numbers:
    """Return a series at other steps: the value written there, or with `hold` the latest one before."""
    if one is None or not one.step.size:
        return np.full(step.size, np.nan)
    if not hold:
        return _exact(one, step)
    place = np.searchsorted(one.step, step, side="right") - 1
    # Before the first rate was written, the first stands in.
    held: Numbers = one.value[np.maximum(place, 0)]
    return held


def _exact(one: Series | None, step: Numbers) -> Numbers:
    found = np.full(step.size, np.nan)
    if one is not None and one.step.size:
        place = np.minimum(np.searchsorted(one.step, step), one.step.size - 1)
        hit = one.step[place] == step
        found[hit] = one.value[place[hit]]
    return found


def _seconds(loss: Series) -> Numbers:
    """Return seconds since the first row; zeros where the log has no times or they run backwards."""
    if loss.seconds is None or not np.isfinite(loss.seconds).any():
        return np.zeros(loss.step.size)
    since = loss.seconds - np.nanmin(loss.seconds)
    return np.maximum.accumulate(np.nan_to_num(since, nan=0.0))


def _joined(loss: Numbers) -> NDArray[np.intp]:
    """Return the last row of each group that is joined: equal parts, except that peaks stand alone."""
    width = math.ceil(loss.size / (MOST - 2 * ALONE))
    padded = np.full(math.ceil(loss.size / width) * width, np.nan)
    padded[: loss.size] = np.where(np.isfinite(loss), loss, np.nan)
    parts = padded.reshape(-1, width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a part without any finite loss has no median: NaN will do
        away = np.abs(parts - np.nanmedian(parts, axis=1, keepdims=True)).ravel()[: loss.size]
        spread = np.nanmedian(away)
    odd = np.flatnonzero(away > 15 * spread) if spread > 0 else np.zeros(0, dtype=np.intp)
    if odd.size > ALONE:  # not peaks but a heavy tail; the highest will do
        odd = odd[np.argsort(away[odd])[-ALONE:]]
    usual = np.append(np.arange(width, loss.size, width), loss.size) - 1
    ends: NDArray[np.intp] = np.unique(np.concatenate((usual, odd, odd[odd > 0] - 1)))
    return ends


def _means(values: Numbers, ends: NDArray[np.intp]) -> Numbers:
    """Return the mean of each group; NaN or infinite where any of it is, for that must not be averaged away."""
    begins = np.concatenate(([0], ends[:-1] + 1))
    means: Numbers = np.add.reduceat(values, begins) / np.diff(np.append(begins, values.size))
    return means


def _peaks(values: Numbers, ends: NDArray[np.intp]) -> Numbers:
    begins = np.concatenate(([0], ends[:-1] + 1))
    peaks: Numbers = np.fmax.reduceat(values, begins)
    return peaks


def _restore_nan(loss: Series, norm: Series | None, notes: list[str]) -> None:
    """Put back the NaN losses that the tool wrote as 0: a loss of exactly 0 beside a gradient norm of NaN."""
    norms = _exact(norm, loss.step)
    logged = np.isin(loss.step, norm.step) if norm is not None else np.zeros(loss.step.size, dtype=bool)
    lost = (loss.value == 0) & logged & ~np.isfinite(norms)
    if lost.any():
        loss.value = np.where(lost, np.nan, loss.value)
        notes.append(
            f"{int(lost.sum()):,} losses of exactly 0 stand beside a gradient norm of NaN: read as NaN, since the "
            "Trainer leaves NaN losses out of its means (logging_nan_inf_filter)"
        )


def _say_holes(one: Series, unit: str, notes: list[str]) -> None:
    apart = np.diff(one.step)
    usual = np.median(apart) if apart.size >= 4 else 0.0
    holes = np.flatnonzero(apart > HOLE * usual) if usual > 0 else np.zeros(0, dtype=np.intp)
    if holes.size:
        at = int(holes[0])
        more = f" (and {holes.size - 1} more gaps)" if holes.size > 1 else ""
        notes.append(f"nothing was logged between {unit} {one.step[at]:.0f} and {one.step[at + 1]:.0f}{more}")


def _listed(names: object) -> str:
    shown = [str(n) for n in list(names)]  # type: ignore[call-overload]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
