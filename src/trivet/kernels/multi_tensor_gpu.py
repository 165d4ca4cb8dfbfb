"""One launch for all parameters: an elementwise optimizer's rule over a table of chunks in the GPU's memory.

What a step adds, the addresses of the gradients and the per-step numbers, travels in one small copy from pinned
memory; all else lies on the device since the table was made. The host waits for nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trivet.errors import BackendError
from trivet.kernels import cpu, gpu, multi_tensor
from trivet.kernels.binding import Rule, on_host, parameters

__all__ = ["Table", "fits"]

CHUNK = 1 << 13  # elements of one program: 132 multiprocessors share a tensor of 1M elements evenly
BLOCK = 1 << 10  # elements at a time: two 16-byte reads for each of 128 threads and each column

# A mask hides from the compiler that neighbours lie side by side, so whole blocks go without one.
BODY = """
@triton.jit
def block(start, size, {columns}, {numbers}, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    i = start + tl.arange(0, BLOCK)
    inside = None if WHOLE else i < size
{loads}
    {results} = {rule}({arguments})
{stores}


@triton.jit
def update(chunks, addresses, fresh, tensors, status, BLOCK: tl.constexpr, ALIGNED: tl.constexpr):
    row = chunks + 3 * tl.program_id(0)
    tensor, offset, size = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    scalars = (fresh + tensors).to(tl.pointer_type(tl.{compute}), bitcast=True)
{pointers}
    if ALIGNED:
{hints}
{scalars}
    if status is not None:  # the guard's, which the host may not know yet: norm, factor, whether the step is made
        sign = sign * tl.load(status + 1)
        size = tl.where(tl.load(status + 2) != 0.0, size, 0)
    whole = size // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        block(start, size, {columns}, {numbers}, BLOCK, True)
    if whole < size:
        block(whole, size, {columns}, {numbers}, BLOCK, False)
"""


def fits(column: Sequence[Tensor]) -> bool:
    """Return whether these tensors (parameter, gradient, states) may be read and written as flat memory of a GPU."""
    first = column[0]
    return (
        gpu.executes(first)
        and all(
            t.dtype in gpu.COMPUTE
            and t.device == first.device
            and t.layout == torch.strided
            and t.shape == first.shape
            and t.stride() == first.stride()
            and not t.is_neg()
            for t in column
        )
        and multi_tensor._dense(first)
    )


class Table(multi_tensor.Table):
    """Tensors of one kind (type and device), ready for the kernel of one rule."""

    def __init__(self, rule: Rule, columns: Sequence[Sequence[Tensor]]) -> None:
        super().__init__(rule, columns)
        self.device = columns[0][0].device
        self.cuts = torch.from_numpy(_cut(self.sizes)).to(self.device)
        self.own = torch.from_numpy(self.addresses).to(self.device)

    def run(
        self,
        grads: Sequence[Tensor],
        scalars: NDArray[np.float64],
        *,
        recognised: bool = False,
        execute: multi_tensor.Execute | None = None,
        status: Tensor | None = None,
    ) -> None:
        """Run the rule in place on all tensors: one copy, one launch; `execute` is for the CPU.

        `scalars` has a row for each number of the rule and a last one for the gradient's sign, a column per tensor.
        `status` (see `kernels/norms.py`) lies on the device, and says there whether anything is done.
        """
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise BackendError(
                "a step was captured in a CUDA graph, where its numbers would stay those of the first step for ever; "
                "capture the forward and backward pass alone"
            )
        if not len(self.cuts):
            return
        grads = self._alike(grads)
        dtypes = (self.dtypes[0], grads[0].dtype, *self.dtypes[1:])
        addresses = multi_tensor.addresses(grads)
        aligned = not (np.bitwise_or.reduce(addresses) | np.bitwise_or.reduce(self.addresses, axis=None)) % 16
        numbers = multi_tensor._numbers(self.rule, len(dtypes), scalars)
        compute = gpu.COMPUTE[dtypes[0]]
        fresh = self._send(addresses, numbers.astype(compute))
        if status is not None:
            status = status.to(getattr(torch, compute))
        gpu.launch(
            _kernel(self.rule, dtypes).update, len(self.cuts),
            self.cuts, self.own, fresh, len(grads), status, like=fresh, BLOCK=BLOCK, ALIGNED=bool(aligned),
        )  # fmt: skip
        cpu.wrote(self.columns[0])

    def _send(self, addresses: NDArray[np.int64], scalars: NDArray[Any]) -> Tensor:
        """Return both on the device, one after the other; torch keeps the pinned memory until the copy is done."""
        count = len(addresses)
        words = -(-scalars.nbytes // 8)
        staged = torch.empty(count + words, dtype=torch.int64, pin_memory=self.device.type == "cuda")
        memory = staged.numpy()
        memory[:count] = addresses
        memory[count:].view(scalars.dtype)[: scalars.size] = scalars.reshape(-1)
        return staged.to(self.device, non_blocking=True)


def _cut(sizes: Sequence[int]) -> NDArray[np.int64]:
    """Cut tensors of these sizes into rows of (tensor, offset, size), in elements."""
    elements = np.array(sizes, dtype=np.int64)
    counts = -(-elements // CHUNK)
    tensor = np.repeat(np.arange(len(sizes)), counts)
    offset = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * CHUNK
    return np.stack([tensor, offset, np.minimum(CHUNK, elements[tensor] - offset)], axis=1)


@functools.cache
def _kernel(rule: Rule, dtypes: tuple[torch.dtype, ...]) -> Any:
    """Return the module for a rule over columns of these types; the last scalar is the gradient's sign."""
    numbers = parameters(rule)[len(dtypes) :]
    return gpu.compiled(rule, _body(rule, dtypes, len(numbers) + len(on_host(rule, numbers))), numbers)


def _body(rule: Rule, dtypes: tuple[torch.dtype, ...], count: int) -> str:
    compute = gpu.COMPUTE[dtypes[0]]
    types = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    columns = [f"a{k}" for k in range(len(dtypes))]
    numbers = [f"s{k}" for k in range(count)]
    written = [0, *range(2, len(dtypes))]  # all but the gradient
    rows = [0, None, *range(1, len(dtypes) - 1)]  # the gradients' addresses come with the step
    source = ["fresh" if row is None else f"addresses + {row} * tensors" for row in rows]
    values = [f"v{k}" for k in range(len(dtypes))]
    values[1] = "sign * v1"
    lines = {
        "pointers": [
            f"a{k} = tl.load({where} + tensor).to(tl.pointer_type(tl.{kind})) + offset"
            for k, (where, kind) in enumerate(zip(source, types, strict=True))
        ],
        "hints": [f"    {a} = tl.multiple_of({a}, 16)" for a in columns],
        "scalars": [f"{s} = tl.load(scalars + {k} * tensors + tensor)" for k, s in enumerate([*numbers, "sign"])],
        "loads": [f"v{k} = tl.load(a{k} + i, inside).to(tl.{compute})" for k in range(len(dtypes))],
        "stores": [f"tl.store(a{k} + i, r{k}.to(tl.{types[k]}), inside)" for k in written],
    }
    return BODY.format(
        rule=rule.__name__,
        compute=compute,
        columns=", ".join(columns),
        numbers=", ".join([*numbers, "sign"]),
        results=", ".join(f"r{k}" for k in written),
        arguments=", ".join(values + numbers),
        **{key: "\n".join("    " + line for line in value) for key, value in lines.items()},
    )
