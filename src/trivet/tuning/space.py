"""The search space: losses x optimizers x schedules, each optimizer with a rate range of its own.

A rate range shared by optimizers is the commonest flaw of published search spaces: a good rate of SGD lies a hundred
times above one of Lion. Here a range belongs to an optimizer, and a space read from a file that gives the same range
to several is warned about.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import torch

from trivet.advice.recommend.rate import rate_prior
from trivet.errors import InputError, RecipeError, nearest
from trivet.facts import Profile
from trivet.recipes import Edit, Recipe
from trivet.recipes.recipe import Part, format_value
from trivet.schedules import parse as parse_schedule
from trivet.tasks.kinds import KINDS

if TYPE_CHECKING:
    from trivet.tasks import Task

__all__ = ["OptimizerSpace", "Range", "Space", "default_space"]

Parameters = dict[str, str | float]

# Losses beside the plain and the recommended one that a search tries, by kind of task.
OTHER_LOSSES: dict[str, tuple[Part, ...]] = {
    "regression": ({"name": "huber_loss", "delta": 0.5}, {"name": "l1_loss"}),
    "binary": ({"name": "focal_loss", "gamma": 2.0},),
    "multiclass": ({"name": "cross_entropy", "label_smoothing": 0.1}, {"name": "softmax_focal_loss", "gamma": 2.0}),
}
SCHEDULES = ("cosine()", "linear()", "constant()")
# Decades of decoupled decay that are worth telling apart; below, it is no decay.
DECAY = (1e-4, 0.3)


class Suggests(Protocol):
    """What proposes values: an Optuna trial, or anything with these two methods."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_categorical(self, name: str, choices: list[str]) -> str: ...


