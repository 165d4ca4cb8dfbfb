"""One look into a model during one step: hooks are armed for it and gone after it.

What a `Probe.numbers` may hold, each taken from the step's own batch:

    descent       cosine between the step and minus the gradient; below zero the step climbs
    turn          cosine between this step's gradient and the next one's (a fixed sample of coordinates)
    stale         1 when the first backward pass after a step met gradients that were not cleared
    shrunk        what clipping left of the gradient, as a factor
    training      1 when the model is in training mode
    row_sum       share of output rows that are probabilities already (not negative, sum 1)
    is_ce, is_mse 1 when the loss is cross entropy on, or the mean square of, the outputs as they are
    label_entropy entropy of the batch's labels, nats
    outlier_mass, outlier_share  share of the squared error in, and of samples beyond, six robust deviations
    out_mean, out_std            of the outputs
    bad_inputs, bad_outputs      how many numbers are not finite
    seen.K, hit.K  samples of class K in the batch, and how many of them the outputs name
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from trivet.record import Probe

SQUASHING: tuple[type[nn.Module], ...] = (nn.Tanh, nn.Sigmoid, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid)
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.ReLU6, nn.PReLU, *SQUASHING)
SKETCH = 512  # coordinates of the gradient that consecutive steps are compared on
CLASSES = 20  # more classes than this are not told apart


class Sampler:
    """Knows the layers of a model and takes probes of single steps; `begin`, then the step, then `finish`."""

    def __init__(self, model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        self.model = model
        self.whole = getattr(model, "_orig_mod", model)  # the hooks of a compiled model's parts would break its graph
        self.hookable = self.whole is model
        self.names, self.modules = _layers(self.whole)
        self.optimizers = list(optimizers)
        self.owned = [p for o in self.optimizers for g in o.param_groups for p in g["params"]]
        self.handles: list[RemovableHandle] = []
        self.armed = False
        self.sketch: Tensor | None = None
        self.fresh = True  # no backward pass since the last optimizer step
        self._clear()

    def _clear(self) -> None:
        self.seen: dict[str, dict[int, Tensor]] = {"rms": {}, "std": {}, "saturated": {}}
        self.numbers: dict[str, float | Tensor] = {}
        self.output: Tensor | None = None
        self.target: Tensor | None = None
        self.inputs: Tensor | None = None
        self.before: list[Tensor] = []
        self.columns: dict[str, list[float]] = {}

    # -- arming -------------------------------------------------------------------------------------

    def begin(self, criterion: nn.Module | None) -> None:
        """Arm the hooks for the next step."""
        self._clear()
        self.armed = True
        self.params, self.owner = _parameters(self.modules)
        add = self.handles.append
        if self.hookable:
            for index, module in enumerate(self.modules):
                add(module.register_forward_hook(self._on_layer(index)))
        add(self.model.register_forward_hook(self._on_model))
        if criterion is not None:
            add(criterion.register_forward_pre_hook(self._on_loss))
        sentinel = next((p for p in reversed(self.params) if p.requires_grad and p.ndim >= 2), None)
        if sentinel is not None:
            self.sentinel = sentinel
            self.backwards, self.sentinel_norm = 0, _no_norm()
            add(sentinel.register_hook(self._on_gradient))  # type: ignore[no-untyped-call]
            add(sentinel.register_post_accumulate_grad_hook(self._on_sum))  # type: ignore[no-untyped-call]

    def disarm(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.armed = False

    def _on_layer(self, index: int) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, tuple) and output:
                output = output[0]
            if not isinstance(output, Tensor) or not output.is_floating_point() or index in self.seen["rms"]:
                return
            x = output.detach().float()
            if x.ndim < 2 or x.shape[0] < 2:
                return
            # Long activations are sampled: a probe looks at the shape of a distribution, not at every pixel.
            x = x.flatten(1)[:, :: max(1, x[0].numel() // 1024)][:64]
            self.seen["rms"][index] = x.square().mean().sqrt()
            self.seen["std"][index] = x.var(dim=0).mean().sqrt()
            if isinstance(module, (*SQUASHING, nn.RNN, nn.LSTM, nn.GRU)):
                low = 0.0 if isinstance(module, nn.Sigmoid | nn.Hardsigmoid) else -1.0
                inner = (x - low) / (1.0 - low)
                self.seen["saturated"][index] = ((inner < 0.02) | (inner > 0.98)).float().mean()

        return look

    def _on_model(self, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        self.numbers["training"] = float(module.training)
        first = next((x for x in inputs if isinstance(x, Tensor)), None)
        if first is not None and first.is_floating_point():
            self.inputs = first.detach()
        if isinstance(output, Tensor):
            self.output = output.detach()

    def _on_loss(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        if len(tensors) >= 2:
            self.output, self.target = tensors[0].detach(), tensors[1].detach()

    def _on_gradient(self, grad: Tensor) -> None:
        held = self.sentinel.grad
        if self.backwards == 0 and self.fresh and held is not None:
            self.numbers["stale"] = held.detach().abs().amax()
        self.backwards += 1

    def _on_sum(self, param: Tensor) -> None:
        if param.grad is not None and not param.grad.is_sparse:
            self.sentinel_norm = param.grad.detach().norm()

    # -- around the optimizer's step ----------------------------------------------------------------

    @torch.no_grad()
    def before_step(self) -> None:
        """Take the gradients as the optimizer sees them, and the weights before it moves them."""
        self.live = [p for p in self.params if p.grad is not None and not p.grad.is_sparse]
        if not self.live:
            return
        grads = [_whole(p.grad) for p in self.live if p.grad is not None]
        self.grads = grads
        self.before = [_whole(p.detach()).clone() for p in self.live]
        self.grad_norms = torch._foreach_norm(grads)
        self.next_sketch = _sketch(grads)
        self.dead = {
            id(p): (g.flatten(1).abs().amax(dim=1) == 0).float().mean()
            for p, g in zip(self.live, grads, strict=True)
            if p.ndim >= 2 and p.shape[0] > 1 and not isinstance(self.modules[self.owner[id(p)]], nn.Embedding)
        }
        if self.sentinel_norm is not None and self.sentinel.grad is not None:
            self.numbers["shrunk"] = self.sentinel.grad.norm() / self.sentinel_norm.clamp_min(1e-30)

    @torch.no_grad()
    def after_step(self) -> None:
        """Measure the step itself."""
        if not self.before:
            return
        moves = torch._foreach_sub([_whole(p.detach()) for p in self.live], self.before)
        sizes, weights = torch._foreach_norm(moves), torch._foreach_norm(self.before)
        dots = [(m * g).sum() for m, g in zip(moves, self.grads, strict=True)]
        flat = torch.stack([t.double().cpu() for t in (*self.grad_norms, *weights, *sizes, *dots)])
        grad, weight, size, dot = flat.reshape(4, -1)
        whole = (grad.square().sum() * size.square().sum()).sqrt()
        self.numbers["descent"] = float(-dot.sum() / whole) if whole > 0 else math.nan
        self._by_layer(grad.tolist(), weight.tolist(), size.tolist())
        self.before, self.grads = [], []

    def compare(self) -> float:
        """Return the cosine between the last probe's gradient and that of the step about to be made."""
        grads = [_whole(p.grad) for p in self.live if p.grad is not None]
        now, before, self.sketch = _sketch(grads), self.sketch, None
        if before is None or now.shape != before.shape:
            return math.nan
        return float(torch.dot(now, before) / (now.norm() * before.norm()).clamp_min(1e-30))

    def _by_layer(self, grad: list[float], weight: list[float], size: list[float]) -> None:
        width = len(self.modules)
        squares = {name: [math.nan] * width for name in ("grad", "weight", "size")}
        dead = [math.nan] * width
        for k, param in enumerate(self.live):
            at = self.owner[id(param)]
            for name, value in (("grad", grad[k]), ("weight", weight[k]), ("size", size[k])):
                old = squares[name][at]
                squares[name][at] = value * value + (0.0 if math.isnan(old) else old)
            if id(param) in self.dead:
                dead[at] = max(float(self.dead[id(param)]), 0.0 if math.isnan(dead[at]) else dead[at])
        roots = {name: [_root(v) for v in column] for name, column in squares.items()}
        ratio = [s / w if w > 0 else math.nan for s, w in zip(roots["size"], roots["weight"], strict=True)]
        self.columns = {"grad": roots["grad"], "weight": roots["weight"], "update": ratio, "dead": dead}

    # -- the result ---------------------------------------------------------------------------------

    def finish(self, step: int, loss: float) -> Probe:
        """Take the hooks away and return the probe of the step just made."""
        self.disarm()
        self.sketch = self.next_sketch if self.live_grads() else None
        if self.inputs is not None:
            self.numbers["bad_inputs"] = float((~self.inputs.isfinite()).sum())
        if self.output is not None and self.output.is_floating_point():
            self.numbers |= of_outputs(self.output.float(), self.target, loss)
        numbers = {name: _short(float(value)) for name, value in self.numbers.items()}
        if "stale" in numbers:
            numbers["stale"] = float(numbers["stale"] > 0)
        width = len(self.modules)
        for name, values in self.seen.items():
            self.columns[name] = [float(values[k]) if k in values else math.nan for k in range(width)]
        columns = {
            name: tuple(_short(v) for v in column)
            for name, column in self.columns.items()
            if not all(math.isnan(v) for v in column)
        }
        return Probe(step=step, loss=_short(loss), numbers=numbers, **columns)

    def live_grads(self) -> bool:
        return bool(getattr(self, "live", None)) and hasattr(self, "next_sketch")


