"""Stop before a NaN reaches the weights, and say where it came from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from trivet.errors import DivergedError
from trivet.optim import total_norm


class NonFiniteError(DivergedError):
    """A gradient is not finite; the weights are as they were. `layer`, `tensor` and `sample` say where it began."""

    def __init__(self, message: str, *, layer: str, tensor: str, sample: int | None) -> None:
        super().__init__(message)
        self.layer, self.tensor, self.sample = layer, tensor, sample


def check_gradients(model: nn.Module, batches: Sequence[tuple[object, ...]], step: int) -> None:
    """Raise `NonFiniteError` when a gradient of the model is not finite; costs one pass over the gradients."""
    params = [p for p in model.parameters() if p.grad is not None and not p.grad.is_sparse]
    if not params or math.isfinite(float(total_norm(params))):
        return
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
    if not bad:  # every gradient is finite and only their common norm overflows
        return
    # A copy: whoever watches the model sees the batches run again, and would hand them over without end.
    traces = (locate(model, inputs) for inputs in tuple(batches))
    layer, tensor, sample = next((trace for trace in traces if trace[0]), ("", "", None))
    if not layer:
        # The forward pass is sound: backward begins at the output, so the last bad gradient is the first that was made.
        layer, tensor = bad[-1].rpartition(".")[0] or "(model)", "gradient"
    advice = {
        "input": "drop or repair that row of the data",
        "output": "keep log, sqrt and division away from zero there, or try a lower rate if the loss was rising",
    }.get(tensor, "try a lower rate, a longer warmup, or clip the gradients")
    where = f", first at sample {sample} of the batch" if sample is not None else ""
    raise NonFiniteError(
        f"step {step}: {len(bad)} gradients are not finite, {bad[0]} among them; the first tensor that is not is the "
        f"{tensor} of {layer}{where}. The weights are untouched; {advice}",
        layer=layer,
        tensor=tensor,
        sample=sample,
    )


@torch.no_grad()
def locate(model: nn.Module, inputs: tuple[object, ...]) -> tuple[str, str, int | None]:
    """Run a batch again and return the first tensor that is not finite: layer, "input" or "output", sample.

    Buffers (running statistics) and random states are put back; three empty values where everything is finite.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> locate(model, (torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]),))
    ('(model)', 'input', 1)
    """
    for item in inputs:
        if isinstance(item, Tensor) and (sample := first_bad(item)) is not None:
            return "(model)", "input", sample
    for name, param in model.named_parameters():
        if not bool(param.isfinite().all()):
            return name.rpartition(".")[0] or "(model)", f"parameter {name.rpartition('.')[2]}", None
    found: list[tuple[str, str, int | None]] = []

    def look(name: str) -> object:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            items = output if isinstance(output, tuple) else (output,)
            for item in items:
                if not found and isinstance(item, Tensor) and (sample := first_bad(item)) is not None:
                    found.append((name or "(model)", "output", sample))

        return hook

    handles = [m.register_forward_hook(look(n)) for n, m in model.named_modules()]
    try:
        with _kept(model), contextlib.suppress(Exception):
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ("", "", None)


def first_bad(tensor: Tensor) -> int | None:
    """Return the first index along the batch whose values are not all finite, or None."""
    if not tensor.is_floating_point() or tensor.ndim == 0:
        return None
    bad = ~tensor.detach().isfinite().flatten(1).all(dim=1) if tensor.ndim > 1 else ~tensor.detach().isfinite()
    return int(bad.nonzero()[0]) if bool(bad.any()) else None


@contextlib.contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    with torch.random.fork_rng(enabled=True):
        try:
            yield
        finally:
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
