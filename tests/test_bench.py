"""The benchmark's pipeline on stand-in variants: what is timed, what is not, and what one failure does to the rest.

No absolute time is asserted: a machine may be slow. CUDA is a stand-in for ``torch.cuda``: see :class:`FakeCuda`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cnnscale.benchmarking.comparing import compare
from cnnscale.benchmarking.records import Row
from cnnscale.benchmarking.variants import Variant, built, plain_variant
from cnnscale.coefficients import Coefficients, Multipliers
from cnnscale.errors import ModelError, UsageError
from cnnscale.plans import Cost, Options, Plan
from cnnscale.records import Scaling, Verification
from cnnscale.timing import settings as settings_module
from cnnscale.timing import time_model, time_models
from cnnscale.timing.devices import Cpu, Cuda, is_out_of_memory
from cnnscale.timing.memory import counted_growth, resident_growth
from cnnscale.timing.settings import Settings
from cnnscale.timing.workloads import Workload

FAST = Settings(batch_sizes=(2,), device="cpu", min_time_s=0.001, time_limit_s=0.2, threads=1)
SIZE = (3, 8, 8)


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    """A machine without other work: a note would say that there is some."""
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)


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
    make = build or (lambda: scaled(Net(), phi))
    return Variant(model="Net", name=f"phi {phi:g}", phi=phi, build=lambda: built(make()))


def raises(error: BaseException) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        raise error

    return build


class Hungry(Net):
    """Runs out of memory beyond ``most`` images."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most
        self.sizes: list[int] = []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return super().forward(x)


class TestRows:
    def test_each_row_says_what_was_got_and_how_fast_it_was(self):
        report = compare([variant(0), variant(1)], FAST)
        first, second = report.rows
        assert report.ok
        assert (second.name, second.phi, second.verified, second.problem) == ("phi 1", 1, True, None)
        assert (second.input_size, second.achieved, second.cost.macs) == (SIZE, Multipliers(depth=2), 2000)
        assert (second.growth, second.target_growth, second.params_growth) == (2.0, 2.0, 1.0)
        assert len(second.plan) == 64
        timing = second.timing
        assert 0 < timing.latency_low_ms <= timing.latency_ms <= timing.latency_high_ms
        assert timing.quantiles_ms[0] <= timing.latency_ms <= timing.quantiles_ms[-1]
        assert timing.single_ms > 0
        assert timing.images_per_s == pytest.approx(2 / timing.latency_ms * 1e3)
        assert timing.gmacs_per_s == pytest.approx(2000 * 2 / timing.latency_ms / 1e6)
        assert first.time_growth == 1.0
        assert second.time_growth_low <= second.time_growth <= second.time_growth_high
        assert second.beyond_macs == pytest.approx(second.time_growth / 2 - 1)
        assert len(timing.rounds_ms) == len(first.timing.rounds_ms) >= 10

    def test_every_two_rows_have_a_verdict(self):
        report = compare([variant(0), variant(1), variant(2)], FAST)
        assert [(pair.name, pair.other) for pair in report.pairs] == [
            ("phi 1", "phi 0"),
            ("phi 2", "phi 0"),
            ("phi 2", "phi 1"),
        ]

    def test_what_takes_twice_as_long_is_slower(self):
        class Slow(Net):
            def forward(self, x):
                for _ in range(30):
                    super().forward(x)
                return x

        report = compare([variant(0), variant(1, lambda: scaled(Slow(), 1))], FAST)
        assert report.rows[1].verdict == "slower"
        assert report.pairs[0].verdict == "slower"

    def test_what_fails_verification_is_never_run(self):
        net = Net()
        variants = [variant(0), variant(1, lambda: scaled(net, 1, measured_growth=3)), variant(2)]
        _, bad, after = compare(variants, FAST).rows
        assert net.calls == 0
        assert (bad.timing, bad.time_growth, bad.verified, bad.growth) == (None, None, False, 3.0)
        assert "MACs grew 3.00x where 2.00x was wanted" in bad.problem
        assert after.timing is not None

    def test_unless_unverified_is_asked_for(self):
        net = Net()
        settings = dataclasses.replace(FAST, unverified=True)
        _, bad = compare([variant(0), variant(1, lambda: scaled(net, 1, measured_growth=3))], settings).rows
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
        report = compare([variant(0), variant(1, raises(error)), variant(2)], FAST)
        assert [row.problem for row in report.rows] == [None, problem, None]
        assert [row.timing is None for row in report.rows] == [False, True, False]
        assert not report.ok

    def test_a_forward_that_raises_keeps_what_was_known(self):
        net = scaled(Net(), 1)
        net.forward = lambda x: x.no_such_attribute
        _, broken, _ = compare([variant(0), variant(1, lambda: net), variant(2)], FAST).rows
        assert broken.problem.startswith("AttributeError: ")
        assert (broken.verified, broken.growth, broken.timing) == (True, 2.0, None)

    def test_without_a_baseline_there_is_nothing_to_compare_with(self):
        with pytest.raises(ModelError, match="cannot be traced"):
            compare([variant(0, raises(ModelError("cannot be traced"))), variant(1)], FAST)

    def test_a_baseline_that_cannot_be_timed_leaves_the_rest_without_growth(self):
        first, second = compare([variant(0, raises(RuntimeError("no"))), variant(1)], FAST).rows
        assert first.problem == "RuntimeError: no"
        assert second.timing is not None
        assert second.time_growth is None

    def test_an_interrupt_while_building_keeps_nothing_and_says_so(self):
        report = compare([variant(0), variant(1, raises(KeyboardInterrupt()))], FAST)
        assert (report.rows, report.interrupted) == ((), True)

    def test_an_interrupt_while_timing_keeps_whole_rounds(self):
        class Interrupted(Net):
            end = math.inf

            def forward(self, x):
                if time.perf_counter() > self.end:
                    raise KeyboardInterrupt
                self.end = min(self.end, time.perf_counter() + 2.5)
                return super().forward(x)

        slow = dataclasses.replace(FAST, time_limit_s=5, min_time_s=60)  # warm after a second of them
        report = compare([variant(0), variant(1, lambda: scaled(Interrupted(), 1))], slow)
        assert report.interrupted
        assert [len(row.timing.rounds_ms) > 0 for row in report.rows] == [True, True]
        assert report.rows[1].timing.peak_memory_bytes is None

    def test_modes_and_batch_sizes_are_comparisons_of_their_own(self):
        settings = dataclasses.replace(FAST, modes=("infer", "train"), batch_sizes=(1, 4))
        heard = []
        report = compare([variant(0), variant(1)], settings, on_rows=lambda *told: heard.append(told))
        assert [(row.mode, row.batch_size, row.name) for row in report.rows] == [
            (mode, size, name) for mode in ("infer", "train") for size in (1, 4) for name in ("phi 0", "phi 1")
        ]
        assert [(len(rows), complete) for _, rows, complete in heard] == [(2, True)] * 4
        assert len({row.session for row in report.rows}) == 4
        assert all(row.timing is not None for row in report.rows)
        assert len(report.pairs) == 4

    def test_a_network_as_its_author_wrote_it(self, tmp_path):
        source = "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten())\n"
        (tmp_path / "net.py").write_text(source, encoding="utf-8")
        twin = plain_variant(f"{tmp_path}/net.py:net", name="twin", input_size=SIZE)
        _, row = compare([variant(0), twin], FAST).rows
        assert (row.problem, row.phi, row.cost.macs, row.plan) == (None, None, 8 * 27 * 36, None)
        assert row.timing is not None


