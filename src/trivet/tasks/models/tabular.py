"""The reference model of tables: plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["TabularMLP"]


class TabularMLP(nn.Module):
    """A multilayer perceptron on numeric features and, when there are any, embedded categories.

    ``forward(numeric)`` or ``forward(numeric, codes)``: float ``(batch, features)`` and int64 ``(batch,
    categories)`` to ``(batch, outputs)``. A category with ``c`` codes is embedded in ``min(32, round(1.6
    c^0.56))`` dimensions (fastai's rule, capped lower). Each hidden layer is linear, batch norm, SiLU,
    dropout.

    >>> model = TabularMLP(features=3, outputs=2, codes=(4,))
    >>> model(torch.zeros(5, 3), torch.zeros(5, 1, dtype=torch.int64)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        *,
        codes: Sequence[int] = (),
        hidden: Sequence[int] = (256, 256, 128),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        sizes = [min(32, max(1, round(1.6 * float(c) ** 0.56))) for c in codes]
        self.embeddings = nn.ModuleList(nn.Embedding(c, size) for c, size in zip(codes, sizes, strict=True))
        width = features + sum(sizes)
        layers: list[nn.Module] = []
        for size in hidden:
            layers += [nn.Linear(width, size), nn.BatchNorm1d(size), nn.SiLU(), nn.Dropout(dropout)]
            width = size
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, outputs)

    def forward(self, numeric: Tensor, codes: Tensor | None = None) -> Tensor:
        """``(batch, features)`` and perhaps ``(batch, categories)`` to ``(batch, outputs)``."""
        parts = [numeric]
        if codes is not None:
            parts += [table(codes[:, at]) for at, table in enumerate(self.embeddings)]
        return self.head(self.layers(torch.cat(parts, dim=1)))  # type: ignore[no-any-return]
