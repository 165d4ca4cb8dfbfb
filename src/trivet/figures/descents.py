"""Descent made visible: what the rate, momentum and the batch do to the same few steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trivet.errors import InputError, unknown_name
from trivet.figures.style import BLUE, GREEN, INK, ORANGE, RED, new_figure, style

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from trivet.optim.descent import Path


def descent(what: str = "rate", values: Sequence[float] | None = None) -> Figure:
    """Draw descents by a real optimizer side by side; what is drawn are its own steps, not a sketch of them.

    - `"rate"`: gradient descent on a curve, at shares of its limit 2 / curvature; by default too low, right, too high.
    - `"momentum"`: a ravine at one rate; by default no momentum, enough, too much.
    - `"batch"`: a line fitted to forty points with this many of them per step; by default all, one, eight.
    - `"limit"`: how far from the minimum a step leaves you, over the rate: it grows from exactly 2 / curvature on.

    `values` are the shares, momenta or batch sizes, one panel each (for "limit": the shares on the axis). Raises
    `InputError` for unknown pictures and impossible values.

    >>> len(descent("rate", [0.1, 0.5]).axes)
    2
    """
    if what not in _PICTURES:
        raise unknown_name("picture", what, _PICTURES)
    draw, defaults = _PICTURES[what]
    chosen = defaults if values is None else tuple(values)
    if not chosen:
        raise InputError(f"values of {what!r} are empty; give one number per panel")
    with style():
        return draw(chosen)


def _rate(shares: Sequence[float]) -> Figure:
    import numpy as np

    from trivet.optim.descent import by_rate

    figure, panels = new_figure(3.2 * len(shares), 2.7, columns=len(shares))
    curve = np.linspace(-2.2, 2.2, 200)
    for axes, share, made in zip(panels, shares, by_rate(shares), strict=True):
        weights = [w for (w,) in made.weights]
        axes.plot(curve, 0.5 * curve**2, color=INK, linewidth=1)
        axes.plot(weights, made.losses, ".-", color=_colour(share), linewidth=0.9, markersize=6)
        axes.plot(weights[:1], made.losses[:1], "o", color=_colour(share), markersize=7, markerfacecolor="none")
        words = "too low: it crawls" if share < 0.1 else "right" if share < 0.9 else "it overshoots"
        words = "too high: every step goes farther" if share > 1 else words
        axes.set(title=f"{words}\n{share:g} of 2 / curvature", xlabel="weight", xlim=(-2.2, 2.2), ylim=(-0.1, 2.4))
    panels[0].set_ylabel("loss")
    return figure


def _colour(share: float) -> str:
    return BLUE if share < 0.1 else GREEN if share < 0.9 else ORANGE if share <= 1 else RED


def _momentum(momenta: Sequence[float]) -> Figure:
    from trivet.optim.descent import RAVINE, by_momentum

    figure, panels = new_figure(3.2 * len(momenta), 2.7, columns=len(momenta))
    for axes, momentum, made in zip(panels, momenta, by_momentum(momenta), strict=True):
        contours(axes, lambda x, y: 0.5 * (RAVINE[0] * x**2 + RAVINE[1] * y**2), (-3, 3), (-0.9, 0.9))
        colour = BLUE if momentum < 0.3 else GREEN if momentum < 0.93 else RED
        steps(axes, made, colour)
        words = "too low: it crawls along the ravine" if momentum < 0.3 else "right: sideways steps cancel"
        words = "too high: it swings back and forth" if momentum >= 0.93 else words
        axes.set(title=f"{words}\nmomentum {momentum:g}, loss {made.losses[-1]:.1g} after {len(made.losses) - 1} steps")
    return figure


def _batch(sizes: Sequence[float]) -> Figure:
    import torch

    from trivet.optim.descent import POINTS, by_batch, line_data, line_loss

    whole = [int(size) for size in sizes]
    if any(size != given for size, given in zip(whole, sizes, strict=True)):
        raise InputError(f"batch sizes {list(sizes)} must be whole numbers")
    design, values = line_data()

    def loss(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        pairs = torch.stack([torch.as_tensor(x).flatten(), torch.as_tensor(y).flatten()], dim=1)
        found: NDArray[np.float64] = torch.stack([line_loss(pair, design, values) for pair in pairs]).numpy()
        return found.reshape(x.shape)

    figure, panels = new_figure(3.2 * len(whole), 2.9, columns=len(whole))
    for axes, size, made in zip(panels, whole, by_batch(whole), strict=True):
        contours(axes, loss, (-1.6, 3.2), (-1.8, 1.8), points=48)
        steps(axes, made, GREEN if size == POINTS else RED if size == 1 else BLUE)
        kind = "full batch: smooth" if size == POINTS else "one sample: it never settles" if size == 1 else "mini-batch"
        late = made.losses[len(made.losses) // 2 :]
        spread = (sum((v - sum(late) / len(late)) ** 2 for v in late) / len(late)) ** 0.5
        axes.set(title=f"{kind} ({size} of {POINTS})\nloss {late[-1]:.2f}, noise {spread:.1g}", xlabel="slope")
    panels[0].set_ylabel("intercept")
    return figure


def _limit(shares: Sequence[float]) -> Figure:
    from trivet.optim.descent import RAVINE, shrinkage

    figure, (axes,) = new_figure(6.4, 2.9)
    axes.plot(shares, shrinkage(shares), color=BLUE, label="a curve: |1 - rate x curvature|")
    axes.plot(shares, shrinkage(shares, curvatures=RAVINE), color=ORANGE, linestyle="--", label="a ravine, 20 : 1")
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.axvline(1, color=RED, linestyle=":", label="2 / largest curvature")
    axes.annotate("every step\ngoes farther", (1.02, 0.3), fontsize=8)
    axes.set(
        title="Where descent turns into divergence", xlabel="rate, as a share of 2 / largest curvature", ylim=(0, None)
    )
    axes.set_ylabel("distance after a step / before")
    axes.legend()
    return figure


def contours(
    axes: Axes,
    loss: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    across: tuple[float, float],
    up: tuple[float, float],
    *,
    points: int = 120,
) -> None:
    """Draw the levels of a loss of two weights."""
    import numpy as np

    x, y = np.meshgrid(np.linspace(*across, points), np.linspace(*up, points))
    values = loss(x, y)
    axes.contour(x, y, np.sqrt(values - values.min()), levels=12, colors=INK, alpha=0.35, linewidths=0.7)
    axes.grid(visible=False)
    axes.set(xlim=across, ylim=up)


def steps(axes: Axes, made: Path, colour: str) -> None:
    """Draw a path of two weights: where it began, each step, where it ended."""
    across, up = zip(*made.weights, strict=True)
    axes.plot(across, up, ".-", color=colour, linewidth=0.9, markersize=3.5)
    axes.plot(across[:1], up[:1], "o", color=colour, markersize=7, markerfacecolor="none")
    axes.plot(across[-1:], up[-1:], "s", color=colour, markersize=5)


_PICTURES: dict[str, tuple[Callable[[Sequence[float]], Figure], tuple[float, ...]]] = {
    "rate": (_rate, (0.03, 0.35, 1.04)),
    "momentum": (_momentum, (0.0, 0.7, 0.97)),
    "batch": (_batch, (40, 1, 8)),
    "limit": (_limit, tuple(k / 50 for k in range(1, 61))),
}
