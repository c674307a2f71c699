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


class DualPath(nn.Module):
    """Adds to the first channels of its input, and appends to all of them; an opening block projects first."""

    def __init__(self, inputs, width, more, stride):
        super().__init__()
        self.width = width
        self.project = nn.Conv2d(inputs, width + 2 * more, 1, stride) if stride > 1 else None
        self.reduce = nn.Conv2d(inputs, 8, 1)
        self.mix = nn.Conv2d(8, width + more, 3, stride, 1)

    def forward(self, x):
        kept = x if self.project is None else self.project(x)
        new = self.mix(self.reduce(x).relu())
        summed = kept[:, : self.width] + new[:, : self.width]
        return torch.cat([summed, kept[:, self.width :], new[:, self.width :]], 1)


def dual_path(repeats):
    """The projection of the second stage happens to be as wide as what the first one hands on, but not by a rule."""
    blocks, inputs = [nn.Conv2d(3, 8, 3)], 8
    for (width, more), number in zip(((16, 8), (32, 12), (40, 8)), repeats, strict=True):
        for k in range(number):
            blocks.append(DualPath(inputs, width, more, 1 if k else 2))
            inputs = inputs + more if k else width + 3 * more
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


@pytest.mark.parametrize(("depth", "repeats"), [(2, (5, 7, 5)), (1.5, (4, 6, 4)), (0.5, (2, 3, 2))])
def test_blocks_that_add_and_append_grow_behind_the_one_that_opens_their_stage(depth, repeats):
    baseline = dual_path((3, 4, 3))
    first, second = (next(b for b in baseline[start:] if getattr(b, "project", None)) for start in (0, 4))
    assert second.project.out_channels == second.project.in_channels == first.project.out_channels + 8 * 3
    scaled = cnnscale.scale(baseline, depth=depth, input_size=SIZE)
    assert scaled.scaling.form == "module"
    written = dual_path(repeats)
    assert {name: t.shape for name, t in scaled.state_dict().items()} == {
        name: t.shape for name, t in written.state_dict().items()
    }
    written.load_state_dict(scaled.state_dict())
    x = torch.randn(2, *SIZE)
    torch.testing.assert_close(scaled(x), written(x))


class Inception(nn.Module):
    """Hands on a concatenation that holds nothing of its input, wider by the same number each time."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.one, self.two = nn.Conv2d(inputs, 16, 1), nn.Conv2d(inputs, outputs - 16, 3, padding=1)

    def forward(self, x):
        return torch.cat([self.one(x), self.two(x)], 1).relu()


def test_blocks_that_only_get_wider_do_not_append():
    blocks = nn.Sequential(Inception(16, 24), Inception(24, 32), Inception(32, 40))
    model = nn.Sequential(nn.Conv2d(3, 16, 3), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10))
    scaled = cnnscale.scale(model, depth=2, input_size=SIZE)
    assert [block.one.in_channels for block in scaled[1]] == [16, 24, 24, 32, 32, 40]


class Linear(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


class Exit(nn.Module):
    """Separable convolutions without an activation of their own: the net has these, behind each."""

    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 16, 3), nn.Sequential(Residual(16), Residual(16))
        self.one, self.two = Linear(16, 24), Linear(24, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.two(self.one(self.blocks(self.stem(x))).relu()).relu().mean((2, 3)))


def test_lone_blocks_that_bend_nothing_are_not_chained():
    plan = cnnscale.plan(Exit(), depth=2, input_size=SIZE)
    assert [(stage.path, stage.new_repeats) for stage in plan.stages] == [("blocks", 4)]


class Branches(nn.Module):
    """Adds its branches up in place, behind the one that is there (MobileOne's blocks do)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.scale = nn.Conv2d(inputs, outputs, 1, stride)
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1)

    def forward(self, x):
        out = self.scale(x)
        out += self.conv(x)
        return out.relu()


