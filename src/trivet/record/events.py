"""The schema of a record: one struct per kind of event, one JSON object per line.

Times are seconds since the run began, over all its parts; steps are optimizer steps, counted from 1.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import msgspec

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


Event: TypeAlias = Start | Step | Eval | Note | Resume | End


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
