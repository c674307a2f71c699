"""How long a network takes on a device, and how much memory: what budgets and benchmarks both measure with.

    network, images -> workload -> warm-up -> rounds -> statistics

:mod:`.statistics` and :mod:`.rounds` know nothing of networks; :mod:`.devices` is all that differs between devices.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from cnnscale.budgets import Measurement
from cnnscale.inputs import InputSize

from .memory import quiet_torch
from .rounds import Contestant, run_rounds
from .settings import DTYPES, Settings
from .statistics import median, quantile
from .workloads import Workload

__all__ = ["DTYPES", "Settings", "time_model", "time_models"]


def time_model(model: nn.Module, input_size: InputSize, settings: Settings) -> Measurement:
    """Time one network, in the first mode and batch size of the settings; converts it to their dtype **in place**.

    Raises:
        OutOfMemoryError: the device has not enough memory.
        Exception: what the network raises.
    """
    return time_models({type(model).__name__: (model, input_size)}, settings)[type(model).__name__]


def time_models(models: Mapping[str, tuple[nn.Module, InputSize]], settings: Settings) -> dict[str, Measurement]:
    """Time several networks (name -> network and input size) in the same rounds, so that what slows the machine down
    for a while slows all of them. Conversion and errors as above.
    """
    device, batch = settings.found_device, settings.batch_sizes[0]
    loads = {
        name: Workload(name, model, size, batch, settings.modes[0], settings) for name, (model, size) in models.items()
    }
    with settings.applied(), quiet_torch():
        rounds = run_rounds([Contestant(name=name, times=load.times) for name, load in loads.items()], settings.limits)
        if rounds.stopped == "interrupted":
            raise KeyboardInterrupt
        for error in rounds.failed.values():
            raise error
        peaks = {name: load.peak_memory()[0] for name, load in loads.items()}
    measured = {}
    for name, seconds in rounds.seconds.items():
        taken_ms = [1e3 * each for each in seconds]
        measured[name] = Measurement(
            latency_ms=median(taken_ms),
            iqr_ms=quantile(taken_ms, 0.75) - quantile(taken_ms, 0.25),
            runs=len(rounds.runs[name]),
            peak_memory_bytes=peaks[name],
            batch_size=batch,
            device=device.kind,
            device_name=device.name,
        )
    return measured
