"""Losses of two numbers for each target, a mean and its uncertainty: one pass gives the value and both gradients.

A rule takes an element of each input, one of the target and the loss's numbers, and returns the value and its two
derivatives. The inputs are two tensors of one shape, or the two planes of `(batch, 2, ...)`, read where they lie.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from trivet.kernels import buffers, cpu
from trivet.kernels.binding import Rule, parameters
from trivet.kernels.pages import fresh_like

__all__ = ["evaluate", "fits"]

BLOCK = 1024  # elements: a lane adds up 64 values at most in single precision
CHUNK = 64 * BLOCK  # elements: what threads share out; chunks are added in order, however many threads there are

BODY = """
summing = njit(fastmath={{"contract", "nsz", "arcp", "reassoc"}}, error_model="numpy", nogil=True, cache=True)


@summing
def block(x, y, t, w, g, h, v, scale{numbers}, size):
{views}
    factor, total = {compute}(scale), {compute}(0.0)
    for i in range(size):
        value, slope, other = {rule}({first}, {second}, t[i]{casted})
{body}
    return total


@kernel
def chunk(x, y, t, w, g, h, v, scale{numbers}, inner, begin, end):
    # The inputs of one sample lie together; the two planes of a sample lie `inner` elements apart.
    total = 0.0
    while begin < end:
        size = min({block}, end - begin, inner - begin % inner)
        at = {bytes} * ({planes} * (begin // inner) * inner + {step} * (begin % inner))
        to = {bytes} * begin
        total += block(x + at, y + at, t + to, w + to, g + at, h + at, v + to, scale{numbers}, size)
        begin += size
    return total


@kernel
def serial(x, y, t, w, g, h, v, scale{numbers}, inner, size):
    total = 0.0
    for begin in range(0, size, {chunk}):
        total += chunk(x, y, t, w, g, h, v, scale{numbers}, inner, begin, min(begin + {chunk}, size))
    return total


@threaded
def shared(x, y, t, w, g, h, v, scale{numbers}, inner, size, parts):
    chunks = (size + {chunk} - 1) // {chunk}
    sums = np.zeros(chunks)
    for part in prange(parts):
        for k in range(part * chunks // parts, (part + 1) * chunks // parts):
            end = min((k + 1) * {chunk}, size)
            sums[k] = chunk(x, y, t, w, g, h, v, scale{numbers}, inner, k * {chunk}, end)
    total = 0.0
    for k in range(chunks):
        total += sums[k]
    return total
"""


def fits(*tensors: Tensor) -> bool:
    """Return whether the kernel reads these: plain tensors of one type, float32 or float64, on the CPU."""
    first = tensors[0]
    return first.dtype in (torch.float32, torch.float64) and all(
        type(t) in (Tensor, torch.nn.Parameter)
        and t.dtype == first.dtype
        and t.device.type == "cpu"
        and t.layout == torch.strided
        for t in tensors
    )


def evaluate(
    rule: Rule,
    numbers: tuple[float, ...],
    input: Tensor,
    second: Tensor | None,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    scale: float = 1.0,
    values: bool = False,
    gradient: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the weighted sum of the values times `scale` (or the weighted values), and the gradients of both inputs.

    Args:
        rule: `(x, y, t, *numbers) -> (value, by x, by y)`.
        numbers: the rule's own.
        input: `(batch, 2, ...)` with both inputs, or the first of them, of target's shape.
        second: the other, of target's shape; None where `input` holds both.
        target: of `input`'s type.
        weight: of target's shape and type; an element of weight 0 takes no part.
        scale: what sum and gradients are multiplied by.
        values: return the weighted values, unscaled, in place of their sum.
        gradient: compute the gradients, the second None where `input` holds both.
    """
    x, t = input.detach().contiguous(), target.detach().contiguous()
    y = None if second is None else second.detach().contiguous()
    w = None if weight is None else weight.detach().contiguous()
    inner = t.numel() // len(t) if y is None and len(t) else max(t.numel(), 1)
    inner, step = max(inner, 1), 1
    if y is None and inner == 1:  # the two lie side by side: elements are two apart
        inner, step = max(t.numel(), 1), 2
    g = buffers.empty_like(x) if gradient else None
    h = fresh_like(y) if gradient and y is not None else None
    result = torch.empty_like(t) if values else None
    plane = x.element_size() * (1 if step == 2 else inner)
    first = x.data_ptr()
    slope = 0 if g is None else g.data_ptr()
    kernel = _kernel(rule, x.dtype, step, 1 if y is not None or step == 2 else 2, w is not None, values, gradient)
    call = (
        first, first + plane if y is None else y.data_ptr(), t.data_ptr(), 0 if w is None else w.data_ptr(),
        slope, slope + plane if h is None else h.data_ptr(), 0 if result is None else result.data_ptr(),
        scale, *numbers, inner, t.numel(),
    )  # fmt: skip
    workers = cpu.threads(t.numel())
    parts = () if workers == 1 else (workers,)
    total = cpu.call(kernel.shared if parts else kernel.serial, *call, *parts, workers=workers)
    return torch.tensor(scale * total, dtype=t.dtype) if result is None else result, g, h


@functools.cache
def _kernel(  # type: ignore[no-untyped-def]
    rule: Rule, dtype: torch.dtype, step: int, planes: int, weighted: bool, values: bool, gradient: bool
):
    compute = cpu.STORAGE[dtype].compute
    names = parameters(rule)[3:]
    # Neighbours are read and written through one array: of two that overlap nothing would become a vector.
    second, other = ("x[2 * i + 1]", "g[2 * i + 1]") if step == 2 else ("y[i]", "h[i]")
    views = [f"x, t = view_{compute}(x, {step} * size), view_{compute}(t, size)"]
    views += [f"y = view_{compute}(y, size)"] * (step == 1)
    views += [f"w = view_{compute}(w, size)"] * weighted + [f"v = view_{compute}(v, size)"] * values
    views += [f"g = view_{compute}(g, {step} * size)"] * gradient
    views += [f"h = view_{compute}(h, size)"] * (gradient and step == 1)
    body = []
    if weighted:
        body += ["weight = w[i]", f"counts = weight != {compute}(0.0)"]
        body += [f"{name} = weight * {name} if counts else {compute}(0.0)" for name in ("value", "slope", "other")]
    body += ["v[i] = value"] if values else ["total += value"]
    body += [f"g[{step} * i] = factor * slope", f"{other} = factor * other"] * gradient
    source = BODY.format(
        compute=compute, bytes=dtype.itemsize, block=BLOCK, chunk=CHUNK, rule=rule.__name__, step=step, planes=planes,
        first=f"x[{step} * i]", second=second,
        numbers="".join(f", {name}" for name in names),
        casted="".join(f", {compute}({name})" for name in names),
        views="\n".join("    " + line for line in views),
        body="\n".join("        " + line for line in body),
    )  # fmt: skip
    return cpu.compiled(rule, source, compute)
