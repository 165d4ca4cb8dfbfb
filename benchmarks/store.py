"""Where results go, with the machine and the versions that they were seen on."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, object]:
    """Return what decides a measurement: processor, cores, system, versions."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = {}
    for package in ("torch", "numpy", "numba", "scikit-learn"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return {
        "processor": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "accelerator": _accelerator(),
        **versions,
    }


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none: nothing here was measured on a GPU"


def store(name: str, result: dict[str, object]) -> Path:
    """Write one benchmark's result as JSON, replacing the last one of the same name."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    path.write_text(json.dumps({"date": date, "machine": machine(), **result}, indent=1) + "\n")
    print(f"stored in {path.relative_to(RESULTS.parent.parent)}")
    return path


def store_rows(name: str, cases: Sequence[Mapping[str, Any]]) -> Path:
    """Put cases of `benchmarks.harness.compare` into a table, replacing those of the same title.

    A table may be measured in several sittings on one machine: each case keeps its own date, and cases of another
    machine or of other versions are dropped.
    """
    path = RESULTS / f"{name}.json"
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    here = machine()
    kept: dict[str, Mapping[str, Any]] = {}
    if path.exists():
        before = json.loads(path.read_text())
        if before.get("machine") == here:
            kept = {case["case"]: case for case in before["cases"]}
    kept |= {case["case"]: {"date": date, **case} for case in cases}
    return store(name, {"cases": list(kept.values())})
