"""Blocks of random nets, real module classes all, built as ``Block(cin, cout, stride, stage, style, drop)``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .layers import DropPath, Style, conv_norm

if TYPE_CHECKING:
    from .spec import StageSpec


class Residual(nn.Module):
    """The four ways in which authors write a shortcut.

    project    ``self.downsample`` is None where shapes agree, a projection elsewhere
    identity   ``self.shortcut`` is nn.Identity() where shapes agree, a projection elsewhere
    use_res    ``self.use_res`` says whether shapes agree; no projection
    shape      forward compares the shapes; no projection
    """

    def __init__(self, cin: int, cout: int, stride: int, mode: str, style: Style, drop: float) -> None:
        super().__init__()
        same = stride == 1 and cin == cout
        self.mode = mode
        self.drop_path = DropPath(drop) if drop else nn.Identity()
        if mode == "project":
            self.downsample = None if same else conv_norm(style, cin, cout, stride=stride)
        elif mode == "identity":
            self.shortcut = nn.Identity() if same else conv_norm(style, cin, cout, stride=stride)
        elif mode == "use_res":
            self.use_res = same

    def join(self, x: Tensor, out: Tensor) -> Tensor:
        if self.mode == "project":
            out = self.drop_path(out)
            out += x if self.downsample is None else self.downsample(x)
            return out
        if self.mode == "identity":
            return self.shortcut(x) + self.drop_path(out)
        if self.mode == "use_res":
            return torch.add(x, self.drop_path(out)) if self.use_res else out
        return x + self.drop_path(out) if x.shape == out.shape else out


class Plain(nn.Module):
    """Convolution, norm, activation; never a residual."""

    def __init__(self, cin: int, cout: int, stride: int, stage: StageSpec, style: Style, drop: float) -> None:
        super().__init__()
        self.conv = style.make_conv(cin, cout, stage.kernel, stride=stride)
        self.norm = style.make_norm(cout)
        self.act = style.make_act(cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Separable(nn.Module):
    """Depthwise then pointwise, no residual (MobileNetV1)."""

    def __init__(self, cin: int, cout: int, stride: int, stage: StageSpec, style: Style, drop: float) -> None:
        super().__init__()
        self.depthwise = style.make_conv(cin, cin, stage.kernel, stride=stride, groups=cin)
        self.norm1, self.act1 = style.make_norm(cin), style.make_act(cin)
        self.pointwise = style.make_conv(cin, cout, 1)
        self.norm2, self.act2 = style.make_norm(cout), style.make_act(cout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.norm1(self.depthwise(x)))
        return self.act2(self.norm2(self.pointwise(x)))


class Basic(Residual):
    def __init__(self, cin: int, cout: int, stride: int, stage: StageSpec, style: Style, drop: float) -> None:
        super().__init__(cin, cout, stride, stage.shortcut, style, drop)
        self.conv1 = style.make_conv(cin, cout, stage.kernel, stride=stride)
        self.norm1, self.act1 = style.make_norm(cout), style.make_act(cout)
        self.conv2 = style.make_conv(cout, cout)
        self.norm2, self.act2 = style.make_norm(cout), style.make_act(cout)
        self.se = style.make_excite(cout, cout, stage.se) if stage.se else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        if self.se is not None:
            out = self.se(out)
        return self.act2(self.join(x, out))


class PreAct(Residual):
    """Norm and activation before each convolution (ResNet v2)."""

    def __init__(self, cin: int, cout: int, stride: int, stage: StageSpec, style: Style, drop: float) -> None:
        super().__init__(cin, cout, stride, stage.shortcut, style, drop)
        self.norm1, self.act1 = style.make_norm(cin), style.make_act(cin, inplace=False)
        self.conv1 = style.make_conv(cin, cout, stride=stride)
        self.norm2, self.act2 = style.make_norm(cout), style.make_act(cout)
        self.conv2 = style.make_conv(cout, cout)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.act1(self.norm1(x)))
        return self.join(x, self.conv2(self.act2(self.norm2(out))))


class Bottleneck(Residual):
    """1x1, 3x3 in ``stage.groups`` groups, 1x1; the middle is the multiple of ``groups`` below ``width // ratio``."""

    def __init__(self, cin: int, cout: int, stride: int, stage: StageSpec, style: Style, drop: float) -> None:
        super().__init__(cin, cout, stride, stage.shortcut, style, drop)
        middle = max(1, cout // stage.ratio // stage.groups) * stage.groups
        self.conv1 = style.make_conv(cin, middle, 1)
        self.norm1, self.act1 = style.make_norm(middle), style.make_act(middle)
        self.conv2 = style.make_conv(middle, middle, stage.kernel, stride=stride, groups=stage.groups)
        self.norm2, self.act2 = style.make_norm(middle), style.make_act(middle)
        self.conv3 = style.make_conv(middle, cout, 1)
        self.norm3, self.act3 = style.make_norm(cout), style.make_act(cout)
        self.se = style.make_excite(cout, cout, stage.se) if stage.se else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.norm1(self.conv1(x)))
        out = self.act2(self.norm2(self.conv2(out)))
        out = self.se(self.norm3(self.conv3(out)))
        return self.act3(self.join(x, out))


