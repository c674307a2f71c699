"""Where the time of a network goes: parts, their shares, and what becomes of them in a deeper version."""

from __future__ import annotations

import dataclasses
import time

import pytest
import torch
from torch import nn

from cnnscale import DEPTH
from cnnscale.benchmarking.comparing import compare
from cnnscale.benchmarking.layers import REST, stage_shares
from cnnscale.benchmarking.variants import Built, Variant, phi_variants
from cnnscale.benchmarking.views import LAYER_COLUMNS, layer_cells
from cnnscale.errors import UsageError
from cnnscale.measuring import measure
from cnnscale.timing.settings import Settings
from cnnscale.timing.workloads import Workload

FAST = Settings(
    batch_sizes=(1,), device="cpu", min_time_s=0.001, time_limit_s=0.2, threads=1, layers=True, single=False
)
SIZE = (3, 32, 32)


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    """A machine without other work: a note would say that there is some."""
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())


class Sleeping(nn.Module):
    def forward(self, x):
        if not x.is_meta:
            time.sleep(0.02)
        return x


class Flat(nn.Module):
    """All blocks in one list, as many nets have it; four fifths of its time goes into no MAC."""

    def __init__(self, *, slow: bool = False):
        super().__init__()
        blocks = [block(3, 8), block(8, 16, 2), block(16, 16), block(16, 32, 2), block(32, 32)]
        self.features = nn.Sequential(*blocks, *([Sleeping()] if slow else []))
        self.aux = nn.Linear(32, 5)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        y = self.features(x).mean((2, 3))
        return (self.head(y), self.aux(y)) if self.training else self.head(y)


def shares(model: nn.Module):
    load = Workload("net", model, SIZE, 1, "infer", FAST)
    return {share.path: share for share in stage_shares(model, SIZE, load)}


def test_neighbours_of_one_size_are_one_part_and_all_add_up():
    found = shares(Flat())
    assert list(found) == ["features.0", "features.1 to features.2", "features.3 to features.4", "head", REST]
    assert [share.sides for share in found.values()] == [(32, 32), (16, 16), (8, 8), (), ()]
    assert sum(share.macs for share in found.values()) == pytest.approx(1)
    assert sum(share.time for share in found.values()) == pytest.approx(1)
    assert found["features.0"].macs == pytest.approx(32 * 32 * 27 * 8 / measure(Flat(), SIZE).macs)
    assert found[REST].macs == 0


def test_time_is_charged_to_the_part_that_takes_it():
    found = shares(Flat(slow=True))
    slow = found["features.3 to features.5"]
    assert slow.time > 0.6 > slow.macs


def test_a_pass_leaves_no_hooks():
    model = Flat()
    shares(model)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_the_parts_of_a_deeper_net_are_compared_with_the_baselines():
    report = compare(phi_variants(Flat(), [1], input_size=SIZE, coefficients=DEPTH, tolerance=0.5), FAST)
    first, second = report.rows
    assert len(second.stages) == len(first.stages)
    lines = [dict(zip(LAYER_COLUMNS, line, strict=True)) for line in layer_cells(second, report.rows)]
    assert lines[0]["part"] == "features.0"
    assert lines[0]["MACs grew"] == "1.00x"
    grown = float(lines[1]["MACs grew"].rstrip("x"))
    assert grown > 1.5
    assert {dict(zip(LAYER_COLUMNS, line, strict=True))["MACs grew"] for line in layer_cells(first, report.rows)} <= {
        "1.00x",
        "-",
    }


def test_a_net_that_cannot_be_profiled_keeps_its_times():
    class Broken(Flat):
        def forward(self, x):
            if x.is_meta:
                raise ValueError("not on meta")
            return super().forward(x)

    model = Broken()
    cost = measure(Flat(), SIZE)
    variant = Variant(model="net", name="net", phi=None, build=lambda: Built(model=model, input_size=SIZE, cost=cost))
    report = compare([variant], FAST)
    assert report.rows[0].timing is not None
    assert report.rows[0].stages == ()
    assert "could not be profiled: ValueError: not on meta" in report.notes[0]


def test_a_training_step_has_no_parts():
    with pytest.raises(UsageError, match="infer"):
        dataclasses.replace(FAST, modes=("train",))
    both = dataclasses.replace(FAST, modes=("infer", "train"))
    report = compare(phi_variants(nn.Sequential(block(3, 8), block(8, 8)), [], input_size=SIZE), both)
    assert [bool(row.stages) for row in report.rows] == [True, False]


def test_a_compiled_net_is_profiled_as_written():
    settings = dataclasses.replace(FAST, compile_mode="default")
    seen = []

    def compiled(model, mode):
        seen.append(mode)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", compiled)
        report = compare(phi_variants(Flat(), [], input_size=SIZE), settings)
    assert seen == ["default"]
    assert report.rows[0].stages
