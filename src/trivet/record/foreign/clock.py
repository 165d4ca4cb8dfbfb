"""Steps that go back, repeat or have holes: what of a log counts, and what is said about it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trivet.record.foreign.log import Numbers, Raw, Series, Table

REPEATED = 0.3  # share of repeated numbers above which a column does not count steps
UNORDERED = 0.1  # share of backward jumps above which rows were never in order


def series(raw: Raw, roles: dict[str, str]) -> tuple[dict[str, Series], str, int | None, tuple[int, ...]]:
    """Return each role's series in order of steps, the unit of steps, the steps of an epoch, and where it restarted."""
    if raw.table is None:
        return _of_series(raw, roles)
    table = raw.table
    at, unit = _clock(raw, table, roles)
    keep, restarts = _settled(at, raw.notes, unit)
    per_epoch = _per_epoch(table, roles, at, unit)
    time = roles.get("time")
    made = {}
    for role, name in roles.items():
        if role in ("step", "epoch", "time"):
            continue
        rows = keep & table.present[name] & np.isfinite(at)
        seconds = table.values[time][rows] if time else None
        made[role] = _unique(Series(at[rows], table.values[name][rows], seconds), raw.notes, name)
    return made, unit, per_epoch, restarts


def _of_series(raw: Raw, roles: dict[str, str]) -> tuple[dict[str, Series], str, int | None, tuple[int, ...]]:
    made: dict[str, Series] = {}
    restarts: tuple[int, ...] = ()
    for role, name in roles.items():
        if role in ("step", "time"):
            continue
        one = raw.series[name]
        said: list[str] = []
        keep, again = _settled(one.step, said, "step")
        if role == "loss":
            restarts = again
        seconds = one.seconds[keep] if one.seconds is not None else None
        made[role] = _unique(Series(one.step[keep], one.value[keep], seconds), said, name)
        if role != "epoch":
            raw.notes.extend(note for note in said if note not in raw.notes)
    epoch = made.pop("epoch", None)
    per_epoch = None
    if epoch is not None and len(epoch.step) > 1 and epoch.value[-1] > epoch.value[0]:
        per_epoch = round((epoch.step[-1] - epoch.step[0]) / (epoch.value[-1] - epoch.value[0]))
    return made, "step", per_epoch or None, restarts


def _clock(raw: Raw, table: Table, roles: dict[str, str]) -> tuple[Numbers, str]:
    """Return the step of every row: a step column, else an epoch column, else the row's number."""
    main = roles.get("loss") or roles.get("val_loss")
    rows = table.present[main] if main else np.ones(table.rows, dtype=bool)
    for role in ("step", "epoch"):
        name = roles.get(role)
        if name is None:
            continue
        at = table.values[name]
        seen = at[rows & table.present[name] & np.isfinite(at)]
        if seen.size < 0.5 * rows.sum():
            continue
        if _counts(seen):
            if role == "epoch":
                raw.notes.append(f"steps are counted in epochs (column {name}): this log has no numbers in between")
            return np.where(table.present[name], at, np.nan), role
    said = roles.get("step") or roles.get("epoch")
    why = f"column {said} repeats within itself" if said else "no column counts steps"
    raw.notes.append(f"{why}, so rows are counted instead")
    return np.arange(1.0, table.rows + 1), "row"


def _counts(seen: Numbers) -> bool:
    """Whether numbers count rows: few repeat, or they repeat because the run began again (0 1 0 1, not 0 0 1 1)."""
    if not seen.size:
        return False
    apart = np.diff(seen)
    if (apart > 0).all():
        return True
    restarts = np.mean(apart == 0) <= REPEATED and np.mean(apart < 0) <= UNORDERED
    return bool(restarts or 1 - np.unique(seen).size / seen.size <= REPEATED)


def _settled(at: Numbers, notes: list[str], unit: str) -> tuple[NDArray[np.bool_], tuple[int, ...]]:
    """Return which rows count, later ones replacing what a restart repeats, and the steps it restarted after."""
    keep = np.isfinite(at)
    if not keep.all():
        notes.append(f"{int((~keep).sum()):,} rows without a {unit} left out")
    rows = np.flatnonzero(keep)
    seen = at[rows]
    back = np.flatnonzero(np.diff(seen) < 0) + 1
    if not back.size:
        return keep, ()
    if back.size > max(5, UNORDERED * seen.size):
        notes.append(f"rows are not in the order of their {unit}s: sorted")
        return keep, ()
    # A row counts unless a later restart begins at or before its step.
    begins = np.full(seen.size, np.inf)
    begins[back - 1] = seen[back]
    later = np.minimum.accumulate(begins[::-1])[::-1]
    keep[rows] = seen < later
    again = tuple(int(s) for s in seen[back])
    if any(s <= seen[0] for s in again):
        notes.append(
            f"{len(again) + 1} runs stand one after another in this log ({unit}s begin again); the last one is read"
        )
    else:
        shown = ", ".join(map(str, again[:3])) + (", ..." if len(again) > 3 else "")
        notes.append(f"the run was resumed at {unit} {shown}; what it repeated counts once, as written last")
    return keep, again


def _unique(one: Series, notes: list[str], name: str) -> Series:
    """Return a series in order, the last value where a step has several."""
    if (np.diff(one.step) > 0).all():
        return one
    order = np.argsort(one.step, kind="stable")
    step = one.step[order]
    last = np.append(np.diff(step) > 0, True) if step.size else np.zeros(0, dtype=bool)
    repeated = int(step.size - last.sum())
    if repeated:
        notes.append(f"{name}: {repeated:,} values for a step that has one already; the last is taken")
    order = order[last]
    return Series(one.step[order], one.value[order], one.seconds[order] if one.seconds is not None else None)


def _per_epoch(table: Table, roles: dict[str, str], at: Numbers, unit: str) -> int | None:
    name = roles.get("epoch")
    if unit == "epoch":
        return 1
    if name is None:
        return None
    both = table.present[name] & np.isfinite(at) & np.isfinite(table.values[name])
    steps, epochs = at[both], table.values[name][both]
    if epochs.size < 2 or not np.ptp(epochs) > 0:
        return None
    return max(1, round(float(np.ptp(steps) / np.ptp(epochs))))
