"""Verdicts follow their definition, against SciPy and by simulation; a study counts what it says it counts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trivet.errors import InputError
from trivet.recipes import Recipe
from trivet.tuning import Study
from trivet.tuning.study import Contender, Trial, difference

pytestmark = pytest.mark.app

PLAIN = Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.1})
LONGER = Recipe(loss={"name": "huber_loss", "delta": 0.5}, optimizer={"name": "AdamW", "lr": 0.1, "eps": 1e-6})


def verdict(ours: list[float], theirs: list[float], *, higher: bool = True) -> str:
    return difference(ours, theirs, ("a", "b"), "a", higher_is_better=higher).verdict


def study(
    scores: dict[str, list[float | None]], *, higher: bool = True, curves: dict[str, list] | None = None
) -> Study:
    recipes = [PLAIN, LONGER, LONGER.apply()]
    return Study(
        task="t",
        metric="accuracy" if higher else "rmse",
        higher_is_better=higher,
        split="val",
        contenders=tuple(Contender(name=n, recipe=r) for n, r in zip(scores, recipes, strict=False)),
        trials=tuple(
            Trial(contender=n, seed=k, metric=v, curve=tuple(curves[n]) if curves else ())
            for n, values in scores.items()
            for k, v in enumerate(values)
        ),
    )


def test_the_interval_is_scipys_paired_t_interval() -> None:
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=7), rng.normal(0.4, 1, size=7)
    found = difference(ours.tolist(), theirs.tolist(), ("a", "b"), "a", higher_is_better=True)
    expected = ttest_rel(theirs, ours).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx((theirs - ours).mean())


def test_a_difference_far_beyond_the_noise_is_better_or_worse_by_the_metrics_direction() -> None:
    low, high = [0.80, 0.81, 0.79], [0.90, 0.91, 0.89]
    assert verdict(low, high) == "better"
    assert verdict(high, low) == "worse"
    assert verdict(low, high, higher=False) == "worse"


def test_an_interval_within_half_a_seed_deviation_of_zero_is_a_tie_even_without_zero() -> None:
    scores = [0.1, 0.5, 0.9, 0.3, 0.7]
    assert verdict(scores, scores) == "tie"
    assert verdict(scores, [s + 1e-3 for s in scores]) == "tie"
    assert verdict(scores, [s + 0.2 for s in scores]) == "better"


def test_noise_wider_than_the_tie_is_undecided_and_says_how_many_seeds_would_do() -> None:
    found = difference([0.1, 0.9, 0.5], [0.8, 0.2, 0.6], ("a", "b"), "a", higher_is_better=True)
    assert found.verdict == "undecided"
    assert found.seeds_needed is not None
    assert found.seeds_needed > 3
    assert "undecided" in str(found)


def test_equal_contenders_are_told_apart_no_more_often_than_the_interval_allows() -> None:
    rng = np.random.default_rng(1)
    wrong = sum(
        verdict(rng.normal(size=5).tolist(), rng.normal(size=5).tolist()) in ("better", "worse") for _ in range(1000)
    )
    assert wrong < 70  # 5 % of 1000 and three binomial standard deviations


def test_a_contender_that_diverges_loses_to_one_that_does_not() -> None:
    made = study({"a": [0.5, 0.6, 0.7], "b": [0.9, None, 0.9]})
    assert made.difference("a", "b").verdict == "worse"
    assert made.best() == "a"
    assert "diverged in 1 of 3" in str(made)
    assert study({"a": [None, 0.6], "b": [0.9, None]}).difference("a", "b").verdict == "undecided"


def test_in_a_tie_the_recipe_with_fewer_settings_is_kept() -> None:
    scores = [0.1, 0.5, 0.9]
    made = study({"plain": scores, "longer": scores})
    assert made.difference("longer", "plain").simpler == "plain"
    assert made.best() == "plain"


def test_steps_to_the_target_are_counted_to_what_all_reach() -> None:
    curves = {"a": [(10, 0.2), (20, 0.6)], "b": [(10, 0.65), (20, 0.9)]}
    made = study({"a": [0.6, 0.6, 0.6], "b": [0.9, 0.9, 0.9]}, curves=curves)
    assert made.target() == 0.6
    assert made.steps_to_target("a") == 20
    assert made.steps_to_target("b") == 10


def test_one_seed_decides_nothing() -> None:
    assert verdict([0.1], [0.9]) == "undecided"
    assert math.isinf(difference([0.1], [0.9], ("a", "b"), "a", higher_is_better=True).interval[0])


def test_an_unknown_contender_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'plain'"):
        study({"plain": [1.0, 2.0], "longer": [1.0, 2.0]}).of("plane")
