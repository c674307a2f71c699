"""Nets that no zoo has: what they are made of is scaled with the rest, natively and to the widths wanted."""

from __future__ import annotations

import literature
import pytest
import torch
from checks import bad_gradients, count, scaled, train_step
from literature import IMAGE, Classifier
from torch import nn

KERNELS = {"place", "cw", "hc"}  # convolutions from two maps to one: no channel is free
EXTRA = {"Res2": 5.5, "Octave": 4.4}  # parts of a trunk are rounded one by one

MODULES = [
    cls
    for cls in vars(literature).values()
    if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == "literature"
    if cls not in (Classifier, literature.Residual)
]


@pytest.mark.parametrize("cls", MODULES, ids=lambda cls: cls.__name__)
def test_scaled_wherever_it_stands(cls):
    inside = cls is not literature.BottleneckAttention  # which is made for maps of one size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Classifier(cls, inside=inside)
    result, _ = scaled(net, width=1.5, depth=1.5, input_size=IMAGE, seed=0)
    plan = result.scaling.plan
    assert result.scaling.form == "module"
    assert [(s.repeats, s.new_repeats) for s in plan.stages] == [(2, 3), (2, 3)]
    assert count(result, IMAGE) == (plan.after.macs, plan.after.params, plan.after.activations)
    before = dict(net.named_parameters())
    same = {
        name for name, p in result.named_parameters() if p.ndim > 1 and name in before and p.shape == before[name].shape
    }
    assert {name.split(".")[-2] for name in same} <= KERNELS
    assert 3.0 < plan.growth < EXTRA.get(cls.__name__, 3.7)
    assert train_step(result, IMAGE) == [(2, 10)]
    assert not bad_gradients(result)


def test_what_was_made_for_one_size_fixes_the_resolution():
    result, _ = scaled(Classifier(literature.BottleneckAttention), 1, input_size=IMAGE, fit=False)
    assert result.last.rel_h.shape[-1] == 8
    assert result(torch.rand(2, *result.scaling.input_size)).shape == (2, 10)
