"""The command line: one clear line and exit code 2 for every wrong input, one JSON object for every right one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trivet.cli import run

pytestmark = pytest.mark.app


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def csv(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


ROWS = "\n".join(f"{i},{i % 7},{'ab'[i % 2]},{3 * i + i % 5}" for i in range(80))
TABLE = f"size,rooms,town,price\n{ROWS}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "none.csv"], ["no file 'none.csv'"]),
        (["fit", "sklearn:wines"], ["wines", "did you mean 'wine'"]),
        (["fit", "{table}", "--target", "prize"], ["prize", "did you mean 'price'"]),
        (["fit", "{table}"], ["--target", "price"]),
        (["fit", "{table}", "--target", "town", "--kind", "regression"], ["town"]),
        (["fit", "{table}", "--target", "price", "--recipe", "none.toml"], ["none.toml", "No such file"]),
        (["fit", "{table}", "--target", "price", "--metric", "acuracy"], ["acuracy"]),
        (["fit", "{table}", "--target", "price", "--budget", "soon"], ["soon", "10m"]),
        (["fit", "{table}", "--target", "price", "--progress", "loud"], ["loud", "plain"]),
        (["fit", "{table}", "--target", "price", "--model", "nomodule:x"], ["nomodule"]),
        (["fit", "--resume", "nothing"], ["nothing"]),
        (["fit"], ["needs a task"]),
        (["recommend", "{empty}"], ["empty"]),
        (["lr-find", "{npz}"], ["pickle"]),
        (["report", "nothing"], ["nothing"]),
        (["show", "AdmaW"], ["did you mean 'AdamW'"]),
        (["runs", "remove", "nothing"], ["nothing"]),
        (["fti"], ["fti", "fit"]),
        (["fit", "sklearn:wine", "--sede", "3"], ["--sede"]),
        (["fit", "sklearn:wine", "--seed", "three"], ["three"]),
    ],
)
def test_wrong_input_gets_one_line_and_exit_code_2(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {
        "table": csv(tmp_path / "houses.csv", TABLE),
        "empty": csv(tmp_path / "empty.csv", ""),
        "npz": str(tmp_path / "objects.npz"),
    }
    np.savez(files["npz"], X_train=np.array([{}, {}], dtype=object), y_train=np.zeros(2))
    code, out, err = said(capsys, *(a.format(**files) for a in arguments))
    assert code == 2, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("trivet: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    for word in words:
        assert word in lines[0]
    assert not (tmp_path / "runs").exists()


MODELS = """
from torch import nn

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(13, 3)
    def forward(self, x):
        return self.layer(x) * float("nan")

class Key(nn.Module):
    def forward(self, x):
        return {}["x"]

