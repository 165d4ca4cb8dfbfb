"""What a rule of lint is, what it may look at, and how it says what it found."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trivet.errors import unknown_name
from trivet.facts import Profile
from trivet.facts.start import Start
from trivet.losses.problems import Problem
from trivet.optim.memory import MemoryPlan
from trivet.recipes import Edit, Finding, Recipe
from trivet.schedules.schedule import Schedule
from trivet.tasks.kinds import Kind

Severity = Literal["error", "warning", "note"]
Evidence = dict[str, float | int | str]


@dataclass(frozen=True, kw_only=True)
class Moves:
    """What an optimizer is set to: from a recipe or from a script's own object."""

    name: str
    lr: float
    highest_lr: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    decoupled: bool = True
    decayed_vectors: int = 0  # numbers in biases and norms that decay
    decays_norms: bool = False
    strangers: int = 0  # tensors that are not the model's
    twice: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decay:
    """How the rate goes over the run: trivet's schedule, or a scheduler of torch with what it counts up to."""

    name: str
    constant: bool
    schedule: Schedule | None = None
    warmup: float | None = None  # a fraction of the run; None when it is not known
    horizon: int | None = None  # calls of step() until it has ended
    broken: str = ""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that a rule may look at; whatever is not known is None, and a rule that needs it is silent."""

    recipe: Recipe | None = None
    profile: Profile | None = None
    kind: Kind | None = None
    metric: str = ""
    model: nn.Module | None = None
    loss: nn.Module | Callable[..., Tensor] | None = None
    loss_name: str = ""
    moves: Moves | None = None
    decay: Decay | None = None
    inputs: Tensor | tuple[Tensor, ...] | None = None
    targets: Tensor | None = None
    start: Start | None = None
    problems: tuple[Problem, ...] = ()
    batch_size: int | None = None
    rows: int | None = None
    val_rows: int | None = None
    steps: int | None = None
    pretrained: bool | None = None
    plan: MemoryPlan | None = None
    memory: int | None = None

    @property
    def own_script(self) -> bool:
        """Whether a script's own objects are looked at, so that a fix is an instruction and not an edit."""
        return self.recipe is None

    def problem(self, *codes: str) -> Problem | None:
        """Return the first problem of one of these names that the loss's guard sees in the batch."""
        return next((problem for problem in self.problems if problem.code in codes), None)

    def edit(self, path: str, value: str | float | dict[str, object] | None, words: str) -> Edit | str:
        """Return an edit where there is a recipe to edit, else the same in words."""
        return words if self.recipe is None else Edit(path, value)  # type: ignore[arg-type]


Check = Callable[[Setup], Finding | None]


@dataclass(frozen=True)
class Rule:
    """A mistake that lint finds: its code and name, where the rule comes from, how sure it is, and its page."""

    code: str
    name: str
    source: str
    confidence: float
    check: Check

    def page(self) -> str:
        """Return the page of the rule: what it is, why it happens, what to do."""
        return f"{self.code}  {self.name}\n\n{inspect.getdoc(self.check)}\n\nSource: {self.source}"


RULES: dict[str, Rule] = {}


def rule(code: str, name: str, *, source: str, confidence: float = 0.9) -> Callable[[Check], Check]:
    """Register a function as the rule of a code; its docstring is the page that `trivet show CODE` prints."""

    def register(check: Check) -> Check:
        RULES[code] = Rule(code, name, source, confidence, check)
        return check

    return register


def page(code: str) -> str:
    """Return the page of a finding of lint.

    >>> print(page("TV101").splitlines()[0])
    TV101  the loss does not fit the kind of task
    """
    if code.upper() not in RULES:
        raise unknown_name("finding", code, RULES)
    return RULES[code.upper()].page()


def found(
    code: str, severity: Severity, message: str, fix: Edit | str, evidence: Evidence, *, refuted_by: str = ""
) -> Finding:
    """Build a finding with numbers rounded for people and the rule's own confidence."""
    shown = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in evidence.items()}
    return Finding(
        code, severity, message, evidence=shown, fix=fix, confidence=RULES[code].confidence, refuted_by=refuted_by
    )


def nice(value: float) -> float:
    """Round to two digits, as a person would write a rate."""
    return float(f"{value:.2g}")


def number(value: object) -> float:
    """Return a rate as a number, whether it is one or a tensor of one element."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)  # type: ignore[arg-type]


def snake(name: str) -> str:
    """Return a class's name as its function's: CrossEntropyLoss -> cross_entropy_loss.

    >>> snake("SmoothL1Loss"), snake("MSELoss")
    ('smooth_l1_loss', 'mse_loss')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", name).lower()


def finite(tensor: Tensor) -> bool:
    """Return whether a tensor has no NaN and no infinity; whole numbers have none."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
