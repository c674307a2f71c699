"""Measured budgets: few measurements, none beyond the limit where it can be kept, and the result measured again."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cnnscale
from cnnscale import limits
from cnnscale.budgets import Budget, Measurement


@pytest.fixture(scope="module")
def resnet():
    with torch.device("meta"):
        return torchvision.models.resnet18(weights=None)


class Machine:
    """Takes time in proportion to a power of the MACs, in memory to the activations; counts what it is asked."""

    def __init__(self, power: float = 1.0, noise: float = 0.0):
        self.power, self.noise, self.asked = power, noise, []

    def __call__(self, plan):
        self.asked.append(plan)
        wobble = 1 + self.noise * math.sin(7.0 * len(self.asked))
        return Measurement(
            latency_ms=(plan.after.macs / 1e7) ** self.power * wobble,
            iqr_ms=0.1,
            runs=10,
            peak_memory_bytes=4 * (plan.after.params + plan.after.activations),
            batch_size=1,
            device="cpu",
            device_name="a machine",
        )


def meet(model, machine, budget, **asked):
    def plan_for(counted):
        return cnnscale.plan(model, **counted.asked, **asked)

    return limits.meet(plan_for, machine, budget, tolerance=0.05)


@settings(max_examples=6, deadline=None)
@given(growth=st.floats(0.4, 6), power=st.floats(0.5, 1.3), noise=st.sampled_from([0.0, 0.01]))
def test_a_latency_is_met_in_few_measurements(resnet, growth, power, noise):
    machine = Machine(power, noise)
    limit = (growth * 1.814e9 / 1e7) ** power
    plan = meet(resnet, machine, Budget(latency_ms=limit))
    assert plan.loads["latency_ms"] == pytest.approx(1, abs=0.05 + 2 * noise)
    assert len(machine.asked) <= limits._MOST + 1
    assert plan.measured == replace(machine(plan), latency_ms=plan.measured.latency_ms)


def test_memory_is_met(resnet):
    machine = Machine()
    plan = meet(resnet, machine, Budget(peak_memory_bytes=1.2e8))
    assert plan.measured.peak_memory_bytes == pytest.approx(1.2e8, rel=0.05)


def test_of_two_measured_limits_the_binding_one_is_met(resnet):
    plan = meet(resnet, Machine(), Budget(latency_ms=1e6, peak_memory_bytes=1.2e8))
    assert plan.loads["peak_memory_bytes"] == pytest.approx(1, abs=0.05)
    assert plan.loads["latency_ms"] < 1


def test_a_counted_limit_that_binds_needs_no_search(resnet):
    machine = Machine()
    plan = meet(resnet, machine, Budget(latency_ms=1e6, macs=3e9))
    assert plan.after.macs == pytest.approx(3e9, rel=0.02)
    assert len(machine.asked) == 2  # the plan, and it again


def test_a_counted_limit_is_never_passed(resnet):
    plan = meet(resnet, Machine(), Budget(latency_ms=200, macs=9e9))
    assert plan.after.macs <= 9e9 * 1.02
    assert plan.loads["latency_ms"] == pytest.approx(1, abs=0.05)


def test_where_no_network_lies_between_two_the_smaller_is_taken(resnet):
    """A machine with a step: 100 ms up to 3 GMACs, 200 ms beyond."""

    class Step(Machine):
        def __call__(self, plan):
            return replace(super().__call__(plan), latency_ms=100.0 if plan.after.macs < 3e9 else 200.0)

    machine = Step()
    plan = meet(resnet, machine, Budget(latency_ms=150))
    assert plan.measured.latency_ms == 100
    assert len(machine.asked) <= limits._MOST + 1


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()) for _ in range(2)))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def test_a_real_network_keeps_its_memory():
    """Peak memory on the CPU is the same on every run, latency is not: it is only asked to be there."""
    model = Small()
    scaled = cnnscale.scale(model, peak_memory_bytes=2e6, batch_size=2, device="cpu", input_size=(3, 64, 64), seed=0)
    record = scaled.scaling
    assert record.plan.measured.peak_memory_bytes == pytest.approx(2e6, rel=0.05)
    assert (record.plan.measured.batch_size, record.plan.measured.device) == (2, "cpu")
    assert record.plan.measured.latency_ms > 0
    assert record.verification.ok
    assert "peak memory" in str(record)
    assert cnnscale.apply(model, cnnscale.Plan.from_json(record.plan.to_json()), seed=0).scaling == record


def test_a_model_that_cannot_run_has_no_latency(resnet):
    with pytest.raises(cnnscale.UsageError, match="meta device"):
        cnnscale.plan(resnet, latency_ms=10)
    with pytest.raises(cnnscale.UsageError, match="one dtype"):
        cnnscale.plan(Small().double(), latency_ms=10, input_size=(3, 64, 64))
