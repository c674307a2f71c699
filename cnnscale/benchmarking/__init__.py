"""What the hardware makes of a scaled model: throughput, latency and memory beside the growth that was planned.

    variants -> build -> verified? -> warm up -> interleaved rounds -> memory -> rows, pairs -> report

    from cnnscale.benchmarking import Settings, benchmark

    report = benchmark(resnet18(), [1, 2], settings=Settings(batch_sizes=(8,)))
    report.rows[1].time_growth        # and .time_growth_low, .time_growth_high, .verdict

:mod:`.statistics` and :mod:`.rounds` know nothing of networks, :mod:`.devices` is all that differs between devices,
:mod:`.comparing` is the way through.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from cnnscale.timing.settings import Settings

from .comparing import compare
from .records import Report
from .variants import phi_variants

__all__ = ["Report", "Settings", "benchmark"]


def benchmark(model: nn.Module, phis: Iterable[float], *, settings: Settings | None = None, **planning: Any) -> Report:
    """Scale ``model`` to each phi, verify, time, and compare with the baseline (phi 0), which is always measured.

    ``planning`` holds keywords of :func:`cnnscale.scale`. The model itself is left as it is.

    Raises:
        CnnScaleError: the baseline itself cannot be traced or run, so that there is nothing to compare with.
    """
    return compare(phi_variants(model, phis, **planning), settings or Settings())
