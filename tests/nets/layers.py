"""The parts that random nets are made of: norms, activations, squeeze-excitation, stochastic depth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]

NORMS = ("bn", "gn", "gn1", "ln_permute", "ln_manual", "in", "none")
ACTIVATIONS = (
    "relu",
    "relu_",
    "F.relu",
    "F.relu_",
    "silu",
    "F.silu",
    "gelu",
    "F.gelu",
    "hardswish",
    "F.hardswish",
    "prelu",
    "prelu1",
)
CONVS = ("conv", "standardised")


class PermuteNorm(nn.LayerNorm):
    """LayerNorm over channels of NCHW, by permuting (ConvNeXt's)."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ManualNorm(nn.Module):
    """LayerNorm over channels of NCHW, written out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class StandardisedConv(nn.Conv2d):
    """A functional convolution whose weight is computed: weight standardisation."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        mean = weight.mean(dim=[1, 2, 3], keepdim=True)
        std = weight.var(dim=[1, 2, 3], keepdim=True, unbiased=False).add(1e-5).sqrt()
        weight = (weight - mean) / (std * weight[0].numel() ** 0.5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class BlurPool(nn.Module):
    """Anti-aliased stride: a fixed depthwise kernel, kept in a buffer of one row per channel."""

    KERNEL = (0.25, 0.5, 0.25)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        row = torch.tensor(self.KERNEL)
        self.register_buffer("kernel", (row[:, None] * row[None, :]).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), self.kernel, stride=2, groups=self.channels)


class DropPath(nn.Module):
    """Stochastic depth per sample."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask / keep


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeeze: int, act: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeeze, 1)
        self.fc2 = nn.Conv2d(squeeze, channels, 1)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.fc2(self.act(self.fc1(scale))))


class LinearExcite(nn.Module):
    """Squeeze-excitation with linear layers and a view, as in the paper's first implementation."""

    def __init__(self, channels: int, squeeze: int, act: Activation) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(channels, squeeze), nn.ReLU(inplace=True), nn.Linear(squeeze, channels))

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = torch.sigmoid(self.fc(x.mean((2, 3)).view(b, c))).view(b, c, 1, 1)
        return x * y.expand_as(x)


@dataclass(frozen=True)
class Style:
    """What all blocks of a net share: normalisation, activation, kind of convolution."""

    norm: str = "bn"
    act: str = "relu"
    conv: str = "conv"

    def make_conv(self, cin: int, cout: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
        layer = StandardisedConv if self.conv == "standardised" and groups == 1 else nn.Conv2d
        bias = self.norm == "none"
        return layer(cin, cout, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias)

    def make_norm(self, channels: int) -> nn.Module:
        match self.norm:
            case "bn":
                return nn.BatchNorm2d(channels)
            case "gn":
                return nn.GroupNorm(math.gcd(channels, 4), channels)
            case "gn1":
                return nn.GroupNorm(1, channels)
            case "ln_permute":
                return PermuteNorm(channels, eps=1e-6)
            case "ln_manual":
                return ManualNorm(channels)
            case "in":
                return nn.InstanceNorm2d(channels, affine=True)
            case _:
                return nn.Identity()

    def make_act(self, channels: int, *, inplace: bool = True) -> Activation:
        """A module, or a plain function that the block calls; ``inplace=False`` where the input is still needed."""
        match self.act if inplace else self.act.removesuffix("_"):
            case "relu":
                return nn.ReLU()
            case "relu_":
                return nn.ReLU(inplace=True)
            case "silu":
                return nn.SiLU(inplace=inplace)
            case "gelu":
                return nn.GELU()
            case "hardswish":
                return nn.Hardswish()
            case "prelu":
                return nn.PReLU(channels)
            case "prelu1":
                return nn.PReLU()
            case name:
                return getattr(F, name.removeprefix("F."))

    def make_excite(self, channels: int, base: int, reduction: int) -> nn.Module:
        """Squeeze-excitation of ``channels`` to ``base // reduction``: convolutions at 4 and 16, else linear."""
        squeeze = max(1, base // reduction)
        layer = SqueezeExcite if reduction in (4, 16) else LinearExcite
        return layer(channels, squeeze, self.make_act(squeeze))


def conv_norm(style: Style, cin: int, cout: int, kernel: int = 1, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(style.make_conv(cin, cout, kernel, stride=stride), style.make_norm(cout))
