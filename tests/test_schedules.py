"""Numbers that depend on a block's place, or on a layer's fan-in, are those that its author would have computed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnscale

ALPHA = 0.3


class ScaledConv(nn.Conv2d):
    """Weight standardisation with the factor computed once, as its author does."""

    def __init__(self, inputs, outputs, kernel, stride=1):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2)
        self.factor = 1.7 * (inputs * kernel * kernel) ** -0.5

    def forward(self, x):
        weight = self.factor * self.weight / (self.weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Block(nn.Module):
    """A normaliser-free residual block: it divides its input by the deviation that is expected there."""

    def __init__(self, inputs, outputs, stride, deviation, inverse):
        super().__init__()
        self.deviation = 1 / deviation if inverse else deviation
        self.inverse = inverse
        self.conv1 = ScaledConv(inputs, outputs, 1)
        self.conv2 = ScaledConv(outputs, outputs, 3, stride)
        self.shortcut = ScaledConv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x):
        out = F.relu(x) * self.deviation if self.inverse else F.relu(x) / self.deviation
        shortcut = x if self.shortcut is None else self.shortcut(out)
        return shortcut + ALPHA * self.conv2(self.conv1(out))


class NormFree(nn.Module):
    def __init__(self, repeats, widths=(16, 32, 64), *, inverse=True):
        super().__init__()
        self.stem = ScaledConv(3, 8, 3)
        variance, inputs, stages = 1.0, 8, []
        for number, width in zip(repeats, widths, strict=True):
            blocks = []
            for k in range(number):
                blocks.append(Block(inputs, width, 2 if k == 0 else 1, variance**0.5, inverse))
                variance = (1.0 if k == 0 else variance) + ALPHA**2
                inputs = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, 10)

    def forward(self, x):
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


def numbers(net, name):
    return [vars(module)[name] for module in net.modules() if name in vars(module)]


@pytest.mark.parametrize("inverse", [True, False])
@pytest.mark.parametrize("depth", [2, 1.5, 0.5])
def test_expected_deviations_are_redrawn_over_the_new_depth(inverse, depth):
    scaled = cnnscale.scale(NormFree((2, 4, 3), inverse=inverse), depth=depth, input_size=(3, 32, 32))
    repeats = [stage.new_repeats for stage in scaled.scaling.plan.stages]
    assert repeats != [2, 4, 3]
    assert numbers(scaled, "deviation") == pytest.approx(numbers(NormFree(repeats, inverse=inverse), "deviation"))


def test_numbers_that_only_look_like_deviations_stay():
    net = NormFree((2, 4, 3))
    for k, block in enumerate(m for m in net.modules() if isinstance(m, Block)):
        block.deviation = 1 + 0.1 * (k % 4)
    before = set(numbers(net, "deviation"))
    scaled = cnnscale.scale(net, depth=2, input_size=(3, 32, 32))
    assert set(numbers(scaled, "deviation")) == before


@pytest.mark.parametrize("width", [2, 0.5])
def test_factors_of_the_fan_in_follow_it(width):
    scaled = cnnscale.scale(NormFree((2, 2, 2)), width=width, input_size=(3, 32, 32))
    convs = [module for module in scaled.modules() if isinstance(module, ScaledConv)]
    assert [conv.factor for conv in convs] == pytest.approx([1.7 * conv.weight[0].numel() ** -0.5 for conv in convs])
    before = [module for module in NormFree((2, 2, 2)).modules() if isinstance(module, ScaledConv)]
    same = [old.weight[0].numel() == new.weight[0].numel() for old, new in zip(before, convs, strict=True)]
    assert [old.factor == new.factor for old, new in zip(before, convs, strict=True)] == same
    assert sum(same) < len(same) / 2


def test_the_result_computes_what_its_author_would_have_written():
    scaled = cnnscale.scale(NormFree((2, 2, 2)), depth=2, width=2, input_size=(3, 32, 32), seed=0).eval()
    widths = [block.conv2.weight.shape[0] for block in (stage[0] for stage in scaled.stages)]
    written = NormFree((4, 4, 4), widths).eval()
    written.stem = ScaledConv(3, scaled.stem.weight.shape[0], 3)
    written.stages[0][0].conv1 = ScaledConv(scaled.stem.weight.shape[0], widths[0], 1)
    written.stages[0][0].shortcut = ScaledConv(scaled.stem.weight.shape[0], widths[0], 1, 2)
    written.load_state_dict(scaled.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(scaled(x), written.eval()(x))


class Drop(nn.Module):
    """Stochastic depth that may rest."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        return F.dropout(x, self.rate, self.training)


class Rated(nn.Module):
    """A residual block, with a rate of its own beside that of its drop."""

    def __init__(self, width, rate, other):
        super().__init__()
        self.other = other
        self.conv1, self.conv2 = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.drop = Drop(rate) if rate else nn.Identity()

    def forward(self, x):
        return x + self.drop(self.conv2(self.conv1(x).relu()))


def rated(rates, others):
    blocks = [Rated(8, rate, other) for rate, other in zip(rates, others, strict=True)]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(*blocks), *head)


@pytest.mark.parametrize("others", [[0.0, 0.3, 0.1, 0.2], [None, 0.1, 0.2, 0.3], [1.0, 2.0, 3.0, [4.0]]], ids=str)
def test_rates_of_single_precision_are_linear_too(others):
    """As ``torch.linspace`` gives them; numbers beside them that are no deviations are left alone."""
    rates = torch.linspace(0, 0.2, 4).tolist()
    assert rates != [0.2 * i / 3 for i in range(4)]
    scaled = cnnscale.scale(rated(rates, others), depth=2, input_size=(3, 16, 16))
    assert numbers(scaled, "rate") == pytest.approx(torch.linspace(0, 0.2, 8).tolist()[1:])
    assert numbers(scaled, "other") == [*others, *[others[-1]] * 4]
