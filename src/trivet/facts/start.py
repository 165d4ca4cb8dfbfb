"""What one forward and one backward pass on real rows show of a model before it has learned anything."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TypeAlias

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from trivet.facts.attention import attending

Inputs: TypeAlias = Tensor | tuple[Tensor, ...]
Criterion: TypeAlias = Callable[..., Tensor]

MATRICES = (nn.Linear, nn.Bilinear, _ConvNd)
ZEROING = {"relu", "relu_", "relu6", "threshold", "clamp_min"}
# Inputs are multiplied by this to see whether outputs stay within [0, 1] for whatever comes in.
STRETCH = 1e4


class Layer(msgspec.Struct, frozen=True):
    """A layer with a weight matrix, in the order in which layers are called.

    `activation` is the root mean square of its output, `signal` the part of it that differs from row to row, and
    `gradient` the norm of its weight's gradient over the weight's own norm (None where none arrives).
    """

    name: str
    activation: float
    signal: float
    gradient: float | None = None
    alike: bool = False  # every unit of the layer has the same weights, so all of them learn the same


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One step on real rows that is thrown away; numbers are None where they could not be measured.

    `zero_loss` is the loss of outputs that are all 0 (for logits, and their logarithms of probabilities, every class
    alike), `best_constant` that of the
    best output that ignores its input. `output` is "probabilities" when every row lies in [0, 1] and adds up to 1,
    "unit" when it only lies in [0, 1]; both hold for stretched inputs too, so they are not chance. `dead_share` is the
    largest share of units of a ReLU that are 0 on every row. `varies` is how much of the outputs' size differs from
    row to row, in [0, 1]. `attends` counts the modules in which attention was seen.
    """

    rows: int
    loss: float | None = None
    zero_loss: float | None = None
    best_constant: float | None = None
    gradient_norm: float | None = None
    layers: tuple[Layer, ...] = ()
    dead_share: float | None = None
    output: str = ""
    output_std: float | None = None
    varies: float | None = None
    attends: int = 0
    failed: str = ""


def measure_start(model: nn.Module, inputs: Inputs, targets: Tensor | None, loss: Criterion | None) -> Start:
    """Measure a copy of a model, in training mode, on one batch; the model and torch's random state stay as they are.

    >>> x, y = torch.randn(32, 4), torch.arange(32) % 3
    >>> start = measure_start(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), x, y, nn.CrossEntropyLoss())
    >>> start.output, round(start.zero_loss, 3)
    ('probabilities', 1.099)
    """
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda" and p.device.index})
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        twin = copy.deepcopy(model).train()
        twin.zero_grad(set_to_none=True)
        return _measure(twin, inputs, targets, copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss)


def call(model: nn.Module, inputs: Inputs) -> Tensor:
    """Call a model on a batch; a tuple is given as positional arguments."""
    output: Tensor = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return output


def align(output: Tensor, target: Tensor) -> Tensor:
    """Drop the last axis of an output `(batch, 1)` whose target is `(batch,)`, as training does."""
    return output.squeeze(-1) if output.ndim == target.ndim + 1 and output.shape[-1] == 1 else output


