"""What narrow optimizer states cost and save: bytes, time of a step, and what two real tasks end at.

Run: `python -m benchmarks.state_formats [--quick] [--only TEXT] [--data FOLDER]`. Budgets of the project: AdamW with
8-bit states in at most 2.2 bytes a parameter, at most 1.5 times the float32 step, and a final metric within the noise
of the seed. Tasks: digits (accuracy on 25 %, from scikit-learn) and California housing (R2 on 20 %, from the CSV under
FOLDER), a network of two wide layers each, so that all large matrices are stored narrow. Nothing ran on a GPU.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import Contender, compare, show
from benchmarks.store import store_rows
from trivet import optim

SEEDS = 5
FORMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"state_format": "bfloat16"},
    "8bit": {"state_format": "8bit"},
}
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def digits() -> Data:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = torch.tensor(x[order] / 16, dtype=torch.float32)
    y = torch.tensor(y[order])
    return x[450:], y[450:], x[:450], y[:450]


def california(folder: Path) -> Data:
    with gzip.open(folder / "california_housing" / "california_housing.csv.gz", "rt") as file:
        _, *rows = csv.reader(file)
    table = np.array([[float(cell or "nan") for cell in row[:9]] for row in rows])
    table = table[np.isfinite(table).all(axis=1)][np.random.default_rng(0).permutation(np.isfinite(table).all(1).sum())]
    table = (table - table.mean(0)) / table.std(0)
    x, y = torch.tensor(table[:, :8], dtype=torch.float32), torch.tensor(table[:, 8:], dtype=torch.float32)
    held = len(x) // 5
    return x[held:], y[held:], x[:held], y[:held]


def accuracy(output: Tensor, target: Tensor) -> float:
    return float((output.argmax(1) == target).float().mean())


def r_squared(output: Tensor, target: Tensor) -> float:
    return 1 - float((output - target).square().mean() / (target - target.mean()).square().mean())


def cross_entropy(output: Tensor, target: Tensor) -> float:
    return float(nn.functional.cross_entropy(output, target))


Metric = Callable[[Tensor, Tensor], float]


def train(
    data: Data, seed: int, options: dict[str, Any], metrics: Sequence[Metric], *, epochs: int, batch: int
) -> list[float]:
    """Train a network of two hidden layers with AdamW at a rate that falls to zero, and judge it on what was held."""
    x, y, held_x, held_y = data
    classes = y.dtype == torch.int64
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(x.shape[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10 if classes else 1)
    )
    optimizer = optim.AdamW(model.parameters(), lr=2e-3, **options)
    loss: nn.Module = nn.CrossEntropyLoss() if classes else nn.MSELoss()
    steps = epochs * (len(x) // batch)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / steps)
        order = torch.randperm(len(x)) if len(order) < batch else order
        rows, order = order[:batch], order[batch:]
        optimizer.zero_grad()
        loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return [metric(model(held_x), held_y) for metric in metrics]


def task_cases(
    titles: dict[str, Metric], data: Data, *, epochs: int, batch: int, seeds: int = SEEDS
) -> list[dict[str, Any]]:
    """Final metrics by seed, and the interval of the paired difference from float32."""
    metrics = list(titles.values())
    found = {
        name: np.array([train(data, s, options, metrics, epochs=epochs, batch=batch) for s in range(seeds)])
        for name, options in FORMS.items()
    }
    cases = []
    for column, title in enumerate(titles):
        rows = []
        for name, table in found.items():
            values = table[:, column]
            difference = values - found["float32"][:, column]
            half = 2.776 * float(difference.std(ddof=1)) / seeds**0.5  # Student's t, 4 degrees of freedom, 95 %
            middle = float(difference.mean())
            row = {
                "name": name,
                "mean": float(values.mean()),
                "seed_sd": float(values.std(ddof=1)),
                "difference": {"mean": middle, "low": middle - half, "high": middle + half},
                "values": values.tolist(),
            }
            rows.append(row)
            told = f"{row['mean']:.5f}, seeds +-{row['seed_sd']:.5f}"
            print(
                f"{title}  {name:<9} {told}, from float32 {middle:+.5f} ({middle - half:+.5f} to {middle + half:+.5f})"
            )
        cases.append({"case": title, "seeds": seeds, "contenders": rows})
    return cases


def speed_case(count: int, *, quick: bool) -> dict[str, Any]:
    """Time AdamW's step with each format, and with a measured step, in turn."""
    gradient = torch.randn(count) * 1e-2
    contenders: dict[str, Callable[[], None] | Contender] = {}
    for name, options in {**FORMS, "float32, measured": {}}.items():
        weight = nn.Parameter(torch.randn(count))
        weight.grad = gradient
        optimizer = optim.AdamW([weight], **options)

        def step(optimizer: optim.AdamW = optimizer, measured: bool = "measured" in name) -> None:
            if measured:
                optimizer.measure_next_step()
            optimizer.step()

        contenders[name] = step
    title = f"AdamW's step by format of its states: {count / 1e6:.0f}M parameters"
    return compare(contenders, title=title, baseline="float32", rounds=5 if quick else 21, seconds=1 if quick else 15)


def bytes_case() -> dict[str, Any]:
    with torch.device("meta"):
        model = nn.Sequential(nn.Embedding(32000, 512), *[nn.Linear(512, 512) for _ in range(24)])
    rows = []
    for name, options in FORMS.items():
        plan = optim.memory_plan(model, optim.AdamW, **options)
        rows.append({"name": name, "state_bytes_per_parameter": plan.state_bytes_per_parameter})
        print(f"{name:<9} {plan.state_bytes_per_parameter:.3f} bytes of state a parameter")
    return {"case": "Bytes of AdamW's state a parameter, by the plan", "contenders": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds and small sizes, nothing stored")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the cases whose title has this text")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of california_housing/")
    options = parser.parse_args()
    short = options.quick
    jobs: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "bytes": lambda: [bytes_case()],
        "speed": lambda: [speed_case(1_000_000 if short else 64_000_000, quick=short)],
        "digits": lambda: task_cases(
            {"Digits: accuracy": accuracy, "Digits: cross entropy": cross_entropy},
            digits(),
            epochs=2 if short else 30,
            batch=64,
        ),
        "california": lambda: task_cases(
            {"California housing: R2": r_squared}, california(options.data), epochs=1 if short else 20, batch=512
        ),
    }
    for title, job in jobs.items():
        if options.only in title:
            cases = job()
            if title == "speed":
                show(cases[0])
            if not short:
                store_rows("state_formats", cases)


if __name__ == "__main__":
    main()
