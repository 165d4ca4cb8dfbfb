"""Every loss as a picture: value and gradient along the one number that it cares about.

A regression loss is drawn over the error, a binary one over the logit, a softmax loss over the margin of the true
class, a region loss over the share of a region that is wrong, an embedding loss over a similarity or a distance. The
numbers are the loss's own: it is called, and differentiated by autograd.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trivet.errors import unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Curve", "Portrait", "portrait"]

POINTS = 97
BARS = "▁▂▃▄▅▆▇█"
Function = Callable[[Tensor], Tensor]  # one number -> the loss


@dataclass(frozen=True)
class Curve:
    """One curve of a picture: what it shows, and value and derivative at each place."""

    label: str
    values: tuple[float, ...]
    slopes: tuple[float, ...]


@dataclass(frozen=True)
class Portrait:
    """A loss along one number: what that number is, where it was taken, and one curve or two."""

    name: str
    along: str
    at: tuple[float, ...]
    curves: tuple[Curve, ...]

    def plot(self) -> Figure:
        """Draw the value on the left and the gradient on the right."""
        from trivet.figures.portraits import portrait as draw

        return draw(self.at, [(c.label, c.values, c.slopes) for c in self.curves], name=self.name, along=self.along)

    def sketch(self, width: int = 40) -> str:
        """Return the picture as lines of block characters, with the lowest and the highest number of each.

        >>> print(portrait("mse_loss").sketch(12))
        Along prediction minus target, from -3 to 3:
        <BLANKLINE>
            value     █▆▄▂▂▁▁▂▂▄▆█  0 to 9
            gradient  ▁▂▂▃▄▄▅▅▆▇▇█  -6 to 6
        """
        picked = [round(i * (len(self.at) - 1) / (width - 1)) for i in range(width)]
        lines: list[tuple[str, str]] = []
        for curve in self.curves:
            head = "" if len(self.curves) == 1 else f", {curve.label}"
            for what, numbers in (("value", curve.values), ("gradient", curve.slopes)):
                lines.append((f"    {what}{head}", _line(numbers, picked)))
        widest = max(len(start) for start, _ in lines)
        drawn = [f"{start:<{widest}}  {bars}" for start, bars in lines]
        return f"Along {self.along}, from {self.at[0]:.3g} to {self.at[-1]:.3g}:\n\n" + "\n".join(drawn)


def _line(values: tuple[float, ...], picked: list[int]) -> str:
    low, high = min(values), max(values)
    if math.isclose(low, high, rel_tol=1e-6):
        return f"{high:.3g} everywhere"
    bars = "".join(BARS[round((value - low) / (high - low) * (len(BARS) - 1))] for value in (values[i] for i in picked))
    tiny = 1e-5 * max(abs(low), abs(high))
    low, high = (0.0 if abs(number) < tiny else number for number in (low, high))
    return f"{bars}  {low:.3g} to {high:.3g}"


def portrait(name: str, **hyperparameters: object) -> Portrait:
    """Return the picture of a loss, with its defaults or with hyperparameters of yours.

    >>> focal = portrait("focal_loss", gamma=0.5)
    >>> focal.along, [curve.label for curve in focal.curves]
    ('logit', ['target 1', 'target 0'])

    Raises `InputError` for a name that is no loss's.
    """
    from trivet import losses  # the catalogue stands above this module

    catalogue = losses.catalogue()
    if name not in catalogue:
        raise unknown_name("loss", name, catalogue)
    loss = catalogue[name]
    keywords: dict[str, object] = {"reduction": "none", **hyperparameters}
    if "backend" in inspect.signature(loss.function).parameters:
        keywords["backend"] = "torch"  # a hundred numbers are no reason to compile a kernel
    scene = _SCENES.get(name) or _SCENES[loss.kind]
    along, (low, high), functions = scene(partial(loss.function, **keywords))
    at = low + (high - low) * torch.arange(POINTS, dtype=torch.float64) / (POINTS - 1)  # 0 is met exactly
    return Portrait(name, along, tuple(at.tolist()), tuple(_curve(label, f, at) for label, f in functions.items()))


def _curve(label: str, function: Function, at: Tensor) -> Curve:
    values, slopes = [], []
    for number in at:
        leaf = number.clone().requires_grad_()
        value = function(leaf)
        (slope,) = torch.autograd.grad(value, leaf)
        values.append(value.item())
        slopes.append(slope.item())
    return Curve(label, tuple(values), tuple(slopes))


Scene = tuple[str, tuple[float, float], dict[str, Function]]
Loss = Callable[..., Tensor]


def _numbers(*given: float | Tensor) -> Tensor:
    return torch.stack([torch.as_tensor(number, dtype=torch.float64) for number in given])


def _error(loss: Loss) -> Scene:
    return "prediction minus target", (-3, 3), {"error": lambda e: loss(e[None], torch.zeros(1)).sum()}


def _quantile(loss: Loss) -> Scene:
    def at(quantile: float) -> Function:
        return lambda e: loss(e[None], torch.zeros(1), quantile=quantile).sum()

    return "prediction minus target", (-3, 3), {"quantile 0.5": at(0.5), "quantile 0.9": at(0.9)}


def _log_rate(loss: Loss) -> Scene:
    def counted(count: float) -> Function:
        return lambda x: loss(x[None], torch.tensor([count])).sum()

    return "log rate predicted", (-2, 3), {"1 was counted": counted(1), "5 were counted": counted(5)}


def _uncertain(loss: Loss) -> Scene:
    def sure(variance: float) -> Function:
        return lambda e: loss(_numbers(e, math.log(variance))[None], torch.zeros(1)).sum()

    labels = {"variance predicted: 1": sure(1.0), "variance predicted: 4": sure(4.0)}
    return "mean predicted minus target", (-3, 3), labels


def _logit(loss: Loss) -> Scene:
    def answer(target: float) -> Function:
        return lambda z: loss(z[None], torch.tensor([target])).sum()

    return "logit", (-6, 6), {"target 1": answer(1.0), "target 0": answer(0.0)}


def _pixel(loss: Loss) -> Scene:
    def answer(foreground: float) -> Function:
        target = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
        right = 10 * (2 * target.double() - 1)
        where = 2 if foreground else 3
        return lambda z: loss(torch.where(torch.arange(6) == where, z, right), target).sum()

    labels = {"pixel of the region": answer(1.0), "pixel beside it": answer(0.0)}
    return "logit of one of six pixels, the others right", (-4, 4), labels


def _margin(loss: Loss, span: float = 6) -> Scene:
    def row(margin: Tensor) -> Tensor:
        return loss(_numbers(margin, 0, 0, 0)[None], torch.tensor([0])).sum()

    return "logit of the true class, those of three others at 0", (-span, span), {"margin": row}


def _frequency(loss: Loss, span: float) -> Scene:
    counts = torch.tensor([900, 10, 45, 45])

    def of_class(label: int) -> Function:
        row = torch.arange(4) == label
        return lambda z: loss(torch.where(row, z, 0.0)[None], torch.tensor([label]), counts=counts).sum()

    labels = {"true class: 900 of 1000": of_class(0), "true class: 10 of 1000": of_class(1)}
    return "logit of the true class, those of three others at 0", (-span, span), labels


def _all_logits(loss: Loss) -> Scene:
    return "size of all of four logits", (-4, 4), {"logits": lambda z: loss(_numbers(z, z, z, z)[None], None).sum()}


def _hidden(loss: Loss) -> Scene:
    layer = torch.tensor([[1.0], [0.0], [0.0], [0.0]], dtype=torch.float64)

    def token(margin: Tensor) -> Tensor:
        return loss(margin.view(1, 1), layer, torch.tensor([0])).sum()

    return "logit of the true token, those of three others at 0", (-6, 6), {"margin": token}


WIDE, REGION = 40, slice(16, 24)  # a row of pixels, and the region in it


def _wrong(loss: Loss, where: slice) -> Function:
    """Return the loss of a map that is right but for a share of the probability at some pixels."""
    target, chosen = torch.zeros(1, WIDE, dtype=torch.long), torch.zeros(WIDE, dtype=torch.bool)
    target[:, REGION], chosen[where] = 1, True
    true = target[0].double()

    def of(share: Tensor) -> Tensor:
        p = torch.where(chosen, torch.where(target[0] == 1, 1 - share, share), true).clamp(1e-9, 1 - 1e-9)
        z = torch.logit(p)
        return loss(torch.stack([torch.zeros_like(z), z])[None], target).sum()

    return of


def _overlap(loss: Loss) -> Scene:
    if "include_background" in inspect.signature(loss).parameters:
        loss = partial(loss, include_background=False)
    labels = {"missed": _wrong(loss, REGION), "added beside it": _wrong(loss, slice(24, 32))}
    return "share of the region that is missed, or added outside", (0.005, 0.995), labels


def _far(loss: Loss) -> Scene:
    along, span, labels = _overlap(loss)
    return along, span, {**labels, "added farther away": _wrong(loss, slice(32, 40))}


def _turned(cosine: Tensor, axis: int = 1) -> Tensor:
    """Return a unit vector with this cosine to the first axis, turned towards another."""
    parts: list[float | Tensor] = [cosine, 0.0, 0.0]
    parts[axis] = (1 - cosine * cosine).sqrt()
    return _numbers(*parts)


_AXES = torch.eye(3, dtype=torch.float64)


def _distance(loss: Loss) -> Scene:
    def pair(second: int) -> Function:
        return lambda d: loss(_numbers(0, d)[:, None], torch.tensor([0, second]))[0]

    return "distance of a pair", (0.01, 2), {"same class": pair(0), "other class": pair(1)}


def _triplet(loss: Loss) -> Scene:
    def anchor(moved: str) -> Function:
        def of(d: Tensor) -> Tensor:
            positive, negative = (d, 1.0) if moved == "positive" else (1.0, d)
            return loss(_numbers(0, torch.as_tensor(positive), -torch.as_tensor(negative))[:, None], _ONE_OTHER)[0]

        return of

    labels = {
        "to the positive (negative at 1)": anchor("positive"),
        "to the negative (positive at 1)": anchor("negative"),
    }
    return "distance", (0.01, 3), labels


_ONE_OTHER = torch.tensor([0, 0, 1])


def _similar_pair(loss: Loss) -> Scene:
    def pair(second: int) -> Function:
        return lambda c: loss(torch.stack([_AXES[0], _turned(c)]), torch.tensor([0, second]), epsilon=None)[0]

    return "cosine of a pair", (-0.99, 0.99), {"same class": pair(0), "other class": pair(1)}


_AGAINST = {"positive": "of the positive (negative at 0)", "negative": "of the negative (positive at 0)"}


def _among(loss: Loss) -> Scene:
    def anchor(moved: str) -> Function:
        def of(c: Tensor) -> Tensor:
            others = [_turned(c), _AXES[2]] if moved == "positive" else [_AXES[1], _turned(c, 2)]
            return loss(torch.stack([_AXES[0], *others]), _ONE_OTHER)[0]

        return of

    return "cosine", (-0.99, 0.99), {label: anchor(moved) for moved, label in _AGAINST.items()}


def _views(loss: Loss) -> Scene:
    def anchor(moved: str) -> Function:
        def of(c: Tensor) -> Tensor:
            own, other = (_turned(c), _AXES[2]) if moved == "positive" else (_AXES[1], _turned(c, 2))
            return loss(torch.stack([_AXES[0], other]), torch.stack([own, other]))[0]

        return of

    return "cosine", (-0.99, 0.99), {label: anchor(moved) for moved, label in _AGAINST.items()}


def _prototype(loss: Loss) -> Scene:
    def own(margin: bool) -> Function:
        given: dict[str, object] = {} if margin else {"margin": 0.0}
        return lambda c: loss(_turned(c, 2)[None], torch.tensor([0]), prototypes=_AXES[:2], **given).sum()

    return (
        "cosine to the own class (other class at 0)",
        (-0.99, 0.99),
        {"with its margin": own(True), "without": own(False)},
    )


def _labelled_pair(loss: Loss) -> Scene:
    def pair(label: int) -> Function:
        return lambda c: loss(_AXES[:1], _turned(c)[None], torch.tensor([label])).sum()

    return "cosine of a pair", (-0.99, 0.99), {"alike (1)": pair(1), "apart (-1)": pair(-1)}


def _student(loss: Loss) -> Scene:
    def at(temperature: float) -> Function:
        teacher = torch.tensor([[2.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
        return lambda z: loss(_numbers(z, 0, 0, 0)[None], teacher, temperature=temperature).sum()

    labels = {"temperature 1": at(1.0), "temperature 4": at(4.0)}
    return "student's logit of one class, the teacher's at 2 (three others at 0)", (-4, 8), labels


def _feature(loss: Loss) -> Scene:
    def by(distance: str) -> Function:
        return lambda e: loss(e.view(1, 1), torch.zeros(1, 1), distance=distance).sum()

    return "feature minus the teacher's", (-3, 3), {"squared": by("squared"), "absolute": by("absolute")}


_SCENES: dict[str, Callable[[Loss], Scene]] = {
    # by kind, and by name where a kind's own number is not what the loss cares about
    "regression": _error,
    "binary": _logit,
    "multiclass": _margin,
    "region": _overlap,
    "language": _hidden,
    "matching": _student,
    "embedding": _among,
    "views": _views,
    "arcface_loss": _prototype,
    "boundary_loss": _far,
    "contrastive_loss": _distance,
    "cosface_loss": _prototype,
    "cosine_embedding_loss": _labelled_pair,
    "feature_matching_loss": _feature,
    "gaussian_nll_loss": _uncertain,
    "ldam_loss": partial(_frequency, span=1),
    "logit_adjusted_loss": partial(_frequency, span=6),
    "lovasz_hinge_loss": _pixel,
    "multi_similarity_loss": _similar_pair,
    "poisson_nll_loss": _log_rate,
    "quantile_loss": _quantile,
    "triplet_loss": _triplet,
    "z_loss": _all_logits,
}
