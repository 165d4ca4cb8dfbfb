"""Compare recipes by training each with the same seeds: paired, with an interval, ready to go on after a crash."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from trivet.errors import DivergedError, InputError, RunError
from trivet.optim.measuring import Measured
from trivet.record import Eval, Event, Start
from trivet.tasks import bootstrap_difference
from trivet.training import predict_outputs, train
from trivet.tuning.sensitivity import SEEDS, probes
from trivet.tuning.study import Contender, Study, Trial

if TYPE_CHECKING:
    from trivet.recipes import Recipe
    from trivet.tasks import Split, Task

__all__ = ["compare", "row_interval"]

SCHEMA = 1
FILE = "study.jsonl"


def compare(
    task: Task,
    recipes: Sequence[Recipe] | Mapping[str, Recipe],
    *,
    seeds: int = 5,
    seed: int = 0,
    split: str = "val",
    also_test: bool = False,
    keep_outputs: bool = False,
    sensitivity: bool = False,
    out: str | Path | None = None,
    device: str = "cpu",
    say: Callable[[str], None] | None = None,
) -> Study:
    """Train each recipe with the same seeds and compare them by the task's metric.

    A seed fixes the initial weights and the order of batches for all contenders, so the differences are paired. Each
    run keeps its best weights by the metric on validation data; `split="test"` then judges them on the test split,
    which is for a last word and not for choosing.

    Arguments
    ---------
    recipes : recipes, or recipes by name; the first is what the others are compared with.
    seeds : how many; the seeds are `seed`, `seed + 1`, ...
    also_test : judge each run on the test split as well, for a last word on a choice made on validation data.
    keep_outputs : keep each run's outputs on the split in `out`, for `row_interval`.
    sensitivity : train each recipe also at a ninth to nine times its rate, and at a quarter and four times its batch
        size, with the first two seeds: up to twelve more runs a recipe, for `Study.good_rates` and `batch_effects`.
    out : directory for `study.jsonl`, one line per finished run; called again with the same arguments, `compare` goes
        on where that file ends.
    say : called with one line after each run.

    Raises `InputError` for fewer than two recipes or seeds, and `RunError` when `out` holds another study.

    >>> import trivet
    >>> task = trivet.read_task("sklearn:wine")
    >>> plain = trivet.Recipe(loss="cross_entropy", optimizer={"name": "AdamW", "lr": 0.003}, epochs=3)
    >>> study = compare(task, {"AdamW": plain, "slow": plain.apply(trivet.Edit("optimizer.lr", 1e-6))}, seeds=3)
    >>> study.difference("AdamW", "slow").verdict
    'worse'
    """
    named = dict(recipes) if isinstance(recipes, Mapping) else {f"recipe {i}": r for i, r in enumerate(recipes, 1)}
    if len(named) < 2:
        raise InputError(f"{len(named)} recipe to compare; give two or more, under different names")
    if seeds < 2:
        raise InputError(f"seeds = {seeds} cannot tell a difference from noise; give 2 or more (5 is usual)")
    if split not in ("val", "test"):
        raise InputError(f"split = {split!r} is not known; allowed are 'val' and 'test'")
    contenders = tuple(
        Contender(name=name, recipe=recipe, state_bytes_per_parameter=state_bytes_per_parameter(task, recipe))
        for name, recipe in named.items()
    )
    study = Study(
        task=task.name,
        metric=task.metric.name,
        higher_is_better=task.metric.higher_is_better,
        split=split,
        contenders=contenders,
        trials=(),
        trivial=task.baselines()[0].value if sensitivity else None,
    )
    log = _Log(Path(out) / FILE, study, [len(task.train), len(task.val), len(task.test)]) if out is not None else None
    done = list(log.trials) if log is not None else []
    finished = {(trial.contender, trial.seed, trial.lr_times, trial.batch_times) for trial in done}
    planned = list(_planned(contenders, range(seed, seed + seeds), len(task.train) if sensitivity else 0))
    for run in planned:
        if (run.contender, run.seed, run.lr_times, run.batch_times) in finished:
            continue
        trial, model = _train(task, run, split, also_test, device)
        if keep_outputs and out is not None and model is not None and not trial.is_probe:
            _keep(Path(out), trial, predict_outputs(model, _split(task, split), device=device)[0])
        done.append(trial)
        if log is not None:
            log.append(trial)
        if say is not None:
            shown = "diverged" if trial.metric is None else f"{study.metric} {trial.metric:.4g}"
            say(f"run {len(done)} of {len(planned)}: {run}: {shown}")
    return msgspec.structs.replace(study, trials=tuple(done))


@dataclass(frozen=True)
class _Run:
    contender: str
    seed: int
    recipe: Recipe
    lr_times: float = 1.0
    batch_times: float = 1.0

    def __str__(self) -> str:
        changes = {"rate": self.lr_times, "batch size": self.batch_times}
        changed = "".join(f", {times:.2g} times the {what}" for what, times in changes.items() if times != 1.0)
        return f"{self.contender}{changed}, seed {self.seed}"


def _planned(contenders: Sequence[Contender], seeds: Sequence[int], rows: int) -> Iterator[_Run]:
    """Yield the runs to make, seed by seed; those around each recipe last, given the training split's `rows`."""
    for seed in seeds:
        for contender in contenders:
            yield _Run(contender.name, seed, contender.recipe)
    for seed in seeds[:SEEDS] if rows else ():
        for contender in contenders:
            for lr_times, batch_times, recipe in probes(contender.recipe, rows):
                yield _Run(contender.name, seed, recipe, lr_times, batch_times)


