"""The reference models of text: small transformers from scratch, plain torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["CausalTransformer", "SelfAttention", "TextTransformer", "TransformerBlock"]


class SelfAttention(nn.MultiheadAttention):
    """Multi-head attention of a batch ``(batch, length, width)`` to itself, by torch's fused product.

    The weights are those of ``torch.nn.MultiheadAttention``; the dropout of attention weights is left out.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads, batch_first=True)

    def forward(self, hidden: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:  # type: ignore[override]
        """``mask`` is True where a position may be looked at ``(batch, length)``; ``causal`` hides what comes later."""
        batch, length, width = hidden.shape
        joint = torch.nn.functional.linear(hidden, self.in_proj_weight, self.in_proj_bias)
        q, k, v = joint.view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        allowed = None if mask is None else mask[:, None, None, :]
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each behind its own layer norm and beside a shortcut (pre-norm)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), SelfAttention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """``(batch, length, width)`` to the same."""
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), mask, causal))
        return hidden + self.dropout(self.layers(self.norm(hidden)))  # type: ignore[no-any-return]


class TextTransformer(nn.Module):
    """Classify texts: embedded words with positions, transformer blocks, mean and maximum over words, a linear head.

    ``forward(ids)``: int64 ``(batch, length)``, 0 where there is no word, to ``(batch, outputs)``. Beside the blocks
    the plain mean of the word embeddings reaches the head: on a few thousand short texts which words occur says
    most, and their order only the rest.

    >>> TextTransformer(words=50, length=8, outputs=3)(torch.tensor([[4, 7, 0, 0], [1, 0, 0, 0]])).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        words: int,
        length: int,
        outputs: int,
        *,
        width: int = 128,
        depth: int = 1,
        heads: int = 4,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.places = nn.Embedding(length, width)
        for table in (self.words, self.places):
            nn.init.normal_(table.weight, std=0.1)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(3 * width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(3 * width, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        """``(batch, length)`` to ``(batch, outputs)``."""
        # Columns that no text of this batch reaches cost time and say nothing.
        present = ids != 0
        longest = int(present.sum(dim=1).max())
        ids, present = ids[:, :longest], present[:, :longest]
        words = self.dropout(self.words(ids)) * present.unsqueeze(-1)
        hidden = words + self.places(torch.arange(longest, device=ids.device))
        for block in self.blocks:
            hidden = block(hidden, present)
        count = present.sum(dim=1, keepdim=True).clamp_min(1)
        mean = (hidden * present.unsqueeze(-1)).sum(dim=1) / count
        highest = hidden.masked_fill(~present.unsqueeze(-1), -1e4).amax(dim=1)
        pooled = torch.cat([words.sum(dim=1) / count, mean, highest], dim=1)
        return self.head(self.dropout(self.norm(pooled)))  # type: ignore[no-any-return]


class CausalTransformer(nn.Module):
    """Predict the next symbol at every position from those up to it.

    ``forward(ids)``: int64 ``(batch, length)`` to logits ``(batch, symbols, length)``; ``length`` is the longest
    text that the model has places for.

    >>> CausalTransformer(symbols=20, length=16)(torch.zeros(2, 5, dtype=torch.int64)).shape
    torch.Size([2, 20, 5])
    """

    def __init__(
        self, symbols: int, length: int, *, width: int = 128, depth: int = 3, heads: int = 4, dropout: float = 0.05
    ) -> None:
        super().__init__()
        self.symbols, self.places = nn.Embedding(symbols, width), nn.Embedding(length, width)
        for table in (self.symbols, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols)

    def forward(self, ids: Tensor) -> Tensor:
        """``(batch, length)`` to ``(batch, symbols, length)``."""
        hidden = self.dropout(self.symbols(ids) + self.places(torch.arange(ids.shape[1], device=ids.device)))
        for block in self.blocks:
            hidden = block(hidden, causal=True)
        return self.head(self.norm(hidden)).transpose(1, 2)  # type: ignore[no-any-return]
