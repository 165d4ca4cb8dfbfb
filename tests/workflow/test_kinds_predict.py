"""A run predicts new rows with its own preprocessing, weights, thresholds, units and names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import trivet
from trivet.cli import run as cli
from trivet.errors import InputError, RunError
from trivet.recipes import Recipe
from trivet.record import Run
from trivet.training import predict_outputs

pytestmark = pytest.mark.app

polars = pytest.importorskip("polars")

RECIPE = Recipe(loss="mse_loss", optimizer={"name": "AdamW", "lr": 5e-3}, batch_size=32, epochs=3)
RNG = np.random.default_rng(0)
TABLE = polars.DataFrame(
    {
        "size": RNG.normal(100, 10, 200),
        "town": ["Oslo", "Bergen", "Voss", "Oslo"] * 50,
        "extra": RNG.normal(size=200),
    }
).with_columns(price=polars.col("size") * 3 + 1000)


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("predict")
    TABLE.write_csv(folder / "houses.csv")
    return trivet.fit(str(folder / "houses.csv"), RECIPE, target="price", out=folder / "run", progress="off")


def test_predictions_are_the_stored_model_on_the_stored_preprocessing(priced: Run) -> None:
    data = json.loads((priced.path / "task.json").read_text())["source"]
    task = trivet.read_task(data, target="price")
    from safetensors.torch import load_file

    model = task.make_model(0)
    model.load_state_dict(load_file(priced.path / "model.safetensors"))
    outputs, targets = predict_outputs(model, task.test)
    mean, std = task.target_scale or (0.0, 1.0)
    said = priced.predict(data)["prediction"]
    # Row by row: the test rows' targets find their places in the table.
    price = TABLE["price"].to_numpy()
    for output, target in list(zip(outputs, targets, strict=True))[:10]:
        row = int(np.abs(price - (float(target) * std + mean)).argmin())
        assert said[row] == pytest.approx(float(output) * std + mean, rel=1e-5)


def test_columns_may_be_reordered_and_more_but_not_fewer(priced: Run, tmp_path: Path) -> None:
    plain = priced.predict(TABLE)["prediction"]
    turned = TABLE.select("town", "extra", "size").with_columns(more=polars.lit("x"))
    assert priced.predict(turned)["prediction"] == pytest.approx(plain)
    turned.write_csv(tmp_path / "turned.csv")
    assert priced.predict(tmp_path / "turned.csv")["prediction"] == pytest.approx(plain)
    with pytest.raises(InputError, match=r"lacks 2 of the 3 columns .* size, town"):
        priced.predict(TABLE.select("extra"))
    with pytest.raises(InputError, match="'size' must hold numbers"):
        priced.predict(TABLE.with_columns(size=polars.lit("large")))


def test_the_command_writes_a_table_or_one_json_object(
    priced: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TABLE.head(5).write_csv(tmp_path / "new.csv")
    arguments = ["predict", str(priced.path), str(tmp_path / "new.csv")]
    assert cli([*arguments, "--out", str(tmp_path / "said.csv")]) == 0
    assert polars.read_csv(tmp_path / "said.csv").shape == (5, 1)
    capsys.readouterr()
    assert cli([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["predictions"]) == answer["rows"] == 5
    assert cli([*arguments, "--out", str(tmp_path / "said.xlsx")]) == 2
    assert "neither .csv nor .npz" in capsys.readouterr().err


def test_a_binary_run_decides_by_its_own_threshold_and_names(tmp_path: Path) -> None:
    run = trivet.fit(
        "sklearn:breast_cancer",
        RECIPE.apply(trivet.Edit("loss", {"name": "binary_cross_entropy_with_logits"})),
        metric="f1",
        out=tmp_path / "run",
        progress="off",
    )
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    said = run.predict(x)
    assert run.result is not None
    assert run.result.decision is not None
    probability = said["probability of benign"]
    assert set(said["prediction"]) == {"malignant", "benign"}
    assert ((probability >= run.result.decision.threshold) == (said["prediction"] == "benign")).all()
    assert ((said["prediction"] == "benign") == (y == 1)).mean() > 0.9
    with pytest.raises(InputError, match="30 columns"):
        run.predict(x[:, :7])


def test_each_label_has_its_own_threshold(tmp_path: Path) -> None:
    x = RNG.normal(size=(300, 3))
    y = np.stack([x[:, 0] > 1.2, x[:, 1] > -0.5], axis=1).astype(int)
    np.savez(tmp_path / "labels.npz", X_train=x, y_train=y, classes=np.array(["rare", "common"]))
    recipe = RECIPE.apply(trivet.Edit("loss", {"name": "binary_cross_entropy_with_logits"}), trivet.Edit("epochs", 20))
    run = trivet.fit(str(tmp_path / "labels.npz"), recipe, metric="macro_f1", out=tmp_path / "run", progress="off")
    assert run.result is not None
    rare, common = run.result.decisions
    assert rare.threshold != common.threshold
    said = run.predict(x)
    assert ((said["probability of rare"] >= rare.threshold) == (said["rare"] == 1)).all()
    assert (said["rare"] == y[:, 0]).mean() > 0.9
    assert run.result.metric.test > run.result.metric.baselines[0].value


def test_a_model_made_in_python_must_be_given_again(tmp_path: Path) -> None:
    x, y = torch.randn(80, 2), torch.randn(80)
    task = trivet.Task(lambda: torch.nn.Linear(2, 1), (x, y), kind="regression")
    run = trivet.fit(task, RECIPE, out=tmp_path / "run", progress="off")
    with pytest.raises(RunError, match="model=my_model"):
        run.predict(x)
    assert run.predict(x, model=torch.nn.Linear(2, 1))["prediction"].shape == (80,)
    with pytest.raises(RunError, match="do not fit the model"):
        run.predict(x, model=torch.nn.Linear(3, 1))


def test_a_run_without_weights_says_how_to_get_them(priced: Run, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_bytes((priced.path / "task.json").read_bytes())
    with pytest.raises(RunError, match="--resume"):
        Run(tmp_path).predict(TABLE)
