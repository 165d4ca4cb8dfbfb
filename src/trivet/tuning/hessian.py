"""The largest curvature of a network's loss, and the rate at which gradient descent stops being stable there.

On a quadratic with curvature c a step of gradient descent multiplies the distance to the minimum by 1 - lr c: it
shrinks for lr < 2/c and grows beyond. A network's loss is no quadratic, but near any point its Hessian H says how steep
the steepest direction is, and training runs into the same limit (Cohen et al. 2021, "edge of stability").
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trivet.errors import InputError
from trivet.training import align, call

Input = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Curvature:
    """The largest eigenvalue of the Hessian, or of the preconditioned one, and what it means for the rate.

    There is an eigenvalue within `error` of `largest`. `limit` is the rate above which a step along that direction
    grows instead of shrinking, `None` where no such statement holds for the optimizer; `meaning` says so in words.
    `products` counts Hessian-vector products: each costs about two gradients.
    """

    largest: float
    error: float
    products: int
    limit: float | None
    meaning: str

    def __str__(self) -> str:
        return f"largest curvature {self.largest:.3g} (within {self.error:.1g}): {self.meaning}"


def curvature(
    model: nn.Module,
    loss: nn.Module,
    data: Iterable[tuple[Input, Tensor]],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    products: int = 100,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> Curvature:
    """Estimate the largest curvature of the mean loss over the batches of `data`, by power iteration.

    v <- Hv / |Hv| converges to the eigenvector of the eigenvalue that is largest in size; where that one is negative,
    H is shifted by it and the iteration begins again, so that the answer is the largest, not the most negative. Hv
    is a second backward pass (Pearlmutter 1994); no Hessian is stored. Nothing that is handed in is changed. Batch
    normalisation uses its batch, as in training; dropout is off, because a loss that is drawn anew has no Hessian.

    Arguments
    ---------
    optimizer : for the `limit`. SGD: 2/c, times 1 + m with momentum m (heavy ball), times (1 + m)/(1 + 2m) with
        Nesterov's. Adam and AdamW divide each coordinate by its own size P: the curvature that counts is that of
        P^-1 H, and the limit is 2 (1 + b1)/(1 - b1)/c (Cohen et al. 2022, "adaptive edge of stability"), from the
        second moments that the optimizer holds. RMSprop: the same with b1 = 0. For all others nothing is claimed.
    products : at most this many Hessian-vector products. tolerance : of `largest`, relative; it ends them earlier.

    Raises `InputError` for a model without trainable parameters, empty data, and a loss that is not finite.

    >>> line = torch.nn.Linear(1, 1, bias=False)
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> found = curvature(line, torch.nn.MSELoss(), [(x, x)])     # mean of (w x - x)^2: curvature 2 mean(x^2)
    >>> round(found.largest, 4), round(found.limit, 4)
    (10.0, 0.2)
    """
    batches = list(data)
    if not batches:
        raise InputError("the data yields no batches; give a loader with at least one")
    where = [index for index, p in enumerate(model.parameters()) if p.requires_grad]
    if not where:
        raise InputError("the model has no trainable parameters; unfreeze some, or give another model")
    scale, rule = _preconditioner(optimizer, [p for p in model.parameters() if p.requires_grad])
    model, loss = copy.deepcopy((model, loss))
    _still(model)
    product = _Product(model, loss, batches, [list(model.parameters())[index] for index in where], scale)
    generator = torch.Generator().manual_seed(seed)
    largest, error = _power(product, products, tolerance, generator, shift=0.0)
    if largest < 0:
        largest, error = _power(product, products, tolerance, generator, shift=-largest)
    return _explained(largest, error, product.count, rule)


class _Product:
    """v -> S H S v with S = P^(-1/2): symmetric, with the eigenvalues of P^-1 H; S = 1 without a preconditioner."""

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        batches: Sequence[tuple[Input, Tensor]],
        parameters: list[nn.Parameter],
        scale: list[Tensor] | None,
    ) -> None:
        self.model, self.loss, self.batches, self.parameters, self.scale = model, loss, batches, parameters, scale
        self.rows = sum(len(targets) for _, targets in batches)
        self.count = 0

    def __call__(self, vector: list[Tensor]) -> list[Tensor]:
        self.count += 1
        vector = vector if self.scale is None else [s * v for s, v in zip(self.scale, vector, strict=True)]
        total = [torch.zeros_like(v) for v in vector]
        for inputs, targets in self.batches:
            value = self.loss(align(call(self.model, inputs), targets), targets)
            if not math.isfinite(float(value.detach())):
                raise InputError(f"the loss is {float(value.detach())}: it has no curvature; look at data and weights")
            gradients = torch.autograd.grad(value, self.parameters, create_graph=True, materialize_grads=True)
            along = sum((g * v).sum() for g, v in zip(gradients, vector, strict=True))
            assert isinstance(along, Tensor)
            if along.requires_grad:  # a loss that is linear in the weights has no curvature
                second = torch.autograd.grad(along, self.parameters, materialize_grads=True)
                for sum_, part in zip(total, second, strict=True):
                    sum_.add_(part, alpha=len(targets) / self.rows)
        return total if self.scale is None else [s * t for s, t in zip(self.scale, total, strict=True)]


def _power(
    product: _Product, most: int, tolerance: float, generator: torch.Generator, *, shift: float
) -> tuple[float, float]:
    """Return the dominant eigenvalue of H + shift, less the shift, and the residual that bounds its error."""
    vector = [torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device) for p in product.parameters]
    value, error = 0.0, math.inf
    for _ in range(max(1, most)):
        size = math.sqrt(_dot(vector, vector))
        if size == 0:
            return 0.0, 0.0
        vector = [v / size for v in vector]
        image = [h + shift * v for h, v in zip(product(vector), vector, strict=True)]
        value = _dot(vector, image)
        error = math.sqrt(max(0.0, _dot(image, image) - value * value))
        if error <= tolerance * abs(value):
            break
        vector = image
    return value - shift, error


def _dot(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return float(sum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True)))


def _still(model: nn.Module) -> None:
    """Training mode, except for what draws random numbers."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
        elif isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            module.dropout = 0.0


