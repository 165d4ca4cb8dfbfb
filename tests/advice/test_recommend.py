"""Each rule speaks when its facts are there, keeps silent when they are not, and gives numbers."""

from __future__ import annotations

import msgspec
import pytest

from trivet.advice import run_rules
from trivet.advice.recommend import RULES, length, loss, optimizer, rate
from trivet.facts import Profile
from trivet.facts.data import DataFacts
from trivet.facts.model import ModelFacts
from trivet.recipes import Advice, Recipe

MLP = ModelFacts(
    parameters=10_000,
    trainable=10_000,
    layers={"linear": 3, "batch_norm": 2},
    depth=3,
    normalised=True,
    pretrained=False,
)
CNN = ModelFacts(
    parameters=300_000, trainable=300_000, layers={"convolution": 9, "batch_norm": 9, "linear": 1}, depth=10,
    normalised=True, pretrained=False, flops_per_sample=2e7,
)  # fmt: skip
TABLE = DataFacts(rows=5000, sampled_rows=5000, input_shape=(8,), outputs=1)
START = Recipe(loss="mse_loss", optimizer={"name": "AdamW", "lr": 1e-3})


def facts(
    kind: str = "regression", metric: str = "rmse", *, data: dict[str, object] | None = None, model: ModelFacts = MLP
) -> Profile:
    return Profile(kind=kind, metric=metric, data=msgspec.structs.replace(TABLE, **(data or {})), model=model)


def classes(counts: list[int], metric: str = "accuracy", model: ModelFacts = MLP) -> Profile:
    shares = [c / sum(counts) for c in counts]
    return facts(
        "multiclass" if len(counts) > 2 else "binary",
        metric,
        data={
            "class_counts": tuple(counts),
            "minority_share": min(shares),
            "imbalance": max(shares) / min(shares),
            "outputs": len(counts) if len(counts) > 2 else 1,
        },
        model=model,
    )


def recommend(profile: Profile, start: Recipe = START) -> Recipe:
    return run_rules(RULES, profile, start, fold=lambda recipe, advice: recipe.advise(*advice))


def test_heavy_tails_choose_huber_and_ordinary_ones_do_not() -> None:
    heavy = {"residual_kurtosis": 80.0, "outlier_share": 0.02, "residual_scale": 0.3}
    chosen = recommend(facts(data=heavy))
    assert chosen.loss["name"] == "huber_loss"
    assert chosen.loss["delta"] == pytest.approx(1.345 * 0.3, abs=1e-3)
    mild = {"residual_kurtosis": 2.0, "outlier_share": 0.02, "residual_scale": 0.3}
    assert recommend(facts(data=mild)).loss["name"] == "mse_loss"


def test_an_absolute_metric_chooses_a_robust_loss() -> None:
    assert recommend(facts(metric="mae", data={"residual_scale": 0.5})).loss["name"] == "huber_loss"
    assert loss.absolute_error(facts(metric="rmse"), START) is None


def test_a_balanced_metric_weights_the_classes_and_a_plain_one_does_not() -> None:
    start = Recipe(loss="cross_entropy", optimizer={"name": "AdamW", "lr": 1e-3})
    weighted = recommend(classes([900, 300, 100], "balanced_accuracy"), start).loss
    assert weighted["weight"][2] / weighted["weight"][0] == pytest.approx(9, rel=1e-3)  # type: ignore[index]
    assert "weight" not in recommend(classes([900, 300, 100], "accuracy"), start).loss
    assert "weight" not in recommend(classes([300, 300, 310], "balanced_accuracy"), start).loss


def test_class_weights_keep_the_mean_weight_of_a_row_at_one() -> None:
    start = Recipe(loss="cross_entropy", optimizer={"name": "AdamW", "lr": 1e-3})
    counts = [5000, 200, 100]
    weights = recommend(classes(counts, "balanced_accuracy"), start).loss["weight"]
    mean = sum(w * c for w, c in zip(weights, counts, strict=True)) / sum(counts)  # type: ignore[arg-type, misc]
    assert mean == pytest.approx(1, rel=1e-3)


def test_a_rare_class_of_two_keeps_the_plain_loss_and_says_why() -> None:
    start = Recipe(loss="binary_cross_entropy_with_logits", optimizer={"name": "AdamW", "lr": 1e-3})
    recipe = recommend(classes([950, 50], "auroc"), start)
    assert recipe.loss == {"name": "binary_cross_entropy_with_logits"}
    assert "threshold" in recipe.explain()
    assert loss.threshold_afterwards(classes([500, 500], "auroc"), start) is None


def test_images_from_scratch_get_smoothing_and_momentum() -> None:
    start = Recipe(loss="cross_entropy", optimizer={"name": "AdamW", "lr": 1e-3})
    recipe = recommend(classes([100] * 10, model=CNN), start)
    assert recipe.loss["label_smoothing"] == 0.1
    assert recipe.optimizer["name"] == "SGD"
    assert recipe.optimizer["nesterov"] is True
    table = recommend(classes([100] * 10), start)
    assert "label_smoothing" not in table.loss
    assert table.optimizer["name"] == "AdamW"


def test_a_pretrained_model_gets_small_steps() -> None:
    loaded = msgspec.structs.replace(CNN, pretrained=True)
    start = Recipe(loss="cross_entropy", optimizer={"name": "AdamW", "lr": 1e-3})
    recipe = recommend(classes([100] * 10, model=loaded), start)
    assert recipe.optimizer["name"] == "AdamW"
    assert recipe.optimizer["lr"] <= 2e-4  # type: ignore[operator]
    assert recipe.schedule.startswith("warmup(0.1)")


