"""How long one model takes on one device, and how much memory it needs there."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from .errors import UsageError

if TYPE_CHECKING:
    from torch.utils.benchmark import Measurement

__all__ = ["DTYPES", "Settings", "Timing", "device_name", "peak_memory", "time_model"]

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


def device_name(device: torch.device) -> str:
    """What the device's maker calls it."""
    return torch.cuda.get_device_name() if device.type == "cuda" else _cpu_name()


def _cpu_name() -> str:
    """The processor's own name where Linux tells it, else what Python knows."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
