"""Small reference models in plain torch: what is trained when the user brings data and no model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["ResidualCNN", "TabularMLP"]


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


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, channels, h, w)`` to ``(batch, out, h / stride, w / stride)``."""
        return torch.relu(self.second(self.first(images)) + self.shortcut(images))


class ResidualCNN(nn.Module):
    """A small residual network: stem, one residual block per width, global average, linear head.

    ``forward(images)``: float ``(batch, channels, height, width)`` to ``(batch, outputs)``. The stem and then
    each block from the second on halve the image while its shorter side is at least 8, and large images are
    reduced by 4 in the stem, so that the cost per image stays near ten million multiplications.

    >>> ResidualCNN(channels=1, size=28, outputs=10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        channels: int,
        size: int,
        outputs: int,
        *,
        widths: Sequence[int] = (32, 64, 128),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        reduction = 1 if size < 16 else 2 if size < 64 else 4
        kernel = 3 if reduction < 4 else 7
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], kernel, reduction, kernel // 2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        size = -(-size // reduction)
        blocks: list[nn.Module] = []
        width = widths[0]
        for at, out in enumerate(widths):
            stride = 2 if at > 0 and size >= 7 else 1
            blocks.append(ResidualBlock(width, out, stride))
            width, size = out, -(-size // stride)
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)
        # Channels last is the faster memory format for convolutions on CPUs and on tensor cores.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to ``(batch, outputs)``."""
        images = images.contiguous(memory_format=torch.channels_last)
        pooled = self.blocks(self.stem(images)).mean(dim=(2, 3))
        return self.head(self.dropout(pooled))  # type: ignore[no-any-return]
