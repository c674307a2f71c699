"""Kernels over channels have the size that their author computes from the number of channels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import cnnscale

SIZE = (3, 16, 16)


def paper(channels):
    """ECA-Net, eq. 12, as its authors' code has it."""
    t = int(abs((math.log2(channels) + 1) / 2))
    return t if t % 2 else t + 1


def other(channels):
    t = int(abs(math.log2(channels) + 2))
    return t if t % 2 else t + 1


class Attention(nn.Module):
    def __init__(self, channels, kernel):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel(channels), padding=kernel(channels) // 2, bias=False)

    def forward(self, x):
        gate = self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return x * gate.transpose(1, 2).unsqueeze(-1)


class Block(nn.Module):
    def __init__(self, inputs, outputs, kernel):
        super().__init__()
        self.skip = inputs == outputs
        self.conv = nn.Conv2d(inputs, outputs, 3, 1 if self.skip else 2, padding=1)
        self.attention = Attention(outputs, kernel)

    def forward(self, x):
        out = self.attention(self.conv(x).relu())
        return x + out if self.skip else out


def net(widths, kernel, repeats=2):
    ends = [8, *widths]
    blocks = [
        Block(inputs if k == 0 else outputs, outputs, kernel)
        for inputs, outputs in zip(ends, widths, strict=False)
        for k in range(repeats)
    ]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(*blocks), *head)


def kernels(model):
    return [(m.weight.shape, m.kernel_size, m.padding) for m in model.modules() if isinstance(m, nn.Conv1d)]


def author(scaled, kernel, repeats):
    """The net that the author's own code makes of the new widths."""
    return net([block.conv.out_channels for block in scaled[1]][::repeats], kernel, repeats)


@pytest.mark.parametrize(("widths", "kernel"), [((64, 128, 512), paper), ((128, 256), paper), ((16, 64), other)])
@pytest.mark.parametrize("width", [0.25, 8])
def test_the_kernel_follows_the_channels(widths, kernel, width):
    with torch.device("meta"):
        baseline = net(widths, kernel)
    scaled = cnnscale.scale(baseline, width=width, input_size=SIZE)
    assert type(scaled) is type(baseline)
    wanted = [max(3, kernel(block.conv.out_channels)) for block in scaled[1]]
    assert [size for _, (size,), _ in kernels(scaled)] == wanted
    assert [pad for _, _, (pad,) in kernels(scaled)] == [size // 2 for size in wanted]
    assert kernels(scaled) != kernels(baseline)


@pytest.mark.parametrize(
    "kernel", [lambda channels: 3, lambda channels: 9, lambda channels: {64: 5, 128: 3, 512: 7}[channels]]
)
def test_kernels_that_no_formula_gives_stay(kernel):
    with torch.device("meta"):
        baseline = net((64, 128, 512), kernel)
    scaled = cnnscale.scale(baseline, width=8, input_size=SIZE)
    assert kernels(scaled) == kernels(baseline)


def test_a_block_made_for_a_lone_one_has_its_kernel_too():
    scaled = cnnscale.scale(net((64, 512), paper, repeats=1), width=4, depth=2, input_size=SIZE)
    assert kernels(scaled) == kernels(author(scaled, paper, 2))
    assert len(kernels(scaled)) == 4


def test_phi_is_fitted_with_the_kernels_that_come():
    plan = cnnscale.plan(net((64, 512), paper), 3, input_size=SIZE)
    scaled = cnnscale.apply(net((64, 512), paper), plan)
    assert scaled.scaling.verification.as_planned
    assert kernels(scaled) == kernels(author(scaled, paper, scaled.scaling.plan.stages[0].new_repeats))


def test_inherited_taps_keep_their_place_about_the_middle():
    baseline = net((128,), paper, 1)
    scaled = cnnscale.scale(baseline, width=16, input_size=SIZE, weights="inherit")
    before, after = (model[1][0].attention.conv.weight for model in (baseline, scaled))
    assert (before.shape[2], after.shape[2]) == (5, 7)
    torch.testing.assert_close(after[..., 1:6], before)
    assert scaled(torch.randn(2, *SIZE)).shape == (2, 10)
