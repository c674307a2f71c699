"""Nets that nobody published: every weight, width and cost is as planned, and the result trains."""

from __future__ import annotations

import own_nets
import pytest
import torch
from checks import bad_gradients, count, scaled, train_step

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
    result, _ = scaled(net, 1, input_size=cls.size, seed=0)
    check(net, result, cls.size)
    assert result.scaling.verification.growth == pytest.approx(2, rel=0.05)
