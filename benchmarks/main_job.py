"""The main job on real data sets: metric with interval against the simple baseline, and the time for everything.

Run: `python -m benchmarks.main_job [NAME ...]` (named sets replace their rows in the stored result and in the README's
table), after `make fit` has set the project up. The sets beside the checkout (`../shared/data`) are left out, and said
to be, where they are absent.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.store import RESULTS, store
from trivet.figures.style import number

STORED = RESULTS / "main_job.json"
README = Path(__file__).parents[1] / "README.md"
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
        "interval_excludes_simple": baseline["ahead"] is not None and baseline["ahead"][0] > 0,
        "loss": answer["recipe"]["loss"]["name"],
        "optimizer": answer["recipe"]["optimizer"],
        "seconds_in_all": round(seconds, 1),
        "seconds_training": answer["seconds"],
    }


def merged(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """These rows, and the stored ones of other data sets, in the order of `JOBS`."""
    stored = json.loads(STORED.read_text())["rows"] if STORED.exists() else []
    names = {row["data"] for row in rows}
    kept = [row for row in stored if row["data"] not in names and row["data"] in JOBS]
    return sorted([*kept, *rows], key=lambda row: (list(JOBS).index(str(row["data"])), row["seed"]))


def table(rows: list[dict[str, object]]) -> str:
    """The table of the README: medians over the seeds, and how often the simple baseline was beaten."""
    lines = [
        "| data | metric | trivet | simple baseline | better, of all seeds | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name in JOBS:
        runs = [row for row in rows if row["data"] == name and "failed" not in row]
        if not runs:
            continue
        simple = runs[0]["baselines"][-1]["name"]
        better = sum(bool(row["better_than_simple"]) for row in runs)
        clear = sum(bool(row["interval_excludes_simple"]) for row in runs)
        test = statistics.median(row["test"] for row in runs)
        base = statistics.median(row["baselines"][-1]["value"] for row in runs)
        seconds = max(row["seconds_in_all"] for row in runs)
        metric = str(runs[0]["metric"]).replace("_", " ")
        lines.append(
            f"| {name.replace('_', ' ')} | {metric} | {number(test)} | {number(base)} ({simple}) "
            f"| {better} of {len(runs)}, clearly {clear} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def write_readme(rows: list[dict[str, object]]) -> None:
    """Put the table between the markers of the README."""
    begin, end = "<!-- main job -->", "<!-- end of main job -->"
    text = README.read_text()
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    README.write_text(f"{before}{begin}\n\n{table(rows)}\n\n{end}{after}")


def main() -> None:
    names = sys.argv[1:] or list(JOBS)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            made = [job(name, seed, Path(folder)) for seed in range(SEEDS.get(name, 1))]
            rows = merged([row for row in made if row is not None])
            # Stored after each set: a long run that is cut off keeps what it has.
            store("main_job", {"rows": rows})
            write_readme(rows)


if __name__ == "__main__":
    main()
