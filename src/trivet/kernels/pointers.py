"""Where many tensors lie: asked of each, or found in two calls for tensors that look as they did before.

A step over 800 tensors asks each gradient for its type, layout, size and address, and each parameter whether it has
moved. In Python that takes longer than updating them. torch.compile has the same question before it runs a graph, and
torch answers it for a whole list in one call; the address is what its generated code asks a tensor for. Neither is part
of torch's public interface, so they are used in the releases that they were tested with, and nowhere else.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivet.kernels import cpu

__all__ = ["Likeness", "addresses", "numbers_of"]

TESTED = ("2.13.",)  # releases of torch

# Unlike other kernels this one keeps the interpreter's lock: it looks into the interpreter's objects.
BODY = """
@njit(error_model="numpy", cache=True)
def look_up(address_of, objects, addresses):
    for k in range(objects.size):
        addresses[k] = ask(address_of, objects[k])
"""


def addresses(tensors: Sequence[Tensor]) -> NDArray[np.int64]:
    """Return where each tensor's elements begin."""
    return np.fromiter(map(Tensor.data_ptr, tensors), np.int64, len(tensors))


def numbers_of(tensors: Sequence[Tensor]) -> NDArray[np.int64]:
    """Return the numbers of these objects, by which `Likeness` finds them."""
    return np.fromiter(map(id, tensors), np.int64, len(tensors))


class Likeness:
    """How tensors look: each one's class, type, device, layout, sizes, strides and whether it wants a gradient.

    >>> known = Likeness([torch.zeros(2), torch.zeros(3)])
    >>> known.of([torch.ones(2), torch.ones(3)]), known.of([torch.ones(3), torch.ones(2)])
    (True, False)
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._guards = (
            torch._C._dynamo.guards.TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
            if offered()
            else None
        )

    def of(self, tensors: Sequence[Tensor | None]) -> bool:
        """Return whether these look so, no two of them are one, and their addresses may be looked up."""
        return self._guards is not None and self._guards.check(*tensors)

    @staticmethod
    def look_up(objects: NDArray[np.int64], into: NDArray[np.int64]) -> None:
        """Write the addresses of tensors that are like those known; `objects` are their `numbers_of`."""
        address_of = torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr  # type: ignore[attr-defined]
        cpu.call(_kernel().look_up, address_of, objects, into)


@functools.cache
def offered() -> bool:
    """Return whether this release of torch has what is needed, and was tested."""
    return torch.__version__.startswith(TESTED)


@functools.cache
def _kernel():  # type: ignore[no-untyped-def]
    return cpu.module(BODY, "float32")
