"""The main job from end to end: on real data, killed, resumed, interrupted, and given the wrong thing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
import torch
from safetensors.torch import load_file

import trivet
from trivet.budget import parse_budget
from trivet.errors import DivergedError, RunError
from trivet.judging import verdict
from trivet.record import Journal, Resume, Run, TaskCard

pytestmark = pytest.mark.app

SHORT = """
schema = 1
loss = {name = "cross_entropy"}
optimizer = {name = "AdamW", lr = 2e-3}
schedule = "warmup(0.05) >> cosine()"
batch_size = 16
epochs = 30
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trivet.fit("sklearn:wine", out=tmp_path_factory.mktemp("runs") / "wine", progress="off", seed=1)


def test_fit_leaves_everything_that_a_run_promises(finished: Run) -> None:
    names = {p.name for p in finished.path.iterdir()}
    assert names >= {
        "recipe.toml", "why.json", "profile.json", "lr_range.json", "record.jsonl", "task.json",
        "environment.json", "model.safetensors", "result.json", "checkpoint.pt", "report.html",
    }  # fmt: skip
    assert not any(name.endswith(".part") for name in names)
    assert finished.status == "done"


def test_the_verdict_is_about_the_test_split_and_beats_the_trivial_baseline(finished: Run) -> None:
    result = finished.result
    assert result is not None
    low, high = result.metric.interval
    assert low <= result.metric.test <= high
    assert result.metric.test > result.metric.baselines[0].value
    assert [b.name for b in result.metric.baselines] == ["majority class", "linear softmax"]


def test_the_stored_weights_give_the_stored_metric(finished: Run) -> None:
    task = trivet.read_task("sklearn:wine", seed=1)
    model = task.make_model(0)
    model.load_state_dict(load_file(finished.path / "model.safetensors"))
    model.eval()
    outputs, targets = task.test.batch(torch.arange(len(task.test)))
    inputs = outputs if isinstance(outputs, tuple) else (outputs,)
    with torch.no_grad():
        value = task.metric(model(*inputs), targets)
    assert finished.result is not None
    assert value == pytest.approx(finished.result.metric.test)


def test_every_choice_has_its_reason_in_the_report(finished: Run) -> None:
    page = (finished.path / "report.html").read_text()
    assert finished.recipe.why
    for advice in finished.recipe.why:
        assert advice.source.split("&")[0].strip()[:20] in page
    for word in (
        "Why this recipe",
        "How it went",
        "Do it again",
        "trivet fit sklearn:wine --seed 1",
        "majority class",
    ):
        assert word in page


def test_the_report_stands_alone_and_is_well_formed(finished: Run) -> None:
    from html.parser import HTMLParser

    page = (finished.path / "report.html").read_text()
    # Nothing is fetched: no scripts, no links, no images from elsewhere (xmlns names are not addresses).
    assert not re.search(r"<script|<link|src=|@import|url\((?!#)", page)
    assert "prefers-color-scheme: dark" in page
    assert page.count("<svg") >= 3
    assert page.count('role="img"') == page.count("<svg")

    class Check(HTMLParser):
        stack: ClassVar[list[str]] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br", "path", "use", "rect", "circle"):
                self.stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag in self.stack:
                while self.stack.pop() != tag:
                    pass

    check = Check()
    check.feed(page)
    assert check.stack == []
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) > 10


def test_equal_seeds_give_equal_runs(finished: Run, tmp_path: Path) -> None:
    again = trivet.fit("sklearn:wine", out=tmp_path / "again", progress="off", seed=1)
    assert again.recipe == finished.recipe
    assert again.result is not None
    assert finished.result is not None
    assert again.result.metric == finished.result.metric


def test_a_run_is_never_written_over(finished: Run) -> None:
    before = (finished.path / "result.json").read_bytes()
    with pytest.raises(RunError, match="exists already"):
        trivet.fit("sklearn:wine", out=finished.path, progress="off")
    assert (finished.path / "result.json").read_bytes() == before


def test_a_finished_run_resumed_is_left_as_it_is(finished: Run) -> None:
    assert trivet.fit(resume=finished.path, progress="off").result == finished.result


