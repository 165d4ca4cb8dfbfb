"""A comparison says how wide the good rates are, what the batch size does, and what a shared rate hides."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from trivet.recipes import Edit, Recipe
from trivet.tasks import Task
from trivet.tuning import compare, contenders
from trivet.tuning.claims import optimizer_claims
from trivet.tuning.contenders import at_shared_rate, at_tuned_rate
from trivet.tuning.sensitivity import BATCHES, RATES, SEEDS, good_rates, probes
from trivet.tuning.study import Contender, Study, Trial

pytestmark = pytest.mark.app

PLAIN = Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.05}, batch_size=24, epochs=2)


@pytest.fixture(scope="module")
def task() -> Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.1 * rng.normal(size=200)).astype(np.float32)
    return Task.from_arrays(x, y, kind="regression", model=lambda: nn.Linear(4, 1))


def made(metrics: dict[float, float | None], seed: int = 0) -> list[Trial]:
    return [Trial(contender="a", seed=seed, metric=m, lr_times=times) for times, m in metrics.items()]


def test_good_rates_end_where_a_twentieth_of_the_gain_is_lost() -> None:
    trials = made({1 / 9: 0.5, 1 / 3: 0.86, 1.0: 0.88, 3.0: 0.9, 9.0: 0.87})
    found = good_rates(trials, higher_is_better=True, trivial=0.1, seed_sd=0.0)  # 0.04 may be lost
    assert found is not None
    assert (found.low, found.high) == (1 / 3, 9.0)
    assert (found.open_low, found.open_high) == (False, True)
    assert found.decades == pytest.approx(math.log10(27))


def test_a_rate_beyond_a_bad_one_does_not_count() -> None:
    trials = made({1 / 9: 0.9, 1 / 3: 0.2, 1.0: 0.9, 3.0: None, 9.0: 0.9})
    found = good_rates(trials, higher_is_better=True, trivial=0.1, seed_sd=0.0)
    assert found is not None
    assert found.decades == 0.0


def test_an_error_is_good_where_it_is_low_and_noise_widens_the_range() -> None:
    trials = made({1 / 3: 1.2, 1.0: 1.0, 3.0: 1.5})
    narrow = good_rates(trials, higher_is_better=False, trivial=3.0, seed_sd=0.0)
    wide = good_rates(trials, higher_is_better=False, trivial=3.0, seed_sd=0.3)
    assert narrow is not None
    assert wide is not None
    assert (narrow.low, narrow.high, wide.low, wide.high) == (1.0, 1.0, 1 / 3, 1.0)


def test_rates_that_do_no_better_than_the_trivial_guess_are_not_good() -> None:
    trials = made({1 / 3: 0.34, 1.0: 0.33, 3.0: 0.35})
    assert good_rates(trials, higher_is_better=True, trivial=0.33, seed_sd=0.05) is None


def test_batch_sizes_that_the_split_does_not_hold_are_left_out() -> None:
    assert len(list(probes(PLAIN, rows=200))) == len(RATES) + len(BATCHES)
    assert [batch for _, batch, _ in probes(PLAIN, rows=90) if batch != 1.0] == [0.25]
    changed = {(recipe.optimizer["lr"], recipe.batch_size) for *_, recipe in probes(PLAIN, rows=200)}
    assert (0.05, 96) in changed
    assert (0.05 * 9, 24) in changed


def test_probes_are_made_once_and_do_not_count_as_runs_of_the_contender(task: Task, tmp_path: Path) -> None:
    recipes = {"a": PLAIN, "b": PLAIN.apply(Edit("optimizer.lr", 0.004))}
    told: list[str] = []
    study = compare(task, recipes, seeds=3, sensitivity=True, out=tmp_path, say=told.append)
    assert len(told) == 2 * 3 + SEEDS * 2 * (len(RATES) + len(BATCHES))
    assert [len(study.of(name)) for name in ("a", "b")] == [3, 3]
    assert compare(task, recipes, seeds=3, sensitivity=True, out=tmp_path, say=told.append) == study
    assert len(told) == len(study.trials)
    alone = compare(task, recipes, seeds=3)
    assert study.scores("a") == alone.scores("a")
    # With a rate of 0.004 more steps and larger rates are all that helps.
    found = study.good_rates("b")
    assert found is not None
    assert found.high == 9.0
    assert study.batch_effects("b")[0.25] > 0 > study.batch_effects("b")[4.0]
    assert "9 or more times" in str(study)
    assert len(study.plot().axes) == 3


def test_a_stored_probe_is_read_back_as_one(task: Task, tmp_path: Path) -> None:
    recipes = {"a": PLAIN, "b": PLAIN.apply(Edit("optimizer.lr", 1e-3))}
    whole = compare(task, recipes, seeds=2, sensitivity=True, out=tmp_path)
    assert compare(task, recipes, seeds=2, out=tmp_path).good_rates("a") is not None
    assert whole.good_rates("a") is not None


def test_the_measured_steps_are_the_optimizers_own(task: Task) -> None:
    """Signed descent moves each weight by its rate: the ratio is rate * sqrt(n) / norm of the weights."""
    still = PLAIN.apply(Edit("optimizer", {"name": "Lion", "lr": 1e-7, "weight_decay": 0.0}))
    study = compare(task, {"a": still, "b": PLAIN}, seeds=2)
    for trial in study.of("a"):
        model = task.make_model(trial.seed)
        ratios = [1e-7 * p.numel() ** 0.5 / float(p.detach().norm()) for p in model.parameters()]
        assert trial.update_ratio == pytest.approx(sum(ratios) / 2, rel=0.05)


def study_of(scores: dict[str, list[float]], recipes: dict[str, Recipe], ratios: dict[str, float]) -> Study:
    return Study(
        task="t", metric="accuracy", higher_is_better=True, split="val",
        contenders=tuple(Contender(name=name, recipe=recipe) for name, recipe in recipes.items()),
        trials=tuple(
            Trial(contender=name, seed=seed, metric=value, update_ratio=ratios.get(name))
            for name, values in scores.items()
            for seed, value in enumerate(values)
        ),
    )  # fmt: skip


def test_a_lead_that_was_the_rates_is_called_so() -> None:
    recipes = at_shared_rate(PLAIN, ["sgd", "adam"], 1e-3)
    recipes["sgd tuned"] = PLAIN.apply(Edit("optimizer", {"name": "SGD", "lr": 0.3}))
    recipes["adam tuned"] = PLAIN.apply(Edit("optimizer", {"name": "Adam", "lr": 0.002}))
    scores = {
        "sgd at 0.001": [0.50, 0.52, 0.51],
        "adam at 0.001": [0.90, 0.92, 0.91],
        "sgd tuned": [0.960, 0.970, 0.965],
        "adam tuned": [0.930, 0.941, 0.934],
    }
    told = optimizer_claims(study_of(scores, recipes, {"sgd at 0.001": 1e-4, "adam at 0.001": 2e-3}))
    assert told[0].startswith("At the shared rate 0.001: adam at 0.001 is better than sgd at 0.001")
    assert "20 times less" in told[1]
    assert told[2].endswith("The order turns round: the lead was the rate's.")
    scores["adam tuned"] = [0.990, 0.995, 0.991]
    assert optimizer_claims(study_of(scores, recipes, {}))[-1].endswith("The lead stays.")


def test_recipes_that_share_no_rate_make_no_claims() -> None:
    recipes = {"a": PLAIN, "b": PLAIN.apply(Edit("optimizer.lr", 0.5))}
    assert optimizer_claims(study_of({"a": [0.5, 0.6], "b": [0.7, 0.8]}, recipes, {})) == []


def test_a_rate_is_climbed_to_and_kept(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a noiseless score with its top 27 times above the pick, the climb ends there and is not made again."""
    tried: list[float] = []

    def score(task: Task, recipe: Recipe, seed: int) -> float:
        tried.append(float(str(recipe.optimizer["lr"])))
        return -abs(math.log(tried[-1] / tried[0]) - 4 * math.log(3))

    monkeypatch.setattr(contenders, "_score", score)
    first = at_tuned_rate(task, PLAIN, ["sgd"], out=tmp_path)
    (recipe,) = first.values()
    assert float(str(recipe.optimizer["lr"])) == pytest.approx(81 * tried[0])
    assert len(tried) == 6
    with (tmp_path / "rates.jsonl").open("ab") as file:
        file.write(b'{"optimizer": "adam", "rec')  # a crash in the middle of a line
    assert at_tuned_rate(task, PLAIN, ["sgd"], out=tmp_path) == first
    assert len(tried) == 6