def test_a_copy_never_adds_in_place_to_its_input():
    """With an Identity in the place of a branch, it would: no gradient could be computed any more."""
    net = nn.Sequential(*(nn.Sequential(Branches(a, b, 2)) for a, b in ((3, 8), (8, 16))))
    net = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    scaled = cnnscale.scale(net, depth=2, input_size=SIZE)
    assert [len(stage) for stage in scaled[0]] == [2, 2]
    scaled(torch.randn(2, *SIZE)).sum().backward()


class Interrupted(nn.Module):
    """A loop over its blocks that does something else behind the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.blocks = nn.ModuleList(Residual(16) for _ in range(4))
        self.position = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == 0:
                x = self.position(x)
        return self.head(x.mean((2, 3)))


def test_no_copy_goes_where_a_loop_does_something_else():
    result = cnnscale.scale(Interrupted(), depth=2, input_size=(3, 32, 32), seed=0)
    stages = [(s.path, s.repeats, s.new_repeats) for s in result.scaling.plan.stages]
    assert stages == [("blocks.0", 1, 1), ("blocks.1", 3, 6)]
    assert "something else" in result.scaling.plan.stages[0].note
    assert result.scaling.form == "module"


class Sized(nn.Module):
    """Takes a map as a row of tokens and its sides, and hands on both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.mlp = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, sides: tuple[int, int]) -> tuple[torch.Tensor, tuple[int, int]]:
        image = self.conv(x.transpose(1, 2).unflatten(2, sides))
        return x + self.mlp(image.flatten(2).transpose(1, 2)), (image.shape[2], image.shape[3])


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.blocks = nn.ModuleList(Sized(16) for _ in range(3))
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        sides = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x, sides = block(x, sides)
        return self.head(x.mean(1))


def test_blocks_that_hand_on_sizes_repeat():
    result = cnnscale.scale(Tokens(), depth=2, width=1.5, resolution=1.5, input_size=(3, 32, 32), seed=0)
    assert [(s.path, s.repeats, s.new_repeats) for s in result.scaling.plan.stages] == [("blocks", 3, 6)]
    assert result.scaling.form == "module"
    assert result(torch.rand(2, 3, 48, 48)).shape == (2, 5)


class Placed(nn.Module):
    """Halves the map, then adds a table made for its new side."""

    def __init__(self, inputs: int, outputs: int, stride: int, side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.table = nn.Parameter(torch.zeros(side * side))
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride)) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.shortcut(x) + (y.flatten(2) * self.table).view_as(y)


def test_a_table_of_places_is_that_of_the_map_behind_the_stride():
    stages = [nn.Sequential(Placed(16, 32, 2, 8)), nn.Sequential(Placed(32, 64, 2, 4))]
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
    result = cnnscale.scale(net, depth=2, input_size=(3, 32, 32))
    assert [[tuple(block.table.shape) for block in result[i]] for i in (1, 2)] == [[(64,), (64,)], [(16,), (16,)]]


