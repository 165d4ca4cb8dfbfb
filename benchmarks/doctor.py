"""How well the doctor tells sick runs from healthy ones, and names the cause.

    python -m benchmarks.doctor draw --set development --first 0 --count 100 --data DIR    make runs, in sittings
    python -m benchmarks.doctor score --set development                                    examine them, in seconds

Runs are kept under `runs/` (ignored by git) as compressed records, so rules can be scored again without training. A
label is an outcome: a healthy run comes within `NEAR` of the best of its kind; a faulty one falls short of its own twin
without the fault, at the end or on the way, or has a fault that is wrong by itself (`PROVEN`). Pairs whose outcome
agrees with neither are counted and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import math
import random
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks import doctor_rivals
from benchmarks.doctor_cases import FAULTS, draw_plan, fault_names, inject
from benchmarks.doctor_runs import make_run
from benchmarks.store import store
from trivet.doctor import examine
from trivet.record import Event, Record, as_record

RUNS = Path(__file__).parent / "runs"
NEAR, WORSE, SLOWER = 0.08, 0.08, 0.12  # of the way from a constant answer to a perfect one
PROVEN = ("double softmax", "gradients not cleared", "not in the optimizer", "evaluation mode", "nan input")
SEEDS = {"development": 1_000_000, "test": 2_000_000}
FRACTIONS = [k / 20 for k in range(1, 21)]
_decoder = msgspec.json.Decoder(Event, strict=False)


# -- making runs --------------------------------------------------------------------------------------


def draw(kind: str, first: int, count: int, folder: str, seconds: float) -> None:
    """Make pairs of runs, `count` of them from number `first` on, for at most `seconds`; what exists is left alone."""
    torch.set_num_threads(1)
    RUNS.mkdir(exist_ok=True)
    path = RUNS / f"doctor-{kind}-{first:05d}.jsonl.gz"
    done = {case["index"] for case in _read(path)} if path.exists() else set()
    began = time.perf_counter()
    with gzip.open(path, "at", compresslevel=6) as file:
        for index in range(first, first + count):
            if index in done:
                continue
            if time.perf_counter() - began > seconds:
                print(f"stopped before {index}; call again to go on")
                return
            file.write(json.dumps(_pair(kind, index, folder)) + "\n")
    print(f"{path.name}: {count} pairs, {time.perf_counter() - began:.0f} s")


def _pair(kind: str, index: int, folder: str) -> dict[str, Any]:
    r = random.Random(SEEDS[kind] + index)
    names = fault_names()
    fault = names[index % len(names)]
    while True:  # some faults make no sense for some plans: draw another plan
        plan = draw_plan(r, test=kind == "test", folder=folder)
        sick = inject(plan, fault, r)
        if sick is not None:
            break
    case = {
        "index": index,
        "fault": fault,
        "data": plan.data.name,
        "architecture": plan.architecture,
        "optimizer": plan.optimizer,
    }
    seed = r.randrange(10**9)
    case["twin"] = make_run(plan, random.Random(seed))
    case["sick"] = make_run(sick, random.Random(seed))
    case["sick"]["architecture"] = sick.architecture
    return case


# -- labels -------------------------------------------------------------------------------------------


def labelled(kind: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return runs with their labels ("healthy" or the fault's name), and how many were left out and why."""
    cases = [case for path in sorted(RUNS.glob(f"doctor-{kind}-*.jsonl.gz")) for case in _read(path)]
    by_kind: dict[tuple[str, str], list[float]] = defaultdict(list)
    for case in cases:
        by_kind[_kind(case)].append(_end(case["twin"]))
    reference = {k: _quantile(v, 0.8) for k, v in by_kind.items()}
    out: Counter[str] = Counter()
    runs = []
    for case in cases:
        twin, sick, name = case["twin"], case["sick"], case["fault"]
        fine = twin["reason"] == "finished" and _end(twin) >= reference[_kind(case)] - NEAR
        if fine:
            runs.append(_run(case, twin, "healthy"))
        else:
            out["meant healthy, came out badly"] += 1
        short = _end(twin) - _end(sick), _area(twin) - _area(sick)
        if name in PROVEN or sick["reason"] == "diverged" or (fine and (short[0] >= WORSE or short[1] >= SLOWER)):
            runs.append(_run(case, sick, name))
        else:
            out[f"meant faulty ({name}), came out well" if fine else "faulty, but the twin is no measure"] += 1
    return runs, out


def _kind(case: dict[str, Any]) -> tuple[str, str]:
    return case["data"], case["architecture"].split("-")[0]


def _run(case: dict[str, Any], run: dict[str, Any], label: str) -> dict[str, Any]:
    events = [_decoder.decode(line) for line in run["events"]]
    return {
        "index": case["index"],
        "label": label,
        "record": as_record(events),
        "data": case["data"],
        "architecture": case["architecture"],
        "optimizer": case["optimizer"],
    }


def _end(run: dict[str, Any]) -> float:
    return max(-1.0, statistics.median(run["scores"][-3:])) if run["scores"] and run["reason"] == "finished" else -1.0


