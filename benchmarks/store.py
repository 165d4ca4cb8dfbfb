"""Where results go, with the machine and the versions that they were seen on."""

from __future__ import annotations

import datetime
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
        "accelerator": "none: nothing here was measured on a GPU",
        **versions,
    }


def store(name: str, result: dict[str, object]) -> Path:
    """Write one benchmark's result as JSON, replacing the last one of the same name."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    path.write_text(json.dumps({"date": date, "machine": machine(), **result}, indent=1) + "\n")
    print(f"stored in {path.relative_to(RESULTS.parent.parent)}")
    return path
