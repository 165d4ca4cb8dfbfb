r"""How an elementwise optimizer's states lie in memory: rounding belongs to the store, not to the rule.

Every rule computes in float32; `state_format` says what is kept between steps, for any elementwise optimizer:

============  ==================  ===========================================================================
state_format  bytes an element    how
============  ==================  ===========================================================================
None          the parameter's     as torch: in the parameter's type, rounded to the nearest
"float32"     4                   also for parameters in bfloat16 or float16
"bfloat16"    2                   rounded by chance, so that an average takes in what is below half a step
"8bit"        1 + 4/256           blocks of 256 elements share a power of two; within it 8-bit floats, rounded by chance
============  ==================  ===========================================================================

The 8-bit floats have three bits of fraction (neighbours are 6 to 12 % apart). Signed states have four bits of exponent
(down to :math:`2^{-17}` of the block's largest, then 0), those that cannot be negative five (to :math:`2^{-33}`), and
only 0 becomes 0: a second moment that vanished would divide by epsilon. Chance is a hash of the element's index, the
parameter's place and the group's count of steps: a resumed run makes the same steps. States that are weights or step
lengths (`KEPT`), complex parameters, and with "8bit" parameters of fewer than 4096 elements stay in float32.

`rounding` says how parameters in bfloat16 or float16 are written: "nearest" loses every step below half a unit in the
last place (0.2 to 0.4 %); "stochastic" (bfloat16) is right on average; "kahan" keeps what was cut off in one more state
(`compensation`, 2 bytes an element) and adds it back at the next step.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivet.errors import InputError
from trivet.kernels.multi_tensor_stored import BLOCK, PARAMETER_STREAM, STREAMS, Column, Layout

__all__ = ["Rounding", "StateFormat", "decode", "decoded", "encode", "keys_of", "layout_of", "random_keys"]

StateFormat = Literal["float32", "bfloat16", "8bit"]
Rounding = Literal["nearest", "stochastic", "kahan"]

FORMATS: tuple[StateFormat, ...] = ("float32", "bfloat16", "8bit")
ROUNDINGS: tuple[Rounding, ...] = ("nearest", "stochastic", "kahan")
SMALL = 4096  # elements below which 8 bits save nothing worth having
CODES, SCALE, COMPENSATION = "_8bit", "_scale", "compensation"
HALF = 1 << 31  # in place of random bits: rounds to the nearest
MASK = 0xFFFFFFFF
# States that cannot be negative; and those whose first bits are not enough: weights, lengths.
UNSIGNED = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "sum", "exp_inf", "hessian"})
KEPT = frozenset({"z", "step_size"})


def narrow(group: Mapping[str, Any]) -> bool:
    """Return whether a group's states or parameters are stored other than torch stores them."""
    return group.get("state_format") is not None or group.get("rounding", "nearest") != "nearest"


def layout_of(group: Mapping[str, Any], param: Tensor, names: Sequence[str]) -> Layout:
    """Return how this parameter and its states are stored; raises `InputError` for what cannot be."""
    form, rounding = group.get("state_format"), group.get("rounding", "nearest")
    if form == "8bit" and hasattr(param, "to_local"):
        raise InputError(
            "state_format='8bit' is not offered for sharded parameters (DTensor): a block's scale would belong to no "
            "shard of a checkpoint; use state_format='bfloat16'"
        )
    if param.dtype in (torch.float64, torch.complex128):
        raise InputError(f"state_format and rounding are for arithmetic in float32; this parameter is {param.dtype}")
    if rounding == "stochastic" and param.dtype == torch.float16:
        raise InputError("rounding='stochastic' takes bfloat16 parameters; for float16 use rounding='kahan'")
    if param.is_complex():
        form = None if form is None else "float32"
    elif form == "8bit" and param.numel() < SMALL:
        form = "float32"
    dtype = torch.float32 if param.is_complex() else param.dtype
    return _layout(form, rounding, dtype, tuple(names))


