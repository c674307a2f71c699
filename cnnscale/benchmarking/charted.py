"""The numbers that charts of a comparison show, for the page's charts and for pictures alike.

Rows are numbered from 1, in the order of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from .records import Row

__all__ = ["Latency", "Memory", "Throughput", "latencies", "memories", "throughputs"]

_QUANTILES: Final = (1, 5, 10, 15, 19)
"""Of those that a row keeps, from 0 to 100 % in steps of 5: 5, 25, 50, 75 and 95 %."""


class Throughput(NamedTuple):
    """A point."""

    number: int
    name: str
    gmacs: float
    """Per image."""
    images_per_s: float


class Latency(NamedTuple):
    """A distribution."""

    number: int
    name: str
    ms: tuple[float, float, float, float, float]
    """Of single steps, what 5, 25, 50, 75 and 95 % of them take at most."""


class Memory(NamedTuple):
    """A bar."""

    number: int
    name: str
    peak_bytes: int


def throughputs(rows: Sequence[Row]) -> list[Throughput]:
    """Of the rows that were timed and whose network has MACs."""
    return [
        Throughput(number, row.name, row.cost.macs / 1e9, row.timing.images_per_s)
        for number, row in enumerate(rows, 1)
        if row.cost and row.timing and row.cost.macs
    ]


def latencies(rows: Sequence[Row]) -> list[Latency]:
    """Of the rows that were timed."""
    found = []
    for number, row in enumerate(rows, 1):
        if row.timing:
            steps = row.timing.quantiles_ms
            low, early, middle, late, high = (steps[min(i, len(steps) - 1)] for i in _QUANTILES)
            found.append(Latency(number, row.name, (low, early, middle, late, high)))
    return found


def memories(rows: Sequence[Row]) -> list[Memory]:
    """Of the rows whose peak memory is known."""
    return [
        Memory(number, row.name, row.timing.peak_memory_bytes)
        for number, row in enumerate(rows, 1)
        if row.timing and row.timing.peak_memory_bytes
    ]
