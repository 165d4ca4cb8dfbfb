"""The main job once on a real set of every kind of task: metric with interval, beside both baselines.

Run: `python -m benchmarks.kinds [NAME ...]`. A set whose row is stored is not run again unless it is named; each takes
at most about two minutes. The labels of `digits_labels` are made from the digit (even, five or more, prime, has a
loop): the images are real, the labels follow from them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.store import RESULTS, store

STORED = RESULTS / "kinds.json"
DATA = Path(__file__).parents[2] / "shared" / "data"

JOBS: dict[str, list[str]] = {
    "digits_labels": ["digits_labels.npz", "--kind", "multilabel"],
    "nuclei_counts": ["dsb2018_nuclei/dsb2018_nuclei.npz", "--target", "count", "--kind", "counts"],
    "nuclei_masks": ["dsb2018_nuclei/dsb2018_nuclei.npz"],
    "japanese_vowels": ["japanese_vowels/japanese_vowels.npz"],
    "sms_spam": ["sms_spam", "--target", "label"],
    "banking77": ["banking77", "--target", "label"],
    "tiny_shakespeare": ["tiny_shakespeare/tiny_shakespeare.txt.gz"],
    "omniglot": ["omniglot_small/omniglot_small.npz", "--kind", "embedding"],
    "beijing_by_time": ["beijing_pm25/beijing_pm25.csv.gz", "--target", "pm2.5", "--time", "No"],
}
BUDGET = "50s"


def labelled_digits(path: Path) -> Path:
    """Write scikit-learn's digits with four labels that follow from the digit."""
    import numpy as np
    from sklearn.datasets import load_digits

    bunch = load_digits()
    digit = bunch.target
    labels = np.stack(
        [digit % 2 == 0, digit >= 5, np.isin(digit, [2, 3, 5, 7]), np.isin(digit, [0, 6, 8, 9])], axis=1
    ).astype(np.int64)
    np.savez(path, X_train=bunch.images, y_train=labels, classes=np.array(["even", "five_or_more", "prime", "loop"]))
    return path


def job(name: str, folder: Path) -> dict[str, object] | None:
    """Fit one set by the command line, as a user would; None where the data is not here."""
    data, *options = JOBS[name]
    path = labelled_digits(folder / data) if name == "digits_labels" else DATA / data
    if not path.exists():
        print(f"{name}: the data is not here; left out")
        return None
    command = [sys.executable, "-m", "trivet", "fit", str(path), *options, "--budget", BUDGET, "--json"]
    began = time.perf_counter()
    done = subprocess.run([*command, "--out", str(folder / name), "--progress", "off"], capture_output=True, text=True)
    seconds = round(time.perf_counter() - began, 1)
    if done.returncode:
        return {"data": name, "failed": done.stderr.strip().splitlines()[-1], "seconds": seconds}
    answer = json.loads(done.stdout)
    return {
        "data": name,
        "options": options,
        "budget": BUDGET,
        "metric": answer["metric"],
        "verdict": answer["verdict"],
        "recipe": answer["recipe"],
        "seconds": seconds,
    }


def main() -> None:
    """Run what is named, or what is not stored yet."""
    rows = json.loads(STORED.read_text())["rows"] if STORED.exists() else []
    known = {row["data"] for row in rows}
    for name in sys.argv[1:] or [name for name in JOBS if name not in known]:
        with tempfile.TemporaryDirectory() as folder:
            row = job(name, Path(folder))
        if row is None:
            continue
        print(f"{name}: {row.get('verdict') or row.get('failed')} ({row['seconds']} s)", flush=True)
        rows = [other for other in rows if other["data"] != name] + [row]
        rows.sort(key=lambda row: list(JOBS).index(str(row["data"])))
        store("kinds", {"rows": rows})


if __name__ == "__main__":
    main()
