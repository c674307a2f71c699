"""What the hardware makes of a scaled model: throughput, latency and memory beside the growth that was planned.

    variants -> build -> verified? -> time -> Row

Variants are built one at a time and freed after timing, so that only one of them is in memory beside the baseline. A
variant that fails verification is reported and not timed; one that raises becomes a row with its error and does not
stop the others. :func:`bench_rows` yields each row as it is measured, so that an interrupted run keeps what it has.
"""

from __future__ import annotations

import gc
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from cnnscale.coefficients import Multipliers
from cnnscale.errors import CnnScaleError, GrowthWarning, UsageError
from cnnscale.formatting import failure_of
from cnnscale.plans import Cost
from cnnscale.records import Scaling

if TYPE_CHECKING:
    from torch.utils.benchmark import Measurement

__all__ = [
    "DTYPES",
    "Environment",
    "Report",
    "Row",
    "Settings",
    "Timing",
    "Variant",
    "bench_rows",
    "benchmark",
    "environment",
    "phi_variants",
]

_log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How variants are timed.

    Raises:
        UsageError: a value is out of range, or the device is not there.
    """

    batch_size: int = 8
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: cuda where there is one."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """The model and its input are converted to it; there is no autocast."""
    channels_last: bool = False
    compiled: bool = False
    """Time ``torch.compile(model)``; compilation itself is not timed."""
    min_time_s: float = 1.0
    """Seconds of measurement per variant; up to 4 times as many where the spread is above 10 %."""
    threads: int | None = None
    """CPU threads; default: as many as torch has been told."""
    unverified: bool = False
    """Time variants whose verification failed as well."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.min_time_s <= 0 or (self.threads is not None and self.threads < 1):
            raise UsageError("batch size, time and threads must be positive")
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"device must be auto, cpu or cuda, got {self.device!r}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UsageError("this torch sees no CUDA device; use device cpu or auto")

    @property
    def torch_device(self) -> torch.device:
        cuda = self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())
        return torch.device("cuda" if cuda else "cpu")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where the numbers come from: without it none of them can be compared with another."""

    torch: str
    python: str
    device: str
    device_name: str
    threads: int
    dtype: str
    batch_size: int
    channels_last: bool
    compiled: bool


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One variant's forward passes in inference mode, a batch at a time."""

    latency_ms: float
    """Median time of one batch."""
    iqr_ms: float
    """Interquartile range of the same."""
    images_per_s: float
    """Batch size / median time."""
    peak_memory_bytes: int
    """See :func:`peak_memory`."""
    runs: int
    """Measurements that the median and the range were taken from."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Something to be built and timed: ``build`` returns a model with its ``.scaling``."""

    name: str
    phi: float
    build: Callable[[], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant's results. ``achieved``, ``cost`` and what follows are None where it could not be built."""

    name: str
    phi: float
    verified: bool = False
    problem: str | None = None
    """Why verification failed, or what went wrong; None where all is well."""
    input_size: tuple[int, ...] | None = None
    achieved: Multipliers | None = None
    cost: Cost | None = None
    growth: float | None = None
    """Measured MACs, variant / baseline."""
    target_growth: float | None = None
    """2 ** phi."""
    timing: Timing | None = None
    """None where it was not timed."""
    time_growth: float | None = None
    """Median time of a batch, variant / baseline."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished benchmark. The first row is the baseline."""

    model: str
    environment: Environment
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether every variant was built, verified and timed without a problem."""
        return all(row.problem is None for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, as JSON takes them."""
        return asdict(self)


def benchmark(model: nn.Module, phis: Iterable[float], *, settings: Settings | None = None, **planning: Any) -> Report:
    """Scale ``model`` to each phi, verify, time, and compare with the baseline (phi 0), which is always measured.

    ``planning`` holds keywords of :func:`cnnscale.scale`. The model itself is left as it is.

    Raises:
        CnnScaleError: the baseline itself cannot be traced or run, so that there is nothing to compare with.
    """
    settings = settings or Settings()
    variants = phi_variants(model, phis, **planning)
    rows = tuple(bench_rows(variants, settings))
    return Report(model=type(model).__name__, environment=environment(settings), rows=rows)


def phi_variants(model: nn.Module, phis: Iterable[float], **planning: Any) -> tuple[Variant, ...]:
    """The baseline and then one variant per phi, each once, in the order given."""
    from cnnscale.scaling import scale

    def builder(phi: float) -> Callable[[], nn.Module]:
        # an input size set outright belongs to the scaled variants, not to the baseline
        keywords = {key: value for key, value in planning.items() if phi != 0 or key != "image_size"}
        return lambda: scale(model, phi, **keywords)

    ordered = dict.fromkeys([0.0, *map(float, phis)])
    return tuple(Variant(name=f"phi {phi:g}", phi=phi, build=builder(phi)) for phi in ordered)


def bench_rows(
    variants: Iterable[Variant], settings: Settings, *, on_start: Callable[[str], object] = lambda name: None
) -> Iterator[Row]:
    """Measure the variants, the first of which is the baseline; ``on_start`` hears each one's name before its turn.

    Raises:
        CnnScaleError: from building the baseline, without which nothing can be compared.
    """
    baseline: Row | None = None
    for variant in variants:
        on_start(variant.name)
        row = _measure(variant, settings, is_baseline=baseline is None)
        baseline = baseline or row
        if row.timing and baseline.timing:
            row = replace(row, time_growth=row.timing.latency_ms / baseline.timing.latency_ms)
        yield row


def _measure(variant: Variant, settings: Settings, *, is_baseline: bool) -> Row:
    row = Row(name=variant.name, phi=variant.phi)
    model: nn.Module | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GrowthWarning)  # the row says so
            model = variant.build()
        scaling = cast("Scaling", model.scaling)
        row = replace(
            row,
            verified=scaling.verification.ok,
            problem=failure_of(scaling.verification),
            input_size=scaling.input_size,
            achieved=scaling.plan.achieved,
            cost=scaling.verification.scaled,
            growth=scaling.verification.growth,
            target_growth=scaling.verification.target_growth,
        )
        if row.verified or settings.unverified:
            row = replace(row, timing=time_model(model, scaling.input_size, settings))
    except CnnScaleError as error:
        if is_baseline and model is None:
            raise
        row = replace(row, problem=str(error))
    except Exception as error:  # out of memory, say: it must not lose the other rows
        _log.debug("%s failed", variant.name, exc_info=True)
        row = replace(row, problem=f"{type(error).__name__}: {error}")
    model = None
    gc.collect()  # free it before the next one is built: modules and their hooks are cycles
    return row


