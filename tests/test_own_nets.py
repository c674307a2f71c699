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


def agrees(net, result, size):
    """The cost is that of the plan, every planned width is that of its layers, and the outputs are as before."""
    plan = result.scaling.plan
    assert type(result) is type(net)
    assert count(result, plan.input_size) == (plan.after.macs, plan.after.params, plan.after.activations)
    for width in plan.widths:
        for layer in width.layers:
            assert next(result.get_submodule(layer).parameters()).shape[0] * width.before % width.after == 0, layer
    assert bad_gradients(result) == bad_gradients(net)
    if plan.input_size == size:
        assert train_step(result, size) == train_step(net, size)


@each
@pytest.mark.parametrize("width", [0.5, 1.5])
def test_every_weight_has_a_new_width(cls, width):
    net = built(cls)
    result, _ = scaled(net, width=width, input_size=cls.size, seed=0)
    agrees(net, result, cls.size)
    before = {name: p.shape for name, p in net.named_parameters()}
    assert [name for name, p in result.named_parameters() if p.ndim > 1 and p.shape == before[name]] == []


@each
def test_compound_growth(cls):
    net = built(cls)
    result, _ = scaled(net, 1, input_size=cls.size, seed=0)
    agrees(net, result, cls.size)
    assert result.scaling.verification.growth == pytest.approx(2, rel=0.1)
