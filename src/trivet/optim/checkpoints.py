"""Loading a saved state: matched by name where both sides know names, with a readable difference otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.optim import storage

__all__ = ["fitted", "restore_types", "translated"]

SHOWN = 5  # differences that an error lists


def fitted(groups: Sequence[Mapping[str, Any]], state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state in the order of these groups; raise `InputError` with the differences where it does not fit.

    Names are known where the optimizer was made from `named_parameters()`; otherwise the order decides, as in torch.
    """
    saved = state_dict["param_groups"]
    if all("param_names" in group for group in (*groups, *saved)):
        state_dict = _by_name(groups, saved, state_dict)
    sizes, found = ([len(group["params"]) for group in some] for some in (groups, state_dict["param_groups"]))
    if sizes != found:
        raise InputError(
            f"the saved state has groups of {found} parameters, the optimizer of {sizes}; make the optimizer with the "
            "same groups (from named_parameters(), parameters are matched by name)"
        )
    differences = []
    for group, other in zip(groups, state_dict["param_groups"], strict=True):
        names = group.get("param_names", [f"number {key}" for key in other["params"]])
        for name, param, key in zip(names, group["params"], other["params"], strict=True):
            differences += _shapes(name, param, state_dict["state"].get(key, {}))
    if differences:
        shown = "; ".join(differences[:SHOWN]) + ("; ..." if len(differences) > SHOWN else "")
        raise InputError(f"the saved state belongs to other parameters: {shown}")
    return dict(state_dict)


def _by_name(
    groups: Sequence[Mapping[str, Any]], saved: Sequence[Mapping[str, Any]], state_dict: Mapping[str, Any]
) -> dict[str, Any]:
    home = {
        name: (group, key) for group in saved for name, key in zip(group["param_names"], group["params"], strict=True)
    }
    own = [name for group in groups for name in group["param_names"]]
    missing, unknown = [n for n in own if n not in home], [n for n in home if n not in set(own)]
    if missing or unknown:
        parts = [
            f"{what}: {', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"
            for what, names in (("not in the saved state", missing), ("only in the saved state", unknown))
            if names
        ]
        raise InputError(f"the saved state does not fit by name; {'; '.join(parts)}")
    arranged = []
    for group in groups:
        sources = {id(home[name][0]): home[name][0] for name in group["param_names"]}
        if len(sources) > 1:
            raise InputError(
                f"the parameters {', '.join(group['param_names'][:SHOWN])} are one group here and came from "
                f"{len(sources)} groups with their own options; make the optimizer with the same groups"
            )
        source = next(iter(sources.values()), {})
        keys = [home[name][1] for name in group["param_names"]]
        arranged.append({**source, "params": keys, "param_names": list(group["param_names"])})
    return dict(state_dict) | {"param_groups": arranged}


def _shapes(name: str, param: Tensor, state: Mapping[str, Any]) -> list[str]:
    """Say where a state cannot be this parameter's: a whole tensor of another shape."""
    return [
        f"{key} of {name} has shape {tuple(value.shape)}, the parameter {tuple(param.shape)}"
        for key, value in state.items()
        if isinstance(value, Tensor)
        and value.dim() == param.dim() > 0
        and not key.endswith(storage.SCALE)
        and _foreign(value.shape, param.shape)
    ]


def _foreign(state: torch.Size, param: torch.Size) -> bool:
    return any(a not in (b, 1) for a, b in zip(state, param, strict=True))  # factored states have axes of length 1


def translated(
    groups: Sequence[Mapping[str, Any]],
    state_dict: Mapping[str, Any],
    states: Callable[[Mapping[str, Any]], tuple[str, ...]],
) -> dict[str, Any]:
    """Return the state in the formats of these groups, which stay; what has them already is left bit for bit.

    Options that the saved groups do not know (torch's checkpoints know none of ours) stay as they are here.
    """
    found, arranged = dict(state_dict["state"]), []
    formats = ("state_format", "rounding")
    for group, saved in zip(groups, state_dict["param_groups"], strict=True):
        own = {"state_format": group.get("state_format"), "rounding": group.get("rounding", "nearest")}
        merged = {key: value for key, value in group.items() if key != "params"} | dict(saved) | own
        arranged.append(merged)
        if all(saved.get(name, first) == own[name] for name, first in zip(formats, (None, "nearest"), strict=True)):
            continue
        names = states(merged)
        for param, key in zip(group["params"], saved["params"], strict=True):
            if key in found:
                found[key] = _stored(merged, param, found[key], names)
    return dict(state_dict) | {"state": found, "param_groups": arranged}


def _stored(group: Mapping[str, Any], param: Tensor, saved: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a parameter's saved states as this group stores them, each number rounded to the nearest."""
    values = storage.numbers(saved)
    result = {key: value for key, value in values.items() if key not in names}
    if not storage.narrow(group):
        low = {torch.float16, torch.bfloat16}
        return result | {
            name: values[name].to(param.dtype) if param.dtype not in low else values[name]
            for name in names
            if name in values
        }
    layout = storage.layout_of(group, param, names)
    for name, column in zip(names, layout.columns[1:], strict=True):
        if name in values and param.is_complex():
            result[name] = values[name]
        elif name in values:
            storage.encode(result, name, column, values[name])
    return result


def restore_types(optimizer: torch.optim.Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Put back what loading has cast to the parameter's type (all but `step`), so that no bit is lost."""
    states = optimizer.__dict__["state"]  # not by the attribute: that would count as somebody else looking at states
    for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        for param, key in zip(group["params"], saved["params"], strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                loaded = states[param].get(name)
                if isinstance(value, Tensor) and isinstance(loaded, Tensor) and loaded.dtype != value.dtype:
                    states[param][name] = value.detach().to(loaded.device, copy=True)
