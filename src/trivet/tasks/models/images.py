"""The reference model of images that get one answer each: plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["ResidualCNN"]


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
