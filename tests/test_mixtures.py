"""Rows of blocks that are not all alike: a turn goes on as it went, other kinds share the repeats."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import cnnscale
from cnnscale.rounding import share_repeats

SIZE = (3, 16, 16)


class Mix(nn.Module):
    """An inverted residual; the kinds below differ in kernel, expansion and dilation."""

    def __init__(self, inputs, outputs, expansion=2, kernel=3, dilation=1):
        super().__init__()
        self.skip = inputs == outputs
        self.expand = nn.Conv2d(inputs, expansion * inputs, 1)
        self.spatial = nn.Conv2d(
            expansion * inputs,
            expansion * inputs,
            kernel,
            stride=1 if self.skip else 2,
            padding=kernel // 2 * dilation,
            dilation=dilation,
            groups=expansion * inputs,
        )
        self.project = nn.Conv2d(expansion * inputs, outputs, 1)

    def forward(self, x):
        out = self.project(self.spatial(self.expand(x).relu()).relu())
        return x + out if self.skip else out


class Attend(nn.Module):
    """Norm, attention and the sum around it: the attention alone is no block."""

    class Inner(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.keys, self.values = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)

        def forward(self, x):
            return self.keys(x).sigmoid() * self.values(x)

    def __init__(self, width):
        super().__init__()
        self.norm, self.inner = nn.BatchNorm2d(width), Attend.Inner(width)

    def forward(self, x):
        return x + self.inner(self.norm(x))


class Looped(nn.Module):
    """A list of blocks, of which the outputs named are returned too, by way of a second head."""

    def __init__(self, blocks, also=()):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks, self.also = nn.ModuleList(blocks), also
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x, seen = self.stem(x), 0
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.also:
                seen = seen + x.mean((2, 3))
        return self.head(x.mean((2, 3)) + seen)


def net(*blocks):
    row = nn.Sequential(*blocks)
    return nn.Sequential(nn.Conv2d(3, 8, 3), row, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def deep(*blocks, depth, make=net, **options):
    """(the row of the scaled net, its stages: (block, repeats))."""
    scaled = cnnscale.scale(make(*blocks), depth=depth, input_size=SIZE, **options)
    assert scaled(torch.randn(2, *SIZE)).shape == (2, 10)
    row = scaled[1] if make is net else scaled.blocks
    return list(row.children()), [(stage.block, stage.new_repeats) for stage in scaled.scaling.plan.stages]


def kinds(row):
    return "".join("a" if isinstance(block, Attend) else "m" for block in row)


def kernels(row):
    return [block.spatial.kernel_size[0] for block in row]


@pytest.mark.parametrize(
    ("depth", "row"), [(2, "mamamama"), (1.2, "mama"), (1.5, "mamama"), (0.5, "ma"), (3, "mamamamamama")], ids=str
)
def test_convolution_and_attention_take_turns(depth, row):
    blocks, stages = deep(Mix(8, 16), Attend(16), Mix(16, 16), Attend(16), depth=depth)
    assert kinds(blocks) == row
    assert stages == [("Mix + Attend", len(row) // 2)]
    assert [block.skip for block in blocks[::2]] == [False] + [True] * (len(row) // 2 - 1)


def test_the_turn_begins_behind_what_is_no_part_of_it():
    blocks, stages = deep(Mix(8, 16), Mix(16, 16), Attend(16), Mix(16, 16), Attend(16), Mix(16, 16), depth=1.5)
    assert stages == [("Mix", 3), ("Attend + Mix", 3)]
    assert kinds(blocks) == "mmm" + "am" * 3


def test_dilations_and_kernels_take_turns():
    pattern = [(3, 1), (3, 2), (5, 1)]
    mixed = [Mix(16, 16, kernel=kernel, dilation=dilation) for kernel, dilation in pattern * 2]
    blocks, stages = deep(Mix(8, 16), *mixed, depth=2)
    assert stages[-1] == ("Mix + Mix + Mix", 4)
    assert [(b.spatial.kernel_size[0], b.spatial.dilation[0]) for b in blocks[-12:]] == pattern * 4


def test_blocks_that_are_read_between_the_turns_take_none():
    blocks = [Mix(8, 16), Attend(16), Mix(16, 16), Attend(16)]
    for also, stages in (((1,), ["Mix + Attend"]), ((0, 1, 2, 3), ["Mix", "Attend", "Mix", "Attend"])):
        got = deep(*blocks, depth=2, make=lambda *b, also=also: Looped(b, also))[1]
        assert [block for block, _ in got] == stages


def test_widths_of_turns_follow_the_rules_of_their_own_blocks():
    blocks, _ = deep(Mix(8, 16, 3), Attend(16), Mix(16, 16, 3), Attend(16), depth=2, width=1.5)
    assert [(b.expand.out_channels, b.expand.in_channels) for b in blocks[2::2]] == [(72, 24)] * 3


@pytest.mark.parametrize(
    ("depth", "row"),
    [(1.25, [3, 5, 5, 7, 7]), (2, [3, 5, 5, 5, 7, 7, 7, 7]), (0.5, [3, 7]), (0.25, [3, 7])],
    ids=str,
)
def test_kinds_share_the_repeats_from_the_last_to_the_first(depth, row):
    """Four blocks of a stride, a kind of one and a kind of two, as in MobileNetV3."""
    blocks, _ = deep(Mix(8, 16), Mix(16, 16, kernel=5), *(Mix(16, 16, kernel=7) for _ in range(2)), depth=depth)
    assert kernels(blocks) == row


def test_a_kind_whose_depth_is_pinned_leaves_the_others_theirs():
    blocks = [Mix(8, 16), Mix(16, 16, kernel=5), Mix(16, 16, kernel=7), Mix(16, 16, kernel=7)]
    row, _ = deep(*blocks, depth=2, pin_depth=(r"^1\.2$",))
    assert kernels(row) == [3, 5, 5, 5, 7, 7]


def test_shares_grow_with_their_sum_and_make_it_up():
    before = share_repeats((3, 2, 1, 4), 4)
    for total in range(4, 60):
        shares = share_repeats((3, 2, 1, 4), total)
        assert sum(shares) == total or total < 10
        assert all(new >= old for new, old in zip(shares, before, strict=True))
        before = shares
    assert share_repeats((3, 2, 1, 4), 1) == [1, 1, 1, 1]
    assert share_repeats((3, 2, 1, 4), 20) == [6, 4, 2, 8]


class Pair(nn.Module):
    """Two blocks called by hand, and a layer that reads what both return."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.one, self.two = Mix(inputs, outputs), Mix(outputs, outputs)
        self.root = nn.Conv2d(2 * outputs, outputs, 1)

    def forward(self, x):
        one = self.one(x)
        return self.root(torch.cat([one, self.two(one)], 1))


