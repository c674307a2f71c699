"""What the hardware makes of a scaled model: throughput, latency and memory beside the growth that was planned.

    variants -> build -> verified? -> time -> Row

Variants are built one at a time and freed after timing, so that only one of them is in memory beside the baseline. A
variant that fails verification is reported and not timed; one that raises becomes a row with its error and does not
stop the others. :func:`bench_rows` yields each row as it is measured, so that an interrupted run keeps what it has.
"""

from __future__ import annotations

import gc
import logging
import platform
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from .budgets import Cost
from .coefficients import Multipliers
from .errors import CnnScaleError, GrowthWarning
from .formatting import failure_of
from .records import Scaling
from .timing import Settings, Timing, device_name, time_model

__all__ = [
    "Environment",
    "Report",
    "Row",
    "Variant",
    "bench_rows",
    "benchmark",
    "environment",
    "phi_variants",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where the numbers come from: without it none of them can be compared with another."""

    torch: str
    python: str
    device: str
    device_name: str
    threads: int
    dtype: str
    batch_size: int
    channels_last: bool
    compiled: bool


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Something to be built and timed: ``build`` returns a model with its ``.scaling``."""

    name: str
    phi: float
    build: Callable[[], nn.Module]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant's results. ``achieved``, ``cost`` and what follows are None where it could not be built."""

    name: str
    phi: float
    verified: bool = False
    problem: str | None = None
    """Why verification failed, or what went wrong; None where all is well."""
    input_size: tuple[int, ...] | None = None
    achieved: Multipliers | None = None
    cost: Cost | None = None
    growth: float | None = None
    """Measured MACs, variant / baseline."""
    target_growth: float | None = None
    """2 ** phi."""
    timing: Timing | None = None
    """None where it was not timed."""
    time_growth: float | None = None
    """Median time of a batch, variant / baseline."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A finished benchmark. The first row is the baseline."""

    model: str
    environment: Environment
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether every variant was built, verified and timed without a problem."""
        return all(row.problem is None for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, as JSON takes them."""
        return asdict(self)


def benchmark(model: nn.Module, phis: Iterable[float], *, settings: Settings | None = None, **planning: Any) -> Report:
    """Scale ``model`` to each phi, verify, time, and compare with the baseline (phi 0), which is always measured.

    ``planning`` holds keywords of :func:`cnnscale.scale`. The model itself is left as it is.

    Raises:
        CnnScaleError: the baseline itself cannot be traced or run, so that there is nothing to compare with.
    """
    settings = settings or Settings()
    variants = phi_variants(model, phis, **planning)
    rows = tuple(bench_rows(variants, settings))
    return Report(model=type(model).__name__, environment=environment(settings), rows=rows)


def phi_variants(model: nn.Module, phis: Iterable[float], **planning: Any) -> tuple[Variant, ...]:
    """The baseline and then one variant per phi, each once, in the order given."""
    from .scaling import scale

    def builder(phi: float) -> Callable[[], nn.Module]:
        # an input size set outright belongs to the scaled variants, not to the baseline
        keywords = {key: value for key, value in planning.items() if phi != 0 or key != "image_size"}
        return lambda: scale(model, phi, **keywords)

    ordered = dict.fromkeys([0.0, *map(float, phis)])
    return tuple(Variant(name=f"phi {phi:g}", phi=phi, build=builder(phi)) for phi in ordered)


def bench_rows(
    variants: Iterable[Variant], settings: Settings, *, on_start: Callable[[str], object] = lambda name: None
) -> Iterator[Row]:
    """Measure the variants, the first of which is the baseline; ``on_start`` hears each one's name before its turn.

    Raises:
        CnnScaleError: from building the baseline, without which nothing can be compared.
    """
    baseline: Row | None = None
    for variant in variants:
        on_start(variant.name)
        row = _measure(variant, settings, is_baseline=baseline is None)
        baseline = baseline or row
        if row.timing and baseline.timing:
            row = replace(row, time_growth=row.timing.latency_ms / baseline.timing.latency_ms)
        yield row


def _measure(variant: Variant, settings: Settings, *, is_baseline: bool) -> Row:
    row = Row(name=variant.name, phi=variant.phi)
    model: nn.Module | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GrowthWarning)  # the row says so
            model = variant.build()
        scaling = cast("Scaling", model.scaling)
        row = replace(
            row,
            verified=scaling.verification.ok,
            problem=failure_of(scaling.verification),
            input_size=scaling.input_size,
            achieved=scaling.plan.achieved,
            cost=scaling.verification.scaled,
            growth=scaling.verification.growth,
            target_growth=scaling.verification.target_growth,
        )
        if row.verified or settings.unverified:
            row = replace(row, timing=time_model(model, scaling.input_size, settings))
    except CnnScaleError as error:
        if is_baseline and model is None:
            raise
        row = replace(row, problem=str(error))
    except Exception as error:  # out of memory, say: it must not lose the other rows
        _log.debug("%s failed", variant.name, exc_info=True)
        row = replace(row, problem=f"{type(error).__name__}: {error}")
    model = None
    gc.collect()  # free it before the next one is built: modules and their hooks are cycles
    return row


def environment(settings: Settings) -> Environment:
    """The machine and the settings that timings under ``settings`` belong to."""
    device = settings.torch_device
    return Environment(
        torch=torch.__version__,
        python=platform.python_version(),
        device=device.type,
        device_name=device_name(device),
        threads=settings.threads or torch.get_num_threads(),
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        channels_last=settings.channels_last,
        compiled=settings.compiled,
    )