def narrow(): return nn.Linear(13, 2)
def failing(): raise KeyError("weights")
def lines(): raise ValueError("first\\nsecond")
def frozen(): return nn.Linear(13, 3).requires_grad_(False)
"""


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("narrow", ["(2, 2)", "(2, 3)"]),
        ("failing", ["factory fails", "KeyError: 'weights'"]),
        ("lines", ["ValueError: first"]),
        ("frozen", ["no trainable parameters"]),
        ("Broken", ["NaN or infinite", "first batch"]),
        ("Key", ["(2, 13)", "KeyError"]),
        ("lasy", ["has no 'lasy'"]),
    ],
)
def test_a_model_that_does_not_fit_leaves_no_run_behind(
    model: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "models_that_fail", raising=False)
    (tmp_path / "models_that_fail.py").write_text(MODELS)
    code, out, err = said(capsys, "fit", "sklearn:wine", "--model", f"models_that_fail:{model}")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    for word in words:
        assert word in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('loss = "cross_entropy"\noptimizer = {name = "AdamW", lr = 1e-3}', ["cross_entropy", "no gradient"]),
        ('loss = "triplet_loss"\noptimizer = {name = "AdamW", lr = 1e-3}', ["triplet_loss", "does not fit"]),
        ('loss = "mse_loss"\noptimizer = {name = "AdamW", lr = 1e-3, betas = [0.9]}', ["AdamW", "cannot step"]),
        ('loss = {name = "huber_loss", delta = -1.0}\noptimizer = "AdamW"', ["huber_loss", "delta"]),
    ],
)
def test_a_recipe_that_does_not_fit_the_task_leaves_no_run_behind(
    content: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(content)
    code, _, err = said(capsys, "fit", "sklearn:diabetes", "--recipe", "recipe.toml")
    assert code == 2
    assert len(err.splitlines()) == 1, err
    for word in words:
        assert word in err
    assert not (tmp_path / "runs").exists()


def test_functions_of_the_user_that_fail_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks_that_fail.py").write_text("def make():\n    return {}['data']\n")
    code, _, err = said(capsys, "recommend", "tasks_that_fail:make")
    assert (code, err) == (2, "trivet: tasks_that_fail:make fails: KeyError: 'data'\n")


def test_resuming_is_offered_only_where_a_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    code, _, err = said(capsys, "fit", "sklearn:wine", "--out", "photos")
    assert code == 2
    assert "photos exists already" in err
    assert "--resume" not in err
    (tmp_path / "photos" / "task.json").write_text("{}")
    _, _, err = said(capsys, "fit", "sklearn:wine", "--out", "photos")
    assert "trivet fit --resume photos" in err


@pytest.mark.parametrize(
    "content",
    [
        "lr = 1",
        'loss = "mse_loss"\noptimizer = {name = "AdamW", lr = "1e-3"}',
        'loss = "mse_loss"\noptimizer = "AdamW"\nepoch = 3',
    ],
)
def test_a_wrong_recipe_file_leaves_no_run_behind(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(content)
    code, _, err = said(capsys, "fit", "sklearn:diabetes", "--recipe", "recipe.toml")
    assert code == 2
    assert "recipe.toml" in err
    assert not (tmp_path / "runs").exists()


def test_fit_on_a_table_prints_one_json_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = csv(tmp_path / "houses.csv", TABLE)
    code, out, err = said(capsys, "fit", table, "--target", "price", "--budget", "5s", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["schema"] == 1
    assert set(answer) >= {"metric", "recipe", "why", "run", "seconds"}
    assert set(answer["metric"]) >= {"name", "test", "interval", "baselines"}
    assert (tmp_path / answer["run"] / "report.html").exists()
    assert "training into" in err

    code, out, _ = said(capsys, "runs", "--json")
    assert [r["status"] for r in json.loads(out)["runs"]] == ["done"]
    name = json.loads(out)["runs"][0]["run"]
    code, out, _ = said(capsys, "runs", "compare", name, name)
    assert (code, "the same" in out) == (0, True)
    code, out, _ = said(capsys, "report", answer["run"])
    assert out.strip().endswith("report.html")
    code, out, _ = said(capsys, "fit", "--resume", answer["run"], "--json")
    assert json.loads(out)["metric"] == answer["metric"]
    code, out, _ = said(capsys, "runs", "remove", name)
    assert code == 0
    assert not (tmp_path / "runs" / name).exists()


def test_recommend_writes_a_recipe_that_fit_can_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.toml"
    code, out, _ = said(capsys, "recommend", "sklearn:iris", "--why", "-o", str(path))
    assert code == 0
    assert "What I saw" in out
    from trivet import Recipe

    assert Recipe.load(path).loss["name"] == "cross_entropy"
    code, out, _ = said(capsys, "recommend", "sklearn:iris", "--json")
    answer = json.loads(out)
    assert Recipe.from_dict(answer["recipe"]) == Recipe.load(path)
    assert answer["why"]


def test_lr_find_prints_a_range_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg = tmp_path / "range.svg"
    code, out, _ = said(capsys, "lr-find", "sklearn:diabetes", "--svg", str(svg), "--json")
    found = json.loads(out)["lr"]
    assert code == 0
    assert found["low"] < found["pick"] <= found["high"]
    assert "<svg" in svg.read_text()


def test_show_lists_and_explains_parts(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "show")
    assert code == 0
    assert "cross_entropy" in out
    code, out, _ = said(capsys, "show", "AdamW")
    assert code == 0
    assert "lr" in out


def test_show_draws_a_loss_in_the_terminal_and_as_svg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "show", "hinge_loss")
    assert code == 0
    for part in ("When: ", "When not: ", "Cost: ", "Along logit, from -6 to 6:", "gradient, target 0  ▁"):
        assert part in out
    svg = tmp_path / "hinge.svg"
    code, out, _ = said(capsys, "show", "hinge_loss", "--svg", str(svg), "--json")
    assert code == 0
    assert len(json.loads(out)["picture"]["curves"]) == 2
    assert "<svg" in svg.read_text()
    code, _, err = said(capsys, "show", "AdamW", "--svg", str(svg))
    assert code == 2
    assert "only losses have a picture" in err


def test_env_says_what_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "env", "--json")
    assert json.loads(out)["torch"].startswith("2.")


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_help_and_import_load_nothing_heavy() -> None:
    """Start-up is bounded by what is imported; the times are measured in benchmarks/startup.py."""
    helped = modules_after(
        "from trivet.cli import run\nimport io, contextlib\n"
        "with contextlib.redirect_stdout(io.StringIO()): run(['--help'])"
    )
    assert not helped & {"torch", "numpy", "numba", "sklearn", "polars", "matplotlib", "optuna"}
    imported = modules_after("import trivet")
    assert not imported & {"torch", "numba", "sklearn", "polars", "matplotlib", "rich", "cyclopts"}


def test_without_the_app_extra_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['cyclopts'] = None\nfrom trivet.cli import main\nmain(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "trivet: this needs cyclopts, which is not installed; try: pip install 'trivet[app]'\n"