class TestOutOfMemory:
    def test_all_rows_drop_to_the_batch_that_fits(self):
        hungry, other = Hungry(4), Net()
        settings = dataclasses.replace(FAST, batch_sizes=(16,))
        report = compare([variant(0, lambda: scaled(other, 0)), variant(1, lambda: scaled(hungry, 1))], settings)
        assert [row.batch_size for row in report.rows] == [4, 4]
        assert [row.problem for row in report.rows] == [None, None]
        assert [note.split(":")[0] for note in report.notes] == [
            "batch 16 -> 8 for all rows",
            "batch 8 -> 4 for all rows",
        ]
        assert "phi 1 ran out of memory" in report.notes[0]

    def test_a_batch_size_is_measured_once(self):
        """Whether a larger one comes down to it before or after."""
        for sizes in ((16, 4), (4, 16)):
            made = [variant(0), variant(1, lambda: scaled(Hungry(4), 1))]
            report = compare(made, dataclasses.replace(FAST, batch_sizes=sizes))
            assert [(row.name, row.batch_size) for row in report.rows] == [("phi 0", 4), ("phi 1", 4)]
            assert len(report.notes) == 2

    def test_of_a_long_message_the_beginning_is_told(self):
        class Long(Net):
            def forward(self, x):
                told = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.80 GiB."
                raise torch.cuda.OutOfMemoryError(told)

        report = compare([variant(0), variant(1, lambda: scaled(Long(), 1))], FAST)
        problem = report.rows[1].problem
        assert problem == "out of memory even at batch 1: CUDA out of memory. Tried to allocate 20.00 GiB"

    def test_what_never_fits_is_a_problem_of_its_own(self):
        settings = dataclasses.replace(FAST, batch_sizes=(2,))
        report = compare([variant(0), variant(1, lambda: scaled(Hungry(0), 1))], settings)
        assert report.rows[1].problem.startswith("out of memory even at batch 1")
        assert report.rows[0].timing is not None

    def test_which_errors_mean_it(self):
        assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA"))
        assert is_out_of_memory(MemoryError())
        assert not is_out_of_memory(ValueError("out of memory"))
        assert not is_out_of_memory(RuntimeError("size mismatch"))


