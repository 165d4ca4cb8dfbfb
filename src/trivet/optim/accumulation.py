"""Many batches, one step: gradients of the mean over all of them, however unequal they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

from trivet.errors import InputError

__all__ = ["Accumulation", "full_batch"]

Batch = TypeVar("Batch")


class Accumulation:
    r"""Adds up gradients of losses that are means, and makes of them the gradient of one mean.

    .. math::
        L = \sum_i n_i L_i \Big/ \sum_i n_i

    where :math:`n_i` is what the loss of batch :math:`i` was divided by: samples; for language models the tokens that
    are not ignored; with class weights the sum of the weights. Adding up :math:`L_i / k` instead, as is common, gives
    the tokens of short batches more weight than those of long ones.

    Args:
        optimizer: whose parameters' gradients are meant; they must be cleared before.

    >>> w = torch.nn.Parameter(torch.tensor(0.0))
    >>> long, short = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([5.0])
    >>> accumulation = Accumulation(torch.optim.SGD([w], lr=0.1))
    >>> for batch in (long, short):
    ...     accumulation.backward((w * batch).mean(), len(batch))
    >>> accumulation.finish(), w.grad.item()  # the mean of all four, 2, and not that of 1 and 5
    (0.0, 2.0)

    Source: the definition of a mean; the mistake is told in "Bugs in LLM training: gradient accumulation fix" (2024).
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._first = self._total = 0.0
        self._loss: Tensor | float = 0.0

    def backward(self, loss: Tensor, weight: float | Tensor) -> None:
        """Go backward from the mean loss of one batch; `weight` is what it was divided by, 0 for an empty batch."""
        weight = float(weight)
        if not weight >= 0:
            raise InputError(f"weight = {weight} must be at least 0: the number that the batch's loss was divided by")
        if weight == 0:
            return
        self._first = self._first or weight
        share = weight / self._first  # near 1, so that narrow types neither overflow nor vanish
        (loss * share).backward()  # type: ignore[no-untyped-call]
        self._loss = self._loss + loss.detach() * share
        self._total += weight

    def finish(self) -> float:
        """Divide the gradients by all weights together and return the mean loss; ready for the next step."""
        factor = self._first / self._total if self._total else 1.0
        grads = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if grads and factor != 1.0:
            with torch.no_grad():
                for grad in grads:
                    grad.mul_(factor)
        loss = float(self._loss) * factor
        self._first = self._total = self._loss = 0.0
        return loss


def full_batch(
    optimizer: torch.optim.Optimizer, batches: Iterable[Batch], loss: Callable[[Batch], tuple[Tensor, float | Tensor]]
) -> float:
    """Make one step of gradient descent on all batches together and return the mean loss before it.

    Memory is that of one batch. `loss` takes a batch and returns its mean loss and what that was divided by (see
    `Accumulation`). In a recipe, `batch_size` at least the size of the training split does the same in one batch.

    >>> w = torch.nn.Parameter(torch.tensor(0.0))
    >>> data = torch.tensor([1.0, 2.0, 3.0, 6.0])
    >>> optimizer = torch.optim.SGD([w], lr=0.5)
    >>> round(full_batch(optimizer, data.split(3), lambda x: ((w - x).square().mean(), len(x))), 4)
    12.5
    >>> round(w.item(), 4)  # the mean of all, in one step
    3.0
    """
    optimizer.zero_grad()
    accumulation = Accumulation(optimizer)
    for batch in batches:
        accumulation.backward(*loss(batch))
    mean = accumulation.finish()
    optimizer.step()
    return mean
