"""The exported script is plain PyTorch and reaches what trivet reaches on the same data and seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import trivet
from trivet.recipes import Edit, Recipe
from trivet.training import predict_outputs, train

pytestmark = pytest.mark.app


def run_script(folder: Path, seed: int) -> tuple[float, float]:
    # -I: neither the current folder nor PYTHONPATH is searched.
    done = subprocess.run([sys.executable, "-I", folder / "train.py", str(seed)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, val, _, test = done.stdout.split()
    return float(val), float(test)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["sklearn:diabetes", "sklearn:breast_cancer", "sklearn:wine"])
def test_the_script_reaches_the_same_metric(data: str, tmp_path: Path) -> None:
    task = trivet.read_task(data)
    recipe = trivet.recommend(task).apply(Edit("epochs", 10))
    script = recipe.to_python(task)
    assert "import trivet" not in script
    (tmp_path / "train.py").write_text(script)
    task.save_arrays(tmp_path / "data.npz")
    ours, theirs = [], []
    for seed in range(3):
        outcome = train(task, recipe, seed=seed)
        ours.append(task.metric(*predict_outputs(outcome.model, task.test)))
        theirs.append(run_script(tmp_path, seed)[1])
    # Same weights, batches and arithmetic up to rounding; what rounding grows into is bounded by the seeds' own spread.
    spread = max(max(ours) - min(ours), 0.02 * abs(ours[0]))
    assert abs(sum(ours) - sum(theirs)) / 3 <= spread


@pytest.mark.parametrize(("batch", "accumulate"), [(32, 3), (100, 64)])
def test_the_script_accumulates_the_same_batches(
    batch: int, accumulate: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = trivet.read_task("sklearn:diabetes")
    assert len(task.train) % 100 != 0
    # Plain descent: where a batch has a wrong weight, the step has a wrong length.
    recipe = Recipe(
        loss="mse_loss",
        optimizer={"name": "SGD", "lr": 0.02},
        batch_size=batch,
        accumulate=accumulate,
        epochs=6,
    )
    task.save_arrays(tmp_path / "data.npz")
    space: dict[str, object] = {"__file__": str(tmp_path / "train.py"), "__name__": "script"}
    exec(compile(recipe.to_python(task), "train.py", "exec"), space)
    space["main"](0)  # type: ignore[operator]
    outcome = train(task, recipe, seed=0)
    _, val, _, test = capsys.readouterr().out.split()
    # The same weights, rows and sums; float32 rounding only.
    assert float(val) == pytest.approx(outcome.metric, rel=1e-5)
    assert float(test) == pytest.approx(task.metric(*predict_outputs(outcome.model, task.test)), rel=1e-5)


def test_the_written_rate_is_the_schedule(tmp_path: Path) -> None:
    for text in ("warmup(0.05) >> cosine(floor=0.01)", "constant(0.5) >> linear()", "cosine()", "constant()"):
        recipe = Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.1}, schedule=text)
        space: dict[str, object] = {"__file__": str(tmp_path / "train.py"), "__name__": "script"}
        exec(compile(recipe.to_python(), "train.py", "exec"), space)
        schedule = trivet.schedules.parse(text)
        for i in range(101):
            assert space["rate"](i / 100) == pytest.approx(schedule(i / 100), abs=1e-12)  # type: ignore[operator]


def test_groups_clip_and_decay_are_written_out(tmp_path: Path) -> None:
    task = trivet.read_task("sklearn:diabetes")
    script = trivet.recommend(task).to_python(task)
    assert "clip_grad_norm_(model.parameters(), 1.0)" in script
    assert '"weight_decay": 0.0' in script
    assert "torch.optim.AdamW" in script


def test_parts_that_torch_lacks_are_imported_and_said(tmp_path: Path) -> None:
    recipe = Recipe(
        loss={"name": "focal_loss", "gamma": 2.0},
        optimizer={"name": "AdamW", "lr": 1e-4},
        schedule="warmup(0.1) >> inverse_sqrt()",
    )
    script = recipe.to_python()
    compile(script, "train.py", "exec")
    assert "import trivet.losses  # torch has no such loss" in script
    assert "import trivet.schedules" in script


@pytest.mark.parametrize(
    ("optimizer", "groups", "line"),
    [
        ({"name": "RMSprop", "lr": 0.01}, {}, "torch.optim.RMSprop(params=model.parameters(), lr=0.01)"),
        ({"name": "Lion", "lr": 0.01}, {}, "trivet.optim.Lion(params=model.parameters(), lr=0.01)"),
        ({"name": "Muon", "lr": 0.01}, {}, "trivet.optim.Muon(params=model, lr=0.01)"),
        ({"name": "RMSprop", "lr": 0.01, "convention": "keras"}, {}, "trivet.optim.RMSprop("),
        (
            {"name": "AdamW", "lr": 0.01},
            {"layer_decay": 0.5},
            "torch.optim.AdamW(params=trivet.optim.param_groups(model,",
        ),
    ],
)
def test_torchs_own_optimizer_is_written_where_it_does_the_same(
    optimizer: dict[str, object], groups: dict[str, object], line: str
) -> None:
    script = Recipe(loss="mse_loss", optimizer=optimizer, groups=groups).to_python()  # type: ignore[arg-type]
    compile(script, "script.py", "exec")
    assert line in script
    assert ("import trivet.optim" in script) == ("trivet.optim." in script.replace("import trivet.optim", ""))