@torch.no_grad()
def of_outputs(output: Tensor, target: Tensor | None, loss: float) -> dict[str, float]:
    """Return what a batch of outputs, and of targets where they are seen, says.

    >>> numbers = of_outputs(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1]), 0.4)
    >>> numbers["row_sum"], numbers["seen.1"], numbers["hit.1"]
    (1.0, 1.0, 1.0)
    """
    numbers = {"bad_outputs": float((~output.isfinite()).sum())}
    if not output.numel() or numbers["bad_outputs"]:
        return numbers
    numbers |= {"out_mean": float(output.mean()), "out_std": float(output.std(correction=0))}
    if output.ndim == 2 and output.shape[1] >= 2:
        whole = ((output.sum(dim=1) - 1).abs() < 1e-3) & (output >= -1e-6).all(dim=1)
        numbers["row_sum"] = float(whole.float().mean())
    if target is None or target.shape[:1] != output.shape[:1]:
        return numbers
    labels, named = _labels(output, target)
    if labels is not None and named is not None:
        count = int(labels.max()) + 1 if labels.numel() else 0
        seen = torch.bincount(labels, minlength=count).double()
        shares = seen[seen > 0] / seen.sum()
        numbers["label_entropy"] = float(-(shares * shares.log()).sum())
        if count <= CLASSES:
            hits = torch.bincount(labels[labels == named], minlength=count)
            for k in range(count):
                numbers |= {f"seen.{k}": float(seen[k]), f"hit.{k}": float(hits[k])}
    if not target.is_floating_point() and output.ndim == 2 and target.ndim == 1:
        whole_loss = float(nn.functional.cross_entropy(output, target)) if int(target.min()) >= 0 else math.nan
        numbers["is_ce"] = float(abs(whole_loss - loss) <= 2e-3 * max(abs(loss), 1e-6))
    elif labels is None and target.numel() == output.numel():
        residual = (output.flatten() - target.flatten().float()).double()
        numbers["is_mse"] = float(
            any(abs(c * float(residual.square().mean()) - loss) <= 2e-3 * max(abs(loss), 1e-6) for c in (1.0, 0.5))
        )
        numbers |= _outliers(residual)
    return numbers


