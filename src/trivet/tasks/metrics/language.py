"""Metrics of the next symbol: logits ``(texts, symbols, length)`` against ids ``(texts, length)``.

An id below 0 takes no part. Likelihoods are summed over all positions of all texts; the bootstrap draws whole texts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trivet.tasks.metrics.base import register


def _surprise(outputs: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood in nats, and positions, of every text ``(texts, 2)``."""
    values = [
        torch.nn.functional.cross_entropy(part.float(), ids, ignore_index=-100, reduction="none").double().sum(dim=1)
        for part, ids in zip(torch.split(outputs, 64), torch.split(targets, 64), strict=True)
    ]
    return torch.stack([torch.cat(values), (targets >= 0).sum(dim=1).double()], dim=1)


def _nats(counts: Tensor) -> float:
    return float(counts[:, 0].sum() / counts[:, 1].sum())


def _pooled_bits(counts: Tensor) -> float:
    return _nats(counts) / math.log(2)


def _pooled_perplexity(counts: Tensor) -> float:
    return math.exp(min(_nats(counts), 700.0))


@register("bits_per_character", "language", higher_is_better=False, unit="bits", rows=_surprise, pooled=_pooled_bits)
def bits_per_character(outputs: Tensor, targets: Tensor) -> float:
    """Mean negative log2-likelihood of a symbol: what a perfect compressor with this model would need for it."""
    return _pooled_bits(_surprise(outputs, targets))


@register("perplexity", "language", higher_is_better=False, rows=_surprise, pooled=_pooled_perplexity)
def perplexity(outputs: Tensor, targets: Tensor) -> float:
    """``exp`` of the mean negative log-likelihood: among how many equally likely symbols the model still chooses."""
    return _pooled_perplexity(_surprise(outputs, targets))


def _next_right(outputs: Tensor, targets: Tensor) -> Tensor:
    right = (outputs.argmax(dim=1) == targets).sum(dim=1)
    return torch.stack([right, (targets >= 0).sum(dim=1)], dim=1).double()


@register("next_accuracy", "language", rows=_next_right, pooled=_nats)
def next_accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of the positions whose next symbol is the most likely one."""
    return _nats(_next_right(outputs, targets))
