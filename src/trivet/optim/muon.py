"""Muon: hidden matrices move by an orthogonal matrix, everything else by AdamW; one optimizer, with its routing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trivet.errors import InputError
from trivet.optim.adam import AdamW
from trivet.optim.base import Backend, Params
from trivet.optim.groups import Groups, param_groups
from trivet.optim.hyperparameters import one_of
from trivet.optim.whole import sharded

__all__ = ["Muon", "orthogonalized"]

SMALL = 1 << 16  # elements under which float32 products are faster on the CPU
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ADJUSTMENTS = ("original", "match_rms_adamw")


def orthogonalized(
    matrix: Tensor, steps: int = 5, coefficients: tuple[float, float, float] = COEFFICIENTS, eps: float = 1e-7
) -> Tensor:
    r"""Return a matrix with the singular vectors of this one and singular values near 1 (0.7 to 1.2).

    In bfloat16, which is exact enough; small matrices on the CPU in float32, which is faster there.

    A quintic Newton-Schulz iteration: :math:`X \leftarrow a X + (b A + c A^2) X, \; A = X X^\top`, from
    :math:`X = M / \lVert M \rVert_F`. `(..., rows, columns)`: leading axes are a batch.
    """
    a, b, c = coefficients
    small = matrix.device.type == "cpu" and matrix.size(-1) * matrix.size(-2) < SMALL
    x: Tensor = matrix.float() if small else matrix.bfloat16()
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(AdamW):
    r"""Momentum made orthogonal for hidden matrices, AdamW for embeddings, the output layer, biases and norms.

    .. math::
        b &\leftarrow \mu b + (1 - \mu) g, \qquad u = (1 - \mu) g + \mu b \quad \text{(Nesterov)} \\
        \theta &\leftarrow \theta (1 - \eta \lambda) - \eta \, s \, \mathrm{orth}(u), \qquad
            s = 0.2 \sqrt{\max(r, c)} \;\text{ or }\; \sqrt{\max(1, r / c)}

    for a matrix of :math:`r` rows and :math:`c` columns; convolutions count as `(out, in * height * width)`.

    **Give the model itself** (or `param_groups(model, ..., roles=True)`): the route follows the modules' types.
    `print(optimizer.routes())` says which parameter went where and why. From bare parameters, which have no modules,
    every tensor of two or more dimensions is taken for a hidden matrix.

    *Memory*: one state for matrices, `momentum_buffer` (4 bytes a parameter in float32); AdamW's for the rest.
    *When*: transformers and convolutional networks from scratch: 1.3 to 2 times fewer steps than AdamW. *When not*:
    small or embedding-dominated models; fine-tuning what was trained by AdamW; where a step is short beside the
    matrix products (measured: `docs/limits.md`).
    *Failure*: an output layer or an embedding routed as a hidden matrix; the table shows it.

    Args:
        params: a model, groups with a `role` as `param_groups` returns them, or parameters.
        lr: rate :math:`\eta`, of both parts (with "match_rms_adamw" a step is as long as AdamW's).
        weight_decay: :math:`\lambda`, decoupled, multiplied by the rate.
        momentum: :math:`\mu`.
        nesterov: look ahead.
        ns_coefficients, ns_steps, eps: of the Newton-Schulz iteration.
        adjust_lr_fn: "match_rms_adamw" (the first :math:`s`; default here), or "original" (the second; torch's default,
            with which matrices need about 20 times AdamW's rate: give groups their own `lr`).
        adamw_betas, adamw_eps: of the AdamW part.
        backend: of the AdamW part.

    >>> model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 10))
    >>> print(Muon(model, lr=1e-3).routes())
    parameter  shape  by     because
    0.weight   10x8   AdamW  embedding
    1.weight   16x8   Muon   hidden matrix
    1.bias     16     AdamW  bias
    3.weight   10x16  AdamW  output layer
    3.bias     10     AdamW  bias

    Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the first :math:`s`: Liu et
    al., "Muon is scalable for LLM training", 2025, section 2.2.
    """

    wants_roles: ClassVar[bool] = True  # a recipe gives it groups by role

    def __init__(
        self,
        params: Params | nn.Module,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = "match_rms_adamw",
        *,
        adamw_betas: tuple[float, float] = (0.9, 0.999),
        adamw_eps: float = 1e-8,
        backend: Backend = "auto",
    ) -> None:
        self._muon = {
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "ns_eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn or "original",
        }
        if isinstance(params, nn.Module):
            params = param_groups(params, weight_decay=weight_decay, lr=lr, roles=True)
        super().__init__(_routed(params), lr, adamw_betas, adamw_eps, weight_decay, backend=backend)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        for group in _routed([param_group]):
            super().add_param_group((self._muon if group["role"] == "hidden matrix" else {}) | group)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        if "momentum" in group:
            one_of("adjust_lr_fn", group["adjust_lr_fn"], ADJUSTMENTS)
            if not 0 <= group["momentum"] < 1:
                raise InputError(f"momentum = {group['momentum']} must lie in [0, 1)")
            if not 0 < group["ns_steps"] < 100:
                raise InputError(f"ns_steps = {group['ns_steps']} must lie in 1 to 99")
            if not group["ns_eps"] >= 0:
                raise InputError(f"eps = {group['ns_eps']} must be at least 0")
            for param in group["params"]:
                if param.dim() < 2 or param.is_complex():
                    raise InputError(
                        f"a hidden matrix has two or more axes and is not complex; this one has shape "
                        f"{tuple(param.shape)} and type {param.dtype}"
                    )

    def _step_group(self, index: int, group: dict[str, Any]) -> None:
        if "momentum" not in group:
            super()._step_group(index, group)
            return
        lr = float(group["lr"])
        params = [param for param in group["params"] if param.grad is not None]
        with self._measuring(params):
            for param in params:
                step = self._direction(group, param)
                rows, columns = step.shape
                original = group["adjust_lr_fn"] == "original"
                scale = math.sqrt(max(1, rows / columns)) if original else 0.2 * math.sqrt(max(rows, columns))
                param.mul_(1 - lr * group["weight_decay"])
                step = step.view(param.shape).to(param.dtype)
                param.add_(sharded(step, param) if hasattr(param, "to_local") else step, alpha=-lr * scale)

    def _direction(self, group: Mapping[str, Any], param: Tensor) -> Tensor:
        grad = param.grad
        assert grad is not None
        if grad.layout != torch.strided:
            raise InputError("Muon takes no sparse gradients; use Embedding(sparse=False)")
        factor = -self._scale if group.get("maximize") else self._scale
        grad = grad if factor == 1 else factor * grad
        state = self._state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad, memory_format=torch.preserve_format)
        buffer = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
        update = grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
        if hasattr(update, "full_tensor"):  # a shard's rows say nothing of the matrix's directions
            update = update.full_tensor()
        return orthogonalized(update.flatten(1), group["ns_steps"], group["ns_coefficients"], group["ns_eps"])

    def routes(self) -> str:
        """Return a table of which parameter goes which way and why."""
        return Groups(self.param_groups).table(
            by=lambda group: "Muon" if "momentum" in group else "AdamW", because=lambda group: str(group["role"])
        )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_muon": self._muon}


def _role_of(params: object) -> str:
    first = next(iter(params), None) if not isinstance(params, Tensor) else params  # type: ignore[call-overload]
    tensor = first[1] if isinstance(first, tuple) else first
    return "hidden matrix" if isinstance(tensor, Tensor) and tensor.dim() > 1 else "vector"


def _routed(params: Params) -> list[dict[str, Any]]:
    """Return groups that each go one way; parameters without a role are told apart by their dimensions."""
    given = list(params)
    entries: list[dict[str, Any]] = given if given and isinstance(given[0], dict) else [{"params": given}]  # type: ignore[assignment]
    groups: list[dict[str, Any]] = []
    for entry in entries:
        if "role" in entry:
            groups.append(entry)
            continue
        options = {key: value for key, value in entry.items() if key != "params"}
        members = [entry["params"]] if isinstance(entry["params"], Tensor) else list(entry["params"])
        for role in ("hidden matrix", "vector"):
            chosen = [member for member in members if _role_of([member]) == role]
            if chosen:
                groups.append({"params": chosen, "role": role, **options})
    return groups