@pytest.mark.parametrize(("depth", "blocks"), [(2, 3), (1.5, 2), (0.5, 1)])
def test_pairs_that_a_layer_reads_grow_between_the_second_and_its_reader(depth, blocks):
    baseline = nn.Sequential(Pair(3, 8), Pair(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    scaled = cnnscale.scale(baseline, depth=depth, input_size=SIZE)
    assert scaled.scaling.form == "module"
    for pair, stage in zip(scaled[:2], scaled.scaling.plan.stages, strict=True):
        copies = list(pair.two) if isinstance(pair.two, nn.Sequential) else [pair.two]
        assert [type(block) for block in copies] == [Mix] * blocks
        assert (stage.repeats, stage.new_repeats) == (2, blocks + 1)
    assert scaled(torch.randn(2, *SIZE)).shape == (2, 10)


class Layer(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.add = False
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        return x + self.conv(x) if self.add else self.conv(x).relu()


def test_a_lone_layer_in_a_row_of_stages_is_one_and_gets_no_residual():
    stages = nn.Sequential(nn.Sequential(Mix(8, 16), Mix(16, 16)), nn.Sequential(Layer(16, 24)))
    baseline = nn.Sequential(nn.Conv2d(3, 8, 3), stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))
    scaled = cnnscale.scale(baseline, depth=2, input_size=SIZE)
    assert [(layer.conv.in_channels, layer.add) for layer in scaled[1][1]] == [(16, False), (24, False)]


class Projected(nn.Module):
    """With a projection the block holds two modules, without one it is but a wrapper of its ``branch``."""

    class Branch(nn.Sequential):
        def __init__(self, inputs, outputs, stride):
            super().__init__(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU(), nn.Conv2d(outputs, outputs, 1))

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride)
        self.branch = Projected.Branch(inputs, outputs, stride)

    def forward(self, x):
        return self.branch(x) + (x if self.shortcut is None else self.shortcut(x))


def test_the_copy_of_a_block_with_a_projection_is_of_its_kind():
    widths = (8, 16, 24)
    stages = [
        nn.Sequential(Projected(a, b, 2), *(Projected(b, b) for _ in range(n)))
        for a, b, n in zip((3, *widths), widths, (0, 0, 2), strict=False)
    ]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5))
    scaled = cnnscale.scale(net, depth=2, input_size=SIZE)
    assert [len(stage) for stage in scaled[:3]] == [2, 2, 6]
    assert [[block.shortcut is None for block in stage] for stage in scaled[:2]] == [[False, True]] * 2


class Half(nn.Module):
    """Half of a separable block; the norm of its input is added where the shapes agree."""

    def __init__(self, inputs, outputs, kernel, stride=1):
        super().__init__()
        self.identity = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None
        groups = inputs if kernel > 1 else 1
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.scale = nn.Conv2d(inputs, outputs, 1, stride, groups=inputs, bias=False) if kernel > 1 else None

    def forward(self, x):
        y = self.conv(x) + (0 if self.identity is None else self.identity(x))
        return (y if self.scale is None else y + self.scale(x)).relu()


def halves(*repeats):
    net, width = [nn.Conv2d(3, 8, 3)], 8
    for pairs in repeats:
        blocks = []
        for i in range(pairs):
            inputs = 2 * width if i else width
            blocks += [Half(inputs, inputs, 3, 1 if i else 2), Half(inputs, 2 * width, 1)]
        net.append(nn.Sequential(*blocks))
        width *= 2
    return nn.Sequential(*net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def test_the_turn_that_changes_the_shape_opens_its_stage():
    result = cnnscale.scale(halves(3, 4), depth=2, input_size=(3, 32, 32))
    assert [(s.path, s.repeats, s.new_repeats) for s in result.scaling.plan.stages] == [("1", 3, 6), ("2", 4, 8)]
    by_hand = halves(6, 8)
    by_hand.load_state_dict(result.state_dict())
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(by_hand.eval()(image), result.eval()(image))