@functools.cache
def _layout(form: StateFormat | None, rounding: Rounding, dtype: torch.dtype, names: tuple[str, ...]) -> Layout:
    half = dtype != torch.float32
    columns = [Column("stochastic" if half and rounding == "stochastic" else "plain", dtype)]
    for name in names:
        if form is None:
            columns.append(Column("plain", dtype))
        elif form == "float32" or name in KEPT:
            columns.append(Column("plain", torch.float32))
        elif form == "bfloat16":
            columns.append(Column("stochastic", torch.bfloat16))
        else:
            columns.append(Column("unsigned" if name in UNSIGNED else "signed", torch.uint8))
    return Layout(tuple(columns), compensated=half and rounding == "kahan")


@functools.cache
def keys_of(layout: Layout, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names under which these states are kept, in the order of the kernel's columns."""
    keys: list[str] = []
    for name, column in zip(names, layout.columns[1:], strict=True):
        keys += [name + CODES, name + SCALE] if column.scaled else [name]
    return (*keys, COMPENSATION) if layout.compensated else tuple(keys)


def unusual(group: Mapping[str, Any], param: Tensor, names: Sequence[str]) -> Layout | None:
    """Return how a parameter and its states are stored, or None where the ordinary kernel can store them."""
    layout = layout_of(group, param, names) if narrow(group) else None
    plain = layout is None or (not layout.compensated and all(column.kind == "plain" for column in layout.columns))
    return None if plain else layout


def random_keys(turn: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return 32 bits for each parameter, from the count of steps and its place."""
    mixed = places.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= np.uint64(turn * 0x9E3779B97F4A7C15 % (1 << 64))
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0x94D049BB133111EB)
    return (mixed >> np.uint64(32)).astype(np.int64)


# -- the same on tensors: the reference ---------------------------------------------------------------


def scrambled(count: int, key: int, device: torch.device) -> Tensor:
    """Return 32 random bits for each element, as int64."""
    x = (torch.arange(count, dtype=torch.int64, device=device) & MASK) ^ key
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D & MASK
    x = x ^ (x >> 15)
    x = x * 0x846CA68B & MASK
    return x ^ (x >> 16)


def decode(state: Mapping[str, Any], name: str) -> Tensor:
    """Return a state as numbers: what is stored, or a float32 tensor decoded from 8 bits."""
    codes = state.get(name + CODES)
    if codes is None:
        stored: Tensor = state[name]
        return stored
    return _decoded(codes, state[name + SCALE], "unsigned" if name in UNSIGNED else "signed")


def _flat(tensor: Tensor) -> Tensor:
    """Return a dense tensor's elements in the order in which they lie in memory."""
    return tensor if tensor.dim() == 1 else tensor.as_strided((tensor.numel(),), (1,))


def _decoded(codes: Tensor, scale: Tensor, kind: str) -> Tensor:
    c = _flat(codes).to(torch.int32)
    size = c & 0x7F if kind == "signed" else c
    unit, bias = (2.0**-17, 112) if kind == "signed" else (2.0**-33, 96)
    values = torch.where(size < 8, size * unit, ((size << 20) + (bias << 23)).view(torch.float32))
    if kind == "signed":
        values = torch.where(c >= 128, -values, values)
    values = values * scale.repeat_interleave(BLOCK)[: values.numel()]
    result = torch.empty_like(codes, dtype=torch.float32)
    _flat(result).copy_(values)
    return result


def encode(
    state: dict[str, Any], name: str, column: Column, value: Tensor, random: Tensor | int = HALF, stream: int = 1
) -> None:
    """Store a state's numbers as its column says, in place where there are tensors already."""
    if not column.scaled:
        stored = rounded(value, column, random, stream)
        if isinstance(state.get(name), Tensor) and state[name].dtype == column.dtype:
            state[name].copy_(stored)
        else:
            state[name] = stored.to(column.dtype).clone(memory_format=torch.preserve_format)
        return
    if name + CODES not in state:
        state[name + CODES] = torch.zeros_like(value, dtype=torch.uint8, memory_format=torch.preserve_format)
        blocks = -(-value.numel() // BLOCK)
        state[name + SCALE] = torch.zeros(blocks, dtype=torch.float32, device=value.device)
    codes, scale = state[name + CODES], state[name + SCALE]
    flat = _flat(torch.empty_like(codes, dtype=torch.float32).copy_(value))
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)
    scale.copy_(_scale(padded))
    y = (padded / scale[:, None]).reshape(-1)[: flat.numel()]
    _flat(codes).copy_(_encoded(y, column.kind, random * stream & MASK))


def rounded(value: Tensor, column: Column, random: Tensor | int, stream: int) -> Tensor:
    """Return a value as it will be stored; by chance, where the column says so and bits are given."""
    if column.kind != "stochastic" or isinstance(random, int):
        return value
    dense = torch.empty_like(value, dtype=torch.float32).copy_(value)
    flat = _flat(dense)
    bits = flat.view(torch.int32) + ((random * stream & MASK) >> 16).to(torch.int32)
    flat.copy_(torch.where(flat.isnan(), flat, (bits & ~0xFFFF).view(torch.float32)))
    return dense.to(column.dtype)


def _scale(blocks: Tensor) -> Tensor:
    """Return each block's power of two: the largest element is below twice that; NaN where one is not finite."""
    largest = blocks.abs().amax(dim=1)
    top = (largest * torch.tensor(16 / 15, dtype=torch.float32)).view(torch.int32) & 0x7F800000
    power = top.clamp(27 << 23, 252 << 23).view(torch.float32)
    return torch.where(largest.isfinite(), power, torch.nan)


def _encoded(y: Tensor, kind: str, random: Tensor | int) -> Tensor:
    size = y.abs()
    chance = random >> 12
    unit, small, bias, most = (2.0**17, 2.0**-14, 896, 127) if kind == "signed" else (2.0**33, 2.0**-30, 768, 255)
    wanted = chance.to(torch.float32) if isinstance(chance, Tensor) else float(chance)
    fine = (size.clamp(max=small) * unit + wanted * 2.0**-20).to(torch.int32)
    coarse = ((size.view(torch.int32) + chance) >> 20).to(torch.int32) - bias
    code = torch.where(size < small, fine, coarse).clamp(max=most)
    if kind == "signed":
        return code.clamp(min=0) | torch.where(y < 0, 128, 0)
    return torch.where((code == 0) & (size > 0), 1, code).clamp(min=0)


# -- saved states -------------------------------------------------------------------------------------


def decoded(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved state with every narrow state in float32: what torch's optimizer of that name can load.

    >>> from trivet.optim import AdamW
    >>> w = torch.nn.Parameter(torch.ones(64, 64)); w.grad = torch.ones(64, 64)
    >>> optimizer = AdamW([w], state_format="8bit"); optimizer.step()
    >>> sorted(optimizer.state_dict()["state"][0])
    ['exp_avg_8bit', 'exp_avg_scale', 'exp_avg_sq_8bit', 'exp_avg_sq_scale', 'step']
    >>> sorted(decoded(optimizer.state_dict())["state"][0])
    ['exp_avg', 'exp_avg_sq', 'step']
    """
    states = {key: numbers(state) for key, state in state_dict["state"].items()}
    own = ("state_format", "rounding", "rounded_steps")
    groups = [{key: value for key, value in group.items() if key not in own} for group in state_dict["param_groups"]]
    return dict(state_dict) | {"state": states, "param_groups": groups}


def numbers(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter's states by the rule's names, decoded, without what only a format needs."""
    result: dict[str, Any] = {}
    for key, value in state.items():
        if key.endswith(CODES):
            result[key.removesuffix(CODES)] = decode(state, key.removesuffix(CODES))
        elif key == COMPENSATION or (key.endswith(SCALE) and key.removesuffix(SCALE) + CODES in state):
            continue
        else:
            low = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
            result[key] = value.float() if low else value
    return result


def streams(count: int) -> list[int]:
    """Return the factor of the parameter's stream of random bits, then of each state's."""
    return [PARAMETER_STREAM, *(STREAMS[k % len(STREAMS)] for k in range(count))]
