"""What a benchmark asks of a device, and nothing else: times of runs, peak memory, its name and its state.

The only module that knows how devices differ. A CUDA device is reached through an object with the functions of
``torch.cuda``; tests put another one there, so that all of it but the GPU itself runs without a GPU.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

import torch

from cnnscale.errors import UsageError

from .memory import counted_growth, resident_growth

__all__ = ["DEVICES", "Cpu", "Cuda", "Device", "MemorySource", "Mps", "Step", "find_device", "is_out_of_memory"]

DEVICES: Final = ("cpu", "cuda", "mps")
Step: TypeAlias = Callable[[], Any]
MemorySource: TypeAlias = Literal["resident", "allocator", "counted"]
"""``resident``: of a process of its own. ``allocator``: of the device's. ``counted``: of torch's CPU allocator."""

_THROTTLING: Final = "clocks_throttle_reasons.active"
_SMI_FIELDS: Final = ("clocks.sm", "clocks.max.sm", "temperature.gpu", "power.draw", _THROTTLING)
_REASONS: Final = {0x04: "power cap", 0x08: "slowdown", 0x20: "heat", 0x40: "heat, in hardware", 0x80: "power brake"}
"""Bits of NVML's ``nvmlClocksEventReasons`` that tell of less than the device could do; idling is none of them."""


class Device(Protocol):
    """Where networks run."""

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def where(self) -> torch.device:
        """Where tensors live."""

    def times(self, step: Step, runs: int) -> list[float]:
        """Seconds of each of so many runs in a row, as the device itself sees them."""

    def memory_growth(self, step: Step) -> tuple[int, MemorySource]:
        """Most bytes that one run holds beyond what was held before, and who says so."""

    def clock(self) -> float:
        """Seconds, once all that was asked of the device is done."""

    def state(self) -> dict[str, str]:
        """What might explain a slow run: load, clocks, temperature, throttling; empty where nothing tells."""

    def trouble(self, state: dict[str, str]) -> str | None:
        """What in a state makes times worth less, for people; None where nothing does."""

    def captured(self, step: Step) -> Step:
        """The step as one submission (a CUDA graph), where the device has that."""


@dataclass(frozen=True)
class Cpu:
    """The processor; runs end when the call does."""

    kind: str = "cpu"
    resident: bool = True
    """Whether memory is what the system says of a process, rather than what torch's allocator counts."""

    @property
    def name(self) -> str:
        """The processor's own name where Linux tells it, else what Python knows."""
        with suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        return platform.processor() or platform.machine()

    @property
    def where(self) -> torch.device:
        return torch.device("cpu")

    def times(self, step: Step, runs: int) -> list[float]:
        taken = []
        for _ in range(runs):
            start = time.perf_counter()
            step()
            taken.append(time.perf_counter() - start)
        return taken

    def memory_growth(self, step: Step) -> tuple[int, MemorySource]:
        grown = resident_growth(step) if self.resident else None
        return (counted_growth(step), "counted") if grown is None else (grown, "resident")

    def clock(self) -> float:
        return time.perf_counter()

    def state(self) -> dict[str, str]:
        with suppress(OSError, AttributeError):  # Windows has none
            return {"load": f"{os.getloadavg()[0]:.2f}"}
        return {}

    def trouble(self, state: dict[str, str]) -> str | None:
        cores = os.cpu_count() or 1
        if float(state.get("load", 0)) <= cores:
            return None
        return f"the machine was busy with other work (load {state['load']} on {cores} cores)"

    def captured(self, step: Step) -> Step:
        return step


