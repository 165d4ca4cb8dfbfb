"""Start where learning is easy: unit variance in every layer on real data, the output at the best constant."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from trivet.errors import InputError

# Passes over the batch per layer; one is exact for a linear layer, more are for layers that are called repeatedly.
PASSES = 4
CLOSE = 0.02
# Spread of the first outputs: far less than the targets', so that the first loss is that of the best constant.
OUTPUT = 0.1


@torch.no_grad()
def initialize(
    model: nn.Module,
    batch: Tensor | tuple[Tensor, ...],
    targets: Tensor | None = None,
    *,
    loss: nn.Module | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Draw the weights of a model anew and scale each layer, first to last, to unit variance on a real batch.

    Linear and convolutional layers get orthonormal weights and zero biases, then are divided by the standard deviation
    of their outputs on `batch`. The last one's outputs get a tenth of that; with `targets` and `loss` its bias becomes
    the best constant output (the classes' log shares, the targets' mean, what the loss asks for). Frozen and shared
    weights, embeddings, normalisation and recurrent layers stay as they are. Random numbers come from `seed`; torch's
    own stay untouched. Returns the factor that each layer's weights were scaled by.

    Not for trained weights: it replaces them. Raises `InputError` when outputs on the batch are not finite.

    >>> model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3))
    >>> x, y = 50 * torch.randn(256, 4), torch.tensor([0] * 200 + [1] * 40 + [2] * 16)
    >>> factors = initialize(model, x, y, loss=nn.CrossEntropyLoss())
    >>> round(float(model[0](x).std()), 1), [round(p, 2) for p in model[4].bias.softmax(0).tolist()]
    (1.0, [0.78, 0.16, 0.06])

    Source: Mishkin and Matas, "All you need is a good init", 2016; the output bias: Karpathy, "A recipe for training
    neural networks", 2019.
    """
    inputs = batch if isinstance(batch, tuple) else (batch,)
    with _as_is(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = model(*inputs)  # lazy layers take their shapes
        layers = _called(model, inputs)
        factors: dict[str, float] = {}
        for _, layer in layers:
            _draw(layer)
        for name, layer in layers:
            last = layer is layers[-1][1]
            factors[name] = _scale(model, inputs, name, layer, OUTPUT if last else 1.0)
        if layers and targets is not None and loss is not None:
            output = model(*inputs)
            _set_bias(layers[-1][1], output, targets, loss)
        if isinstance(output, Tensor) and not bool(model(*inputs).isfinite().all()):
            raise InputError("the outputs are not finite after initialisation; look for NaN in the batch")
    return factors


def best_constant(loss: nn.Module, output: Tensor, targets: Tensor) -> tuple[Tensor, float] | None:
    """Return the output that, the same for every sample, has the least loss, and that loss; None where there is none.

    `output` gives the shape: its second axis (classes, or targets) has a number each, all other axes share it.

    >>> constant, least = best_constant(nn.MSELoss(), torch.zeros(4, 1), torch.tensor([[1.0], [2.0], [3.0], [2.0]]))
    >>> round(float(constant), 3), round(least, 3)
    (2.0, 0.5)
    """
    if any(p.requires_grad for p in loss.parameters()):
        return None
    shape = [1, *(n if axis == 0 else 1 for axis, n in enumerate(output.shape[1:]))]
    constant = torch.zeros(shape, device=output.device)
    if targets.is_floating_point() and targets.numel() == len(targets):
        constant += targets.float().median()
    start = constant.clone()
    constant.requires_grad_()
    search = torch.optim.LBFGS([constant], max_iter=40, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        value: Tensor = loss(constant.expand(len(targets), *output.shape[1:]), targets)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    try:
        with torch.enable_grad():
            first = float(closure().detach())
            search.step(closure)  # type: ignore[no-untyped-call]
            least = float(closure().detach())
    except Exception:  # a loss of somebody else may refuse a constant in any way it likes; then there is none
        return None
    if math.isfinite(least) and least <= first:
        return constant.detach(), least
    return (start, first) if math.isfinite(first) else None


@contextlib.contextmanager
def _as_is(model: nn.Module) -> Iterator[None]:
    """Run the model without dropout and without moving its running statistics, then put its mode back."""
    training = model.training
    model.eval()
    # Batch statistics that are still fresh would not normalise: those layers look at the batch itself.
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(m, m.momentum) for m in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in kept:
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()
        model.train(training)


def _called(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[tuple[str, nn.Module]]:
    """Return the layers to draw in the order of their first call; shared and frozen weights are left out."""
    counts: dict[int, int] = {}
    for _, param in model.named_parameters(remove_duplicate=False):
        counts[id(param)] = counts.get(id(param), 0) + 1
    order: list[tuple[str, nn.Module]] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | _ConvNd) and module.weight.requires_grad and counts[id(module.weight)] == 1:

            def note(module: nn.Module, args: object, output: object, name: str = name) -> None:
                if all(module is not known for _, known in order):
                    order.append((name, module))

            handles.append(module.register_forward_hook(note))
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return order


def _draw(layer: nn.Module) -> None:
    assert isinstance(layer, nn.Linear | _ConvNd)
    nn.init.orthogonal_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _scale(model: nn.Module, inputs: tuple[Tensor, ...], name: str, layer: nn.Module, wanted: float) -> float:
    """Divide a layer's weights until its outputs have the wanted standard deviation; return the whole factor."""
    assert isinstance(layer, nn.Linear | _ConvNd)
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output.detach().float()))
    factor = 1.0
    try:
        for _ in range(PASSES):
            seen.clear()
            model(*inputs)
            std = float(torch.cat([x.flatten() for x in seen]).std())
            if not math.isfinite(std):
                raise InputError(f"the outputs of {name} on the batch are not finite; look for NaN in the batch")
            if std <= 1e-12 or abs(std / wanted - 1) < CLOSE:
                break
            layer.weight.mul_(wanted / std)
            factor *= wanted / std
    finally:
        handle.remove()
    return factor


def _set_bias(layer: nn.Module, output: Tensor, targets: Tensor, loss: nn.Module) -> None:
    bias = getattr(layer, "bias", None)
    if not isinstance(bias, Tensor):
        return
    shaped = output.squeeze(-1) if output.ndim == targets.ndim + 1 and output.shape[-1] == 1 else output
    found = best_constant(loss, shaped, targets)
    if found is None:
        return
    constant = found[0].flatten()
    if constant.numel() == bias.numel() and bool(constant.isfinite().all()):
        # A class without a sample would get minus infinity; ten says "one in 20,000" and can still be learned.
        middle = constant.median()
        bias.copy_((constant - middle).clamp(-10, 10) + middle if bias.numel() > 1 else constant)
