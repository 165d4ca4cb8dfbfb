"""Which modules attend: seen in a forward pass, whatever their classes are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Attending", "attending"]

FUSED = {"scaled_dot_product_attention", "multi_head_attention_forward"}
PRODUCTS = {"matmul", "__matmul__", "bmm", "baddbmm", "einsum"}
SOFTMAX = {"softmax", "_softmax"}


class Attending(TorchFunctionMode):
    """Notes the innermost module in which attention happens: torch's own functions, or the same written by hand.

    By hand it is a product of two batched activations (the scores), a softmax of these, perhaps scaled, masked or
    dropped out in between, and a product of the result with a third. A weight matrix has two axes and is no such
    activation, so a gate over experts or a classifier's softmax is not taken for attention.

    >>> import torch
    >>> with Attending() as seen:
    ...     q = k = v = torch.randn(2, 5, 4)
    ...     _ = torch.softmax(q @ k.transpose(1, 2) / 2, dim=-1) @ v
    >>> sorted(seen.modules)
    ['']
    """

    def __init__(self) -> None:
        super().__init__()
        self.modules: set[str] = set()
        self.inside: list[str] = []
        # Scores and weights on their way, kept alive so that an id stands for one tensor.
        self._scores: dict[int, Tensor] = {}
        self._weights: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in FUSED:
            self._found()
        elif isinstance(result, Tensor):
            self._follow(name, [a for a in args if isinstance(a, Tensor)], args, result)
        return result

    def _follow(self, name: str, given: list[Tensor], args: tuple[object, ...], result: Tensor) -> None:
        if name == "einsum":
            given = [a for part in args[1:] for a in (part if isinstance(part, list | tuple) else [part])]  # type: ignore[misc]
        if name in PRODUCTS:
            if any(id(a) in self._weights for a in given):
                self._found()
            elif len(given) >= 2 and all(a.ndim >= 3 for a in given[-2:]):
                self._scores[id(result)] = result
        elif any(id(a) in self._scores for a in given):
            (self._weights if name in SOFTMAX else self._scores)[id(result)] = result
        elif any(id(a) in self._weights for a in given) and result.shape == given[0].shape:
            self._weights[id(result)] = result  # dropout, a mask, a change of type

    def _found(self) -> None:
        self.modules.add(self.inside[-1] if self.inside else "")


@contextmanager
def attending(model: nn.Module) -> Iterator[set[str]]:
    """While open, collect the names of the modules of a model that attend in its forward passes.

    >>> from torch.nn.functional import scaled_dot_product_attention as attend
    >>> class Block(nn.Module):
    ...     def forward(self, x): return attend(x, x, x)
    >>> model = nn.Sequential(nn.Linear(4, 4), Block())
    >>> with attending(model) as names:
    ...     _ = model(torch.randn(2, 5, 4))
    >>> names
    {'1'}
    """
    mode, hooks = Attending(), []

    def leave(module: nn.Module, given: object, output: object) -> None:
        mode.inside.pop()

    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda m, args, name=name: mode.inside.append(name)))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        with mode:
            yield mode.modules
    finally:
        for hook in hooks:
            hook.remove()
