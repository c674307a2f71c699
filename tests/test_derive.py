"""``derive=``: rules for inner widths which the baseline cannot show."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cnnscale


class Expanding(nn.Module):
    """A residual block whose inner width is 40 at a width of 16: 2.5 times it, or a number of its own."""

    def __init__(self, width, inner):
        super().__init__()
        self.expand = nn.Conv2d(width, inner, 1)
        self.project = nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x):
        return x + self.project(self.expand(x).relu())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.blocks = nn.Sequential(Expanding(16, 40), Expanding(16, 56))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def inner_widths(derive, width=1.25):
    net = cnnscale.scale(Net(), width=width, input_size=(3, 16, 16), derive=derive)
    assert net.stem.out_channels == 24
    return [block.expand.out_channels for block in net.blocks]


def test_without_a_rule_each_width_is_rounded_on_its_own():
    assert inner_widths(None) == inner_widths({"expand": "on its own"}) == [48, 72]  # of 50 and 70


def test_in_proportion_to_the_blocks_input():
    assert inner_widths({"expand": "in proportion to block input"}) == [64, 88]  # of 60 and 84


def test_one_layer_alone_and_in_the_words_of_a_plan():
    told = {r"0\.expand": "5/2 x block input", r"1\.expand": "7/2 x own input, to a multiple of 8"}
    assert inner_widths(told) == [60, 88]
    plan = cnnscale.plan(Net(), width=1.25, input_size=(3, 16, 16), derive=told)
    rules = {width.name: width.rule for width in plan.widths}
    assert rules["blocks.0.expand"] == told[r"0\.expand"]
    assert rules["blocks.1.expand"] == told[r"1\.expand"]
    read = cnnscale.Plan.from_json(plan.to_json())
    assert read == plan
    assert cnnscale.apply(Net(), read).blocks[0].expand.out_channels == 60


def test_a_found_rule_can_be_put_aside():
    net = Net()
    net.blocks = nn.Sequential(Expanding(16, 64), Expanding(16, 64))
    widths = [
        cnnscale.plan(net, width=1.1, input_size=(3, 16, 16), derive=told).widths
        for told in (None, {"expand": "on its own"})
    ]
    inner = [{w.name: w.after for w in found}["blocks.0.expand"] for found in widths]
    assert inner == [64, 72]  # 4 x 16, and 1.1 x 64 rounded


@pytest.mark.parametrize(
    ("derive", "message"),
    [
        ({"expand": "twice as wide"}, "is no rule for a width"),
        ({"expand": "3 x block input"}, "gives 48 channels for 'blocks.0.expand', which has 40 today"),
        ({"nowhere": "as block input"}, "matches no layer"),
        ({"project": "as block input"}, "has the width of its block input already"),
        ({"stem": "as block output"}, "is in no block"),
        ({"(": "as block input"}, "is not a regular expression"),
        ("expand", "takes a mapping"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(derive, message):
    with pytest.raises(cnnscale.UsageError) as caught:
        inner_widths(derive)
    assert message in str(caught.value)


class Gated(nn.Module):
    """One layer makes three things at once: two as wide as the block, and two gates."""

    def __init__(self, width):
        super().__init__()
        self.width = width
        self.parts = nn.Conv2d(width, 2 * width + 2, 1)
        self.context = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, x):
        query, context, gates = self.parts(x).split((self.width, self.width, 2), 1)
        context = self.context(context) * gates[:, :1] + context.mean((2, 3), keepdim=True) * gates[:, 1:]
        return x + query * self.project(context)


def test_parts_of_a_layer_that_is_nothing_but_its_parts_follow_the_block():
    net = Net()
    net.blocks = nn.Sequential(Gated(16), Gated(16))
    scaled = cnnscale.scale(net, width=2, input_size=(3, 16, 16))
    assert [block.parts.out_channels for block in scaled.blocks] == [66, 66]
    assert [block.context.groups for block in scaled.blocks] == [32, 32]
    assert [block.width for block in scaled.blocks] == [32, 32]
    assert scaled.scaling.verification.changed == 1


class Branches(nn.Module):
    """Reads one channel; what the second branch has is what the first leaves of the width that follows."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(1, 12, 1)
        self.mix = nn.Conv2d(24, 24, 1)

    def forward(self, x):
        x = torch.cat([self.first(x), self.second(x)], 1)
        return x + self.mix(x)


def branches():
    return nn.Sequential(Branches(), Gated(24), Gated(24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


def test_a_multiple_of_the_images_channels_is_no_rule():
    scaled = cnnscale.scale(branches(), width=0.5, divisor=1, input_size=(1, 16, 16))
    assert (scaled[0].first.out_channels, scaled[0].second.out_channels) == (6, 6)


class Cut(nn.Module):
    """What one sum takes of a concatenation, another layer has not."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(3, 12, 1)
        self.side, self.rest = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(20, 10)

    def forward(self, x):
        both = torch.cat([self.first(x), self.second(x)], 1)
        parts = torch.cat([both[:, :12] + self.side(x), self.rest(both[:, 12:])], 1)
        return self.head(parts.mean((2, 3)))


def test_no_width_falls_below_one():
    with pytest.raises(cnnscale.WidthError, match=r"channels that .rest.weight. has or reads none would be left"):
        cnnscale.plan(Cut(), width=3, input_size=(3, 16, 16), pin=("first", "second"))
