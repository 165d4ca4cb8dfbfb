"""`trivet schedule` and `trivet lr-find` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trivet.cli import run
from trivet.recipes import Recipe
from trivet.schedules import parse

pytestmark = pytest.mark.app

TEXT = "warmup(0.1) >> cosine(floor=0.01)"


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    optimizer = {"name": "AdamW", "lr": 2e-3, "weight_decay": 0.01}
    made = Recipe(loss="mse_loss", optimizer=optimizer, schedule=TEXT, groups={"no_decay": ["bias"]})  # type: ignore[arg-type]
    return str(made.save(tmp_path / "recipe.toml"))


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_schedule_prints_the_rates_that_the_library_gives_and_draws_them(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svg = tmp_path / "rate.svg"
    code, out, _ = shown(capsys, "schedule", recipe, "--steps", "50", "--svg", str(svg), "--json")
    assert code == 0
    assert json.loads(out)["schedule"]["rates"] == [2e-3 * factor for factor in parse(TEXT).values(50)]
    assert "<svg" in svg.read_text()
    code, out, _ = shown(capsys, "schedule", TEXT)
    assert code == 0
    assert "▁" in out
    assert "steps    100 to 999" in out


def test_schedule_carries_a_recipe_to_another_batch_size_and_says_why(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = shown(capsys, "schedule", recipe, "--batch-size", "512")
    assert code == 0
    assert "optimizer.lr = 0.004" in out
    assert "Malladi" in out


def test_schedule_shows_what_each_group_of_a_model_gets(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_layers.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(3, 2)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, out, err = shown(capsys, "schedule", recipe, "--model", "my_layers:make", "--json")
    assert code == 0, err
    assert [(g["parameters"], g["weight_decay"]) for g in json.loads(out)["groups"]] == [(6, 0.01), (2, 0.0)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["schedule", "none.toml"], "none.toml"),
        (["schedule", "cosin()"], "did you mean 'cosine'"),
        (["schedule", "warmup(0.7) >> linear(0.6)"], "take 1.3 of the run"),
        (["schedule", "warmup(0.1) >> linear(0.6)"], "take only 0.7 of the run"),
        (["schedule", 'warmup("2000 steps") >> cosine()'], "longer than the run"),
        (["schedule", "cosine()", "--steps", "0"], "total_steps = 0"),
        (["schedule", "cosine()", "--batch-size", "64"], "needs a recipe file"),
        (["schedule", "cosine()", "--model", "a:b"], "needs a recipe file"),
        (["schedule", "{recipe}", "--batch-size", "0"], "batch_size = 0"),
        (["schedule", "{recipe}", "--model", "nomodule:x"], "nomodule"),
        (["schedule", "cosine()", "--svg", "/nowhere/x.svg"], "/nowhere/x.svg"),
        (["lr-find", "sklearn:iris", "--seeds", "0"], "seeds = 0"),
        (["lr-find", "sklearn:iris", "--budget", "0s"], "above 0"),
    ],
)
def test_wrong_input_gets_one_line_and_exit_code_2(
    arguments: list[str], words: str, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = shown(capsys, *(argument.format(recipe=recipe) for argument in arguments))
    assert code == 2
    assert out == ""
    assert words in err
    assert err.count("trivet: ") == 1
