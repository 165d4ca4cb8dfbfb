"""The pictures of descent show the real steps, and say what goes wrong in each."""

from __future__ import annotations

import numpy as np
import pytest

import trivet
from trivet.errors import InputError
from trivet.figures.style import to_svg
from trivet.optim import descent

pytestmark = pytest.mark.app


def test_the_rates_panels_hold_the_optimizers_own_steps() -> None:
    figure = trivet.figures.descent("rate")
    low, right, high = figure.axes
    assert "crawls" in low.get_title(loc="left")
    assert right.get_title(loc="left").startswith("right")
    assert "farther" in high.get_title(loc="left")
    drawn = np.asarray(right.lines[1].get_xdata())
    np.testing.assert_allclose(drawn, (1 - 2 * 0.35) ** np.arange(len(drawn)), rtol=1e-9)


@pytest.mark.parametrize("what", ["rate", "momentum", "batch", "limit"])
def test_every_picture_becomes_svg_with_words(what: str) -> None:
    svg = to_svg(trivet.figures.descent(what), label=what)
    assert svg.startswith("<svg")
    assert f'aria-label="{what}"' in svg


def test_values_of_ones_own_get_a_panel_each() -> None:
    assert len(trivet.figures.descent("momentum", [0.5, 0.9]).axes) == 2
    assert len(trivet.figures.descent("batch", [descent.POINTS, 4, 2, 1]).axes) == 4


@pytest.mark.parametrize(
    ("what", "values", "words"),
    [
        ("momentm", None, "did you mean 'momentum'"),
        ("rate", [], "empty"),
        ("rate", [-0.1], "above 0"),
        ("batch", [2.5], "whole numbers"),
        ("batch", [0], "between 1 and"),
    ],
)
def test_wrong_pictures_get_one_clear_line(what: str, values: list[float] | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        trivet.figures.descent(what, values)