def best_constant(loss: Criterion, like: Tensor, targets: Tensor) -> float | None:
    """Return the least loss that one and the same output for every row can have; None where the loss refuses."""
    constant = torch.zeros([1, *(n if at == 0 else 1 for at, n in enumerate(like.shape[1:]))], requires_grad=True)
    search = torch.optim.LBFGS([constant], max_iter=40, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        value = loss(constant.expand_as(like), targets)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    try:
        search.step(closure)  # type: ignore[no-untyped-call]
        value = float(loss(constant.expand_as(like), targets).detach())
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None
    return value if math.isfinite(value) else None


class _Zeros(TorchFunctionMode):
    """Notes the share of units that a ReLU leaves at 0 on every row, for modules and functions alike."""

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[float] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ZEROING and isinstance(result, Tensor) and result.ndim >= 2:
            self.shares.append(_dead(result.detach()))
        return result


def _dead(seen: Tensor) -> float:
    """Return the share of units that are 0 everywhere; a unit is a channel of an image, or else of the last axis."""
    axis = 1 if seen.ndim in (2, 4, 5) else seen.ndim - 1
    return float((seen == 0).movedim(axis, 0).flatten(1).all(dim=1).float().mean())


def _measure(model: nn.Module, inputs: Inputs, targets: Tensor | None, loss: Criterion | None) -> Start:
    rows = len(inputs[0] if isinstance(inputs, tuple) else inputs)
    order: dict[str, tuple[float, float]] = {}
    hooks = [
        module.register_forward_hook(_note(order, name))
        for name, module in model.named_modules()
        if isinstance(module, MATRICES)
    ]
    try:
        with attending(model) as attends, _Zeros() as zeros:
            output = call(model, inputs)
    except Exception as error:  # anything may come out of somebody else's model; the finding says what
        return Start(rows=rows, failed=f"the model fails on the batch: {type(error).__name__}: {error}")
    finally:
        for hook in hooks:
            hook.remove()
    given: object = output
    if not isinstance(given, Tensor):
        return Start(rows=rows, failed=f"the model returned {type(output).__name__}, not one tensor")
    seen = output.detach().float()
    start = Start(
        rows=rows,
        dead_share=max(zeros.shares, default=None),
        output=_range(model, inputs, seen),
        output_std=float(seen.std()) if seen.numel() > 1 else None,
        varies=_varies(seen),
        attends=len(attends),
        layers=_layers(model, order),
    )
    return start if targets is None or loss is None else _with_loss(start, model, output, targets, loss, order)


def _note(order: dict[str, tuple[float, float]], name: str) -> Callable[[nn.Module, object, object], None]:
    def hook(module: nn.Module, given: object, output: object) -> None:
        if isinstance(output, Tensor):
            seen = output.detach().float()
            differs = seen.std(dim=0, correction=0).square().mean().sqrt()
            order.setdefault(name, (float(seen.square().mean().sqrt()), float(differs)))

    return hook


def _with_loss(
    start: Start,
    model: nn.Module,
    output: Tensor,
    targets: Tensor,
    loss: Criterion,
    order: dict[str, tuple[float, float]],
) -> Start:
    replace = msgspec.structs.replace
    output = align(output, targets)
    try:
        value = loss(output, targets)
        value = value.mean() if value.ndim else value
        trainable = [p for p in model.parameters() if p.requires_grad]
        if value.requires_grad and trainable:
            value.backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # as above
        return replace(
            start, failed=f"the loss fails on the batch: {type(error).__name__}: {str(error).splitlines()[0]}"
        )
    gradients = [p.grad.float().norm() for p in trainable if p.grad is not None]
    constant = _of_logits(loss) if _log_probabilities(output.detach()) else loss
    zero = _value(constant, torch.zeros_like(output), targets)
    own = any(p.requires_grad for p in loss.parameters()) if isinstance(loss, nn.Module) else False
    return replace(
        start,
        loss=float(value.detach()),
        zero_loss=zero,
        best_constant=None if own else best_constant(constant, output.detach(), targets),
        gradient_norm=float(torch.stack(gradients).norm()) if gradients else 0.0,
        layers=_layers(model, order),
    )


def _log_probabilities(output: Tensor) -> bool:
    """Return whether every row is the logarithm of a distribution; a constant output must be one too, then."""
    if output.ndim < 2 or output.shape[1] < 2 or not output.is_floating_point():
        return False
    return bool((output.float().logsumexp(dim=1).abs() < 1e-3).all())


def _of_logits(loss: Criterion) -> Criterion:
    return lambda output, target: loss(output.log_softmax(dim=1), target)


def _value(loss: Criterion, output: Tensor, targets: Tensor) -> float | None:
    try:
        value = float(loss(output, targets).detach().mean())
    except Exception:  # a loss that cannot take zeros has no such value
        return None
    return value if math.isfinite(value) else None


def _layers(model: nn.Module, order: dict[str, tuple[float, float]]) -> tuple[Layer, ...]:
    modules, found = dict(model.named_modules()), []
    for name, (activation, signal) in order.items():
        weight = getattr(modules[name], "weight", None)
        if not isinstance(weight, Tensor):
            continue
        size = float(weight.detach().float().norm())
        gradient = None if weight.grad is None else float(weight.grad.float().norm()) / max(size, 1e-12)
        found.append(Layer(name, activation, signal, gradient, _alike(weight.detach())))
    return tuple(found)


def _alike(weight: Tensor) -> bool:
    return len(weight) > 1 and size_of(weight) > 0 and bool((weight == weight[:1]).all())


def size_of(weight: Tensor) -> float:
    """Return the largest magnitude among a tensor's entries, 0 for an empty one."""
    return float(weight.abs().max()) if weight.numel() else 0.0


def _varies(output: Tensor) -> float | None:
    if len(output) < 2 or not output.isfinite().all():
        return None
    size = float(output.square().mean().sqrt())
    return float(output.std(dim=0, correction=0).square().mean().sqrt()) / size if size > 0 else 0.0


def _range(model: nn.Module, inputs: Inputs, output: Tensor) -> str:
    name = _kind_of_range(output)
    if not name or output.numel() < 8:
        return ""
    stretched = tuple(
        part * STRETCH if part.is_floating_point() else part
        for part in (inputs if isinstance(inputs, tuple) else (inputs,))
    )
    model.eval()
    try:
        with torch.no_grad():
            again = call(model, stretched if isinstance(inputs, tuple) else stretched[0]).float()
    finally:
        model.train()
    return name if _kind_of_range(again) == name else ""


def _kind_of_range(output: Tensor) -> str:
    if output.ndim < 2 or not output.numel() or not bool(((output >= 0) & (output <= 1)).all()):
        return ""
    adds_up = output.shape[1] > 1 and bool(((output.sum(1) - 1).abs() < 1e-3).all())
    return "probabilities" if adds_up else "unit"
