"""The main job on real data sets: metric with interval against the simple baseline, and the time for everything.

Run: `python -m benchmarks.main_job [NAME ...]`, after `make fit` has set the project up. The sets beside the checkout
(`../shared/data`) are left out, and said to be, where they are absent.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.store import store

DATA = Path(__file__).parents[2] / "shared" / "data"

JOBS: dict[str, list[str]] = {
    "breast_cancer": ["sklearn:breast_cancer"],
    "diabetes": ["sklearn:diabetes"],
    "digits": ["sklearn:digits"],
    "wine": ["sklearn:wine"],
    "annthyroid": [str(DATA / "annthyroid" / "annthyroid.npz")],
    "california_housing": [
        str(DATA / "california_housing" / "california_housing.csv.gz"),
        "--target",
        "median_house_value",
    ],
    "fashion_mnist": [str(DATA / "fashion_mnist" / "fashion_mnist.npz")],
}
SEEDS = {"breast_cancer": 5, "diabetes": 5, "wine": 5, "digits": 1, "annthyroid": 3}


def job(name: str, seed: int, folder: Path) -> dict[str, object] | None:
    arguments = JOBS[name]
    if arguments[0].startswith("/") and not Path(arguments[0]).exists():
        print(f"{name}: the data is not here; left out")
        return None
    command = [sys.executable, "-m", "trivet", "fit", *arguments, "--seed", str(seed), "--json"]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--out", str(folder / f"{name}-{seed}"), "--progress", "off"], capture_output=True, text=True
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        print(f"{name} failed: {done.stderr}")
        return {"data": name, "seed": seed, "failed": done.stderr.strip().splitlines()[-1]}
    answer = json.loads(done.stdout)
    metric = answer["metric"]
    baseline = metric["baselines"][-1]
    sign = 1 if metric["higher_is_better"] else -1
    low, high = metric["interval"]
    ahead = sign * (metric["test"] - baseline["value"])
    print(
        f"{name:<20} seed {seed}  {metric['name']} {metric['test']:.4g} [{low:.4g}, {high:.4g}]  "
        f"{baseline['name']} {baseline['value']:.4g}  {'better' if ahead > 0 else 'not better'}  {seconds:.0f} s",
        flush=True,
    )
    return {
        "data": name,
        "seed": seed,
        "metric": metric["name"],
        "test": metric["test"],
        "interval": metric["interval"],
        "baselines": metric["baselines"],
        "better_than_simple": ahead > 0,
        "interval_excludes_simple": not low <= baseline["value"] <= high,
        "loss": answer["recipe"]["loss"]["name"],
        "optimizer": answer["recipe"]["optimizer"],
        "seconds_in_all": round(seconds, 1),
        "seconds_training": answer["seconds"],
    }


def main() -> None:
    names = sys.argv[1:] or list(JOBS)
    with tempfile.TemporaryDirectory() as folder:
        rows = [job(name, seed, Path(folder)) for name in names for seed in range(SEEDS.get(name, 1))]
    if not sys.argv[1:]:
        store("main_job", {"rows": [row for row in rows if row is not None]})


if __name__ == "__main__":
    main()