def start(*arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "trivet", *arguments]
    return subprocess.Popen(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def wait_for_steps(record: Path, steps: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if record.exists() and record.read_bytes().count(b'"event":"step"') >= steps:
            return
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)
    raise AssertionError("the run did not get going")


SLOW_SOURCE = """
import time
import torch

class SlowModel(torch.nn.Sequential):
    def __init__(self):
        layers = torch.nn.Linear(13, 32), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 3)
        super().__init__(*layers)

    def forward(self, x):
        time.sleep(0.01)
        return super().forward(x)
"""


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_metric(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_SOURCE)
    (tmp_path / "recipe.toml").write_text(SHORT)
    arguments = [
        "fit",
        "sklearn:wine",
        "--recipe",
        "recipe.toml",
        "--model",
        "slow:SlowModel",
        "--progress",
        "plain",
    ]
    whole = start(*arguments, "--out", "whole", cwd=tmp_path)
    out, err = whole.communicate(timeout=120)
    assert whole.returncode == 0, err.decode()

    cut = start(*arguments, "--out", "cut", "--checkpoint-every", "0.1", cwd=tmp_path)
    wait_for_steps(tmp_path / "cut" / "record.jsonl", 40, cut)
    cut.send_signal(signal.SIGKILL)
    cut.wait()
    assert Run(tmp_path / "cut").status == "unfinished"

    rest = start("fit", "--resume", "cut", "--json", cwd=tmp_path)
    out, err = rest.communicate(timeout=120)
    assert rest.returncode == 0, err.decode()
    said = json.loads(out)
    one, other = Run(tmp_path / "whole").result, Run(tmp_path / "cut").result
    assert one is not None
    assert other is not None
    assert one.metric == other.metric
    assert said["metric"]["test"] == one.metric.test
    assert Run(tmp_path / "cut").record.resumes
    assert Run(tmp_path / "cut").recipe == Run(tmp_path / "whole").recipe
    assert not (tmp_path / "cut" / "lr_range.json").exists()
    assert [s.loss for s in Run(tmp_path / "cut").record.steps] == [
        s.loss for s in Run(tmp_path / "whole").record.steps
    ]


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_saves_and_reports(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_SOURCE)
    (tmp_path / "recipe.toml").write_text(SHORT)
    run = start(
        "fit",
        "sklearn:wine",
        "--recipe",
        "recipe.toml",
        "--model",
        "slow:SlowModel",
        "--out",
        "run",
        cwd=tmp_path,
    )
    wait_for_steps(tmp_path / "run" / "record.jsonl", 30, run)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert b"--resume run" in err
    assert b"Traceback" not in err
    found = Run(tmp_path / "run")
    assert found.status == "interrupted"
    assert "No verdict yet" in (tmp_path / "run" / "report.html").read_text()
    assert found.record.end is not None
    assert found.record.steps[-1].step == found.record.end.step


def test_a_budget_cuts_the_length_before_training(tmp_path: Path) -> None:
    run = trivet.fit("sklearn:digits", out=tmp_path / "r", progress="off", budget=20)
    assert run.result is not None
    assert run.result.metric.test > 0.5
    assert run.recipe.epochs < trivet.recommend(trivet.read_task("sklearn:digits")).epochs
    assert any(advice.edit.path == "epochs" and "budget" in advice.reason for advice in run.recipe.why)


def test_a_budget_keeps_time_for_the_judgement_and_says_which_part_will_exceed_it() -> None:
    from time import perf_counter

    from trivet.budget import LEAST, Budget

    task = trivet.read_task("sklearn:wine")
    ample, tight = Budget(1000.0, perf_counter()), Budget(0.5, perf_counter())
    assert ample.expect(task, lambda: None, 0.1) == ""
    left = ample.left()
    assert left is not None
    assert 1000 - ample.closing - left < 5
    said = tight.expect(task, lambda: time.sleep(0.6), 0.1)
    assert "will be exceeded" in said
    assert "the baselines" in said
    assert tight.seconds is not None
    assert tight.seconds > 0.5 * (1 + LEAST)
    assert Budget(None, perf_counter()).left() is None


def test_a_run_shorter_than_a_range_test_keeps_its_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    x = np.random.default_rng(0).normal(size=(120, 3))
    task = trivet.Task.from_arrays(x, x.sum(1), kind="regression", steps=20)
    run = trivet.fit(task, out=tmp_path / "r", progress="plain")
    assert not (run.path / "lr_range.json").exists()
    assert run.recipe.optimizer["lr"] == trivet.recommend(task).optimizer["lr"]
    assert "not looked for" in capsys.readouterr().err


def test_a_diverging_recipe_says_so_and_keeps_its_record(tmp_path: Path) -> None:
    recipe = trivet.Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 1e10}, batch_size=32, epochs=5)
    with pytest.raises(DivergedError, match="try a lower rate"):
        trivet.fit("sklearn:diabetes", recipe, out=tmp_path / "r", progress="off")
    assert Run(tmp_path / "r").status == "diverged"


