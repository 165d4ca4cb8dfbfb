"""Pictures of losses: the curves are the loss's own values and derivatives, along the number that it cares about."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trivet import losses
from trivet.errors import InputError
from trivet.losses import Portrait, portrait


def _curves(picture: Portrait) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    at = np.asarray(picture.at)
    return {curve.label: (at, np.asarray(curve.values), np.asarray(curve.slopes)) for curve in picture.curves}


@pytest.fixture(scope="module", params=losses.catalogue())
def picture(request: pytest.FixtureRequest) -> Portrait:
    return portrait(request.param)


def test_every_loss_has_a_picture_whose_gradient_is_the_slope_of_its_value(picture: Portrait) -> None:
    assert picture.curves
    for label, (at, values, slopes) in _curves(picture).items():
        assert np.isfinite(values).all(), label
        assert np.isfinite(slopes).all(), label
        # Between two points the value changes by the mean slope, but across a corner or a jump.
        size = np.abs(slopes).max()
        off = np.abs(np.diff(values) / np.diff(at) - (slopes[1:] + slopes[:-1]) / 2)
        corner = np.abs(np.diff(slopes)) > 0.1 * size
        assert (off <= 0.03 * size)[~corner].all(), label
        assert corner.mean() < 0.5, label


def test_every_sketch_has_a_line_for_each_value_and_gradient_and_no_bar_of_nothing(picture: Portrait) -> None:
    lines = picture.sketch(30).splitlines()
    assert lines[0].startswith("Along ")
    assert len(lines) == 2 + 2 * len(picture.curves)
    assert all(len(line) < 120 for line in lines)


def test_curves_are_those_of_the_textbook() -> None:
    (at, values, slopes) = _curves(portrait("huber_loss", delta=0.5))["error"]
    near = np.abs(at) <= 0.5
    np.testing.assert_allclose(values, np.where(near, at**2 / 2, 0.5 * (np.abs(at) - 0.25)), atol=1e-12)
    np.testing.assert_allclose(slopes, np.clip(at, -0.5, 0.5), atol=1e-12)

    (at, values, slopes) = _curves(portrait("cross_entropy"))["margin"]
    np.testing.assert_allclose(values, np.log1p(3 * np.exp(-at)), rtol=1e-9)
    np.testing.assert_allclose(slopes, -3 / (3 + np.exp(at)), rtol=1e-9)

    (share, values, slopes) = _curves(portrait("dice_loss", smooth=0.0))["missed"]
    np.testing.assert_allclose(values, 1 - 2 * (1 - share) / (2 - share), atol=1e-6)
    np.testing.assert_allclose(slopes, 2 / (2 - share) ** 2, atol=1e-5)

    (cosine, values, _) = _curves(portrait("info_nce_loss", temperature=0.5))["of the positive (negative at 0)"]
    np.testing.assert_allclose(values, np.log1p(np.exp(-cosine / 0.5)), rtol=1e-9)

    (d, values, _) = _curves(portrait("triplet_loss", margin=0.2))["to the negative (positive at 1)"]
    np.testing.assert_allclose(values, np.maximum(1 - d + 0.2, 0), atol=1e-12)


def test_what_a_loss_is_for_shows_in_its_picture() -> None:
    missed, added = (_curves(portrait("tversky_loss", alpha=0.3, beta=0.7))[k] for k in ("missed", "added beside it"))
    assert (missed[1] > added[1]).all()
    beside, far = (_curves(portrait("boundary_loss"))[k] for k in ("added beside it", "added farther away"))
    assert far[2].min() > 2 * beside[2].max()
    rare, frequent = (_curves(portrait("ldam_loss"))[f"true class: {n} of 1000"] for n in (10, 900))
    assert (rare[1] > frequent[1]).all()
    upper = _curves(portrait("quantile_loss"))["quantile 0.9"][2]
    assert upper[0] == pytest.approx(-0.9)
    assert upper[-1] == pytest.approx(0.1)


def test_a_name_that_is_no_loss_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'focal_loss'"):
        portrait("fokal_loss")


@pytest.mark.app
def test_a_picture_draws_value_and_gradient_of_every_curve() -> None:
    from trivet.figures.style import to_svg

    made = portrait("focal_loss")
    figure = made.plot()
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["target 1", "target 0"]
    np.testing.assert_array_equal(left.lines[1].get_ydata(), made.curves[1].values)
    np.testing.assert_array_equal(right.lines[0].get_ydata(), made.curves[0].slopes)
    svg = to_svg(figure, label="focal loss")
    assert "logit" in svg
    assert len(svg) < 60_000
    assert not math.isnan(left.get_xlim()[0])