class Reparametrised(nn.Module):
    """Sums a norm of its input, where that has the shape of the output, with two convolutions."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.identity = nn.BatchNorm2d(inputs) if inputs == outputs and stride == 1 else None
        self.wide, self.narrow = (nn.Conv2d(inputs, outputs, k, stride, k // 2, bias=False) for k in (3, 1))
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.wide(x) + self.narrow(x)
        if self.identity is not None:
            y = y + self.identity(x)
        return self.norm(y).relu()


class Repeated(nn.Module):
    """A stem and stages of one class of block."""

    def __init__(self, *depths, width=16):
        super().__init__()
        widths = [width * 2**i for i in range(len(depths) + 1)]
        self.stem = Reparametrised(3, width, 2)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*(Reparametrised(outputs if i else inputs, outputs, 1 if i else 2) for i in range(depth)))
                for inputs, outputs, depth in zip(widths, widths[1:], depths, strict=False)
            )
        )
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x):
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("options", [{"depth": 2}, {"depth": 3, "width": 1.5}])
def test_a_copy_has_the_child_that_only_blocks_of_equal_shapes_have(options):
    baseline = Repeated(1, 3, 1)
    result = cnnscale.scale(baseline, input_size=(3, 32, 32), **options)
    depth, width = options["depth"], result.stem.norm.num_features
    by_hand = Repeated(depth, 3 * depth, depth, width=width)
    assert result.scaling.form == "module"
    assert type(result.stem) is Reparametrised  # that of the image is no stage
    assert list(result.state_dict()) == list(by_hand.state_dict())
    by_hand.load_state_dict(result.state_dict())
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(by_hand.eval()(image), result.eval()(image))


def test_a_child_that_the_baseline_lacks_is_drawn_like_that_of_another_block():
    baseline = Repeated(1, 3, 1)
    for block in baseline.modules():
        if isinstance(block, Reparametrised) and block.identity is not None:
            nn.init.constant_(block.identity.weight, 0.25)
    child = cnnscale.scale(baseline, depth=2, input_size=(3, 32, 32), seed=0).stages[0][1].identity
    assert (child.num_features, child.weight.unique().tolist(), child.bias.unique().tolist()) == (32, [0.25], [0])


def test_a_copy_with_a_child_that_the_baseline_lacks_starts_as_an_identity():
    baseline = Repeated(1, 3, 1)
    result = cnnscale.scale(baseline, depth=2, input_size=(3, 32, 32), weights="preserve", seed=0)
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(result.eval()(image), baseline.eval()(image))


def test_a_stem_of_the_class_of_blocks_is_a_stage_where_these_stand_by_themselves_too():
    class Flat(nn.Sequential):
        pass

    blocks = [Reparametrised(*sizes) for sizes in ((3, 16, 2), (16, 32, 2), (32, 32, 1))]
    net = Flat(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    plan = cnnscale.plan(net, depth=2, input_size=(3, 32, 32))
    assert [(stage.path, stage.new_repeats) for stage in plan.stages] == [("0", 2), ("1", 4)]


def small_mobilenet():
    return timm.create_model("mobilenetv2_050", num_classes=10)


@pytest.mark.parametrize("make", [lambda: Repeated(1, 3, 1), small_mobilenet], ids=["own", "timm"])
@pytest.mark.parametrize("width", [0.5, 1.5])
def test_widths_are_the_same_whether_or_not_depth_could_move(make, width):
    with torch.device("meta"):
        baseline = make()
    options = {"width": width, "input_size": (3, 32, 32)}
    alone = cnnscale.scale(baseline, **options)
    stage = alone.scaling.plan.stages[-1].path
    both = cnnscale.scale(baseline, depth={f"^{stage}$": 1}, **options)
    assert [(n, t.shape) for n, t in alone.state_dict().items()] == [(n, t.shape) for n, t in both.state_dict().items()]
    assert alone.scaling.plan.after == both.scaling.plan.after
    assert alone.scaling.plan.stages == both.scaling.plan.stages
    assert not [width.name for width in alone.scaling.plan.widths if "copy" in width.name]


class Aggregating(nn.Module):
    def __init__(self, inputs, outputs, residual):
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList([nn.Conv2d(inputs, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)])
        self.aggregate = nn.Conv2d(inputs + 16, outputs, 1)

    def forward(self, x):
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1]).relu())
        y = self.aggregate(torch.cat(states, 1))
        return x + y if self.residual else y


class Downsampled(nn.Module):
    def __init__(self, inputs, outputs, repeats):
        super().__init__()
        self.down = nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs)
        self.blocks = nn.Sequential(*(Aggregating(outputs if i else inputs, outputs, i > 0) for i in range(repeats)))

    def forward(self, x):
        return self.blocks(self.down(x))


def aggregated(*repeats):
    widths = [16, 32, 48, 64]
    stages = [Downsampled(*sizes) for sizes in zip(widths, widths[1:], repeats, strict=False)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[len(stages)], 10)]
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Sequential(*stages), *head)


def test_a_wrapper_of_a_lone_block_whose_class_repeats_elsewhere_is_no_stage():
    result = cnnscale.scale(aggregated(1, 2, 1), depth=2, input_size=(3, 32, 32))
    by_hand = aggregated(2, 4, 2)
    by_hand.load_state_dict(result.state_dict())
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(by_hand.eval()(image), result.eval()(image))
