"""One look for every figure, and SVG that follows the page it stands in."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trivet.errors import InputError, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinguishable with every common colour blindness, on white and on black.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
# Stands for the page's own text colour until the figure is written as SVG.
INK = "#7b7b7c"


@contextmanager
def style() -> Iterator[None]:
    """Set matplotlib's parameters for the figures drawn inside."""
    require("matplotlib", "app")
    import matplotlib as mpl
    from cycler import cycler

    settings = {
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=CYCLE),
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "grid.color": INK,
        "grid.alpha": 0.2,
        "axes.grid": True,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "lines.linewidth": 1.6,
        "savefig.facecolor": "none",
        "svg.fonttype": "none",
        "svg.hashsalt": "trivet",
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "font.family": "sans-serif",
    }
    with mpl.rc_context(settings):
        yield


def number(value: float, digits: int = 4) -> str:
    """Return a number with so many significant digits; from ten thousand to a billion in full, with commas.

    >>> number(0.123456), number(50968.4), number(17043.7, 2), number(3e-7)
    ('0.1235', '50,968', '17,000', '3e-07')
    """
    if not 1e4 <= abs(value) < 1e9:
        return f"{value:.{digits}g}"
    return f"{value if digits >= 4 else float(f'{value:.{digits}g}'):,.0f}"


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure (size in inches) outside pyplot's global state, and its axes from left to right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def to_svg(figure: Figure, *, label: str) -> str:
    """Return a figure as an inline SVG element that takes its text colour and font from the page.

    `label` says in words what the figure shows, for those who do not see it.
    """
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1; font-family: inherit", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    # Ten inches of figure fill the page: text in narrower figures then has the same size as in wide ones.
    width = f"max-width: {10 * figure.get_figwidth():.0f}%; --share: {0.1 * figure.get_figwidth():.2g}"
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" style="{width}" ', 1)


def write_svg(figure: Figure, path: str) -> None:
    """Write a figure as an SVG file that can be looked at on a white page."""
    with style():
        try:
            figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})
        except OSError as error:
            raise InputError(f"cannot write the figure to {path}: {error.strerror}") from error