class Range(msgspec.Struct, frozen=True):
    """Numbers from `low` to `high`, searched on the log scale.

    >>> round(Range(1e-4, 1e-2).at(0.5), 6)
    0.001
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise InputError(
                f"the range [{self.low:g}, {self.high:g}] is empty or not positive; give 0 < low < high, "
                "both finite: ranges are searched on the log scale"
            )

    def at(self, share: float) -> float:
        """Return the number at this share of the range's decades."""
        return float(f"{self.low * (self.high / self.low) ** share:.3g}")

    def edge(self, value: float) -> str:
        """Return "low" or "high" where a value lies in the outer twentieth of the decades, else an empty string."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return "low" if share < 0.05 else "high" if share > 0.95 else ""


class OptimizerSpace(msgspec.Struct, frozen=True, kw_only=True):
    """An optimizer with what is fixed of it, its own range of rates, and a range of weight decay where it has one."""

    part: Part
    lr: Range
    weight_decay: Range | None = None

    @property
    def name(self) -> str:
        return str(self.part["name"])


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """Recipes that a search may try: `base` with another loss, optimizer, rate, decay or schedule.

    >>> base = Recipe(loss="cross_entropy", optimizer={"name": "AdamW", "lr": 1e-3})
    >>> adam = OptimizerSpace(part={"name": "AdamW"}, lr=Range(1e-4, 1e-2))
    >>> space = Space(base=base, losses=(base.loss,), optimizers=(adam,), schedules=("cosine()",))
    >>> space.recipe({"loss": "cross_entropy", "optimizer": "AdamW", "AdamW.lr": 3e-3, "schedule": "cosine()"}).schedule
    'cosine()'
    """

    base: Recipe
    losses: tuple[Part, ...]
    optimizers: tuple[OptimizerSpace, ...]
    schedules: tuple[str, ...] = SCHEDULES

    def __post_init__(self) -> None:
        for what in ("losses", "optimizers", "schedules"):
            if not getattr(self, what):
                raise InputError(f"the search space has no {what}; give at least one")
        names = [optimizer.name for optimizer in self.optimizers]
        if len(set(names)) < len(names):
            raise InputError(f"an optimizer stands twice in the search space ({', '.join(names)}); give each once")

    # -- from parameters to recipes ---------------------------------------------------------------

    def recipe(self, parameters: Mapping[str, str | float]) -> Recipe:
        """Return the recipe that parameters stand for."""
        loss = self._losses()[str(parameters["loss"])]
        optimizer = self._optimizer(str(parameters["optimizer"]))
        part = dict(optimizer.part) | {"lr": float(parameters[f"{optimizer.name}.lr"])}
        decay = parameters.get(f"{optimizer.name}.weight_decay")
        if decay is not None:
            part["weight_decay"] = float(decay)
        edits = [
            Edit("loss", loss),
            Edit("optimizer", part),
            Edit("schedule", self._warmed(str(parameters["schedule"]))),
        ]
        return self.base.apply(*edits)

    def suggest(self, trial: Suggests) -> Parameters:
        """Let a sampler propose parameters; what an optimizer does not have is not asked."""
        parameters: Parameters = {
            "loss": trial.suggest_categorical("loss", list(self._losses())),
            "optimizer": trial.suggest_categorical("optimizer", [o.name for o in self.optimizers]),
            "schedule": trial.suggest_categorical("schedule", list(self.schedules)),
        }
        optimizer = self._optimizer(str(parameters["optimizer"]))
        for key, span in _ranges(optimizer):
            parameters[key] = float(f"{trial.suggest_float(key, span.low, span.high, log=True):.3g}")
        return parameters

    def quasi_random(self, count: int, *, seed: int = 0) -> list[Parameters]:
        """Return scrambled Sobol points, the optimizers in turn, so that each has its share of every range."""
        engine: Callable[..., torch.quasirandom.SobolEngine] = torch.quasirandom.SobolEngine
        engines = [engine(4, scramble=True, seed=seed + i) for i in range(len(self.optimizers))]
        losses, points = list(self._losses()), list[Parameters]()
        for number in range(count):
            which = number % len(self.optimizers)
            one, two, *rest = engines[which].draw(1, dtype=torch.float64)[0].clamp(0, 1 - 1e-9).tolist()
            optimizer = self.optimizers[which]
            point: Parameters = {
                "loss": losses[int(one * len(losses))],
                "optimizer": optimizer.name,
                "schedule": self.schedules[int(two * len(self.schedules))],
            }
            point |= {key: span.at(share) for (key, span), share in zip(_ranges(optimizer), rest, strict=False)}
            points.append(point)
        return points

    def parameters(self, recipe: Recipe) -> Parameters | None:
        """Return the parameters of a recipe, or None where the space does not hold it."""
        optimizer = next((o for o in self.optimizers if o.name == recipe.optimizer["name"]), None)
        loss = next((label for label, part in self._losses().items() if part == recipe.loss), None)
        schedule = next((text for text in self.schedules if self._warmed(text) == recipe.schedule), None)
        if optimizer is None or loss is None or schedule is None:
            return None
        found: Parameters = {"loss": loss, "optimizer": optimizer.name, "schedule": schedule}
        for key, span in _ranges(optimizer):
            value = recipe.optimizer.get(key.partition(".")[2])
            if not isinstance(value, int | float) or not span.low <= value <= span.high:
                return None
            found[key] = float(value)
        return found

    def edges(self, parameters: Mapping[str, str | float]) -> dict[str, str]:
        """Return which searched numbers lie at an edge of their range: there may be better ones beyond it."""
        spans = dict(_ranges(self._optimizer(str(parameters["optimizer"]))))
        return {key: side for key, span in spans.items() if (side := span.edge(float(parameters[key])))}

    # -- text -------------------------------------------------------------------------------------

    def warnings(self) -> tuple[str, ...]:
        """Return what is allowed and still unwise: one range of rates for optimizers whose good rates differ."""
        shared: dict[Range, list[OptimizerSpace]] = {}
        for optimizer in self.optimizers:
            shared.setdefault(optimizer.lr, []).append(optimizer)
        said = []
        for span, alike in shared.items():
            picks = [rate_prior(o.name).pick for o in alike]
            if max(picks) > 3 * min(picks):
                names = ", ".join(f"{o.name} {pick:g}" for o, pick in zip(alike, picks, strict=True))
                said.append(
                    f"the rates {span.low:g} to {span.high:g} are shared by optimizers whose usual rates differ "
                    f"({names}): the comparison will favour those whose rates it fits; give each its own lr"
                )
        return tuple(said)

    def plain(self) -> dict[str, object]:
        """Return the space as plain data, to be compared and stored."""
        data: dict[str, object] = msgspec.to_builtins(self)
        return data | {"base": self.base.as_dict()}

    def _losses(self) -> dict[str, Part]:
        return {_label(part): part for part in self.losses}

    def _optimizer(self, name: str) -> OptimizerSpace:
        return next(optimizer for optimizer in self.optimizers if optimizer.name == name)

    def _warmed(self, schedule: str) -> str:
        """Put the base recipe's warmup before a schedule."""
        first, joined, _ = self.base.schedule.partition(" >> ")
        text = f"{first} >> {schedule}" if joined and first.startswith("warmup") else schedule
        return str(parse_schedule(text))


def default_space(task: Task, recipe: Recipe, facts: Profile) -> Space:
    """Return the space around a recommended recipe: the plain loss, the recommended one and the kind's others.

    The optimizers are the recommended one, AdamW, SGD with Nesterov momentum, NAdam and Lion, and RMSprop for
    recurrent networks, each with its own range of rates.
    """
    losses: list[Part] = []
    for loss in (recipe.loss, plain_loss(task), *OTHER_LOSSES.get(task.kind, ())):
        if loss not in losses:
            losses.append(loss)
    parts: dict[str, Part] = {str(recipe.optimizer["name"]): recipe.optimizer}
    others: list[Part] = [{"name": "AdamW"}, {"name": "SGD", "momentum": 0.9, "nesterov": True}, {"name": "NAdam"}]
    others.append({"name": "Lion"})
    if facts.model.layers.get("recurrence"):
        others.append({"name": "RMSprop"})
    for part in others:
        parts.setdefault(str(part["name"]), part)
    optimizers = []
    for name, part in parts.items():
        prior = rate_prior(name, pretrained=facts.model.pretrained)
        kept: Part = {key: value for key, value in part.items() if key not in ("lr", "weight_decay")}
        lr = float(str(recipe.optimizer["lr"])) if name == recipe.optimizer["name"] else prior.pick
        optimizers.append(
            OptimizerSpace(
                part=kept | _decoupled(name),
                lr=Range(min(prior.low, lr), max(prior.high, lr)),
                weight_decay=Range(*DECAY) if name in ("AdamW", "Lion", "NAdam", "SGD") else None,
            )
        )
    return Space(base=recipe, losses=tuple(losses), optimizers=tuple(optimizers), schedules=_schedules(recipe))


