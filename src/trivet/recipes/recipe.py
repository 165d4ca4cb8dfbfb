"""Recipe, Edit, Advice, Finding: data only, never code."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from trivet.errors import RecipeError, RunError, nearest
from trivet.recipes.catalogue import check_loss, check_optimizer
from trivet.schedules import parse as parse_schedule

if TYPE_CHECKING:
    from torch import nn

    from trivet.recipes.build import Parts
    from trivet.recipes.export import Exportable

Scalar: TypeAlias = str | int | float | bool
Value: TypeAlias = Scalar | list[Scalar] | dict[str, Scalar | list[Scalar]] | None
Part: TypeAlias = dict[str, Scalar | list[Scalar]]

SCHEMA = 1


class Edit(msgspec.Struct, frozen=True):
    """A change to a recipe: the path of a field and its new value (`None` removes an optional one).

    >>> print(Edit("optimizer.lr", 1e-3))
    optimizer.lr = 0.001
    """

    path: str
    value: Value

    def __str__(self) -> str:
        return f"{self.path} = {format_value(self.value)}"


class Advice(msgspec.Struct, frozen=True, omit_defaults=True):
    """One reasoned choice: the edit, why, the numbers it rests on, where the rule comes from, what was turned down.

    `confidence` is in [0, 1]; `rejected` maps each alternative to the reason against it.
    """

    edit: Edit
    reason: str
    evidence: dict[str, float | int | str] = {}
    source: str = ""
    confidence: float = 0.5
    rejected: dict[str, str] = {}


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem, from lint (before a run) or the doctor (during and after): what, how bad, the evidence, the fix.

    Codes of lint begin with TV1, the doctor's with TV2. `fix` is an edit of the recipe where one helps, else an exact
    instruction. `step` and `layer` say where it was seen, `confidence` in [0, 1] how sure the rule is, and
    `refuted_by` what observation would show it to be wrong.
    """

    code: str
    severity: Literal["error", "warning", "note"]
    message: str
    evidence: dict[str, float | int | str] = {}
    fix: Edit | str = ""
    step: int | None = None
    layer: str = ""
    confidence: float = 1.0
    refuted_by: str = ""


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, eq=False):
    """Loss, optimizer and learning rate of a training run, with the few settings that go with them.

    Arguments
    ---------
    loss, optimizer : `{"name": ..., parameter: value}`; a bare name stands for `{"name": name}`.
    schedule : text form of a schedule, a factor of `optimizer.lr` over progress in [0, 1].
    batch_size : samples per forward pass. epochs : passes over the training split (may be fractional).
    clip : `{"norm": 1.0}` or `{"value": 0.5}`; nothing when left out.
    groups : `no_decay` (which families of parameters have no weight decay: "bias", "norm", "embedding")
        and `layer_decay` (factor of the rate from each layer to the one below it).
    precision : "float32" or "bfloat16" (autocast).  accumulate : batches per optimizer step, at most an epoch's.
    initialize : "model" (the weights it is made with), or "data": drawn anew, with unit variance in every layer on a
        training batch and the output at the best constant (`trivet.initialize`).
    spikes : "stop" at a loss that is not finite, or "skip" batches whose loss is far above the recent ones or not
        finite, going back to earlier weights when that does not end.

    Raises `RecipeError` for unknown names (the nearest is offered), unknown parameters, and impossible values.

    >>> recipe = Recipe(loss="mse_loss", optimizer={"name": "AdamW", "lr": 1e-3})
    >>> recipe.apply(Edit("optimizer.lr", 3e-4)).optimizer["lr"]
    0.0003
    >>> Recipe.from_toml(recipe.to_toml()) == recipe
    True
    """

    loss: Part
    optimizer: Part
    schedule: str = "constant()"
    batch_size: int = 128
    epochs: int | float = 20
    clip: dict[str, float] | None = None
    groups: dict[str, float | list[str]] = {}
    precision: Literal["float32", "bfloat16"] = "float32"
    accumulate: int = 1
    initialize: Literal["model", "data"] = "model"
    spikes: Literal["stop", "skip"] = "stop"
    why: tuple[Advice, ...] = ()

    def __post_init__(self) -> None:
        # A bare name is accepted for a part; the stored form is always the table.
        for field in ("loss", "optimizer"):
            part = getattr(self, field)
            if isinstance(part, str):
                msgspec.structs.force_setattr(self, field, {"name": part})
            elif not isinstance(part, Mapping) or not isinstance(part.get("name"), str):
                raise RecipeError(
                    f'{field} = {format_value(part)} has no name; write {field} = {{name = "..."}} (see: trivet show)'
                )
        check_loss(self.loss)
        check_optimizer(self.optimizer)
        text = str(parse_schedule(self.schedule))
        if text != self.schedule:
            msgspec.structs.force_setattr(self, "schedule", text)
        if not self.clip:
            msgspec.structs.force_setattr(self, "clip", None)
        _check_positive("batch_size", self.batch_size)
        _check_positive("epochs", self.epochs)
        _check_positive("accumulate", self.accumulate)
        _check_clip(self.clip)
        _check_groups(self.groups)

    # -- identity: what is run, not why it was chosen ---------------------------------------------

    def as_dict(self) -> dict[str, Value]:
        """Return the recipe as plain data, without the reasons; `from_dict` reads it back."""
        data: dict[str, Value] = msgspec.to_builtins(self)
        data.pop("why", None)
        return data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(self.to_toml())

    # -- change -----------------------------------------------------------------------------------

    def apply(self, *edits: Edit) -> Recipe:
        """Return the recipe with the edits made, in order; the reasons it carries stay with it."""
        data = self.as_dict()
        for edit in edits:
            _assign(data, edit)
        return msgspec.structs.replace(Recipe.from_dict(data), why=self.why)

    def advise(self, *advice: Advice) -> Recipe:
        """Return the recipe with each advice's edit made and the advice itself kept in `why`.

        A later advice on the same path replaces the earlier one.
        """
        changed = self.apply(*(item.edit for item in advice))
        paths = {item.edit.path for item in advice}
        kept = tuple(item for item in self.why if item.edit.path not in paths)
        return msgspec.structs.replace(changed, why=kept + advice)

    def differences(self, other: Recipe) -> tuple[Edit, ...]:
        """Return the edits that turn this recipe into the other one.

        >>> a = Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.1})
        >>> [str(edit) for edit in a.differences(a.apply(Edit("epochs", 5)))]
        ['epochs = 5']
        """
        mine, theirs = _flatten(self.as_dict()), _flatten(other.as_dict())
        return tuple(
            Edit(path, theirs.get(path)) for path in sorted(mine | theirs) if mine.get(path) != theirs.get(path)
        )

    # -- text -------------------------------------------------------------------------------------

    def to_toml(self) -> str:
        """Return the recipe as TOML; `Recipe.from_toml` reads it back to an equal recipe."""
        import tomli_w

        lines = [f"schema = {SCHEMA}"]
        for key, value in self.as_dict().items():
            # Small tables stay on one line: a recipe is read at a glance.
            if isinstance(value, dict):
                lines.append(f"{key} = {format_value(value)}")
            else:
                lines.append(tomli_w.dumps({key: value}).strip())
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, *, where: str = "recipe") -> Recipe:
        """Read a recipe from TOML text; `where` names its origin in errors."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"{where} is not valid TOML: {error}") from error
        try:
            return cls.from_dict(data)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from error

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Recipe:
        """Build a recipe from plain data, with one clear error for whatever does not fit."""
        data = dict(data)
        schema = data.pop("schema", SCHEMA)
        if schema != SCHEMA:
            raise RecipeError(f"schema = {schema!r} is not known; this version reads schema = {SCHEMA}")
        fields = [name for name in cls.__struct_fields__ if name != "why"]
        for key in data:
            if key not in fields:
                raise RecipeError(
                    f"unknown field {key!r}{nearest(key, fields) or '.'} Allowed: schema, {', '.join(fields)}"
                )
        for field in ("loss", "optimizer"):
            if field not in data:
                raise RecipeError(f'no {field} is given; write {field} = {{name = "..."}}')
            if isinstance(data[field], str):
                data[field] = {"name": data[field]}
        try:
            return msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise RecipeError(_plain(error, data)) from error

    def save(self, path: str | Path) -> Path:
        """Write the recipe as TOML (atomically) and return the path."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.part")
        try:
            temporary.write_text(self.to_toml(), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise RunError(f"cannot write the recipe to {path}: {error.strerror}") from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file written by `save` or by hand."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise RecipeError(f"cannot read the recipe {path}: {reason}") from error
        return cls.from_toml(text, where=str(path))

    # -- use --------------------------------------------------------------------------------------

    def build(self, model: nn.Module, *, steps: int, steps_per_epoch: int | None = None) -> Parts:
        """Return the loss, optimizer, scheduler and clipping for a model and a number of optimizer steps.

        `steps_per_epoch` is needed only for schedules that count epochs.

        >>> import torch
        >>> model = torch.nn.Linear(3, 1)
        >>> recipe = Recipe(loss="mse_loss", optimizer={"name": "SGD", "lr": 0.1}, schedule="cosine()")
        >>> parts = recipe.build(model, steps=10)
        >>> parts.loss(model(torch.ones(2, 3)), torch.zeros(2, 1)).backward()
        >>> norm = parts.clip(model); parts.optimizer.step(); parts.scheduler.step()
        """
        from trivet.recipes.build import build

        return build(self, model, steps=steps, steps_per_epoch=steps_per_epoch)

    def to_python(self, task: Exportable | None = None) -> str:
        """Return a plain PyTorch script that trains with this recipe (see `trivet.recipes.export`)."""
        from trivet.recipes.export import to_python

        return to_python(self, task)

    def explain(self) -> str:
        """Return the recipe and the reasons for it as text for a person."""
        from trivet.recipes.explain import explain

        return explain(self)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.explain())}</pre>"


