"""The doctor in the real loops of other tools: a small training each, healthy and broken.

Needs the tools themselves: `make test-integrations` installs them; where they are absent these tests are skipped.
"""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trivet
from trivet.record import Eval, Step
from trivet.record.foreign import read_log
from trivet.schedules import parse

pytestmark = [pytest.mark.app, pytest.mark.slow]
SCHEDULE = "warmup(0.1) >> cosine(floor=0.01)"
LOGS = Path(__file__).parents[1] / "record" / "foreign_logs"


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] * x[:, 1] > 0).long()


def net(*, softmax: bool = False) -> nn.Module:
    torch.manual_seed(0)
    end = [nn.Softmax(dim=1)] if softmax else []
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2), *end)


# -- Lightning --------------------------------------------------------------------------------------


def lightning_run(folder: Path, doctor: object, *, lr: float, accumulate: int = 1) -> object:
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
            out = self.net(batch[0])
            self.log("val_loss", nn.functional.cross_entropy(out, batch[1]))
            self.log("val_acc", (out.argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=lr)

    x, y = data()
    trainer = lightning.Trainer(
        max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[doctor], accumulate_grad_batches=accumulate, default_root_dir=folder,
    )  # fmt: skip
    module = Module()
    batches = DataLoader(TensorDataset(x[:384], y[:384]), 32, shuffle=True)
    trainer.fit(module, batches, DataLoader(TensorDataset(x[384:], y[384:]), 128))
    return module


@pytest.mark.filterwarnings("ignore")
def test_lightning_is_watched_scheduled_and_judged(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from trivet.integrations.lightning import Doctor

    lightning_run(tmp_path, doctor := Doctor(schedule=SCHEDULE), lr=0.1)
    steps = doctor.record.steps
    assert [s.step for s in steps] == list(range(1, 61))
    assert [s.lr for s in steps] == pytest.approx([0.1 * f for f in parse(SCHEDULE).values(60)])
    assert [e.step for e in doctor.record.evals] == [12, 24, 36, 48, 60]
    assert all(0.3 < e.metric < 1 and 0 < e.loss < 1 for e in doctor.record.evals)
    assert not [f for f in doctor.findings if f.severity == "error"]


@pytest.mark.filterwarnings("ignore")
def test_lightnings_accumulated_batches_count_as_one_step_at_their_mean_loss(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from trivet.integrations.lightning import Doctor

    lightning_run(tmp_path, doctor := Doctor(), lr=0.1, accumulate=4)
    assert len(doctor.record.steps) == 15
    # Before anything is learned the loss of two classes is about ln 2, not a quarter of it.
    assert doctor.record.steps[0].loss == pytest.approx(math.log(2), abs=0.1)


@pytest.mark.filterwarnings("ignore")
def test_a_rate_that_is_too_high_is_found_in_a_lightning_training(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from trivet.integrations.lightning import Doctor

    lightning_run(tmp_path, doctor := Doctor(guard=False), lr=300.0)
    assert doctor.findings[0].code == "TV202"


@pytest.mark.filterwarnings("ignore")
def test_in_lightning_the_guard_stops_before_a_nan_reaches_the_weights(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from trivet.integrations.lightning import Doctor

    with pytest.raises(ArithmeticError, match="The weights are untouched"):
        lightning_run(tmp_path, Doctor(on_finding=lambda f: None), lr=300.0)


# -- transformers -----------------------------------------------------------------------------------


def trainer_run(folder: Path, doctor: object, *, softmax: bool, accumulate: int = 1) -> None:
    transformers = pytest.importorskip("transformers")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net(softmax=softmax)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            out = self.net(x)
            return {"loss": nn.functional.cross_entropy(out, labels), "logits": out}

    x, y = data()
    rows = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=5, per_device_train_batch_size=32, learning_rate=1e-2,
        logging_steps=10, eval_strategy="epoch", save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        gradient_accumulation_steps=accumulate,
    )  # fmt: skip
    transformers.Trainer(
        Model(), arguments, train_dataset=rows[:384], eval_dataset=rows[384:], callbacks=[doctor],
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())},
    ).train()  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("accumulate", "steps"), [(1, 60), (4, 15)])
def test_the_trainer_is_watched_batch_by_batch(accumulate: int, steps: int, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from trivet.integrations.transformers import Doctor

    trainer_run(tmp_path, doctor := Doctor(), softmax=False, accumulate=accumulate)
    record = doctor.record
    assert len(record.steps) == steps
    assert record.steps[0].loss == pytest.approx(math.log(2), abs=0.1)
    assert len(record.evals) == 5
    assert record.start is not None
    assert (record.start.metric, record.start.steps) == ("eval_accuracy", steps)
    assert not [f for f in doctor.findings if f.severity == "error"]


# -- Ignite -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_an_ignite_engine_is_watched_and_scheduled() -> None:
    engines = pytest.importorskip("ignite.engine")
    metrics = pytest.importorskip("ignite.metrics")
    from trivet.integrations.ignite import Doctor

    x, y = data()
    model, criterion = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = engines.create_supervised_trainer(model, optimizer, criterion)
    evaluator = engines.create_supervised_evaluator(
        model, metrics={"accuracy": metrics.Accuracy(), "loss": metrics.Loss(criterion)}
    )
    held_out = DataLoader(TensorDataset(x[384:], y[384:]), 128)
    trainer.add_event_handler(engines.Events.EPOCH_COMPLETED, lambda engine: evaluator.run(held_out))
    doctor = Doctor(model, optimizer, schedule=SCHEDULE).attach(trainer, evaluator)
    trainer.run(DataLoader(TensorDataset(x[:384], y[:384]), 32, shuffle=True), max_epochs=5)
    assert [s.lr for s in doctor.record.steps] == pytest.approx([0.1 * f for f in parse(SCHEDULE).values(60)])
    assert [e.step for e in doctor.record.evals] == [12, 24, 36, 48, 60]
    assert all(0.3 < e.metric < 1 for e in doctor.record.evals)
    assert not [f for f in doctor.findings if f.severity == "error"]


# -- TensorBoard ------------------------------------------------------------------------------------


def test_what_the_writer_writes_is_what_is_read_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from trivet.integrations.tensorboard import Writer

    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = data()
    w = trivet.watch(model, optimizer, loss=(criterion := nn.CrossEntropyLoss()))
    for _ in range(30):
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        w.step(loss)
    w.evaluated(loss=0.5, metric=0.75)
    Writer(tmp_path).write(w.record)
    log = read_log(tmp_path)
    assert [s.loss for s in log.record.steps] == pytest.approx([s.loss for s in w.record.steps], rel=1e-6)
    assert [e.loss for e in log.record.evals if e.split == "val"] == [0.5]


@pytest.mark.parametrize("folder", ["tensorboard", "lightning_tensorboard"])
def test_our_reader_and_tensorboards_own_agree_on_every_value(folder: str) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from trivet.record.foreign.tensorboard import read_events

    (path,) = (LOGS / folder).iterdir()
    theirs = accumulator.EventAccumulator(str(path), size_guidance={"scalars": 0})
    theirs.Reload()
    ours = read_events({path: ""}).series
    assert set(theirs.Tags()["scalars"]) == set(ours)
    for tag, series in ours.items():
        events = theirs.Scalars(tag)
        assert [(e.step, e.value) for e in events] == list(zip(series.step, series.value, strict=True))


# -- without any of them ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("import trivet.integrations.lightning", "trivet[lightning]"),
        ("import trivet.integrations.transformers", "trivet[transformers]"),
        ("from trivet.integrations.tensorboard import Writer; Writer('x')", "trivet[tensorboard]"),
    ],
)
def test_a_missing_tool_is_named_with_the_command_that_installs_it(call: str, words: str) -> None:
    code = f"""
import sys, importlib.util
for name in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers", "tensorboard"):
    sys.modules[name] = None
importlib.util.find_spec = lambda *_: None
from trivet.errors import MissingExtraError
try:
    {call}
except MissingExtraError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert words in said


def test_bedside_takes_evaluations_by_the_names_that_loops_give_them() -> None:
    from trivet.integrations.bedside import Bedside

    model = net()
    bedside = Bedside()
    assert bedside.findings == []
    bedside.begin(model, [torch.optim.SGD(model.parameters(), lr=0.1)], steps=5)
    bedside.evaluated({"eval_loss": 0.5, "eval_rmse": torch.tensor(2.0), "eval_runtime": 3.0, "note": "text"})
    bedside.evaluated({"eval_samples_per_second": 3.0})
    bedside.step(None)
    record = bedside.record
    assert [(e.loss, e.metric) for e in record.evals] == [(0.5, 2.0)]
    assert record.start is not None
    assert not record.start.higher_is_better
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bedside.on_finding(trivet.Finding("TV202", "error", "Too high.", fix=trivet.Edit("optimizer.lr", 0.1)))
    assert "TV202: Too high. Do: set optimizer.lr = 0.1" in str(caught[0].message)
    assert isinstance(record.evals[0], Eval)
    assert not record.steps or isinstance(record.steps[0], Step)
