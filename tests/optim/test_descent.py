"""Small descents obey their closed forms: the picture is the algorithm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trivet.errors import InputError
from trivet.optim import descent


def test_gradient_descent_on_a_curve_is_a_geometric_series() -> None:
    for share, made in zip((0.03, 0.35, 1.04), descent.by_rate((0.03, 0.35, 1.04)), strict=True):
        expected = (1 - 2 * share) ** np.arange(len(made.weights))
        np.testing.assert_allclose([w for (w,) in made.weights], expected, rtol=1e-9)
        np.testing.assert_allclose(made.losses, 0.5 * expected**2, rtol=1e-9)


@pytest.mark.parametrize("curvatures", [(1.0,), (1.0, 20.0), (0.3, 7.0, 2.0)])
def test_it_shrinks_just_below_two_over_the_largest_curvature_and_grows_just_above(
    curvatures: tuple[float, ...],
) -> None:
    # Long enough for the steepest direction to decide: 0.998^4000 and 1.002^4000.
    below, above = descent.shrinkage([0.999, 1.001], curvatures=curvatures, steps=4000)
    assert below < 1 < above
    assert above == pytest.approx(1.002, abs=3e-4)


def test_momentum_follows_the_heavy_ball_recurrence() -> None:
    (made,) = descent.by_momentum([0.7])
    steep, lr = np.array(descent.RAVINE), 0.4 * descent.limit(descent.RAVINE)
    w, v = np.array([-2.5, 0.6]), np.zeros(2)
    for seen in made.weights:
        np.testing.assert_allclose(seen, w, rtol=1e-9, atol=1e-12)
        v = 0.7 * v + steep * w
        w = w - lr * v


def test_momentum_helps_up_to_a_point_and_then_hurts() -> None:
    none, enough, too_much = (made.losses[-1] for made in descent.by_momentum((0.0, 0.7, 0.97)))
    assert enough < 0.01 * none
    assert enough < 0.01 * too_much


def test_the_full_batch_is_smooth_and_fewer_samples_are_noisier() -> None:
    full, one, some = descent.by_batch((descent.POINTS, 1, 8))
    assert all(a >= b for a, b in zip(full.losses, full.losses[1:], strict=False))
    design, values = descent.line_data()
    best = torch.linalg.lstsq(design, values.unsqueeze(1)).solution.flatten()
    np.testing.assert_allclose(full.weights[-1], best, atol=1e-3)

    def noise(made: descent.Path) -> float:
        return float(np.std(made.losses[30:]))

    assert noise(full) < noise(some) < noise(one)


def test_each_pass_sees_every_sample_once() -> None:
    seen: list[torch.Tensor] = []
    original = descent.line_loss

    def spy(weights: torch.Tensor, design: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        if len(design) == 8:
            seen.append(design[:, 0].clone())
        return original(weights, design, values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(descent, "line_loss", spy)
        descent.by_batch([8], steps=9)
    for half in (seen[:5], seen[5:10]):
        assert len(torch.cat(half).unique()) == descent.POINTS


def test_impossible_values_are_refused() -> None:
    with pytest.raises(InputError, match="above 0"):
        descent.by_rate([0.0])
    with pytest.raises(InputError, match="between 1 and the 40"):
        descent.by_batch([41])
    with pytest.raises(InputError, match="no rate diverges"):
        descent.limit([-1.0, 0.0])
