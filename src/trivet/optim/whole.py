"""What optimizers share that look at whole tensors: norms, factors, matrices. They run in plain torch."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, overload

import torch
from torch import Tensor

from trivet.errors import InputError
from trivet.optim.base import Params
from trivet.optim.checkpoints import fitted, restore_types
from trivet.optim.hyperparameters import check_common, own_rates
from trivet.optim.measuring import Measured

__all__ = ["WholeTensorOptimizer"]


class WholeTensorOptimizer(Measured, torch.optim.Optimizer, abc.ABC):
    """An optimizer whose update needs a parameter's tensor as a whole; a subclass gives `update`.

    The arithmetic is in float32 or wider. Norms are `torch.linalg` calls, so that FSDP2's parameters give the norm of
    the whole tensor, not of a shard; where that is not enough (`gathers`), every process gathers the parameter and its
    gradient, makes the same update, and keeps its shard; states are then whole on every process. Nothing waits for the
    device. Complex parameters and sparse gradients raise.
    """

    gathers: ClassVar[bool] = False

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self._unmeasured()
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._unmeasured()
        super().__setstate__(state)

    @abc.abstractmethod
    def update(self, group: Mapping[str, Any], param: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
        """Update one parameter in place; `grad` is in the type of the arithmetic, its sign turned for `maximize`."""

    def before(self) -> None:
        """Do what is due once per step, before any update; by default nothing."""

    def check(self, group: Mapping[str, Any]) -> None:
        """Raise `InputError` for hyperparameters out of range; a subclass adds its own."""
        check_common(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        try:
            self.check(self.param_groups[-1])
        except InputError:
            self.param_groups.pop()
            raise
        own_rates(self.param_groups, self.defaults.get("lr"))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of ours or of torch's optimizer of this name; see `trivet.optim.checkpoints`."""
        state_dict = fitted(self.param_groups, state_dict)
        super().load_state_dict(state_dict)
        restore_types(self, state_dict)
        own_rates(self.param_groups, self.defaults.get("lr"))

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; `closure` recomputes the loss and is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self.before()
            if self._armed:
                self._found = {}
            for group in self.param_groups:
                params = [param for param in group["params"] if param.grad is not None]
                with self._measuring(params):
                    for param in params:
                        self._update_whole(group, param)
            self._armed = False
        return loss

    def _update_whole(self, group: Mapping[str, Any], param: Tensor) -> None:
        grad, state = self._gradient(group, param), self.state[param]
        if not (self.gathers and hasattr(param, "full_tensor")):
            self.update(group, param, grad, state)
            return
        whole = param.full_tensor()
        self.update(group, whole, grad.full_tensor(), state)  # type: ignore[attr-defined]
        param.copy_(sharded(whole, param))

    def _gradient(self, group: Mapping[str, Any], param: Tensor) -> Tensor:
        grad = param.grad
        assert grad is not None
        name = type(self).__name__
        if grad.layout != torch.strided:
            raise InputError(f"{name} takes no sparse gradients; use Embedding(sparse=False)")
        if param.is_complex():
            raise InputError(f"{name} takes no complex parameters; give torch.view_as_real(...) of them, or use Adam")
        grad = grad.to(wide(param.dtype))
        return -grad if group.get("maximize") else grad


def sharded(whole: Tensor, like: Tensor) -> Tensor:
    """Return a tensor that every process holds whole as the distributed tensor that another is; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(like, DTensor)
    mesh, placements = like.device_mesh, like.placements
    replicated = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(placements=placements)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type that is computed in for a stored type."""
    return torch.promote_types(dtype, torch.float32)


def keep(stored: Tensor, value: Tensor) -> None:
    """Write a value back into what is stored, where it was widened for the arithmetic and so is a copy."""
    if value is not stored:
        stored.copy_(value)


def count(state: dict[str, Any]) -> float:
    """Move a parameter's `step` on by one and return it; it lies on the CPU, as in torch."""
    step = state.setdefault("step", torch.zeros((), dtype=torch.float32))
    step += 1
    return float(step)


def zeros(state: dict[str, Any], name: str, like: Tensor) -> Tensor:
    """Return a state, made of zeros at its first use."""
    if name not in state:
        state[name] = torch.zeros_like(like, memory_format=torch.preserve_format)
    return state[name]  # type: ignore[no-any-return]