class Inverted(Residual):
    """Expand, depthwise, squeeze-excite, project (MobileNetV2, EfficientNet); no expansion layer at ratio 1."""

    def __init__(self, cin: int, cout: int, stride: int, stage: StageSpec, style: Style, drop: float) -> None:
        super().__init__(cin, cout, stride, stage.shortcut, style, drop)
        hidden = cin * stage.ratio
        layers: list[nn.Module] = []
        if stage.ratio != 1:
            layers += [Plain(cin, hidden, 1, pointwise(stage), style, 0.0)]
        layers += [style.make_conv(hidden, hidden, stage.kernel, stride=stride, groups=hidden), style.make_norm(hidden)]
        if stage.se:
            layers += [style.make_excite(hidden, cin, stage.se)]
        layers += [*conv_norm(style, hidden, cout)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.body(x))


class Grouped(nn.Module):
    """A grouped convolution from width to width, with a learned gain on the residual."""

    def __init__(self, cin: int, cout: int, stride: int, stage: StageSpec, style: Style, drop: float) -> None:
        super().__init__()
        self.entry = Plain(cin, cout, stride, stage, style, 0.0) if stride > 1 or cin != cout else None
        self.conv = style.make_conv(cout, cout, stage.kernel, groups=stage.groups)
        self.norm, self.act = style.make_norm(cout), style.make_act(cout)
        self.gain = nn.Parameter(torch.full((1, cout, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        if self.entry is not None:
            x = self.entry(x)
        return x + self.gain * self.act(self.norm(self.conv(x)))


class Concat(nn.Module):
    """Three parallel branches, concatenated (Inception); no residual."""

    def __init__(self, cin: int, cout: int, stride: int, stage: StageSpec, style: Style, drop: float) -> None:
        super().__init__()
        third, rest = cout // 3, cout - 2 * (cout // 3)
        self.branch1 = Plain(cin, third, stride, pointwise(stage), style, 0.0)
        self.branch3 = nn.Sequential(
            Plain(cin, max(1, third // 2), 1, pointwise(stage), style, 0.0),
            Plain(max(1, third // 2), third, stride, stage, style, 0.0),
        )
        self.pool = nn.MaxPool2d(3, stride=stride, padding=1)
        self.branch_pool = Plain(cin, rest, 1, pointwise(stage), style, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch3(x), self.branch_pool(self.pool(x))], 1)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(batch, channels, height, width)


class Split(nn.Module):
    """Half of the channels pass, half are worked on; joined, and shuffled where ``groups`` is 2 (ShuffleNetV2)."""

    def __init__(self, cin: int, cout: int, stride: int, stage: StageSpec, style: Style, drop: float) -> None:
        super().__init__()
        half = cout // 2
        self.opens = stride > 1 or cin != cout
        self.shuffle = stage.groups
        self.cut, self.half = stage.cut, half
        self.branch1 = nn.Sequential()
        if self.opens:
            self.branch1 = Separable(cin, half, stride, stage, style, 0.0)
        self.branch2 = nn.Sequential(
            *conv_norm(style, cin if self.opens else half, half),
            style.make_conv(half, half, stage.kernel, stride=stride, groups=half),
            *conv_norm(style, half, half),
        )
        self.act = style.make_act(cout)

    def halves(self, x: Tensor) -> tuple[Tensor, ...]:
        match self.cut:
            case "split":
                return torch.split(x, self.half, dim=1)
            case "sizes":
                return x.split([self.half, self.half], 1)
            case "slice":
                return x[:, : self.half], x[:, self.half :]
        return x.chunk(2, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.opens:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        else:
            kept, worked = self.halves(x)
            out = torch.cat((kept, self.branch2(worked)), dim=1)
        out = self.act(out)
        return channel_shuffle(out, 2) if self.shuffle == 2 else out


class LayerScale(nn.Module):
    """ConvNeXt's block: depthwise, channels-last LayerNorm, two Linear layers, layer scale, residual."""

    def __init__(self, cin: int, cout: int, stride: int, stage: StageSpec, style: Style, drop: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(cout, cout, stage.kernel, padding=stage.kernel // 2, groups=cout)
        self.norm = nn.LayerNorm(cout, eps=1e-6)
        self.pwconv1 = nn.Linear(cout, stage.ratio * cout)
        self.pwconv2 = nn.Linear(stage.ratio * cout, cout)
        self.gamma = nn.Parameter(1e-2 * torch.ones(cout))
        self.drop_path = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        out = self.dwconv(x).permute(0, 2, 3, 1)
        out = self.pwconv2(nn.functional.gelu(self.pwconv1(self.norm(out))))
        out = (self.gamma * out).permute(0, 3, 1, 2)
        return x + self.drop_path(out)


class Down(nn.Module):
    """Between ConvNeXt stages: norm, then a strided convolution."""

    def __init__(self, cin: int, cout: int, stride: int, style: Style) -> None:
        super().__init__()
        self.norm = style.make_norm(cin)
        self.conv = nn.Conv2d(cin, cout, stride, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


def pointwise(stage: StageSpec) -> StageSpec:
    return replace(stage, kernel=1)
