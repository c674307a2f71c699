"""Nets that nobody published: every weight, width and cost is as planned, and the result trains."""

from __future__ import annotations

import own_nets
import pytest
import torch
from checks import bad_gradients, count, scaled, train_step
from torch import nn

import cnnscale

NETS = [cls for cls in vars(own_nets).values() if isinstance(cls, type) and "size" in vars(cls)]
each = pytest.mark.parametrize("cls", NETS, ids=lambda cls: cls.__name__)


def built(cls):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cls()


def check(net, result, size):
    """The class stays, the cost is that of the plan, outputs have their shapes, and every weight gets a gradient."""
    plan = result.scaling.plan
    assert type(result) is type(net)
    assert count(result, plan.input_size) == (plan.after.macs, plan.after.params, plan.after.activations)
    outputs = train_step(result, size)
    assert outputs == train_step(net, size)
    assert bad_gradients(result) == bad_gradients(net) == []


@each
@pytest.mark.parametrize("width", [0.5, 1.5])
def test_every_weight_has_its_planned_width(cls, width):
    net = built(cls)
    result, _ = scaled(net, width=width, divisor=2, input_size=cls.size, seed=0)
    check(net, result, cls.size)
    before = {name: p.shape for name, p in net.named_parameters()}
    planned = {layer: group for group in result.scaling.plan.widths for layer in group.layers}
    assert [name for name, p in result.named_parameters() if p.ndim > 1 and p.shape == before[name]] == []
    for layer, group in planned.items():
        widths = [next(model.get_submodule(layer).parameters()).shape[0] for model in (net, result)]
        assert widths[1] * group.before == widths[0] * group.after, layer


@each
def test_compound_growth(cls):
    net = built(cls)
    result, _ = scaled(net, 1, divisor=2, input_size=cls.size, seed=0)
    check(net, result, cls.size)
    assert result.scaling.verification.growth == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("width", [0.5, 1.5, 3])
def test_weights_side_by_side_share_the_width_that_they_read(width):
    result, _ = scaled(built(own_nets.ComplexNet), width=width, divisor=1, input_size=own_nets.ComplexNet.size)
    for layer in (result.layers[2], result.layers[4]):
        assert layer.real.shape == layer.imaginary.shape
        assert layer.real.shape[:2] == (16 * width, 8 * width * (3 - layer.stride))


def test_bounds_of_a_tensor_split_follow_the_channels():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.bounds = [6, 12]
            self.first = nn.Conv2d(3, 24, 3)
            self.parts = nn.ModuleList(nn.Conv2d(width, 8, 3) for width in (6, 6, 12))
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            parts = self.first(x).tensor_split(self.bounds, 1)
            top, bottom = x.tensor_split(2, 2)
            x = sum(layer(part) for layer, part in zip(self.parts, parts, strict=True))
            return self.head(x.mean((2, 3)) + top.mean() - bottom.mean())

    result, _ = scaled(Cut(), width=2, divisor=2, input_size=(3, 31, 31))
    check(Cut(), result, (3, 31, 31))
    assert result.bounds == [12, 24]
    assert [layer.in_channels for layer in result.parts] == [12, 12, 24]


def test_frames_that_are_taken_one_by_one_stay_as_many():
    result, _ = scaled(built(own_nets.Recurrent), resolution=2, input_size=own_nets.Recurrent.size)
    assert type(result) is own_nets.Recurrent
    assert result.scaling.plan.input_size[1] == 4


def test_what_a_map_is_read_with_stays():
    result, _ = scaled(built(own_nets.Warped), width=2, input_size=own_nets.IMAGE)
    assert (result.find.out_channels, result.turn.out_features) == (2, 6)
    fixed = {fixed.what.split()[1] for fixed in result.scaling.plan.fixed if fixed.what.startswith("node")}
    assert {"'grid_sample'", "'affine_grid'"} & fixed


class Made(nn.Module):
    """Adds what it makes itself, of the channels of its input."""

    def __init__(self, make):
        super().__init__()
        self.make = make
        self.first, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 10)

    def forward(self, x):
        x = self.first(x)
        return self.head((x + self.make(x)).mean((2, 3)))


MAKERS = {
    "sizes one by one": lambda x: torch.zeros(x.size(0), x.size(1), 1, 1),
    "sizes of a map": lambda x: torch.ones(x.shape[1:]),
    "a full row": lambda x: torch.full((x.size(1), 1, 1), 0.5),
    "new": lambda x: x.new(x.size(0), x.size(1), 1, 1).zero_(),
    "empty like": lambda x: torch.empty_like(x).fill_(2),
    "joined": lambda x: torch.cat([torch.zeros(1, x.size(2), x.size(3)), torch.ones(x.size(1) - 1, *x.shape[2:])]),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_tensors_that_a_model_makes_follow_its_channels(make):
    result, _ = scaled(Made(make), 1, divisor=2, input_size=own_nets.IMAGE, seed=0)
    assert type(result) is Made
    assert result.head.in_features > 16
    assert train_step(result, own_nets.IMAGE) == [(2, 10)]
    assert bad_gradients(result) == []


def test_a_function_that_takes_no_traced_size_is_told_from_control_flow():
    with pytest.raises(cnnscale.TraceError, match=r"takes no traced sizes: use x\.new_zeros"):
        cnnscale.scale(Made(lambda x: torch.FloatTensor(x.size(1), 1, 1).fill_(1)), 1, input_size=own_nets.IMAGE)


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.first(x)
        return self.head((self.second(x) * torch.linalg.svdvals(x)[..., :1, None]).mean((2, 3)))


def test_an_operation_without_a_rule_is_refused_by_name():
    with pytest.raises(cnnscale.CnnScaleError, match=r"linalg_svdvals"):
        cnnscale.scale(Spectral(), 1, input_size=own_nets.IMAGE)
