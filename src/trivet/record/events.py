"""The schema of a record: one struct per kind of event, one JSON object per line.

Times are seconds since the run began, over all its parts; steps are optimizer steps, counted from 1.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import msgspec

from trivet.recipes import Finding

SCHEMA = 1


class Start(msgspec.Struct, frozen=True, tag_field="event", tag="start"):
    """The run begins: its length and seed."""

    steps: int
    steps_per_epoch: int
    batch_size: int
    seed: int
    device: str
    metric: str
    higher_is_better: bool
    schema: int = SCHEMA


class Step(msgspec.Struct, frozen=True, tag_field="event", tag="step", omit_defaults=True):
    """Steps up to and including this one: mean loss since the last such event, the rate, the gradient norm."""

    step: int
    loss: float
    lr: float
    seconds: float
    grad_norm: float | None = None


class Eval(msgspec.Struct, frozen=True, tag_field="event", tag="eval", omit_defaults=True):
    """The model was judged on a split; `best` says that this is the best so far."""

    step: int
    split: str
    metric: float
    loss: float
    seconds: float
    best: bool = False
    recalls: tuple[float, ...] = ()


class Setting(msgspec.Struct, frozen=True, tag_field="event", tag="setting", omit_defaults=True, kw_only=True):
    """What a watched run is made of, as far as the watcher can see it; a later one replaces an earlier one.

    `layers` names the modules that `Probe` has a column for, in the order of their first call, `kinds` their classes.
    `prior` is the loss of the best constant output, in the loss's own unit; `unowned` are trainable parameters that no
    optimizer has, `symmetric` layers whose units all start equal, `hungry` those that behave differently in training
    (dropout, batch statistics). `input_spread` is the largest standard deviation of a feature over the median one.
    """

    layers: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    optimizer: str = ""
    lr: float | None = None
    weight_decay: float | None = None
    coupled: bool = False
    decays_all: bool = False
    maximize: bool = False
    loss: str = ""
    prior: float | None = None
    classes: int | None = None
    class_shares: tuple[float, ...] = ()
    target_mean: float | None = None
    target_std: float | None = None
    input_rms: float | None = None
    input_spread: float | None = None
    batch: int | None = None
    normalised: bool = False
    unowned: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    symmetric: tuple[str, ...] = ()
    hungry: tuple[str, ...] = ()


class Probe(msgspec.Struct, frozen=True, tag_field="event", tag="probe", omit_defaults=True, kw_only=True):
    """A look into the layers at one step: a number per layer of the `Setting` (NaN where it has none).

    `grad`, `weight`: norms; `update`: norm of the step's change over that of the weights; `rms`, `std`: size of the
    outputs and how much they differ between samples; `dead`: share of units without any gradient; `saturated`: share
    of outputs at the flat ends of a sigmoid or tanh. `numbers` are those of the whole model (see `doctor.signals`).
    """

    step: int
    loss: float
    grad: tuple[float, ...] = ()
    weight: tuple[float, ...] = ()
    update: tuple[float, ...] = ()
    rms: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    dead: tuple[float, ...] = ()
    saturated: tuple[float, ...] = ()
    numbers: dict[str, float] = {}


class Found(msgspec.Struct, frozen=True, tag_field="event", tag="found"):
    """The doctor found something while the run went on."""

    step: int
    finding: Finding


class Note(msgspec.Struct, frozen=True, tag_field="event", tag="note"):
    """Something a person should read."""

    step: int
    text: str


class Resume(msgspec.Struct, frozen=True, tag_field="event", tag="resume"):
    """The run goes on after `step`; whatever the record says of later steps was lost and is repeated."""

    step: int


class End(msgspec.Struct, frozen=True, tag_field="event", tag="end"):
    """The run ended: "finished", "stopped early", "interrupted" or "diverged"."""

    step: int
    reason: str
    seconds: float


Event: TypeAlias = Start | Step | Eval | Setting | Probe | Found | Note | Resume | End


def encode(data: object) -> bytes:
    """Return data as JSON that comes back whole: a float that is not finite is written as "nan", "inf" or "-inf".

    JSON has no such numbers, and msgspec would write null, which is no float when read again (`strict=False` reads
    the words as the numbers they name).

    >>> encode([1.0, float("inf")]), msgspec.json.decode(encode([float("inf")]), type=list[float], strict=False)
    (b'[1.0,"inf"]', [inf])
    """
    line = msgspec.json.encode(data)
    return msgspec.json.encode(_in_words(msgspec.to_builtins(data))) if b"null" in line else line


def _in_words(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _in_words(item) for key, item in value.items()}
    return [_in_words(item) for item in value] if isinstance(value, list | tuple) else value
