"""Compiling a rule for the GPU: a generated module for Triton, and when it may be used.

Triton is imported at the first kernel, never before: the core works without it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from trivet.errors import BackendError
from trivet.kernels import cache
from trivet.kernels.binding import Rule, bound_source

__all__ = ["COMPUTE", "available", "compiled", "executes", "interpreting", "launch", "module", "numbers", "takes"]

log = logging.getLogger("trivet.kernels")

# Which type each storage type is computed in; Triton has torch's names for them.
COMPUTE = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "float32",
    torch.float16: "float32",
}

HEADER = """import triton
import triton.language as tl
from trivet.kernels.xp import gpu as xp
"""


@functools.cache
def available() -> bool:
    """Return whether Triton can be imported."""
    return find_spec("triton") is not None


def interpreting() -> bool:
    """Return whether Triton's interpreter runs kernels on the CPU (TRITON_INTERPRET=1): slow, for tests."""
    return available() and os.environ.get("TRITON_INTERPRET") == "1"


def executes(tensor: Tensor) -> bool:
    """Return whether Triton's kernels run where this tensor lies."""
    if tensor.device.type != "cuda" or interpreting():
        return tensor.device.type == "cpu" and interpreting()
    return available() and _modern(tensor.device.index)


@functools.cache
def _modern(device: int) -> bool:
    # Before sm_80 there is no maximum that keeps NaN, and Triton does not promise to compile.
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def takes(fits: bool, named: bool, what: str, tensor: Tensor) -> bool:
    """Return `fits`: whether Triton's kernel takes what is given, of which `tensor` is an example.

    Raises `BackendError` where it does not and `backend="triton"` was named; where Triton is missing on a GPU, says
    once that the slower reference runs.
    """
    if fits:
        return True
    if not named:
        if not available():
            _say_absent()
        return False
    if not available():
        raise BackendError(f"backend='triton' cannot {what}: Triton is not installed; pip install 'trivet[gpu]'")
    raise BackendError(
        f"backend='triton' cannot {what} of {tensor.dtype} on {tensor.device} with strides {tensor.stride()}; it takes "
        "floating-point tensors without holes on a GPU of compute capability 8.0 or later; use backend='auto'"
    )


@functools.cache
def _say_absent() -> None:
    log.warning("no kernels on this GPU, since Triton is not installed: pip install 'trivet[gpu]'; torch runs instead")


@functools.cache
def _depends_on() -> str:
    import triton

    return "\0".join([(Path(__file__).parent / "xp" / "gpu.py").read_text(), triton.__version__])


def compiled(rule: Rule, body: str, numbers: tuple[str, ...] = ()) -> ModuleType:
    """Return the module of a kernel: the header, the rule bound to `xp`, and the kernel's own body.

    `numbers` are the rule's per-step numbers, of whose expressions the kernel is handed the results.
    """
    return module(bound_source(rule, None, numbers).replace("def ", "@triton.jit\ndef ") + "\n\n" + body)


def module(body: str) -> ModuleType:
    """Return the generated module with the header and this body; Triton reads a kernel's source from its file."""
    return cache.module(HEADER + "\n\n" + body, _depends_on())


@functools.lru_cache(256)
def numbers(device: torch.device, dtype: torch.dtype, values: tuple[float, ...]) -> Tensor:
    """Return these numbers on the device, sent once: Triton would round a Python float to single precision."""
    return torch.tensor(values, dtype=dtype).to(device)


def launch(kernel: Any, programs: int, *arguments: object, like: Tensor, **constants: object) -> None:
    """Start `programs` copies of a kernel on the device of `like`, in torch's current stream.

    Products fuse with sums, as on the CPU: said here, because Triton 3.10 changes what it does unasked.
    """
    guard = torch.cuda.device(like.device) if like.is_cuda else contextlib.nullcontext()
    began = time.perf_counter()
    with guard:
        kernel[(programs,)](*arguments, enable_fp_fusion=True, **constants)
    if (seconds := time.perf_counter() - began) > 1 and not interpreting():
        log.warning("compiled %s for %s in %.1f s; Triton keeps it for later runs", kernel, like.device, seconds)
