"""Compiling a rule for the CPU: a generated module, Numba's flags, the thread pool, and what must not enter it."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trivet.kernels import cache
from trivet.kernels.binding import Rule, bound_source

__all__ = ["STORAGE", "Storage", "call", "compiled", "forked", "module", "threads", "wrote"]

log = logging.getLogger("trivet.kernels")

# Multiplications may fuse with additions, signed zeros and divisions by a constant may be simplified. Sums keep their
# order (a Kahan sum would vanish), and NaN and infinity keep their meaning.
FLAGS = '{"contract", "nsz", "arcp"}'

# LLVM vectorises loops over more than four arrays only if told to check at run time that they do not overlap. And each
# vector waits for its own exp and log: working on four at a time, focal loss takes half the time.
LLVM = ("--runtime-memory-check-threshold=128", "--force-vector-interleave=4")

HEADER = """from numba import njit, prange
from numpy import float32, float64
import numpy as np
from trivet.kernels.memory import *
from trivet.kernels.xp import cpu_{compute} as xp

rule_function = njit(fastmath={flags}, forceinline=True, error_model="numpy")
kernel = njit(fastmath={flags}, error_model="numpy", nogil=True, cache=True)
threaded = njit(parallel=True, error_model="numpy", nogil=True, cache=True)
"""


class Storage(NamedTuple):
    """How a type lies in memory: what it is computed in, how an address is viewed, how an element is read, written."""

    compute: str
    view: str
    load: str
    store: str


STORAGE: dict[torch.dtype, Storage] = {
    torch.float32: Storage("float32", "view_float32", "same", "same"),
    torch.float64: Storage("float64", "view_float64", "same", "same"),
    torch.bfloat16: Storage("float32", "view_uint16", "widen_bfloat16", "narrow_bfloat16"),
    torch.float16: Storage("float32", "view_uint16", "widen_float16", "narrow_float16"),
}


@functools.cache
def _depends_on(compute: str) -> str:
    import llvmlite
    import numba

    here = Path(__file__).parent
    sources = [(here / name).read_text() for name in ("memory.py", f"xp/cpu_{compute}.py")]
    return "\0".join([*sources, *LLVM, numba.__version__, llvmlite.__version__])


@functools.cache
def _instruct_llvm() -> None:
    import llvmlite.binding as llvm

    for option in LLVM:
        llvm.set_option("trivet", option)


def compiled(rule: Rule, body: str, compute: str, numbers: tuple[str, ...] = (), also: str = "") -> ModuleType:
    """Return the module of a kernel: the header, the rule bound to `xp`, and the kernel's own body.

    What the rule computes from `numbers` alone is left to the host (`binding.on_host`); `also` is the source of what
    the body imports.
    """
    functions = bound_source(rule, compute, numbers).replace("def ", "@rule_function\ndef ")
    return module(functions + "\n\n" + body, compute, also)


def module(body: str, compute: str, also: str = "") -> ModuleType:
    """Return the generated module with the header and this body; `also` decides its machine code too."""
    _instruct_llvm()
    return cache.module(HEADER.format(compute=compute, flags=FLAGS) + "\n\n" + body, _depends_on(compute) + also)


_POOL = threading.Lock()
_HOME = os.getpid()


def forked() -> bool:
    """Return whether this process is a fork: its copy of the thread pool has no threads, and would wait for ever."""
    return os.getpid() != _HOME


def threads(elements: int) -> int:
    """Return how many threads to use: torch's number, or one where starting others costs more than it saves."""
    if elements < 1 << 15:
        return 1
    from numba import config

    return min(torch.get_num_threads(), int(config.NUMBA_NUM_THREADS))


def call(function: Callable[..., Any], *arguments: object, workers: int = 1) -> Any:
    """Call a kernel; its first use says when compiling took over a second.

    One kernel at a time uses the pool: Numba's plainest pool ends the process when two Python threads enter it.
    """
    if not function.signatures:  # type: ignore[attr-defined]
        return _first_call(function, arguments, workers)
    if workers == 1:
        return function(*arguments)
    return _in_pool(function, arguments, workers)


def _in_pool(function: Callable[..., Any], arguments: tuple[object, ...], workers: int) -> Any:
    import numba

    with _POOL:
        torchs = torch.get_num_threads()
        before = numba.get_num_threads()
        numba.set_num_threads(workers)
        try:
            return function(*arguments)
        finally:
            numba.set_num_threads(before)
            # Numba's OpenMP pool sets the number of threads of the whole process, torch's with it, when it starts.
            if torch.get_num_threads() != torchs:
                torch.set_num_threads(torchs)


def _first_call(function: Callable[..., Any], arguments: tuple[object, ...], workers: int) -> Any:
    began = time.perf_counter()
    result = _in_pool(function, arguments, workers)
    seconds = time.perf_counter() - began
    stats = function.stats  # type: ignore[attr-defined]
    if stats.cache_misses and seconds > 1:
        log.warning("compiled a kernel in %.1f s; it is kept in %s for later runs", seconds, cache.folder())
    return result


def wrote(tensors: Iterable[Tensor]) -> None:
    """Tell autograd that these were written in place: a kernel's writes are invisible to it."""
    torch.autograd.graph.increment_version(tensors)