class _Look:
    """Keeps the evaluations of a run and, about twenty times, how far a step moved the parameters."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []
        self.ratios: list[float] = []
        self.every, self.steps, self.armed = 1, 0, False

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: nn.Module, **rest: object) -> None:
        self.optimizer = optimizer if isinstance(optimizer, Measured) else None

    def handle(self, event: Event) -> None:
        if isinstance(event, Start):
            self.every = max(1, event.steps // 20)
        if isinstance(event, Eval):
            self.points.append((event.step, event.metric))

    def step(self, loss: float, lr: float, norm: float | None) -> None:
        self.steps += 1
        if self.optimizer is None:
            return
        if self.armed:
            ratios = [norms.ratio for norms in self.optimizer.measured.values() if norms.weight > 0]
            self.ratios += [statistics.median(ratios)] if ratios else []
        self.armed = self.steps % self.every == 0
        if self.armed:
            self.optimizer.measure_next_step()

    def close(self) -> None:
        self.optimizer = None


def _train(task: Task, run: _Run, split: str, also_test: bool, device: str) -> tuple[Trial, nn.Module | None]:
    look = _Look()
    begun = Trial(
        contender=run.contender, seed=run.seed, lr_times=run.lr_times, batch_times=run.batch_times, metric=None
    )
    try:
        outcome = train(task, run.recipe, seed=run.seed, observer=look, device=device)
    except DivergedError:
        return msgspec.structs.replace(begun, curve=tuple(look.points)), None
    if outcome.reason == "interrupted":
        raise KeyboardInterrupt
    test = (
        task.metric(*predict_outputs(outcome.model, task.test, device=device)) if also_test or split == "test" else None
    )
    metric = test if split == "test" and test is not None else outcome.metric
    few = task.train.subset(torch.arange(min(len(task.train), len(task.val))))
    trial = msgspec.structs.replace(
        begun,
        metric=metric if math.isfinite(metric) else None,
        test_metric=test,
        train_metric=task.metric(*predict_outputs(outcome.model, few, device=device)),
        curve=tuple(look.points),
        steps=outcome.step,
        seconds_per_step=outcome.seconds / max(1, outcome.step),
        update_ratio=statistics.median(look.ratios) if look.ratios else None,
    )
    return trial, outcome.model


def row_interval(task: Task, study: Study, first: str, second: str, out: str | Path) -> tuple[float, float] | None:
    """Return the 95 % interval, over which rows the split happens to have, of how far `second` is ahead of `first`.

    Seeds say how much of a difference is luck of the run; rows say how much is luck of the draw. The paired bootstrap
    is made for each seed, and the intervals are averaged: the seeds share the rows, so more seeds do not narrow it.
    `None` where outputs were not kept (`compare(..., keep_outputs=True)`).
    """
    spans = []
    targets = _split(task, study.split).targets
    for seed in sorted({t.seed for t in study.of(first)} & {t.seed for t in study.of(second)}):
        ours, theirs = (_kept(Path(out), name, seed) for name in (first, second))
        if ours is None or theirs is None:
            return None
        spans.append(bootstrap_difference(task.metric, theirs, ours, targets, seed=seed))
    if not spans:
        return None
    return sum(low for low, _ in spans) / len(spans), sum(high for _, high in spans) / len(spans)


def _split(task: Task, name: str) -> Split:
    return task.val if name == "val" else task.test


def _keep(out: Path, trial: Trial, outputs: Tensor) -> None:
    folder = out / "outputs"
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{trial.contender}-{trial.seed}.npy", outputs.float().numpy())


def _kept(out: Path, name: str, seed: int) -> Tensor | None:
    path = out / "outputs" / f"{name}-{seed}.npy"
    return torch.from_numpy(np.load(path, allow_pickle=False)) if path.exists() else None


def state_bytes_per_parameter(task: Task, recipe: Recipe) -> float:
    """Return what the recipe's optimizer keeps, in bytes per trainable parameter, seen after one real step."""
    model = task.make_model(0)
    parts = recipe.build(model, steps=1)
    trained = [p for group in parts.optimizer.param_groups for p in group["params"]]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    parts.optimizer.step()
    kept = (value for state in parts.optimizer.state.values() for value in state.values())
    size = sum(value.nbytes for value in kept if isinstance(value, torch.Tensor) and value.ndim > 0)
    return float(size / sum(parameter.numel() for parameter in trained))


class _Log:
    """The study's file: what is compared on the first line, then one finished run per line."""

    def __init__(self, path: Path, study: Study, rows: list[int]) -> None:
        self.path, self.trials = path, list[Trial]()
        recipes = {contender.name: contender.recipe.as_dict() for contender in study.contenders}
        asked = {
            "schema": SCHEMA, "task": study.task, "rows": rows, "metric": study.metric, "split": study.split,
            "contenders": recipes,
        }  # fmt: skip
        head = msgspec.json.encode(asked) + b"\n"
        try:
            if path.exists():
                self._read(head)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(head)
        except OSError as error:
            raise RunError(f"cannot keep the study in {path.parent}: {error.strerror}; give another --out") from error

    def _read(self, head: bytes) -> None:
        lines = self.path.read_bytes().splitlines(keepends=True)
        if not lines or lines[0] != head:
            raise RunError(
                f"{self.path} is of another comparison (other data, recipes or split); give another --out, or delete it"
            )
        decoder = msgspec.json.Decoder(Trial)
        whole = [line for line in lines[1:] if line.endswith(b"\n")]  # a crash tears at most the last line
        self.trials = [decoder.decode(line) for line in whole]
        if len(whole) < len(lines) - 1:
            self.path.write_bytes(b"".join([head, *whole]))

    def append(self, trial: Trial) -> None:
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(trial) + b"\n")
