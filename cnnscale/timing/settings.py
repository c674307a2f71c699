"""How variants are timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch

from cnnscale.errors import UsageError
from cnnscale.precision import tf32

from .devices import DEVICES, Cpu, Device, find_device
from .rounds import Limits

__all__ = ["COMPILE_MODES", "DTYPES", "Mode", "Settings"]

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
Mode: TypeAlias = Literal["infer", "train"]
"""``infer``: a forward pass in eval mode. ``train``: forward, backward and a step of SGD with momentum."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How variants are timed.

    Raises:
        UsageError: a value is out of range, or the device is not there.
    """

    batch_sizes: tuple[int, ...] = (8,)
    """Images per step; each size is a comparison of its own."""
    modes: tuple[Mode, ...] = ("infer",)
    """Each mode is a comparison of its own."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """``auto``: cuda where there is one, else mps where there is one, else cpu."""
    dtype: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """The model and its input are converted to it; there is no autocast. ``tf32`` is fp32 whose products CUDA may round
    to TF32, which ``fp32`` forbids."""
    channels_last: bool = False
    compile_mode: str | None = None
    """Time ``torch.compile(model, mode=...)``; compilation itself is not timed."""
    cuda_graph: bool = False
    """Time replays of a captured CUDA graph (inference only)."""
    precision: float = 0.02
    """Rounds are added until each ratio to the baseline is known within it (95 %), or time is up."""
    margin: float = 0.01
    """Differences of time below it are none."""
    min_time_s: float = 1.0
    """Seconds of measurement per variant, at least."""
    time_limit_s: float = 30.0
    """Seconds per comparison."""
    threads: int | None = None
    """CPU threads; default: as many as torch has been told."""
    single: bool = True
    """Measure the latency of batch 1 as well, in the same rounds."""
    layers: bool = False
    """Profile forward passes, for the time that each part of a network takes."""
    resident: bool = True
    """On the CPU, take memory from the resident set of a process of its own: all that a step touches. Without it, and
    where no system tells, it is what torch's allocator counts: the same number on every run."""
    unverified: bool = False
    """Time variants whose verification failed as well."""

    def __post_init__(self) -> None:
        positive = {
            "batch size": min(self.batch_sizes, default=0),
            "minimum time": self.min_time_s,
            "time limit": self.time_limit_s,
            "precision": self.precision,
            "threads": 1 if self.threads is None else self.threads,
        }
        for name, value in positive.items():
            if value <= 0:
                raise UsageError(f"{name} must be positive, got {value}")
        if self.margin < 0:
            raise UsageError(f"margin must not be negative, got {self.margin}")
        for label, given, known in (
            ("dtype", self.dtype, tuple(DTYPES)),
            ("device", self.device, ("auto", *DEVICES)),
            ("compile mode", self.compile_mode or "default", COMPILE_MODES),
            *(("mode", mode, get_args(Mode)) for mode in self.modes),
        ):
            if given not in known:
                raise UsageError(f"{label} must be one of {', '.join(known)}, got {given!r}")
        if self.layers and "infer" not in self.modes:
            raise UsageError("layers are profiled in forward passes: they need the mode infer")
        device = find_device(self.device)
        if device.kind != "cuda" and (self.dtype == "tf32" or self.cuda_graph):
            raise UsageError(f"{'tf32' if self.dtype == 'tf32' else 'a CUDA graph'} needs a CUDA device")

    @property
    def limits(self) -> Limits:
        return Limits(precision=self.precision, min_time_s=self.min_time_s, time_limit_s=self.time_limit_s)

    @property
    def found_device(self) -> Device:
        device = find_device(self.device)
        return replace(device, resident=self.resident) if isinstance(device, Cpu) else device

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Torch's own settings as these say, and afterwards as they were."""
        threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
        torch.set_num_threads(self.threads or threads)
        try:
            with tf32(allowed=self.dtype == "tf32"):
                yield
        finally:
            torch.set_num_threads(threads)
            torch.set_grad_enabled(grad)
            if self.compile_mode:
                torch.compiler.reset()  # its caches hold on to the models
