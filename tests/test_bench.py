"""The benchmark's pipeline on stand-in variants: what is timed, what is not, and what one failure does to the rest.

No absolute time is asserted: a machine may be slow. Memory is counted, not sampled, so its numbers are exact.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import subprocess
import sys
import time
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from cnnscale.benchmarking import Report, Variant, bench_rows, environment
from cnnscale.coefficients import Coefficients, Multipliers
from cnnscale.errors import ModelError, UsageError
from cnnscale.plans import Cost, Options, Plan
from cnnscale.records import Scaling, Verification
from cnnscale.timing import DTYPES, Settings, peak_memory, time_model

FAST = Settings(batch_size=2, device="cpu", min_time_s=0.001, threads=1)
SIZE = (3, 8, 8)


class Net(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x)


def scaled(model: nn.Module, phi: float, *, measured_growth: float | None = None) -> nn.Module:
    before = Cost(macs=1000, params=112, activations=512)
    after = Cost(macs=int(1000 * (2**phi if measured_growth is None else measured_growth)), params=112, activations=512)
    plan = Plan(
        model="Net",
        fingerprint="",
        phi=phi,
        coefficients=Coefficients(),
        multipliers=Multipliers(),
        achieved=Multipliers(depth=2),
        baseline_size=SIZE,
        input_size=SIZE,
        stages=(),
        widths=(),
        fixed=(),
        before=before,
        after=after,
        options=Options(),
    )
    verification = Verification(
        baseline=before,
        scaled=after,
        planned=after,
        target_growth=2.0**phi,
        formula_growth=1.9**phi,
        tolerance=0.03,
        thop_growth=None,
        changed=1.0,
    )
    model.scaling = Scaling(input_size=SIZE, plan=plan, verification=verification, form="module")
    return model


def variant(phi: float, build: Callable[[], nn.Module] | None = None) -> Variant:
    return Variant(name=f"phi {phi:g}", phi=phi, build=build or (lambda: scaled(Net(), phi)))


def raises(error: Exception) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        raise error

    return build


class TestRows:
    def test_each_row_says_what_was_got_and_how_fast_it_was(self):
        first, second = bench_rows([variant(0), variant(1)], FAST)
        assert (second.name, second.phi, second.verified, second.problem) == ("phi 1", 1, True, None)
        assert (second.input_size, second.achieved, second.cost.macs) == (SIZE, Multipliers(depth=2), 2000)
        assert (second.growth, second.target_growth) == (2.0, 2.0)
        assert second.timing.latency_ms > 0
        assert second.timing.iqr_ms >= 0
        assert second.timing.runs > 3
        assert second.timing.images_per_s == pytest.approx(FAST.batch_size / second.timing.latency_ms * 1e3)
        assert first.time_growth == 1.0
        assert second.time_growth == pytest.approx(second.timing.latency_ms / first.timing.latency_ms)

    def test_what_fails_verification_is_never_run(self):
        net = Net()
        _, bad, after = bench_rows(
            [variant(0), variant(1, lambda: scaled(net, 1, measured_growth=3)), variant(2)], FAST
        )
        assert net.calls == 0
        assert (bad.timing, bad.time_growth, bad.verified, bad.growth) == (None, None, False, 3.0)
        assert "MACs grew 3.00x where 2.00x was wanted" in bad.problem
        assert after.timing is not None

    def test_unless_unverified_is_asked_for(self):
        net = Net()
        settings = dataclasses.replace(FAST, unverified=True)
        _, bad = bench_rows([variant(0), variant(1, lambda: scaled(net, 1, measured_growth=3))], settings)
        assert net.calls > 0
        assert bad.timing is not None
        assert "MACs grew 3.00x" in bad.problem

    @pytest.mark.parametrize(
        ("error", "problem"),
        [
            (ModelError("no such thing"), "no such thing"),
            (RuntimeError("out of memory"), "RuntimeError: out of memory"),
        ],
    )
    def test_a_variant_that_raises_does_not_stop_the_others(self, error: Exception, problem: str):
        rows = list(bench_rows([variant(0), variant(1, raises(error)), variant(2)], FAST))
        assert [row.problem for row in rows] == [None, problem, None]
        assert [row.timing is None for row in rows] == [False, True, False]

    def test_a_forward_that_raises_keeps_what_was_known(self):
        net = scaled(Net(), 1)
        net.forward = lambda x: x.no_such_attribute
        _, broken, _ = bench_rows([variant(0), variant(1, lambda: net), variant(2)], FAST)
        assert broken.problem.startswith("AttributeError: ")
        assert (broken.verified, broken.growth, broken.timing) == (True, 2.0, None)

    def test_without_a_baseline_there_is_nothing_to_compare_with(self):
        with pytest.raises(ModelError, match="cannot be traced"):
            list(bench_rows([variant(0, raises(ModelError("cannot be traced"))), variant(1)], FAST))

    def test_a_baseline_that_cannot_be_timed_leaves_the_rest_without_growth(self):
        first, second = bench_rows([variant(0, raises(RuntimeError("no"))), variant(1)], FAST)
        assert first.problem == "RuntimeError: no"
        assert second.timing is not None
        assert second.time_growth is None

    def test_variants_are_built_one_at_a_time_and_freed(self):
        alive: list[weakref.ref] = []
        seen = []

        def build() -> nn.Module:
            gc.collect()
            seen.append(sum(ref() is not None for ref in alive))
            model = scaled(Net(), 0)
            alive.append(weakref.ref(model))
            return model

        rows = list(bench_rows([variant(0, build), variant(0, build), variant(0, build)], FAST))
        assert [row.problem for row in rows] == [None] * 3
        assert seen == [0, 0, 0]

    def test_rows_come_as_they_are_measured(self):
        started = []
        rows = bench_rows([variant(0), variant(1, raises(KeyboardInterrupt()))], FAST, on_start=started.append)
        assert next(rows).timing is not None
        assert started == ["phi 0"]
        with pytest.raises(KeyboardInterrupt):
            next(rows)
        assert started == ["phi 0", "phi 1"]


class TestReport:
    def test_it_goes_through_json(self):
        rows = tuple(bench_rows([variant(0), variant(1, raises(RuntimeError("no")))], FAST))
        report = Report(model="net", environment=environment(FAST), rows=rows)
        data = json.loads(json.dumps(report.to_dict()))
        assert [row["phi"] for row in data["rows"]] == [0, 1]
        assert data["rows"][0]["cost"]["macs"] == 1000
        assert data["rows"][0]["timing"]["peak_memory_bytes"] > 0
        assert data["rows"][1]["problem"] == "RuntimeError: no"
        assert data["environment"]["torch"] == torch.__version__
        assert data["environment"]["device_name"]
        assert (data["environment"]["threads"], data["environment"]["batch_size"]) == (1, 2)
        assert not report.ok
        assert dataclasses.replace(report, rows=rows[:1]).ok


class TestSettings:
    @pytest.mark.parametrize(
        "wrong",
        [{"batch_size": 0}, {"min_time_s": 0}, {"threads": 0}, {"dtype": "int8"}, {"device": "tpu"}],
        ids=str,
    )
    def test_values_out_of_range_are_refused(self, wrong: dict):
        with pytest.raises(UsageError):
            Settings(**wrong)

    def test_cuda_must_be_there(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert Settings(device="auto").torch_device == torch.device("cpu")
        with pytest.raises(UsageError, match="no CUDA device"):
            Settings(device="cuda")


class TestTiming:
    @pytest.mark.parametrize("channels_last", [False, True])
    @pytest.mark.parametrize("dtype", ["fp32", "bf16"])
    def test_the_settings_reach_the_model(self, dtype: str, channels_last: bool):
        seen = set()

        class Spy(Net):
            def forward(self, x):
                seen.add(
                    (
                        *(x.dtype, tuple(x.shape), x.is_contiguous(memory_format=torch.channels_last)),
                        *(self.conv.weight.dtype, self.training, torch.is_inference_mode_enabled()),
                        torch.get_num_threads(),
                    )
                )
                return super().forward(x)

        settings = dataclasses.replace(FAST, dtype=dtype, channels_last=channels_last, threads=2)
        before = torch.get_num_threads()
        time_model(Spy().train(), SIZE, settings)
        kind = DTYPES[dtype]
        assert seen == {(kind, (2, *SIZE), channels_last, kind, False, True, 2)}
        assert torch.get_num_threads() == before

    def test_a_slow_model_is_still_run_often_enough_for_a_spread(self):
        class Slow(Net):
            def forward(self, x):
                time.sleep(0.01)
                return super().forward(x)

        assert time_model(Slow(), SIZE, FAST).runs > 3


class TestPeakMemory:
    def test_it_counts_weights_input_and_the_largest_moment(self):
        class TwoSteps(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(100))
                self.tied = self.weight
                self.register_buffer("mask", torch.zeros(10))

            def forward(self, x):
                big = torch.zeros(1000)
                bigger = torch.zeros(5000)
                del big, bigger
                return torch.zeros(2000)

        model, images = TwoSteps(), torch.zeros(50)
        with torch.inference_mode():
            counted = {peak_memory(model, model, images) for _ in range(3)}
        assert counted == {4 * (100 + 10 + 50 + 1000 + 5000)}

    def test_half_precision_takes_half(self):
        full = time_model(Net(), SIZE, FAST).peak_memory_bytes
        half = time_model(Net(), SIZE, dataclasses.replace(FAST, dtype="bf16")).peak_memory_bytes
        assert half < 0.75 * full

    def test_measuring_writes_nothing_and_leaves_the_environment_as_it_was(self):
        code = (
            "import os, torch; from cnnscale.timing import Settings, time_model; before = dict(os.environ);"
            "time_model(torch.nn.Conv2d(3, 4, 1), (3, 8, 8), Settings(device='cpu', min_time_s=0.001));"
            "assert os.environ == before"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
