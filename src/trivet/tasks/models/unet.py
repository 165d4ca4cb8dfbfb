"""The reference model of segmentation: plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["UNet"]


class DoubleConvolution(nn.Sequential):
    """Two 3x3 convolutions, each with batch norm and ReLU."""

    def __init__(self, channels: int, out: int) -> None:
        layers: list[nn.Module] = []
        for width in (channels, out):
            layers += [nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        super().__init__(*layers)


class UNet(nn.Module):
    """A small U-Net: down by halves, up by doubles, each level joined with its counterpart (Ronneberger et al. 2015).

    ``forward(images)``: float ``(batch, channels, height, width)`` to ``(batch, outputs, height, width)``, for any
    height and width: the image is padded by its edge to a multiple of the lowest level's stride, and cut back.

    >>> UNet(channels=1, outputs=2, widths=(4, 8))(torch.zeros(1, 1, 30, 21)).shape
    torch.Size([1, 2, 30, 21])
    """

    def __init__(self, channels: int, outputs: int, *, widths: Sequence[int] = (16, 32, 64, 64)) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        for width in widths:
            self.down.append(DoubleConvolution(channels, width))
            channels = width
        self.rise, self.up = nn.ModuleList(), nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.rise.append(nn.Conv2d(channels, width, 1))
            self.up.append(DoubleConvolution(2 * width, width))
            channels = width
        self.head = nn.Conv2d(channels, outputs, 1)
        self.stride = 2 ** (len(widths) - 1)
        # Channels last is the faster memory format for convolutions on CPUs and on tensor cores.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """``(batch, channels, height, width)`` to ``(batch, outputs, height, width)``."""
        height, width = images.shape[2:]
        edges = (0, -width % self.stride, 0, -height % self.stride)
        if any(edges):
            images = torch.nn.functional.pad(images, edges, mode="replicate")
        hidden = images.contiguous(memory_format=torch.channels_last)
        levels: list[Tensor] = []
        for at, convolve in enumerate(self.down):
            hidden = convolve(hidden if at == 0 else torch.nn.functional.max_pool2d(hidden, 2))
            levels.append(hidden)
        for rise, convolve, level in zip(self.rise, self.up, reversed(levels[:-1]), strict=True):
            risen = torch.nn.functional.interpolate(rise(hidden), scale_factor=2, mode="bilinear")
            hidden = convolve(torch.cat([risen, level], dim=1))
        return self.head(hidden)[:, :, :height, :width]  # type: ignore[no-any-return]