def _area(run: dict[str, Any]) -> float:
    scores = [max(-1.0, s) for s in run["scores"]] + [-1.0] * (20 - len(run["scores"]))
    return sum(scores) / len(scores)


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def _read(path: Path) -> Iterator[dict[str, Any]]:
    # A file that is still being written, or whose writer was stopped, ends in the middle of a line.
    with contextlib.suppress(EOFError, json.JSONDecodeError), gzip.open(path, "rt") as file:
        for line in file:
            yield json.loads(line)


# -- scores -------------------------------------------------------------------------------------------


def score(kind: str, *, show: str = "", exported: bool = False, save: bool = False) -> None:
    """Examine every labelled run; print recall, false alarms, right cause first, calibration, and rivals beside it."""
    runs, out = labelled(kind)
    if exported:
        runs = [{**run, "record": as_exported(run["record"])} for run in runs]
    answers = [(run, [f for f in examine(run["record"]) if f.severity != "note"]) for run in runs]
    per_fault: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    calibration: list[tuple[float, bool]] = []
    for run, found in answers:
        label = run["label"]
        right = bool(found) and label != "healthy" and found[0].code in FAULTS[label][0]
        per_fault[label].append((bool(found), right))
        if found:
            calibration.append((found[0].confidence, right))
        if show and (
            label == show
            or (show == "wrong" and bool(found) != (label != "healthy"))
            or (show == "cause" and found and label != "healthy" and not right)
        ):
            print(
                run["index"],
                label,
                run["data"],
                run["architecture"],
                run["optimizer"],
                [(f.code, f.confidence) for f in found[:3]],
            )
    healthy = per_fault.pop("healthy", [])
    sick = [pair for pairs in per_fault.values() for pair in pairs]
    table: dict[str, Any] = {
        "healthy": len(healthy),
        "false alarms": _share(alarm for alarm, _ in healthy),
        "faulty": len(sick),
        "recall": _share(alarm for alarm, _ in sick),
        "right cause first": _share(right for _, right in sick),
        "expected calibration error": calibration_error(calibration),
        "left out": dict(out),
        "by fault": {
            name: {"runs": len(p), "recall": _share(a for a, _ in p), "right first": _share(r for _, r in p)}
            for name, p in sorted(per_fault.items())
        },
    }
    if not exported:
        table["rivals"] = doctor_rivals.table([(run["label"], run["record"]) for run in runs])
    if save and not exported:
        table["median share of the run at the alarm"] = _alarm(answers)
    _print(table)
    if save:
        store(f"doctor_{kind}{'_exported' if exported else ''}", table)


def as_exported(record: Record) -> Record:
    """Return what a foreign log would hold: loss, rate and evaluations, nothing of the layers."""
    return Record(record.start, record.steps, record.evals, end=record.end)


def calibration_error(pairs: list[tuple[float, bool]], bins: int = 10) -> float:
    """Return the expected calibration error: confidence against the share of right causes, in equal bins.

    >>> calibration_error([(0.9, True)] * 9 + [(0.9, False)])
    0.0
    """
    groups: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for confidence, right in pairs:
        groups[min(bins - 1, int(confidence * bins))].append((confidence, right))
    total = sum(
        len(g) * abs(statistics.mean(c for c, _ in g) - statistics.mean(float(r) for _, r in g))
        for g in groups.values()
    )
    return round(total / max(1, len(pairs)), 4)


def _alarm(answers: list[tuple[dict[str, Any], list[Any]]]) -> float:
    """Return the median share of its steps that a found run had made when the alarm that stayed was first raised."""
    shares = []
    for run, found in answers:
        if run["label"] == "healthy" or not found:
            continue
        record = run["record"]
        last = record.steps[-1].step
        shares.append(
            next((q for q in FRACTIONS if found[0].code in [f.code for f in examine(cut(record, q * last))]), 1.0)
        )
    return statistics.median(shares) if shares else math.nan


def cut(record: Record, step: float) -> Record:
    """Return the record as it stood after a step."""
    return Record(
        record.start,
        tuple(s for s in record.steps if s.step <= step),
        tuple(e for e in record.evals if e.step <= step),
        setting=record.setting,
        probes=tuple(p for p in record.probes if p.step <= step),
    )


def _share(values: Iterable[bool]) -> float:
    listed = list(values)
    return round(sum(listed) / len(listed), 4) if listed else math.nan


def _print(table: dict[str, Any]) -> None:
    for key, value in table.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name, item in value.items():
                print(f"  {name:28} {item}")
        else:
            print(f"{key:36} {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("draw", "score"))
    parser.add_argument("--set", default="development", choices=list(SEEDS))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=160)
    parser.add_argument("--data", default="data")
    parser.add_argument("--show", default="")
    parser.add_argument("--exported", action="store_true")
    parser.add_argument("--save", action="store_true")
    a = parser.parse_args()
    if a.command == "draw":
        draw(a.set, a.first, a.count, a.data, a.seconds)
    else:
        score(a.set, show=a.show, exported=a.exported, save=a.save)


if __name__ == "__main__":
    sys.exit(main())
