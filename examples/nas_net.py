"""A network of one's own, in one file: cells of different kinds, as an architecture search would mix them.

Nothing in here knows about cnnscale. Each stage is written in another of the ways that people write stages, and each
cell mixes channels in another way:

    stage1   Sequential     MBCell      expansion, depthwise convolution, squeeze-and-excitation, residual
    stage2   attributes     SplitCell   half of the channels pass, half are worked on, then both are shuffled
    stage3   ModuleList     MixedCell   four branches side by side, concatenated, residual
    stage4   Sequential     ScaleCell   7x7 depthwise, layer norm, linear layers, a learnt scale for each channel

    python -m cnnscale bench examples/nas_net.py:nas_net --phi 0 1
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Sequential):
    """Convolution, batch norm, activation; padded so that stride 1 keeps the size."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU() if act else nn.Identity(),
        )


class SqueezeExcite(nn.Module):
    """Weighs each channel by what all of them hold on average."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * weights.sigmoid()


class MBCell(nn.Module):
    """Inverted residual with squeeze-and-excitation; the residual is there where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, expansion: int = 4) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvNorm(inputs, hidden)
        self.depthwise = ConvNorm(hidden, hidden, 3, stride=stride, groups=hidden)
        self.attend = SqueezeExcite(hidden, inputs // 4)
        self.project = ConvNorm(hidden, outputs, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.attend(self.depthwise(self.expand(x))))
        return x + out if self.residual else out


class SplitCell(nn.Module):
    """Works on one half of the channels, then shuffles both halves into each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.mix = ConvNorm(half, half)
        self.depthwise = ConvNorm(half, half, 5, groups=half, act=False)
        self.out = ConvNorm(half, half)

    def forward(self, x: Tensor) -> Tensor:
        passing, worked = x.chunk(2, dim=1)
        x = torch.cat((passing, self.out(self.depthwise(self.mix(worked)))), dim=1)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class MixedCell(nn.Module):
    """Four branches of different reach; their outputs side by side are the cell's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter = channels // 4
        self.point = ConvNorm(channels, quarter)
        self.square = nn.Sequential(ConvNorm(channels, quarter), ConvNorm(quarter, quarter, 3))
        self.wide = nn.Sequential(ConvNorm(channels, quarter), ConvNorm(quarter, quarter, 5, groups=quarter))
        self.pooled = nn.Sequential(nn.AvgPool2d(3, stride=1, padding=1), ConvNorm(channels, quarter))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.cat([self.point(x), self.square(x), self.wide(x), self.pooled(x)], dim=1)


class ScaleCell(nn.Module):
    """Depthwise convolution, then two linear layers over the channels, scaled channel by channel before the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        out = self.gamma * self.project(F.gelu(self.expand(out)))
        return x + out.permute(0, 3, 1, 2)


class NASNet(nn.Module):
    """The cells above in four stages, then a pooled classifier."""

    def __init__(self, classes: int = 100) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32, 3, stride=2)
        self.stage1 = nn.Sequential(MBCell(32, 48, stride=2), *(MBCell(48, 48) for _ in range(4)))
        self.down2 = ConvNorm(48, 96, 3, stride=2)
        self.cell2a = SplitCell(96)
        self.cell2b = SplitCell(96)
        self.cell2c = SplitCell(96)
        self.down3 = ConvNorm(96, 192, 3, stride=2)
        self.stage3 = nn.ModuleList([MixedCell(192) for _ in range(5)])
        self.stage4 = nn.Sequential(MBCell(192, 320, stride=2), *(ScaleCell(320) for _ in range(5)))
        self.head = ConvNorm(320, 768)
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(768, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage1(self.stem(x))
        x = self.cell2c(self.cell2b(self.cell2a(self.down2(x))))
        x = self.down3(x)
        for cell in self.stage3:
            x = cell(x)
        x = self.head(self.stage4(x))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def nas_net() -> NASNet:
    """The factory that the command line calls."""
    return NASNet()
