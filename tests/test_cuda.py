"""What only a CUDA device can show; elsewhere these paths run on a device that is made up (``tests/test_bench.py``)."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torchvision
from torch import nn

import cnnscale
from cnnscale.benchmarking import Settings, compare
from cnnscale.benchmarking.variants import Built, Variant, phi_variants
from cnnscale.plans import Cost
from cnnscale.reference import INPUT_SIZE, build

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

FAST = Settings(batch_sizes=(8,), device="cuda", min_time_s=0.02, time_limit_s=1.0)


def report(**changes):
    settings = dataclasses.replace(FAST, **changes)
    return compare(phi_variants(build(), (0.0, 1.0), input_size=INPUT_SIZE), settings)


@pytest.mark.parametrize("dtype", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_dtype_infers_and_trains(dtype: str, channels_last: bool):
    done = report(dtype=dtype, channels_last=channels_last, modes=("infer", "train"))
    assert [row.problem for row in done.rows] == [None] * 4
    assert {row.timing.memory_source for row in done.rows} == {"allocator"}
    assert all(row.timing.latency_ms > 0 for row in done.rows)
    infer, train = done.rows[0], done.rows[2]
    assert train.timing.latency_ms > infer.timing.latency_ms
    assert train.timing.peak_memory_bytes > infer.timing.peak_memory_bytes


def test_a_graph_takes_less_time_than_its_launches():
    eager, graph = (report(batch_sizes=(1,), cuda_graph=captured) for captured in (False, True))
    assert graph.ok
    assert graph.rows[0].timing.latency_ms < eager.rows[0].timing.latency_ms


def test_layers_are_told_on_the_device():
    row = report(layers=True).rows[1]
    assert sum(share.time for share in row.stages) == pytest.approx(1.0, abs=0.02)


class Hungry(nn.Module):
    """Takes a part of the device's memory for each image."""

    def __init__(self, part: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bytes = int(part * torch.cuda.get_device_properties(0).total_memory)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        taken = torch.empty(len(x), self.bytes, dtype=torch.uint8, device=x.device)
        return x.mean() * self.scale + 0 * taken[0, 0]


def test_out_of_memory_halves_the_batch_of_all():
    cost = Cost(macs=1000, params=1, activations=1)
    variants = [
        Variant(
            model="net", name=name, phi=None, build=lambda net=net: Built(model=net, input_size=(3, 8, 8), cost=cost)
        )
        for name, net in (("small", nn.Sequential(nn.Conv2d(3, 8, 3))), ("hungry", Hungry(0.3)))
    ]
    done = compare(variants, FAST)
    assert [row.problem for row in done.rows] == [None, None]
    assert [row.batch_size for row in done.rows] == [2, 2]
    assert done.notes[0].startswith("batch 8 -> 4 for all rows: hungry ran out of memory (CUDA out of memory. Tried")
    assert len(done.notes[0]) < 160


def test_growth_stays_on_the_device_and_is_exact_in_single_precision():
    baseline = build().cuda()
    optimizer = torch.optim.AdamW(baseline.parameters())
    baseline(torch.randn(4, *INPUT_SIZE, device="cuda")).square().mean().backward()
    optimizer.step()
    before = copy.deepcopy(baseline.state_dict())
    grown = cnnscale.scale(baseline.eval(), phi=1, input_size=INPUT_SIZE, weights="preserve").eval()
    assert grown.scaling.preservation.exact
    assert {p.device.type for p in (*grown.parameters(), *grown.buffers())} == {"cuda"}
    assert max(grown.scaling.preservation.fp32) < 1e-5
    moved = cnnscale.transfer_optimizer(optimizer, baseline, grown)
    assert {s.device.type for state in moved.state.values() for s in state.values() if s.dim()} == {"cuda"}
    grown.train()(torch.randn(4, *INPUT_SIZE, device="cuda")).square().mean().backward()
    moved.step()
    assert all(torch.equal(before[key], value) for key, value in baseline.state_dict().items())


@pytest.mark.parametrize("weights", ["fresh", "inherit"])
def test_a_scaled_net_is_where_the_baseline_is(weights: str):
    scaled = cnnscale.scale(build().cuda(), phi=1, input_size=INPUT_SIZE, weights=weights)
    assert {p.device.type for p in scaled.parameters()} == {"cuda"}
    size = scaled.scaling.input_size
    assert scaled(torch.randn(2, *size, device="cuda")).isfinite().all()


def test_a_budget_in_milliseconds_is_measured_on_the_device():
    plan = cnnscale.plan(torchvision.models.resnet18(), latency_ms=8.0, device="cuda")
    assert plan.growth > 1
    assert plan.measured.latency_ms == pytest.approx(8.0, rel=0.25)  # a busy host launches late
