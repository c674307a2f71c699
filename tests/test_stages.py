"""Which blocks are stages, on nets written for the case."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import cnnscale

SIZE = (3, 16, 16)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x, gain=1.0):
        return x + gain * self.conv2(self.conv1(x).relu())


class Called(nn.Module):
    """Two blocks as attributes, called with their input alone or with more."""

    def __init__(self, *more):
        super().__init__()
        self.more = more
        self.stem = nn.Conv2d(3, 16, 3)
        self.block1, self.block2 = Residual(16), Residual(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.block1(self.stem(x), *self.more)
        return self.head(self.block2(x, *self.more).mean((2, 3)))


@pytest.mark.parametrize(("more", "blocks"), [((), 4), ((0.5,), 2)])
def test_a_block_that_is_called_with_more_than_its_input_cannot_become_a_sequential(more, blocks):
    scaled = cnnscale.scale(Called(*more), depth=2, input_size=SIZE)
    (stage,) = scaled.scaling.plan.stages
    assert stage.new_repeats == blocks
    assert bool(stage.note) == bool(more)
    assert type(scaled) is Called
    assert sum(isinstance(module, Residual) for module in scaled.modules()) == blocks
    assert scaled(torch.randn(2, *SIZE)).shape == (2, 10)


class Separable(nn.Module):
    """The only one of its class, with the residual that it adds for equal shapes."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.skip = inputs == outputs and stride == 1
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        out = self.pointwise(self.depthwise(x).relu())
        return x + out if self.skip else out


def rows(first):
    stages = nn.Sequential(first, nn.Sequential(Residual(24), Residual(24)), nn.Sequential(Residual(24)))
    return nn.Sequential(nn.Conv2d(3, 16, 3), stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


def test_a_lone_block_in_a_row_of_stages_is_one():
    scaled = cnnscale.scale(rows(nn.Sequential(Separable(16, 24, 1))), depth=2, input_size=SIZE)
    lone = scaled[1][0]
    assert [(block.depthwise.in_channels, block.pointwise.out_channels) for block in lone] == [(16, 24), (24, 24)]
    assert [block.skip for block in lone] == [False, True]


def test_a_lone_block_beside_the_containers_of_stages_is_none():
    scaled = cnnscale.scale(rows(Separable(16, 24, 1)), depth=2, input_size=SIZE)
    assert type(scaled[1][0]) is Separable


class ByShape(nn.Module):
    """Adds its input where the shapes are equal, and cannot be told to."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 1)

    def forward(self, x):
        out = self.conv2(self.conv1(x).relu())
        return x + out if x.shape == out.shape else out


def test_a_residual_that_equal_widths_bring_is_the_authors():
    lone = [nn.Conv2d(3, 14, 3), ByShape(14, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    scaled = cnnscale.scale(nn.Sequential(*lone), width=1.05, input_size=SIZE, round_limit=0)
    assert (scaled[0].out_channels, scaled[1].conv2.out_channels) == (16, 16)
    assert type(scaled) is nn.Sequential
    assert not scaled.scaling.plan.stages


def test_the_copy_knows_its_own_number_of_input_channels():
    """A block that cuts by ``in_channels`` where it has a residual, which only the copy has."""
    with torch.device("meta"):
        model = timm.create_model("rexnet_100")
    scaled = cnnscale.scale(model, 1)
    assert type(scaled) is type(model)
    assert all(block.in_channels <= block.out_channels for block in scaled.features[:-1] if block.use_shortcut)