def _nvidia_smi(fields: tuple[str, ...], device: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", f"--id={device}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout  # noqa: S603 - fixed


@dataclass(frozen=True)
class Cuda:
    """A CUDA device, timed by events on its own clock."""

    cuda: Any = torch.cuda
    """The functions of ``torch.cuda``."""
    where: torch.device = field(default_factory=lambda: torch.device("cuda"))
    query: Callable[[tuple[str, ...], str], str] = _nvidia_smi
    """What NVML says of these fields of a device, through ``nvidia-smi``, which comes with every driver."""
    kind: str = "cuda"

    @property
    def name(self) -> str:
        return str(self.cuda.get_device_name())

    def times(self, step: Step, runs: int) -> list[float]:
        events = [self.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
        self.cuda.synchronize()
        events[0].record()
        for event in events[1:]:
            step()
            event.record()
        self.cuda.synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in pairwise(events)]

    def memory_growth(self, step: Step) -> tuple[int, MemorySource]:
        self.cuda.synchronize()
        self.cuda.reset_peak_memory_stats()
        before = self.cuda.memory_allocated()
        step()
        self.cuda.synchronize()
        return int(self.cuda.max_memory_allocated() - before), "allocator"

    def clock(self) -> float:
        self.cuda.synchronize()
        return time.perf_counter()

    def state(self) -> dict[str, str]:
        with suppress(OSError, subprocess.SubprocessError):
            uuid = getattr(self.cuda.get_device_properties(), "uuid", None)  # since torch 2.4
            values = [value.strip() for value in self.query(_SMI_FIELDS, f"GPU-{uuid}" if uuid else "0").split(",")]
            return dict(zip(_SMI_FIELDS, values, strict=False))
        return {}

    def trouble(self, state: dict[str, str]) -> str | None:
        with suppress(ValueError):  # some cards answer [N/A]
            active = int(state.get(_THROTTLING, "0"), 16)
            reasons = [reason for bit, reason in _REASONS.items() if active & bit]
            return f"the GPU held its clock back ({', '.join(reasons)})" if reasons else None
        return None

    def captured(self, step: Step) -> Step:
        """The step as a graph, captured after three runs on a stream of its own, as torch's manual says."""
        side = self.cuda.Stream()
        side.wait_stream(self.cuda.current_stream())
        with self.cuda.stream(side):
            for _ in range(3):
                step()
        self.cuda.current_stream().wait_stream(side)
        graph = self.cuda.CUDAGraph()
        with self.cuda.graph(graph):
            step()
        replay: Step = graph.replay
        return replay


@dataclass(frozen=True)
class Mps:
    """Apple's GPU: timed by the host's clock around a synchronised run."""

    kind: str = "mps"
    mps: Any = torch.mps
    where: torch.device = field(default_factory=lambda: torch.device("mps"))

    @property
    def name(self) -> str:
        return f"{platform.processor() or platform.machine()} GPU"

    def times(self, step: Step, runs: int) -> list[float]:
        taken = []
        for _ in range(runs):
            self.mps.synchronize()
            start = time.perf_counter()
            step()
            self.mps.synchronize()
            taken.append(time.perf_counter() - start)
        return taken

    def memory_growth(self, step: Step) -> tuple[int, MemorySource]:
        """What the driver holds more after a run: MPS keeps no peak, but its driver gives nothing back meanwhile."""
        self.mps.synchronize()
        self.mps.empty_cache()
        before = self.mps.driver_allocated_memory()
        step()
        self.mps.synchronize()
        return int(self.mps.driver_allocated_memory() - before), "allocator"

    def clock(self) -> float:
        self.mps.synchronize()
        return time.perf_counter()

    def state(self) -> dict[str, str]:
        return Cpu().state()

    def trouble(self, state: dict[str, str]) -> str | None:
        return Cpu().trouble(state)

    def captured(self, step: Step) -> Step:
        return step


def find_device(kind: str) -> Device:
    """The device of this kind; ``auto`` is the fastest that is there.

    Raises:
        UsageError: it is not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if kind == "cuda" and not cuda:
        raise UsageError("this torch sees no CUDA device; use device cpu or auto")
    if kind == "mps" and not mps:
        raise UsageError("this torch sees no MPS device; use device cpu or auto")
    if kind == "cuda" or (kind == "auto" and cuda):
        return Cuda()
    return Mps() if kind == "mps" or (kind == "auto" and mps) else Cpu()


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's own error, Python's, and the RuntimeErrors of torch's CPU and MPS allocators."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    told = str(error).lower()
    return isinstance(error, RuntimeError) and ("allocate memory" in told or "out of memory" in told)