def test_changed_data_is_noticed_on_resume(finished: Run, tmp_path: Path) -> None:
    card = finished.read("task.json", TaskCard)
    assert card is not None
    run = Run(tmp_path)
    run.write("task.json", msgspec.structs.replace(card, rows={"train": 1, "val": 1, "test": 1}))
    with pytest.raises(RunError, match=r"data behind .* has changed"):
        trivet.fit(resume=tmp_path, progress="off")


def test_a_task_made_in_python_is_resumed_with_the_task(tmp_path: Path) -> None:
    import numpy as np

    x = np.random.default_rng(0).normal(size=(120, 3))
    task = trivet.Task.from_arrays(x, x.sum(1), kind="regression")
    run = trivet.fit(task, out=tmp_path / "r", progress="off", budget=5)
    (run.path / "result.json").unlink()
    with pytest.raises(RunError, match="task made in Python"):
        trivet.fit(resume=run.path, progress="off")
    again = trivet.fit(task, resume=run.path, progress="off")
    assert again.result is not None


def test_nothing_to_fit_is_said() -> None:
    with pytest.raises(RunError, match="needs a task"):
        trivet.fit()


def test_a_slow_first_step_does_not_shorten_the_run() -> None:
    from trivet.record import Eval, Step
    from trivet.training import Pace

    pace = Pace()
    for number in range(20):  # five seconds of compilation, then 10 ms a step, with evaluations of 0.3 s in between
        pace.handle(Step(number + 1, 1.0, 0.1, 5.0 + 0.01 * number + 0.3 * (number // 10)))
        if number in (9, 19):
            pace.handle(Eval(number + 1, "val", 0.5, 1.0, 5.0 + 0.01 * number + 0.3 * (number // 10) + 0.3))
    assert pace.step() == pytest.approx(0.01)
    assert pace.evaluation == pytest.approx(0.3)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("2m", 120), ("0.5h", 1800), (3, 3)])
def test_budgets_are_read(text: str | float, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["soon", "-3m", "0", "m", "inf"])
def test_bad_budgets_are_refused(text: str) -> None:
    with pytest.raises(RunError, match="budget"):
        parse_budget(text)


def test_the_verdict_names_ties_as_ties() -> None:
    from trivet.record import Baseline, Judged

    metric = Judged(
        name="accuracy", test=0.9, interval=(0.85, 0.95), val=0.9, higher_is_better=True,
        baselines=(
            Baseline("majority class", 0.5, (0.31, 0.49)),
            Baseline("linear softmax", 0.92, (-0.05, 0.01)),
            Baseline("an oracle", 1.0, (-0.14, -0.06)),
        ),
    )  # fmt: skip
    assert verdict(metric) == (
        "0.9 on the test split. Better than majority class (0.5): ahead by 0.4 (95 % interval 0.31 to 0.49). "
        "Too close to call against linear softmax (0.92): behind by 0.02 (95 % interval -0.05 to 0.01). "
        "Worse than an oracle (1): behind by 0.1 (95 % interval -0.14 to -0.06)."
    )


def test_a_binary_run_stores_its_decision_and_is_judged_by_it(tmp_path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 4))
    y = (x[:, 0] + rng.normal(size=900) > 1.6).astype(int)  # one row in eight
    np.savez(tmp_path / "rare.npz", X_train=x, y_train=y)
    short = SHORT.replace("cross_entropy", "binary_cross_entropy_with_logits").replace("epochs = 30", "epochs = 4")
    (tmp_path / "recipe.toml").write_text(short)
    arguments = {"kind": "binary", "metric": "f1", "progress": "off", "recipe": tmp_path / "recipe.toml"}
    run = trivet.fit(str(tmp_path / "rare.npz"), out=tmp_path / "run", **arguments)
    assert run.result is not None
    decision = run.result.decision
    assert decision is not None
    assert decision.by == "f1"
    assert 0.1 < decision.threshold < 0.5
    task = trivet.read_task(str(tmp_path / "rare.npz"), kind="binary", metric="f1")
    model = task.make_model(0)
    model.load_state_dict(load_file(run.path / "model.safetensors"))
    inputs, targets = task.test.batch(torch.arange(len(task.test)))
    with torch.no_grad():
        yes = decision.probability(model.eval()(inputs)) >= decision.threshold
    hit = int((yes & (targets == 1)).sum())
    expected = 2 * hit / (int(yes.sum()) + int((targets == 1).sum()))
    assert run.result.metric.test == pytest.approx(expected)
    assert f"{decision.threshold:.3g}" in (run.path / "report.html").read_text()


def test_a_record_that_was_torn_by_a_crash_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    path.write_bytes(b'{"event":"step","ste')
    with Journal(path) as journal:
        journal.write(Resume(0))
    assert path.read_bytes().endswith(b'{"event":"resume","step":0}\n')