def test_recurrence_is_clipped_and_a_normalised_classifier_is_not() -> None:
    rnn = msgspec.structs.replace(MLP, layers={"recurrence": 1, "linear": 1})
    assert optimizer.clipping(classes([10] * 3, model=rnn), START) is not None
    assert optimizer.clipping(classes([10] * 3), START) is None


def test_the_rate_rises_with_large_batches_and_stays_with_small_ones() -> None:
    sgd = START.from_dict(START.as_dict() | {"optimizer": {"name": "SGD", "lr": 1.0}})

    def lr(recipe: Recipe, batch: int) -> float:
        # As many rows as make a hundred thousand steps: the length says nothing then.
        changed = Recipe.from_dict(recipe.as_dict() | {"batch_size": batch})
        return float(rate.rate(facts(data={"rows": 5000 * batch}), changed)[0].edit.value)  # type: ignore[arg-type]

    assert lr(sgd, 512) / lr(sgd, 128) == pytest.approx(4, rel=0.05)
    assert lr(START, 1024) / lr(START, 256) == pytest.approx(2, rel=0.05)
    assert lr(sgd, 16) == lr(sgd, 128)
    assert lr(START, 16) == lr(START, 256)


def test_a_short_run_gets_a_higher_rate_and_a_pretrained_model_does_not() -> None:
    def lr(rows: int, model: ModelFacts = MLP) -> float:
        changed = Recipe.from_dict(START.as_dict() | {"batch_size": 32, "epochs": 10})
        return float(rate.rate(facts(data={"rows": rows}, model=model), changed)[0].edit.value)  # type: ignore[arg-type]

    assert lr(96_000) / lr(1_536_000) == pytest.approx(1, rel=0.05)  # 30,000 steps and more are long
    assert lr(3_200) / lr(96_000) == pytest.approx(30**0.25, rel=0.05)
    assert lr(320) == lr(3_200)  # a run of a hundred steps wants no more than one of a thousand
    loaded = msgspec.structs.replace(MLP, pretrained=True)
    assert lr(320, loaded) == lr(96_000, loaded)


def test_a_large_model_gets_the_lower_rate_that_published_recipes_have() -> None:
    gpt = msgspec.structs.replace(MLP, layers={"attention": 12, "linear": 48}, parameters=124_000_000)
    long = Recipe.from_dict(START.as_dict() | {"batch_size": 256, "epochs": 100})
    lr = rate.rate(facts(data={"rows": 1_000_000}, model=gpt), long)[0].edit.value
    assert lr == pytest.approx(6e-4, rel=0.1)  # nanoGPT


def test_the_rate_knows_the_length_that_a_task_fixes() -> None:
    import numpy as np

    from trivet import Task
    from trivet.advice import recommend

    x, y = np.random.default_rng(0).normal(size=(300, 4)), np.arange(300) % 3
    short, long = (recommend(Task.from_arrays(x, y, kind="multiclass", steps=steps)) for steps in (100, 100_000))
    assert short.optimizer["lr"] > 2 * long.optimizer["lr"]  # type: ignore[operator]


@pytest.mark.parametrize("rows", [20, 100, 1000, 20_000, 2_000_000])
def test_batches_and_lengths_stay_sensible_at_every_size(rows: int) -> None:
    recipe = recommend(facts(data={"rows": rows}))
    steps = max(1, rows // recipe.batch_size) * recipe.epochs
    assert 16 <= recipe.batch_size <= 256
    assert steps >= 20
    assert length.MIN_EPOCHS <= recipe.epochs <= length.MAX_EPOCHS


def test_work_bounds_the_length() -> None:
    huge = msgspec.structs.replace(CNN, flops_per_sample=1e12)
    assert recommend(facts(data={"rows": 50_000}, model=huge)).epochs == length.MIN_EPOCHS


def test_every_advice_has_a_reason_a_source_or_full_confidence_and_numbers() -> None:
    for profile in (facts(), classes([900, 300, 100], "balanced_accuracy"), classes([100] * 10, model=CNN)):
        start = START if profile.kind == "regression" else Recipe.from_dict(START.as_dict() | {"loss": "cross_entropy"})
        for advice in recommend(profile, start).why:
            assert isinstance(advice, Advice)
            assert advice.reason.endswith(".")
            assert advice.source
            assert 0 < advice.confidence <= 1
            assert advice.evidence


def test_a_batch_size_comes_with_the_rate_that_it_needs_and_the_reason() -> None:
    from trivet.advice.recommend.rate import with_batch_size
    from trivet.errors import InputError

    def recipe(name: str) -> Recipe:
        return Recipe(loss="mse_loss", optimizer={"name": name, "lr": 0.01}, batch_size=64)

    for name, expected, source in (("SGD", 0.04, "Goyal"), ("AdamW", 0.02, "Malladi")):
        edits = with_batch_size(recipe(name), 256)
        changed = recipe(name).advise(*edits)
        assert (changed.batch_size, changed.optimizer["lr"]) == (256, expected)
        assert source in edits[1].source
    assert len(with_batch_size(recipe("SGD"), 64)) == 1
    with pytest.raises(InputError, match="batch_size = 0"):
        with_batch_size(recipe("SGD"), 0)