def time_model(model: nn.Module, input_size: tuple[int, ...], settings: Settings) -> Timing:
    """Time the model on random images; converts it to the settings' device and dtype **in place**.

    Timed by ``torch.utils.benchmark.Timer``, which synchronises CUDA, after a warm-up that includes compilation.
    """
    device, dtype = settings.torch_device, DTYPES[settings.dtype]
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads or threads)
    try:
        with torch.inference_mode():
            model = model.eval().to(device, dtype).to(memory_format=layout)
            images = torch.randn(settings.batch_size, *input_size, device=device, dtype=dtype).to(memory_format=layout)
            forward = torch.compile(model) if settings.compiled else model
            measured = _time(forward, images, settings.min_time_s)
            peak = peak_memory(model, forward, images)
    finally:
        torch.set_num_threads(threads)
        if settings.compiled:
            torch.compiler.reset()  # its caches hold on to the model
    return Timing(
        latency_ms=measured.median * 1e3,
        iqr_ms=measured.iqr * 1e3,
        images_per_s=settings.batch_size / measured.median,
        peak_memory_bytes=peak,
        runs=len(measured.times),
    )


def _time(forward: Callable[[torch.Tensor], Any], images: torch.Tensor, min_time_s: float) -> Measurement:
    """At least ``min_time_s`` and 4 blocks of runs; then until the spread is below 10 % or time is up."""
    with _quiet_torch():
        from torch.utils.benchmark import Measurement, Timer
    names = {"forward": forward, "images": images}
    timer = Timer("forward(images)", globals=names, num_threads=torch.get_num_threads())
    forward(images)  # compiles, where that was asked for
    start = time.perf_counter()
    forward(images)
    one_run_s = time.perf_counter() - start
    measured = timer.adaptive_autorange(min_run_time=min_time_s, max_run_time=max(4 * min_time_s, 5 * one_run_s))
    block = measured.number_per_run
    while len(measured.times) < 4:  # time was up before there were enough for a spread
        measured = Measurement.merge([measured, timer.timeit(block)])[0]
    return measured


def peak_memory(model: nn.Module, forward: Callable[[torch.Tensor], Any], images: torch.Tensor) -> int:
    """Most bytes that torch held at once during one forward pass: weights, buffers, input and everything in between.

    On CUDA it is ``max_memory_allocated``, of all that this process holds there. On the CPU it is the size of the
    model's tensors and of the input, plus the peak of the running sum of allocations and frees of torch's CPU
    allocator, as its profiler records them: the same number on every run. Memory that libraries below torch take for
    themselves is in neither.
    """
    if images.is_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        forward(images)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    with _quiet_torch(), torch.autograd.profiler.profile(profile_memory=True) as profile:
        forward(images)
    records = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(records, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    storages = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers(), images)]
    return peak + sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """Keep torch from logging what has no meaning here: that there is no CUDA compiler, and each profiler's start.

    Kineto, on which the profiler rests, reads its level once, at its first use.
    """
    log, level = logging.getLogger("torch.utils.cpp_extension"), os.environ.get("KINETO_LOG_LEVEL")
    before = log.level
    log.setLevel(logging.ERROR)
    os.environ["KINETO_LOG_LEVEL"] = level or "99"
    try:
        yield
    finally:
        log.setLevel(before)
        if level is None:
            del os.environ["KINETO_LOG_LEVEL"]


def environment(settings: Settings) -> Environment:
    """The machine and the settings that timings under ``settings`` belong to."""
    device = settings.torch_device
    return Environment(
        torch=torch.__version__,
        python=platform.python_version(),
        device=device.type,
        device_name=torch.cuda.get_device_name() if device.type == "cuda" else _cpu_name(),
        threads=settings.threads or torch.get_num_threads(),
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        channels_last=settings.channels_last,
        compiled=settings.compiled,
    )


def _cpu_name() -> str:
    """The processor's own name where Linux tells it, else what Python knows."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