def plain_loss(task: Task) -> Part:
    """Return the loss where every choice begins for the task's kind."""
    return dict(KINDS[task.kind].plain_loss(task.outputs))


def read_space(path: str | Path, base: Recipe) -> Space:
    """Read a space from TOML; what the file leaves out stays as the base recipe has it.

    ```toml
    losses = ["cross_entropy", {name = "softmax_focal_loss", gamma = 2.0}]
    schedules = ["cosine()", "linear()"]
    [optimizers.AdamW]
    lr = [1e-4, 1e-2]
    weight_decay = [1e-3, 0.3]
    [optimizers.SGD]
    lr = [1e-2, 1.0]
    momentum = 0.9
    ```
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read the search space {path}: {getattr(error, 'strerror', None) or error}") from error
    allowed = ["losses", "optimizers", "schedules"]
    for key in data:
        if key not in allowed:
            raise InputError(
                f"{path}: unknown field {key!r}{nearest(key, allowed) or '.'} Allowed: {', '.join(allowed)}"
            )
    losses: list[Part] = [{"name": item} if isinstance(item, str) else item for item in data.get("losses", [base.loss])]
    tables = data.get("optimizers", {})
    if not isinstance(tables, dict) or not tables:
        raise InputError(f"{path}: give at least one table such as [optimizers.AdamW] with lr = [1e-4, 1e-2]")
    optimizers = tuple(_read_optimizer(name, table, path) for name, table in tables.items())
    schedules = tuple(data.get("schedules", _schedules(base)))
    try:
        space = Space(base=base, losses=tuple(losses), optimizers=optimizers, schedules=schedules)
        for loss in losses:
            base.apply(Edit("loss", loss))
        for point in space.quasi_random(len(optimizers)):
            space.recipe(point)
        for schedule in schedules:
            parse_schedule(schedule)
    except (InputError, RecipeError) as error:
        raise InputError(f"{path}: {error}") from error
    return space


def _read_optimizer(name: str, table: object, path: str | Path) -> OptimizerSpace:
    if not isinstance(table, dict) or "lr" not in table:
        raise InputError(f"{path}: [optimizers.{name}] has no lr; write lr = [low, high]")
    spans: dict[str, Range] = {}
    for key in ("lr", "weight_decay"):
        value = table.get(key)
        if isinstance(value, list):
            if len(value) != 2 or not all(isinstance(item, int | float) for item in value):
                raise InputError(f"{path}: optimizers.{name}.{key} = {value} must be two numbers, [low, high]")
            try:
                spans[key] = Range(float(value[0]), float(value[1]))
            except InputError as error:
                raise InputError(f"{path}: optimizers.{name}.{key}: {error}") from error
    if "lr" not in spans:
        raise InputError(f"{path}: optimizers.{name}.lr = {table['lr']} must be a range, [low, high]")
    fixed = {key: value for key, value in table.items() if key not in spans}
    return OptimizerSpace(part={"name": name} | fixed, lr=spans["lr"], weight_decay=spans.get("weight_decay"))


def _ranges(optimizer: OptimizerSpace) -> list[tuple[str, Range]]:
    spans = [(f"{optimizer.name}.lr", optimizer.lr)]
    if optimizer.weight_decay is not None:
        spans.append((f"{optimizer.name}.weight_decay", optimizer.weight_decay))
    return spans


def _decoupled(name: str) -> Part:
    """NAdam's decay is L2 unless it is told otherwise; one range of decay then means the same everywhere."""
    return {"decoupled_weight_decay": True} if name == "NAdam" else {}


def _schedules(base: Recipe) -> tuple[str, ...]:
    """The usual decays, and the base recipe's own where it is another."""
    first, joined, rest = base.schedule.partition(" >> ")
    own = rest if joined and first.startswith("warmup") else base.schedule
    return SCHEDULES if own in SCHEDULES else (own, *SCHEDULES)


def _label(part: Part) -> str:
    """A loss as one word: its name, and its settings where it has any."""
    settings = ", ".join(f"{key}={format_value(value)}" for key, value in part.items() if key != "name")
    return f"{part['name']}({settings})" if settings else str(part["name"])
