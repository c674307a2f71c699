"""The generator itself: its nets are what the laws assume of a baseline."""

from __future__ import annotations

import pickle

import torch
from checks import bad_gradients, record, train_step
from hypothesis import given, settings
from nets import NetSpec, StageSpec, nets
from nets.stages import CONTAINERS


@settings(max_examples=40)
@given(spec=nets())
def test_nets_run_train_and_pickle(spec):
    model = spec.build()
    shapes = train_step(model, spec.size)
    assert shapes == [(2, spec.classes)] * (2 if spec.aux else 1)
    assert not bad_gradients(model)
    assert next(pickle.loads(pickle.dumps(model)).parameters()).equal(next(model.parameters()))
    assert record(model, spec.size).calls == record(spec.build(device="meta"), spec.size).calls


@given(spec=nets())
def test_a_spec_prints_as_what_makes_it(spec):
    assert eval(repr(spec), {"NetSpec": NetSpec, "StageSpec": StageSpec}) == spec


def test_containers_compute_the_same():
    stages = (StageSpec("basic", 12, 2, stride=2), StageSpec("dense_dict", 10, 2), StageSpec("layer_scale", 8, 1))
    x = torch.randn(1, 3, 32, 32)
    outputs = [NetSpec(stages, container=container).build().eval()(x) for container in CONTAINERS]
    assert all(output.equal(outputs[0]) for output in outputs)
