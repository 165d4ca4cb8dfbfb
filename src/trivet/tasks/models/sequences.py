"""The reference model of sequences of numbers: plain torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RecurrentNet"]


class RecurrentNet(nn.Module):
    """A GRU in both directions over a padded batch, then the mean over each sequence's own steps, and a linear head.

    ``forward(steps, lengths)``: float ``(batch, time, channels)`` and int64 ``(batch,)`` to ``(batch, outputs)``.
    The batch is packed, so that neither direction reads padding.

    >>> model = RecurrentNet(channels=3, outputs=5)
    >>> model(torch.zeros(2, 7, 3), torch.tensor([7, 4])).shape
    torch.Size([2, 5])
    """

    def __init__(self, channels: int, outputs: int, *, width: int = 64, layers: int = 1, dropout: float = 0.2) -> None:
        super().__init__()
        self.first = nn.Linear(channels, width)
        self.recurrence = nn.GRU(width, width, layers, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(2 * width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width, outputs)

    def forward(self, steps: Tensor, lengths: Tensor) -> Tensor:
        """``(batch, time, channels)`` and ``(batch,)`` to ``(batch, outputs)``."""
        hidden = self.dropout(torch.nn.functional.silu(self.first(steps)))
        # Lengths live on the CPU for packing, wherever the model is.
        packed = nn.utils.rnn.pack_padded_sequence(hidden, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = nn.utils.rnn.pad_packed_sequence(self.recurrence(packed)[0], batch_first=True)
        # Steps past a sequence's end come back as zeros, so that their sum is the sum over its own steps.
        mean = states.sum(dim=1) / lengths.to(states).unsqueeze(1)
        return self.head(self.dropout(self.norm(mean)))  # type: ignore[no-any-return]