def _preconditioner(
    optimizer: torch.optim.Optimizer | None, parameters: Sequence[Tensor]
) -> tuple[list[Tensor] | None, tuple[float | None, str]]:
    """Return P^(-1/2) per parameter (None: 1), the factor of the limit over 1/c, and in words what it rests on."""
    if optimizer is None:
        return None, (2.0, "plain gradient descent")
    name = type(optimizer).__name__
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    if any(id(p) not in groups for p in parameters):
        raise InputError("the optimizer does not hold all trainable parameters of the model; make it from this model")
    group = groups[id(parameters[0])]
    if name == "SGD":
        momentum = float(group["momentum"])
        factor = 2 * (1 + momentum) / (1 + 2 * momentum) if group["nesterov"] else 2 * (1 + momentum)
        return None, (factor, f"SGD with momentum {momentum:g}")
    if name not in ("Adam", "AdamW", "RMSprop"):
        return None, (None, name)
    states = [optimizer.state.get(p, {}) for p in parameters]
    key = "square_avg" if name == "RMSprop" else "exp_avg_sq"
    if not all(key in state for state in states):
        return None, (None, f"{name} before its first step")
    scales = []
    for p, state in zip(parameters, states, strict=True):
        own = groups[id(p)]
        correction = 1.0 if name == "RMSprop" else 1 - own["betas"][1] ** float(state["step"])
        scales.append((state[key].float().to(p.dtype).div(correction).sqrt() + own["eps"]).rsqrt())
    momentum = float(group["momentum"]) if name == "RMSprop" else 0.0
    beta = 0.0 if name == "RMSprop" else float(group["betas"][0])
    factor = 2 * (1 + momentum) * (1 + beta) / (1 - beta)
    return scales, (factor, f"{name} (preconditioned by its second moments)")


def _explained(largest: float, error: float, products: int, rule: tuple[float | None, str]) -> Curvature:
    factor, what = rule
    if factor is None:
        why = "its step length does not follow the gradient's, so 2 / curvature is no limit for it"
        if "before" in what:
            why = "its step is the gradient over its own size, which is known after some steps"
        return Curvature(largest, error, products, None, f"no limit is claimed for {what}: {why}")
    if largest <= 0:
        return Curvature(largest, error, products, None, "the loss bends upwards nowhere here, so it sets no limit")
    limit = factor / largest
    return Curvature(largest, error, products, limit, f"{what} is stable along it below a rate of {limit:.3g}")
