"""The machine, the software and the command that numbers belong to."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cnnscale.timing.settings import Settings

from .records import Environment

__all__ = ["environment"]


def environment(settings: Settings) -> Environment:
    """The machine and the settings that timings under ``settings`` belong to."""
    device = settings.found_device
    return Environment(
        device=device.kind,
        device_name=device.name,
        threads=settings.threads or torch.get_num_threads(),
        cores=_cores(),
        dtype=settings.dtype,
        channels_last=settings.channels_last,
        compile_mode=settings.compile_mode,
        cuda_graph=settings.cuda_graph,
        torch=torch.__version__,
        python=platform.python_version(),
        cnnscale=_version("cnnscale") or "unknown",
        libraries={name: found for name in ("torchvision", "timm") if (found := _version(name))},
        platform=platform.platform(),
        commit=_commit(),
        command=("python", "-m", "cnnscale", *sys.argv[1:]) if _is_the_program() else tuple(sys.argv),
        state=device.state(),
    )


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_the_program() -> bool:
    program = Path(sys.argv[0])
    return "cnnscale" in (program.name, program.parent.name)


def _commit() -> str | None:
    with suppress(OSError, subprocess.SubprocessError):
        told = _git("describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+")
        return told.strip() or None
    return None


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout  # noqa: S603 - fixed