def format_value(value: object) -> str:
    """Write a value as one line of TOML: tables inline, floats short, nothing for `None`."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {format_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(format_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if value is None:
        return "(removed)"
    return repr(value)


def _check_positive(field: str, value: float) -> None:
    if not value > 0 or value == float("inf"):
        raise RecipeError(f"{field} = {value!r} must be a finite number above 0")


def _check_clip(clip: Mapping[str, float] | None) -> None:
    if clip is None:
        return
    for key, value in clip.items():
        if key not in ("norm", "value"):
            raise RecipeError(f"unknown clip {key!r}{nearest(key, ['norm', 'value']) or '.'} Allowed: norm, value")
        _check_positive(f"clip.{key}", value)


def _check_groups(groups: Mapping[str, float | list[str]]) -> None:
    families = ["bias", "norm", "embedding"]
    for key, value in groups.items():
        if key == "no_decay" and isinstance(value, list):
            for family in value:
                if family not in families:
                    raise RecipeError(
                        f"unknown family {family!r} in groups.no_decay{nearest(family, families) or '.'} "
                        f"Allowed: {', '.join(families)}"
                    )
        elif key == "layer_decay" and not isinstance(value, list):
            if not 0 < value <= 1:
                raise RecipeError(f"groups.layer_decay = {value!r} must lie in (0, 1]")
        else:
            allowed = ["no_decay", "layer_decay"]
            raise RecipeError(
                f"groups.{key} = {format_value(value)} is not understood{nearest(key, allowed)}; "
                "allowed: no_decay = [families], layer_decay = number"
            )


def _assign(data: dict[str, Value], edit: Edit) -> None:
    """Set one path of plain recipe data; a path names a field, or a field and a key inside it."""
    field, _, key = edit.path.partition(".")
    if not key:
        target, name = data, field
    else:
        inner = data.setdefault(field, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"cannot set {edit.path}: {field} is not a table")
        target, name = inner, key  # type: ignore[assignment]
    if edit.value is None:
        target.pop(name, None)
    else:
        target[name] = edit.value


def _flatten(data: Mapping[str, Value]) -> dict[str, Value]:
    flat: dict[str, Value] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": item for inner, item in value.items()}
        else:
            flat[key] = value
    return flat


def _plain(error: msgspec.ValidationError, data: Mapping[str, object]) -> str:
    """Turn msgspec's message into trivet's: the field, what was given, what is allowed."""
    message, _, where = str(error).partition(" - at ")
    path = where.strip("`").removeprefix("$").strip(".[]")
    if not path:
        return message
    given: object = data
    for key in path.split("."):
        given = given.get(key) if isinstance(given, Mapping) else given
    message = message.replace("`object", "`table").replace("| null`", "| nothing`").replace("`null", "`nothing")
    hint = " (write the number without quotes)" if isinstance(given, str) and "got `str`" in message else ""
    return f"{path} = {format_value(given)}: {message[0].lower() + message[1:]}{hint}"