class TestReport:
    def test_it_goes_through_json(self):
        report = compare([variant(0), variant(1, raises(RuntimeError("no")))], FAST)
        data = json.loads(json.dumps(report.to_dict()))
        assert [row["phi"] for row in data["rows"]] == [0, 1]
        assert data["rows"][0]["cost"]["macs"] == 1000
        assert data["rows"][0]["timing"]["peak_memory_bytes"] > 0
        assert data["rows"][1]["problem"] == "RuntimeError: no"
        assert data["environment"]["torch"] == torch.__version__
        assert data["environment"]["device_name"]
        assert data["environment"]["threads"] == 1
        assert [Row.from_dict(row) for row in data["rows"]] == list(report.rows)


class TestSettings:
    @pytest.mark.parametrize(
        "wrong",
        [
            *({"batch_sizes": (0,)}, {"batch_sizes": ()}, {"min_time_s": 0}, {"time_limit_s": 0}, {"threads": 0}),
            *({"dtype": "int8"}, {"device": "tpu"}, {"modes": ("sleep",)}, {"compile_mode": "fast"}, {"margin": -1}),
            *({"device": "cpu", "dtype": "tf32"}, {"device": "cpu", "cuda_graph": True}, {"precision": 0}),
        ],
        ids=str,
    )
    def test_values_out_of_range_are_refused(self, wrong: dict):
        with pytest.raises(UsageError):
            Settings(**wrong)

    def test_cuda_must_be_there(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert Settings(device="auto").found_device.where == torch.device("cpu")
        with pytest.raises(UsageError, match="no CUDA device"):
            Settings(device="cuda")

    def test_torch_is_as_it_was_afterwards(self):
        threads, before = torch.get_num_threads(), torch.backends.cuda.matmul.fp32_precision
        with dataclasses.replace(FAST, threads=2).applied():
            assert torch.get_num_threads() == 2
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert (torch.get_num_threads(), torch.backends.cuda.matmul.fp32_precision) == (threads, before)


class TestWorkload:
    @pytest.mark.parametrize("channels_last", [False, True])
    @pytest.mark.parametrize("dtype", ["fp32", "bf16"])
    def test_the_settings_reach_the_model(self, dtype: str, channels_last: bool):
        seen = set()

        class Spy(Net):
            def forward(self, x):
                layout = x.is_contiguous(memory_format=torch.channels_last)
                state = (self.conv.weight.dtype, self.training, torch.is_inference_mode_enabled())
                seen.add((x.dtype, tuple(x.shape), layout, *state))
                return super().forward(x)

        settings = dataclasses.replace(FAST, dtype=dtype, channels_last=channels_last)
        Workload("spy", Spy().train(), SIZE, 2, "infer", settings).times(1)
        kind = settings_module.DTYPES[dtype]
        assert seen == {(kind, (2, *SIZE), channels_last, kind, False, True)}

    def test_a_training_step_goes_all_the_way_and_changes_no_weight(self):
        net = Net()
        before = net.conv.weight.detach().clone()
        times = Workload("net", net, SIZE, 2, "train", FAST).times(3)
        assert len(times) == 3
        assert net.training
        assert net.conv.weight.grad.abs().sum() > 0
        assert torch.equal(net.conv.weight, before)

    def test_a_network_that_was_converted_to_infer_can_be_trained(self):
        """Tensors made in inference mode cannot."""
        net, half = Net(), dataclasses.replace(FAST, dtype="bf16", channels_last=True)
        for mode in ("infer", "train", "infer"):
            assert Workload("net", net, SIZE, 2, mode, half).times(1)

    def test_what_does_not_compile_says_so(self, monkeypatch):
        def compiled(model, mode):
            def fails(*inputs):
                raise RuntimeError("no lowering for it\nand a long log")

            return fails

        monkeypatch.setattr(torch, "compile", compiled)
        report = compare([variant(0)], dataclasses.replace(FAST, compile_mode="default"))
        problem = report.rows[0].problem
        assert problem == "with torch.compile the first run fails: RuntimeError: no lowering for it"

    def test_training_takes_outputs_of_any_kind(self):
        class Several(Net):
            def forward(self, x):
                y = super().forward(x)
                return {"out": y, "aux": [y.mean(), (y.argmax(),)]}

        assert Workload("net", Several(), SIZE, 2, "train", FAST).times(1)

    def test_training_holds_gradients_and_momentum(self):
        net = nn.Conv2d(64, 64, 3)
        counted = dataclasses.replace(FAST, resident=False)  # the system's count has the libraries' first pages in it
        infer, train = (Workload("net", net, (64, 8, 8), 1, mode, counted) for mode in ("infer", "train"))
        infer.times(1)
        held = infer.peak_memory()[0]
        train.times(1)
        assert train.peak_memory()[0] - held > 2 * 4 * 64 * 64 * 9


class TestOneModel:
    """What measured budgets ask for."""

    def test_what_slows_the_machine_down_for_a_while_slows_all(self, monkeypatch):
        """Timed one after the other, the one that was being timed would have looked ten times as slow."""
        now = [0.0]

        def step(workload, runs):
            now[0] += 0.01 * (10 if 1.0 < now[0] < 2.0 else 1) * runs
            return [0.01 * (10 if 1.0 < now[0] < 2.0 else 1)] * runs

        monkeypatch.setattr(Workload, "times", step)
        limits = dataclasses.replace(FAST, min_time_s=1.0, time_limit_s=5.0)
        taken = time_models({name: (Net(), SIZE) for name in "abc"}, limits)
        assert [one.latency_ms for one in taken.values()] == pytest.approx([10.0] * 3)

    def test_it_is_timed_with_its_spread(self):
        taken = time_model(Net(), SIZE, FAST)
        assert taken.latency_ms > 0
        assert taken.iqr_ms >= 0
        assert taken.runs >= 10
        assert (taken.batch_size, taken.device, taken.device_name) == (2, "cpu", Cpu().name)

    def test_its_memory_is_the_same_every_time(self):
        counted = dataclasses.replace(FAST, resident=False)
        assert len({time_model(Net(), SIZE, counted).peak_memory_bytes for _ in range(3)}) == 1

    @pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
    def test_it_hides_no_error(self, error: BaseException):
        class Broken(Net):
            def forward(self, x):
                raise error

        with pytest.raises(type(error)):
            time_model(Broken(), SIZE, FAST)


class TestMemory:
    def test_counting_finds_the_largest_moment(self):
        def run():
            big = torch.zeros(1000)
            bigger = torch.zeros(5000)
            del big, bigger
            return torch.zeros(2000)

        assert {counted_growth(run) for _ in range(3)} == {4 * (1000 + 5000)}

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells a process's resident set")
    def test_the_resident_set_holds_what_is_touched(self):
        grown = resident_growth(lambda: torch.ones(16 * 2**20))
        assert 0.95 <= grown / 2**26 <= 1.2

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells a process's resident set")
    def test_a_run_that_dies_tells_nothing_and_leaves_this_process_alone(self):
        def dies():
            raise SystemExit(3)

        assert resident_growth(dies) is None

    def test_half_precision_takes_half(self):
        def peak(dtype: str) -> int:
            counted = dataclasses.replace(FAST, dtype=dtype, resident=False)  # without the scratch memory of libraries
            load = Workload("net", nn.Conv2d(3, 64, 3), (3, 256, 256), 4, "infer", counted)
            load.times(1)
            return load.peak_memory()[0]

        assert peak("bf16") < 0.75 * peak("fp32")

    def test_measuring_writes_nothing_and_leaves_the_environment_as_it_was(self):
        code = (
            "import os, torch; from cnnscale.benchmarking import Settings, benchmark;"
            "from cnnscale.timing.memory import counted_growth;"
            "os.environ.setdefault('CUDA_MODULE_LOADING', 'LAZY');"  # torch's own, where there is a GPU
            "before = dict(os.environ);"
            "counted_growth(lambda: torch.zeros(9)); assert os.environ == before;"
            "net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU());"
            "report = benchmark(net, [0], settings=Settings(device='cpu', time_limit_s=0.1), input_size=(3, 8, 8));"
            "assert report.ok; assert os.environ == before"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class FakeCuda:
    """``torch.cuda`` as the benchmark uses it, over tensors on the CPU: its clock goes 2 ms a step, its memory is told.

    It insists on what the real one needs: an event is read only after a synchronisation.
    """

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.synchronized = True
        self.calls: list[str] = []

    def Event(self, *, enable_timing: bool):  # noqa: N802 - torch's name
        assert enable_timing
        return _Event(self)

    def synchronize(self) -> None:
        self.synchronized = True

    def run(self, *_: object) -> torch.Tensor:
        self.now_ms += 2.0
        self.synchronized = False
        return torch.zeros(1)

    def get_device_properties(self) -> SimpleNamespace:
        return SimpleNamespace(uuid="1234")

    def get_device_name(self) -> str:
        return "Imaginary GPU"

    def reset_peak_memory_stats(self) -> None:
        self.calls.append("reset")

    def memory_allocated(self) -> int:
        return 1000

    def max_memory_allocated(self) -> int:
        assert self.synchronized
        assert self.calls == ["reset"]
        return 5000

    def Stream(self):  # noqa: N802 - torch's name
        return self

    current_stream = Stream

    def wait_stream(self, other: object) -> None:
        self.calls.append("wait")

    def stream(self, side: object):
        return nullcontext()

    def CUDAGraph(self):  # noqa: N802 - torch's name
        return self

    def graph(self, graph: object):
        return nullcontext()

    def replay(self) -> None:
        self.calls.append("replay")


class _Event:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def record(self) -> None:
        self.at = self.cuda.now_ms

    def elapsed_time(self, other: _Event) -> float:
        assert self.cuda.synchronized
        return other.at - self.at


class TestCudaWithoutAGpu:
    def device(self, answer: str = "1980, 1980, 41, 120.5, 0x0000000000000004") -> Cuda:
        return Cuda(cuda=FakeCuda(), where=torch.device("cpu"), query=lambda fields, device: answer + "\n")

    def test_events_time_each_run(self):
        device = self.device()
        assert device.times(device.cuda.run, 3) == [0.002] * 3

    def test_memory_is_what_the_allocator_adds(self):
        device = self.device()
        assert device.memory_growth(device.cuda.run) == (4000, "allocator")

    def test_clocks_and_throttling_are_told_where_nvml_shows_them(self):
        state = self.device().state()
        assert state["clocks.sm"] == "1980"
        assert state["clocks_throttle_reasons.active"] == "0x0000000000000004"

        def absent(fields, device):
            raise FileNotFoundError("nvidia-smi")

        assert Cuda(cuda=FakeCuda(), query=absent).state() == {}

    @pytest.mark.parametrize(
        ("reasons", "told"),
        [("0x04", "power cap"), ("0x60", "heat, heat, in hardware"), ("0x01", None), ("[N/A]", None)],
    )
    def test_a_clock_that_was_held_back_is_told(self, reasons: str, told: str | None):
        device = self.device(f"1200, 1980, 83, 300.0, {reasons}")
        trouble = device.trouble(device.state())
        assert trouble == (told and f"the GPU held its clock back ({told})")

    def test_the_state_is_that_of_the_device_in_use(self):
        asked = []
        Cuda(cuda=FakeCuda(), query=lambda fields, device: asked.append(device) or "").state()
        assert asked == ["GPU-1234"]

    def test_a_graph_is_captured_after_warming_up_on_a_side_stream(self):
        device, runs = self.device(), []
        replay = device.captured(lambda: runs.append(1))
        assert len(runs) == 4
        assert device.cuda.calls == ["wait", "wait"]
        replay()
        assert device.cuda.calls[-1] == "replay"

    def test_a_whole_comparison(self, monkeypatch):
        device = self.device()
        monkeypatch.setattr(settings_module, "find_device", lambda kind: device)

        class OnGpu(Net):
            def forward(self, x):
                device.cuda.run()
                device.cuda.calls.clear()
                device.cuda.calls.append("reset")
                return super().forward(x)

        settings = dataclasses.replace(FAST, device="cuda", dtype="tf32", single=False)
        report = compare([variant(0, lambda: scaled(OnGpu(), 0)), variant(1, lambda: scaled(OnGpu(), 1))], settings)
        assert report.ok
        assert report.environment.device_name == "Imaginary GPU"
        assert [row.timing.latency_ms for row in report.rows] == pytest.approx([2.0, 2.0])
        assert [row.timing.memory_source for row in report.rows] == ["allocator"] * 2
        assert report.pairs[0].verdict == "no difference"
        assert report.rows[0].state["clocks.sm"] == "1980"
        assert {note.partition(",")[0] for note in report.notes} == {"before the measurement", "after the rounds"}


def test_the_cpu_tells_its_name_and_its_load():
    assert Cpu().name
    assert set(Cpu().state()) <= {"load"}


def test_a_busy_cpu_is_told():
    assert "busy" in Cpu().trouble({"load": "1000"})
    assert Cpu().trouble({"load": "0.01"}) is None
    assert Cpu().trouble({}) is None
