"""No false alarm: recommended recipes and well-known published ones are not accused of anything."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from trivet import Task, lint, profile, read_task, recommend
from trivet.recipes import Edit, Finding, Recipe

pytestmark = pytest.mark.app

SETS = ("wine", "breast_cancer", "iris", "diabetes", "digits")


def accused(recipe: Recipe, task: Task, **known: object) -> list[str]:
    return [f"{f.code}: {f.message}" for f in lint(recipe, task, **known) if f.severity != "note"]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SETS)
def test_what_trivet_recommends_is_not_accused(name: str) -> None:
    task = read_task(f"sklearn:{name}")
    facts = profile(task)
    recipe = recommend(task, facts)
    assert accused(recipe, task, profile=facts) == []
    for optimizer, lr in (("SGD", 0.05), ("AdamW", 2e-3), ("Lion", 3e-4), ("RMSprop", 1e-3), ("NAdam", 2e-3)):
        extra = {"momentum": 0.9} if optimizer == "SGD" else {}
        other = recipe.apply(Edit("optimizer", {"name": optimizer, "lr": lr, **extra}))
        assert accused(other, task, profile=facts) == [], optimizer


def table(rows: int = 600) -> Task:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, 6))
    return Task.from_arrays(x, x[:, 0] * 2 + generator.normal(size=rows), kind="regression")


def test_a_faulty_recipe_on_a_task_is_accused_with_an_edit_that_repairs_it() -> None:
    task = table()
    bad = Recipe(
        loss="mse_loss", optimizer={"name": "Adam", "lr": 0.5, "weight_decay": 0.01}, batch_size=4096, epochs=2000
    )
    found = {f.code: f for f in lint(bad, task)}
    assert {"TV118", "TV120", "TV130", "TV133"} <= set(found)
    repaired = bad
    for code in ("TV118", "TV120", "TV130"):
        repaired = repaired.apply(found[code].fix)  # type: ignore[arg-type]
    repaired = repaired.apply(Edit("optimizer.lr", 2e-3), Edit("epochs", 20))
    assert accused(repaired, task) == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (Edit("loss", {"name": "cross_entropy"}), "TV101"),
        (Edit("loss", {"name": "dice_loss"}), "TV101"),
        (Edit("schedule", 'warmup("500000 steps") >> cosine()'), "TV135"),
        (Edit("schedule", "warmup(0.7) >> cosine()"), "TV135"),
        (Edit("clip", {"norm": 1e-7}), "TV126"),
        (Edit("optimizer.lr", 1e-7), "TV134"),
    ],
)
def test_one_bad_choice_is_found(change: Edit, code: str) -> None:
    task = table()
    good = Recipe(loss="mse_loss", optimizer={"name": "AdamW", "lr": 2e-3}, schedule="cosine()", clip={"norm": 1.0})
    assert accused(good, task) == []
    assert code in {f.code for f in lint(good.apply(change), task)}


def test_metrics_of_probabilities_dislike_smoothing_and_bent_losses() -> None:
    task = read_task("sklearn:digits", metric="log_loss")
    good = Recipe(loss="cross_entropy", optimizer={"name": "AdamW", "lr": 2e-3}, schedule="cosine()")
    assert accused(good, task) == []
    assert any("TV110" in said for said in accused(good.apply(Edit("loss.label_smoothing", 0.1)), task))
    assert any("TV102" in said for said in accused(good.apply(Edit("loss", {"name": "softmax_focal_loss"})), task))


def test_heavy_imbalance_under_a_balanced_metric_is_warned_of() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(1200, 5)), np.repeat([0, 1, 2], [1100, 60, 40])
    task = Task.from_arrays(x, y, kind="multiclass", metric="balanced_accuracy")
    plain = Recipe(loss="cross_entropy", optimizer={"name": "AdamW", "lr": 2e-3}, schedule="cosine()")
    found = [f for f in lint(plain, task) if f.code == "TV103"]
    assert [f.severity for f in found] == ["warning"]
    repaired = plain.apply(found[0].fix)  # type: ignore[arg-type]
    assert accused(repaired, task) == []
    assert accused(recommend(task), task) == []


def test_rows_that_are_in_two_splits_are_warned_of() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(200, 5)), generator.integers(0, 2, 200)
    good = Recipe(loss="binary_cross_entropy_with_logits", optimizer={"name": "AdamW", "lr": 2e-3}, schedule="cosine()")
    copied = Task.from_arrays(np.concatenate([x, x]), np.concatenate([y, y]))
    assert any("TV115" in said for said in accused(good, copied))
    assert not any("TV115" in said for said in accused(good, Task.from_arrays(x, y)))


@pytest.mark.parametrize(
    ("memory", "fix"),
    [
        (4_000_000, Edit("optimizer.state_format", "bfloat16")),
        (3_000_000, Edit("optimizer.state_format", "8bit")),
        (2_650_000, Edit("optimizer", {"name": "Lion", "lr": 4e-4, "weight_decay": 0.05, "state_format": "8bit"})),
    ],
)
def test_a_recipe_whose_state_does_not_fit_gets_the_gentlest_edit_that_does(memory: int, fix: Edit) -> None:
    # 281,091 parameters: 1.12 MB, as much for gradients, twice as much for AdamW's state.
    task = Task.from_arrays(
        np.random.default_rng(0).normal(size=(300, 32)),
        np.arange(300) % 3,
        kind="multiclass",
        model=lambda: nn.Sequential(nn.Linear(32, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 3)),
    )
    facts, recipe = profile(task), Recipe(loss="cross_entropy", optimizer={"name": "AdamW", "lr": 2e-3})

    def about_memory(one: Recipe, has: int) -> list[Finding]:
        return [f for f in lint(one, task, profile=facts, memory=has) if f.code == "TV150"]

    found = about_memory(recipe, memory)
    assert [f.fix for f in found] == [fix]
    assert about_memory(recipe.apply(fix), memory) == []
    assert found[0].evidence["needed after the fix GB"] <= memory / 1e9
    assert about_memory(recipe, 4_600_000) == []
    assert "FSDP" in str(about_memory(recipe, 2_000_000)[0].fix)
