"""What a network may cost, and what it does: counted costs, budgets for them, and measurements.

A budget is a set of limits. The load of a network is its cost over its limit, of several the largest, and a fit looks
for the network whose load is 1: so the binding limit is met, and the others are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from .errors import UsageError

__all__ = ["COUNTED", "MEASURED", "Budget", "Cost", "Measurement"]

COUNTED = ("macs", "params", "activations")
MEASURED = ("latency_ms", "peak_memory_bytes")


@dataclass(frozen=True)
class Cost:
    """What one image costs: ``macs`` (1 MAC = 2 FLOPs), ``params``, and ``activations``, the output elements of the
    convolutions. MACs are those of convolutions, linear layers and matrix products, as
    ``torch.utils.flop_counter`` counts them; normalisation, activation functions and pooling count nothing."""

    macs: int
    params: int
    activations: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a network took on one device, in forward passes of ``batch_size`` images; says nothing of other devices."""

    latency_ms: float
    """Median time of one batch."""
    iqr_ms: float
    """Interquartile range of the same: its spread."""
    runs: int
    peak_memory_bytes: int
    """Most that torch held at once, weights included."""
    batch_size: int
    device: str
    """``cpu`` or ``cuda``."""
    device_name: str


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the scaled network may cost; None where it may cost anything.

    Raises:
        UsageError: a limit is not a positive number.
    """

    growth: float | None = None
    """MACs, scaled / baseline."""
    macs: float | None = None
    """Multiply-accumulates of one image."""
    params: float | None = None
    activations: float | None = None
    """Output elements of the convolutions, of one image."""
    latency_ms: float | None = None
    """Median time of one batch, measured."""
    peak_memory_bytes: float | None = None
    """Most that torch holds during a forward pass of one batch, measured."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - not a field: how plans read it

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise UsageError(f"{field.name} must be a positive number, got {value!r}")

    @property
    def asked(self) -> dict[str, float]:
        """The limits, as they were given."""
        limits = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def counted(self, before: Cost) -> dict[str, float]:
        """The limits on counted costs, by the names of :class:`Cost`; growth is a limit on the baseline's MACs."""
        limits = {name: limit for name, limit in self.asked.items() if name in COUNTED}
        if self.growth is not None:
            limits["macs"] = min(limits.get("macs", math.inf), self.growth * before.macs)
        return limits

    @property
    def measured(self) -> dict[str, float]:
        """The limits on what must be measured, by the names of :class:`Measurement`."""
        return {name: limit for name, limit in self.asked.items() if name in MEASURED}

    def loads(self, before: Cost, cost: Cost, measurement: Measurement | None = None) -> dict[str, float]:
        """Cost / limit for every limit; those on what was not measured are missing."""
        made = {name: getattr(cost, name) / limit for name, limit in self.counted(before).items()}
        if measurement is not None:
            made |= {name: getattr(measurement, name) / limit for name, limit in self.measured.items()}
        return made
