"""The doctor: signals of a run, rules that name what is wrong, and what to do about it."""

from __future__ import annotations

from trivet.doctor.attend import Doctor
from trivet.doctor.diagnosis import Diagnosis, diagnose, examine_log
from trivet.doctor.examine import examine, undecidable
from trivet.doctor.folder import examine_runs
from trivet.doctor.twins import bad_dynamics, local_minimum
from trivet.doctor.watcher import Watch, watch

__all__ = [
    "Diagnosis",
    "Doctor",
    "Watch",
    "bad_dynamics",
    "diagnose",
    "examine",
    "examine_log",
    "examine_runs",
    "local_minimum",
    "undecidable",
    "watch",
]
