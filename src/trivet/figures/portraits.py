"""The picture of a loss: its value and its gradient along the one number that it cares about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trivet.figures.style import CYCLE, INK, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DASHES = ("-", "--", ":")  # curves are told apart without colour too


def portrait(
    at: Sequence[float],
    curves: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    name: str,
    along: str,
) -> Figure:
    """Draw curves of `(label, values, slopes)` over `at`: values on the left, slopes on the right."""
    with style():
        figure, (left, right) = new_figure(7.2, 2.6, columns=2)
        for (label, values, slopes), colour, dash in zip(curves, CYCLE, DASHES, strict=False):
            left.plot(at, values, color=colour, linestyle=dash, label=label)
            right.plot(at, slopes, color=colour, linestyle=dash)
        left.set(title=f"{name.replace('_', ' ')}: value")
        right.set(title="gradient")
        right.axhline(0, color=INK, linewidth=0.7)
        figure.supxlabel(along, fontsize=9, color=INK)
        if len(curves) > 1:
            left.legend()
        return figure
