"""Stages of random nets that grow inside (dense, CSP), and the containers that hold stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .blocks import Basic, Plain, pointwise
from .layers import Style, conv_norm

if TYPE_CHECKING:
    from .spec import StageSpec


class DenseLayer(nn.Module):
    """BN-ReLU-1x1-BN-ReLU-3x3 on the concatenation of everything before (DenseNet)."""

    def __init__(self, cin: int, growth: int, stage: StageSpec, style: Style) -> None:
        super().__init__()
        self.conv1 = Plain(cin, 2 * growth, 1, pointwise(stage), style, 0.0)
        self.conv2 = style.make_conv(2 * growth, growth)

    def forward(self, x: Tensor | list[Tensor]) -> Tensor:
        if isinstance(x, list):
            x = torch.cat(x, 1)
        return self.conv2(self.conv1(x))


class DenseDict(nn.ModuleDict):
    """A list of features, concatenated in every layer (torchvision's DenseNet)."""

    def __init__(self, cin: int, stage: StageSpec, style: Style) -> None:
        super().__init__()
        for i in range(stage.repeats):
            self.add_module(f"denselayer{i + 1}", DenseLayer(cin + i * stage.growth, stage.growth, stage, style))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseList(nn.Module):
    """The features grow by one concatenation after every layer."""

    def __init__(self, cin: int, stage: StageSpec, style: Style) -> None:
        super().__init__()
        growth = stage.growth
        self.layers = nn.ModuleList(DenseLayer(cin + i * growth, growth, stage, style) for i in range(stage.repeats))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return x


class Transition(nn.Sequential):
    """1x1 convolution to the stage's width, and pooling where it has a stride."""

    def __init__(self, cin: int, cout: int, stride: int, style: Style) -> None:
        pool = [nn.AvgPool2d(stride)] if stride > 1 else []
        super().__init__(*conv_norm(style, cin, cout), *pool)


class CrossStage(nn.Module):
    """CSP: half of the channels go round the run of blocks and are joined after it."""

    def __init__(self, cin: int, stage: StageSpec, style: Style) -> None:
        super().__init__()
        width, half = stage.width, stage.width // 2
        self.down = Plain(cin, width, stage.stride, stage, style, 0.0)
        self.around = Plain(width, half, 1, pointwise(stage), style, 0.0)
        self.entry = Plain(width, half, 1, pointwise(stage), style, 0.0)
        self.blocks = nn.Sequential(*(Basic(half, half, 1, stage, style, 0.0) for _ in range(stage.repeats)))
        self.merge = Plain(2 * half, width, 1, pointwise(stage), style, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return self.merge(torch.cat([self.blocks(self.entry(x)), self.around(x)], 1))


class GatherStage(nn.Module):
    """C2f: chunk in two, run blocks, concatenate what each of them made."""

    def __init__(self, cin: int, stage: StageSpec, style: Style) -> None:
        super().__init__()
        width, half = stage.width, stage.width // 2
        self.entry = Plain(cin, 2 * half, stage.stride, stage, style, 0.0)
        self.m = nn.ModuleList(Basic(half, half, 1, stage, style, 0.0) for _ in range(stage.repeats))
        self.merge = Plain((2 + stage.repeats) * half, width, 1, pointwise(stage), style, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.entry(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.merge(torch.cat(y, 1))


class WrappedStage(nn.Module):
    """A stage as a module of its own, with the blocks one level down."""

    def __init__(self, units: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*units)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class ListStage(nn.ModuleList):
    def forward(self, x: Tensor) -> Tensor:
        for unit in self:
            x = unit(x)
        return x


class DictStage(nn.ModuleDict):
    """Blocks by name: unit1, unit2, ..."""

    def __init__(self, units: Sequence[nn.Module]) -> None:
        super().__init__({f"unit{i + 1}": unit for i, unit in enumerate(units)})

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.values():
            x = unit(x)
        return x


class HandStage(nn.Module):
    """Blocks written out by hand as attributes."""

    LIMIT = 9

    def __init__(self, units: Sequence[nn.Module]) -> None:
        super().__init__()
        assert len(units) <= self.LIMIT
        self.count = len(units)
        for i, unit in enumerate(units):
            setattr(self, f"block{i + 1}", unit)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(x)
        if self.count > 1:
            x = self.block2(x)
        if self.count > 2:
            x = self.block3(x)
        if self.count > 3:
            x = self.block4(x)
        if self.count > 4:
            x = self.block5(x)
        if self.count > 5:
            x = self.block6(x)
        if self.count > 6:
            x = self.block7(x)
        if self.count > 7:
            x = self.block8(x)
        if self.count > 8:
            x = self.block9(x)
        return x


def contain(container: str, stages: Sequence[Sequence[nn.Module]]) -> nn.Module:
    """All stages, held the way that ``container`` names. Every way computes the same."""
    match container:
        case "sequential":
            return nn.Sequential(*(nn.Sequential(*units) for units in stages))
        case "wrapped":
            return nn.Sequential(*(WrappedStage(units) for units in stages))
        case "list":
            return ListStage(ListStage(units) for units in stages)
        case "dict":
            return ListStage(DictStage(units) for units in stages)
        case "hand":
            return nn.Sequential(*(HandStage(units) for units in stages))
        case "hand_flat":
            return HandStage([unit for units in stages for unit in units])
        case "flat":
            return nn.Sequential(*(unit for units in stages for unit in units))
        case "merged":  # two stages in one Sequential
            pairs = [stages[i : i + 2] for i in range(0, len(stages), 2)]
            return nn.Sequential(*(nn.Sequential(*(u for units in pair for u in units)) for pair in pairs))
    raise ValueError(container)


CONTAINERS = ("sequential", "wrapped", "list", "dict", "hand", "hand_flat", "flat", "merged")