def _outliers(residual: Tensor) -> dict[str, float]:
    centred = residual - residual.median()
    scale = 1.4826 * float(centred.abs().median())
    if residual.numel() < 16 or not scale > 0:
        return {}
    beyond = centred.abs() > 6 * scale
    mass = float(residual[beyond].square().sum() / residual.square().sum().clamp_min(1e-300))
    return {"outlier_mass": mass, "outlier_share": float(beyond.double().mean())}


def _labels(output: Tensor, target: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return true and named class of each sample, or two None where the targets are no classes."""
    if not target.is_floating_point() and target.ndim == 1 and output.ndim == 2 and output.shape[1] >= 2:
        kept = target >= 0
        return target[kept], output.argmax(dim=1)[kept]
    flat = target.flatten()
    if target.numel() == output.numel() and bool(((flat == 0) | (flat == 1)).all()):
        bounded = bool(((output >= 0) & (output <= 1)).all())
        return flat.long(), (output.flatten() > (0.5 if bounded else 0.0)).long()
    return None, None


def _layers(model: nn.Module) -> tuple[tuple[str, ...], list[nn.Module]]:
    """Return the modules with parameters of their own, and the activations, by name."""
    chosen = [
        (name or "(model)", module)
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None or isinstance(module, ACTIVATIONS)
    ]
    return tuple(name for name, _ in chosen), [module for _, module in chosen]


def _parameters(modules: list[nn.Module]) -> tuple[list[Tensor], dict[int, int]]:
    """Return every real parameter once, and which module has it first."""
    params: list[Tensor] = []
    owner: dict[int, int] = {}
    for index, module in enumerate(modules):
        for param in module.parameters(recurse=False):
            if id(param) not in owner and not is_lazy(param) and param.requires_grad:
                owner[id(param)] = index
                params.append(param)
    return params, owner


def _whole(tensor: Tensor) -> Tensor:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return torch.view_as_real(local) if local.is_complex() else local


def _sketch(grads: list[Tensor]) -> Tensor:
    total = sum(g.numel() for g in grads)
    every = max(1, total // SKETCH)
    return torch.cat([g.flatten()[::every].float() for g in grads])


def _no_norm() -> Tensor | None:
    return None


def _root(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


def _short(value: float) -> float:
    return float(f"{value:.5g}")
