"""How long a network takes on a device, and how much memory: what budgets and benchmarks both measure with.

    network, images -> workload -> warm-up -> rounds -> statistics

:mod:`.statistics` and :mod:`.rounds` know nothing of networks; :mod:`.devices` is all that differs between devices.
"""

from __future__ import annotations

from torch import nn

from cnnscale.budgets import Measurement
from cnnscale.inputs import InputSize

from .memory import quiet_torch
from .rounds import Contestant, run_rounds
from .settings import DTYPES, Settings
from .statistics import median, quantile
from .workloads import Workload

__all__ = ["DTYPES", "Settings", "time_model"]


def time_model(model: nn.Module, input_size: InputSize, settings: Settings) -> Measurement:
    """Time one network, in the first mode and batch size of the settings; converts it to their dtype **in place**.

    Raises:
        OutOfMemoryError: the device has not enough memory.
        Exception: what the network raises.
    """
    device, batch, name = settings.found_device, settings.batch_sizes[0], type(model).__name__
    load = Workload(name, model, input_size, batch, settings.modes[0], settings)
    with settings.applied(), quiet_torch():
        rounds = run_rounds([Contestant(name=name, times=load.times)], settings.limits)
        if rounds.stopped == "interrupted":
            raise KeyboardInterrupt
        if name in rounds.failed:
            raise rounds.failed[name]
        peak, _ = load.peak_memory()
    taken_ms = [1e3 * seconds for seconds in rounds.seconds[name]]
    return Measurement(
        latency_ms=median(taken_ms),
        iqr_ms=quantile(taken_ms, 0.75) - quantile(taken_ms, 0.25),
        runs=len(rounds.runs[name]),
        peak_memory_bytes=peak,
        batch_size=batch,
        device=device.kind,
        device_name=device.name,
    )
