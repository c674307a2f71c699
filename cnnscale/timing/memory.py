"""Peak memory of one run on the CPU: resident set of a process of its own, or what torch's allocator says.

The process is a fork, so that the network and everything around it is there already and costs no second building. Of
the threads only the forking one lives on in it, so torch is told to use one: a fork that waits for OpenMP's threads
would wait for ever.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

__all__ = ["counted_growth", "quiet_torch", "resident_growth"]

_PATIENCE_S = 120.0


def resident_growth(run: Callable[[], Any]) -> int | None:
    """Bytes by which a run makes a process's resident set grow at its peak; None where the system cannot tell.

    That is everything that the run touches, whoever allocates it: activations, gradients, and the scratch memory of
    libraries below torch. What was resident before, as the weights, does not count.
    """
    if not sys.platform.startswith("linux"):
        return None
    gc.collect()
    _give_back()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads at a fork: see above
        child = os.fork()
    if not child:
        os.close(reading)
        _report_and_die(run, writing)
    os.close(writing)
    try:
        return _answer(reading)
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _report_and_die(run: Callable[[], Any], writing: int) -> None:
    """The life of the fork. It must not return, run a handler of its parent's, nor print."""
    try:
        torch.set_num_threads(1)
        before = _status("VmRSS")
        run()
        grown = _status("VmHWM") - before
        os.write(writing, str(max(0, grown)).encode())
    finally:
        os._exit(0)


def _answer(reading: int) -> int | None:
    """What the fork wrote; None where it died or hangs."""
    deadline = time.monotonic() + _PATIENCE_S
    ready, _, _ = select.select([reading], [], [], deadline - time.monotonic())
    text = os.read(reading, 64) if ready else b""
    return int(text) if text else None


def _status(field: str) -> int:
    """Bytes, of a field that Linux tells in kB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def _give_back() -> None:
    """Let the C library return what is free, so that a run has to ask for it again. glibc only."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def counted_growth(run: Callable[[], Any]) -> int:
    """Most bytes that torch's CPU allocator holds at once during a run, beyond what it held before.

    The peak of the running sum of allocations and frees that its profiler records: the same number every time. What
    libraries below torch take for themselves is not in it.
    """
    with quiet_torch(), torch.autograd.profiler.profile(profile_memory=True) as profile:
        run()
    records = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(records, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@contextmanager
def quiet_torch() -> Iterator[None]:
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
