"""Logs of other tools become records: real files of real tools, and every way in which a log can be broken."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trivet.errors import RunError
from trivet.record import End, Journal, Start, Step
from trivet.record.foreign import read_log
from trivet.record.foreign.assemble import MOST
from trivet.record.foreign.columns import guess

pytestmark = pytest.mark.app
LOGS = Path(__file__).parent / "foreign_logs"


def csv(path: Path, header: str, *rows: object) -> Path:
    path.write_text("\n".join([header, *map(str, rows)]) + "\n")
    return path


# -- real files, each written by the tool itself -----------------------------------------------------


def test_a_trainer_state_gives_losses_rates_norms_and_evaluations() -> None:
    log = read_log(LOGS / "transformers")
    history = json.loads((LOGS / "transformers/checkpoint-120/trainer_state.json").read_text())["log_history"]
    trained = [row for row in history if "loss" in row]
    judged = [row for row in history if "eval_loss" in row]
    assert log.format == "Hugging Face trainer_state.json"
    assert [(s.step, s.loss, s.lr, s.grad_norm) for s in log.record.steps] == [
        (row["step"], row["loss"], row["learning_rate"], row["grad_norm"]) for row in trained
    ]
    assert [(e.step, e.loss, e.metric) for e in log.record.evals] == [
        (row["step"], row["eval_loss"], row["eval_accuracy"]) for row in judged
    ]
    assert (log.record.start.steps, log.record.start.steps_per_epoch, log.record.start.batch_size) == (120, 15, 32)  # type: ignore[union-attr]
    assert log.record.end == End(120, "finished", 0.0)


def test_the_zeros_that_a_trainer_writes_for_nan_losses_are_nan_again() -> None:
    log = read_log(LOGS / "transformers_nan/trainer_state.json")
    assert [math.isnan(s.loss) for s in log.record.steps] == [False, False] + [True] * 22
    assert "logging_nan_inf_filter" in log.notes[0]


def test_lightnings_csv_gives_losses_rates_and_evaluations() -> None:
    log = read_log(LOGS / "lightning/metrics.csv")
    rows = [line.split(",") for line in (LOGS / "lightning/metrics.csv").read_text().splitlines()[1:]]
    assert [(s.step, s.loss) for s in log.record.steps] == [(int(r[2]), float(r[3])) for r in rows if r[3]]
    assert [s.lr for s in log.record.steps] == [float(r[1]) for r in rows if r[1]]
    assert [(e.step, e.metric, e.loss) for e in log.record.evals] == [
        (int(r[2]), float(r[4]), float(r[5])) for r in rows if r[5]
    ]
    assert log.record.start is not None
    assert log.record.start.steps_per_epoch in (15, 16)  # 15 batches; rows fall every 5 steps
    assert log.notes == ()


@pytest.mark.parametrize(("folder", "points"), [("lightning_tensorboard", 30), ("tensorboard", 200)])
def test_tensorboard_events_give_what_was_written(folder: str, points: int) -> None:
    log = read_log(LOGS / folder)
    assert log.format == "TensorBoard event files"
    assert len(log.record.steps) == points
    assert len(log.record.evals) == 10
    assert all(0 < s.loss < 5 and 0 < s.lr <= 0.5 for s in log.record.steps)
    assert all(0.4 < e.metric < 1 for e in log.record.evals)
    assert log.notes == ()
    assert 0 < log.record.steps[-1].seconds < 10


# -- other formats, in the shape that their tools write ----------------------------------------------


def test_keras_csv_counts_epochs(tmp_path: Path) -> None:
    rows = [f"{k},{0.5 + k / 20},{1 / (k + 1)},{0.4 + k / 20},{1.2 / (k + 1)}" for k in range(8)]
    log = read_log(csv(tmp_path / "training.log", "epoch,accuracy,loss,val_accuracy,val_loss", *rows))
    assert (log.format, log.unit) == ("Keras's CSVLogger", "epoch")
    assert [s.loss for s in log.record.steps] == [1 / (k + 1) for k in range(8)]
    assert [(e.step, e.metric, e.loss) for e in log.record.evals if e.split == "val"] == [
        (k, 0.4 + k / 20, 1.2 / (k + 1)) for k in range(8)
    ]
    assert log.record.start is not None
    assert log.record.start.steps_per_epoch == 1


ROWS = [{"_step": k, "_runtime": 2.0 * k, "train/loss": 3.0 / (k + 1), "optim/lr": 0.1} for k in range(6)]


@pytest.mark.parametrize("shape", ["lines", "list", "table", "columns", "csv"])
def test_wandb_histories_read_the_same_in_every_shape(shape: str, tmp_path: Path) -> None:
    names = list(ROWS[0])
    texts = {
        "lines": "\n".join(map(json.dumps, ROWS)),
        "list": json.dumps(ROWS),
        "table": json.dumps({"columns": names, "data": [list(row.values()) for row in ROWS]}),
        "columns": json.dumps({name: [row[name] for row in ROWS] for name in names}),
        "csv": "\n".join([",".join(names), *(",".join(map(str, row.values())) for row in ROWS)]),
    }
    path = tmp_path / ("history.csv" if shape == "csv" else "wandb-history.jsonl")
    path.write_text(texts[shape])
    log = read_log(path)
    assert "W&B" in log.format
    assert [(s.step, s.loss, s.lr, s.seconds) for s in log.record.steps] == [
        (k, 3.0 / (k + 1), 0.1, 2.0 * k) for k in range(6)
    ]


def test_a_wandb_chart_of_two_runs_asks_which(tmp_path: Path) -> None:
    header = '"Step","fast-1 - loss","fast-1 - loss__MIN","fast-1 - loss__MAX","slow-2 - loss","slow-2 - loss__MIN"'
    path = csv(tmp_path / "chart.csv", header, *(f"{k},{2 - k / 9},0,9,{3 - k / 9},0" for k in range(9)))
    with pytest.raises(RunError, match=r"2 runs: fast-1, slow-2; say which: --run"):
        read_log(path)
    assert read_log(path, run="slow-2").record.steps[0].loss == 3.0
    with pytest.raises(RunError, match="no run 'slow'"):
        read_log(path, run="slow")


def test_a_plain_table_says_what_it_guessed_and_can_be_told(tmp_path: Path) -> None:
    path = csv(tmp_path / "x.csv", "iter;nll_train;aux;LR;top1_valid", *(f"{k};{9 - k};5;0.1;0.5" for k in range(7)))
    log = read_log(path, columns={"loss": "nll_train"})
    assert log.columns == {"step": "iter", "loss": "nll_train", "lr": "LR", "metric": "top1_valid"}
    assert "guessed" in log.notes[0]
    assert "columns not used: aux" in log.notes
    assert read_log(path, columns={"loss": "aux"}).record.steps[0].loss == 5.0
    with pytest.raises(RunError, match="unknown column 'nll'; did you mean 'nll_train'"):
        read_log(path, columns={"loss": "nll"})
    with pytest.raises(RunError, match="unknown role of a column 'los'; did you mean 'loss'"):
        read_log(path, columns={"los": "aux"})


@pytest.mark.parametrize(
    ("names", "loss", "val"),
    [
        (["train/loss", "val/loss", "train/acc"], "train/loss", "val/loss"),
        (["train_loss_step", "train_loss_epoch", "valid_loss"], "train_loss_step", "valid_loss"),
        (["Loss/train", "Loss/test"], "Loss/train", "Loss/test"),
        (["train/epoch_loss", "validation/epoch_loss"], "train/epoch_loss", "validation/epoch_loss"),
        (["trainLoss", "evalLoss", "testLoss"], "trainLoss", "evalLoss"),
        (["loss", "loss_scale", "eval_loss", "eval_runtime", "eval_samples_per_second"], "loss", "eval_loss"),
    ],
)
def test_names_of_losses_are_understood(names: list[str], loss: str, val: str) -> None:
    roles = guess(dict.fromkeys(names, 10))
    assert (roles["loss"], roles["val_loss"]) == (loss, val)


def test_own_records_and_runs_by_name_come_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs" / "digits-1f"
    folder.mkdir(parents=True)
    with Journal(folder / "record.jsonl") as journal:
        journal.write(Start(5, 5, 32, 0, "cpu", "accuracy", True))
        for k in range(1, 6):
            journal.write(Step(k, math.nan if k == 5 else 1.0 / k, 0.1, float(k)))
    monkeypatch.chdir(tmp_path)
    for path in (folder, folder / "record.jsonl", "digits-1f"):
        log = read_log(path)
        assert log.format == "a record of trivet.watch"
        assert [s.step for s in log.record.steps] == [1, 2, 3, 4, 5]
        assert math.isnan(log.record.steps[-1].loss)


# -- restarts, repeats, gaps, NaN ---------------------------------------------------------------------


def test_what_a_resumed_run_repeats_counts_once_as_written_last(tmp_path: Path) -> None:
    first, second = range(1, 51), range(31, 81)
    rows = [f"{k},1.0" for k in first] + [f"{k},2.0" for k in second]
    log = read_log(csv(tmp_path / "log.csv", "step,loss", *rows))
    assert [s.step for s in log.record.steps] == list(range(1, 81))
    assert [s.loss for s in log.record.steps] == [1.0] * 30 + [2.0] * 50
    assert [r.step for r in log.record.resumes] == [30]
    assert any("resumed at step 31" in note for note in log.notes)


def test_of_runs_one_after_another_the_last_is_read(tmp_path: Path) -> None:
    rows = [f"{k},{run}" for run in (1, 2, 3) for k in range(10)]
    log = read_log(csv(tmp_path / "log.csv", "epoch,loss", *rows))
    assert [s.loss for s in log.record.steps] == [3.0] * 10
    assert any("3 runs stand one after another" in note for note in log.notes)


def test_rows_that_are_out_of_order_are_sorted(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(200)
    log = read_log(csv(tmp_path / "log.csv", "step,loss", *(f"{k},{k}.5" for k in order)))
    assert [s.loss for s in log.record.steps] == [k + 0.5 for k in range(200)]
    assert any("sorted" in note for note in log.notes)


def test_repeated_steps_take_the_last_value_and_gaps_are_said(tmp_path: Path) -> None:
    rows = [f"{k},1.0" for k in (1, 2, 3, 3, 4, 5, 6, 500, 501)]
    rows[3] = "3,7.0"
    log = read_log(csv(tmp_path / "log.csv", "step,loss", *rows))
    assert [s.loss for s in log.record.steps][2] == 7.0
    assert any("1 values for a step that has one already" in note for note in log.notes)
    assert any("between step 6 and 500" in note for note in log.notes)


def test_an_epoch_column_that_many_rows_share_does_not_count_steps(tmp_path: Path) -> None:
    rows = [f"{k // 20},{1 / (k + 1)}" for k in range(100)]
    log = read_log(csv(tmp_path / "log.csv", "epoch,loss", *rows))
    assert (log.unit, len(log.record.steps)) == ("row", 100)
    assert log.record.start is not None
    assert log.record.start.steps_per_epoch in (24, 25)  # rows 1 to 100 over epochs 0 to 4


def test_words_for_numbers_count_and_other_text_is_said(tmp_path: Path) -> None:
    words = ["1.5", "NaN", "nan", "inf", "-Infinity", "", "oops", " 2.5 "]
    path = csv(tmp_path / "log.csv", "step,loss,name", *(f"{k},{w},run" for k, w in enumerate(words)))
    log = read_log(path)
    found = [s.loss for s in log.record.steps]
    np.testing.assert_equal(found, [1.5, math.nan, math.nan, math.inf, -math.inf, 2.5])
    assert any("no numbers left out: loss (1)" in note for note in log.notes)
    lines = tmp_path / "log.jsonl"
    lines.write_text("\n".join(f'{{"_step": {k}, "loss": "{w}"}}' for k, w in enumerate(words[:6]) if w))
    np.testing.assert_equal([s.loss for s in read_log(lines).record.steps], found[:5])


def test_a_million_rows_are_joined_without_losing_a_peak_or_a_nan(tmp_path: Path) -> None:
    loss = 1.0 + np.random.default_rng(0).normal(size=1_000_000) / 50
    loss[600_000], loss[800_000] = 50.0, np.nan
    path = csv(tmp_path / "log.csv", "step,loss", *(f"{k},{v:.4f}" for k, v in enumerate(loss)))
    began = time.perf_counter()
    log = read_log(path)
    # Two seconds are promised, and kept by a factor of three; the rest is for a machine that is shared.
    assert time.perf_counter() - began < 6
    steps = log.record.steps
    assert len(steps) <= MOST
    assert [(s.step, s.loss) for s in steps if s.loss > 10] == [(600_000, 50.0)]
    assert sum(math.isnan(s.loss) for s in steps) == 1
    assert steps[-1].step == 999_999
    assert all(abs(s.loss - 1) < 0.15 for s in steps if s.loss < 10)


# -- broken files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\n \n", "is empty"),
        ("a.csv", b"step,loss\n", "no rows below"),
        ("a.csv", b"1,2.5\n2,2.4\n", "no header"),
        ("a.csv", b"a,b\nx,y\n", "no column of numbers"),
        ("a.csv", b"step,speed\n1,2\n", "no column looks like a loss; it has step, speed; say which: --column"),
        ("a.csv", b"\0\1\2\3" * 100, "is binary"),
        ("a.csv.gz", gzip.compress(b"step,loss\n1,2\n")[:-9], "damaged or cut short"),
        ("model.pt", b"PK\x03\x04\0\0", "not opened"),
        ("trainer_state.json", b'{"log_history": []}', "empty log_history"),
        ("trainer_state.json", b'{"log_history": [{"step": 1, "eval_loss": 2}]}', "no training loss"),
        ("trainer_state.json", b'{"log_history": 3}', "no list log_history"),
        ("x.json", b'{"a": "b"}', "no rows with numbers"),
        ("x.json", b"{broken", "not readable as JSON"),
        ("events.out.tfevents.1.h", b"junk" * 50, "not a TensorBoard event file"),
        ("events.out.tfevents.1.h", b"", "not a TensorBoard event file"),
        ("record.jsonl", b'{"event":"future"}\n', "no events"),
    ],
)
def test_what_is_no_log_gets_one_clear_error(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=words) as caught:
        read_log(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_an_empty_folder_and_a_forbidden_file_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="there is no"):
        read_log(tmp_path / "nothing.csv")
    with pytest.raises(RunError, match="holds no log"):
        read_log(tmp_path)
    locked = csv(tmp_path / "a.csv", "step,loss", "1,2")

    def forbidden(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    # As root, whom no mode of a file keeps out, tests have to say it themselves.
    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(RunError, match=r"a\.csv: Permission denied"):
        read_log(locked)


def test_a_folder_of_several_runs_lists_them() -> None:
    with pytest.raises(RunError, match="5 runs") as caught:
        read_log(LOGS)
    assert str(LOGS / "transformers") in str(caught.value)
    assert str(LOGS / "transformers/checkpoint-105") not in str(caught.value)


def test_train_and_validation_folders_of_one_run_are_one_run(tmp_path: Path) -> None:
    for split, offset in (("train", 0.0), ("validation", 1.0)):
        (tmp_path / split).mkdir()
        records = b"".join(scalar_event("epoch_loss", k, offset + 1 / (k + 1)) for k in range(6))
        (tmp_path / split / "events.out.tfevents.1.h").write_bytes(records)
    log = read_log(tmp_path)
    assert log.columns == {"loss": "train/epoch_loss", "val_loss": "validation/epoch_loss"}
    assert [e.loss for e in log.record.evals] == pytest.approx([1 + 1 / (k + 1) for k in range(6)])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_a_trainer_state_that_is_cut_off_keeps_its_whole_entries(share: float, tmp_path: Path) -> None:
    whole = (LOGS / "transformers/checkpoint-120/trainer_state.json").read_bytes()
    (tmp_path / "trainer_state.json").write_bytes(whole[: int(share * whole.find(b'"logging_steps"'))])
    log = read_log(tmp_path / "trainer_state.json")
    everything = read_log(LOGS / "transformers").record.steps
    assert 0 < len(log.record.steps) <= len(everything)
    assert log.record.steps == everything[: len(log.record.steps)]
    assert "cut off" in log.notes[0]


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 28_888), bit=st.integers(0, 7))
def test_a_flipped_bit_in_an_event_file_never_changes_a_number(
    place: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = LOGS / "tensorboard" / "events.out.tfevents.1700000001.host.1.0"
    content = bytearray(source.read_bytes())
    content[place] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / source.name
    path.write_bytes(bytes(content))
    truth = read_log(source).record.steps
    try:
        steps = read_log(path).record.steps
    except RunError:
        steps = ()  # the damage stands before the first loss
    assert [(s.step, s.loss) for s in steps] == [(s.step, s.loss) for s in truth[: len(steps)]]


@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=300), name=st.sampled_from(["a.csv", "a.jsonl", "events.out.tfevents.1", "a.txt"]))
def test_no_bytes_at_all_raise_anything_but_a_run_error(
    content: bytes, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("junk") / name
    path.write_bytes(content)
    with contextlib.suppress(RunError):
        assert read_log(path).record.start is not None


def scalar_event(tag: str, step: int, number: float) -> bytes:
    """Return one record with one scalar, written from the format's description."""
    value = b"\x0a" + bytes([len(tag)]) + tag.encode() + b"\x15" + struct.pack("<f", number)
    summary = b"\x0a" + bytes([len(value)]) + value
    event = (
        b"\x09" + struct.pack("<d", 1e9 + step) + b"\x10" + bytes([step]) + b"\x2a" + bytes([len(summary)]) + summary
    )
    length = struct.pack("<Q", len(event))
    return length + struct.pack("<I", masked_crc(length)) + event + struct.pack("<I", masked_crc(event))


def masked_crc(data: bytes) -> int:
    """Return the masked CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_the_checksum_is_that_of_the_standard() -> None:
    # The check value of CRC-32C for "123456789" is e3069283 (RFC 3720, appendix B.4, uses the same polynomial).
    crc = 0xE3069283
    assert masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
