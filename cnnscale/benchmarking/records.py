"""What a benchmark found, as data: rows, pairs, and where they were measured. Goes to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from cnnscale.coefficients import Multipliers
from cnnscale.inputs import InputSize
from cnnscale.plans import Cost, Plan
from cnnscale.timing.devices import MemorySource
from cnnscale.timing.settings import Mode
from cnnscale.timing.statistics import Interval, Verdict

__all__ = ["Environment", "Pair", "Report", "Row", "StageShare", "Timing"]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where the numbers come from: without it none of them can be compared with another."""

    device: str
    device_name: str
    threads: int
    cores: int
    dtype: str
    channels_last: bool
    compile_mode: str | None
    cuda_graph: bool
    torch: str
    python: str
    cnnscale: str
    libraries: dict[str, str]
    """Versions of the model zoos, where installed."""
    platform: str
    commit: str | None
    """Of the git repository in the current folder; with ``+`` where files differ from it."""
    command: tuple[str, ...]
    state: dict[str, str]
    """Of the device, before the measurement: load, clocks, temperature, throttling."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One variant's steps, a batch at a time."""

    latency_ms: float
    """Median over the rounds of the median step of a round; with its 95 % interval:"""
    latency_low_ms: float
    latency_high_ms: float
    p95_ms: float
    """Of all single steps."""
    images_per_s: float
    """Batch size / latency."""
    gmacs_per_s: float
    """10^9 multiply-accumulates of the forward pass per second; in training, those of the forward pass only."""
    peak_memory_bytes: int | None
    """Weights, input and everything that one step takes beyond them; None where it could not be measured."""
    memory_source: MemorySource | None
    single_ms: float | None = None
    """Median latency of a batch of one image, in the same rounds; None where it was not asked for."""
    single_p95_ms: float | None = None
    runs: int
    measured_s: float = 0.0
    """Seconds that all these steps took, those of batch 1 included; warm-up and memory are not in it."""
    rounds_ms: tuple[float, ...]
    """The median step of each round. Rows of one session share their rounds, so that they can be compared pairwise."""
    quantiles_ms: tuple[float, ...]
    """Of all single steps, from 0 % to 100 % in steps of 5 %."""
    warm: bool
    """False where it was still getting faster when the warm-up ended."""


@dataclass(frozen=True, kw_only=True)
class StageShare:
    """One part of a network in profiled passes."""

    path: str
    """Of its module, or of its first and last one."""
    sides: tuple[int, ...] = ()
    """Height and width of its output in pixels; empty where that is no image."""
    macs: float
    """Fraction of the network's."""
    time: float
    """Fraction of the time of the pass."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant's results in one comparison. ``cost`` and what follows are None where it could not be built."""

    model: str
    """As the user named it."""
    name: str
    """The variant's: ``phi 1``. Unique within a comparison."""
    phi: float | None
    """None where it was not made by one."""
    mode: Mode = "infer"
    batch_size: int = 0
    """Images per step: as asked for, or what fitted into memory; 0 where it was not timed."""
    session: str = ""
    """Rows with the same one were measured in the same rounds."""
    verified: bool = False
    problem: str | None = None
    """Why verification failed, or what went wrong; None where all is well."""
    plan: str | None = None
    """SHA-256 of the plan's JSON; None for a network as its author wrote it."""
    input_size: InputSize | None = None
    achieved: Multipliers | None = None
    cost: Cost | None = None
    growth: float | None = None
    """Measured MACs, against the comparison's first row; so are the other growths."""
    params_growth: float | None = None
    activations_growth: float | None = None
    target_growth: float | None = None
    """2 ** phi, where the first row is the same model."""
    timing: Timing | None = None
    """None where it was not timed."""
    time_growth: float | None = None
    """Ratio of times, round by round; with its 95 % interval:"""
    time_growth_low: float | None = None
    time_growth_high: float | None = None
    memory_growth: float | None = None
    verdict: Verdict | None = None
    """Of the time against the first row's."""
    stages: tuple[StageShare, ...] = ()
    state: dict[str, str] = field(default_factory=dict)
    """Of the device, right after the rounds; the environment's is from before."""

    @property
    def beyond_macs(self) -> float | None:
        """How far time grew beyond MACs: 0.2 is a fifth more than the MACs account for."""
        return self.time_growth / self.growth - 1 if self.time_growth and self.growth else None

    def against(self, baseline: Row) -> Row:
        """The row with its growth of costs and of memory against another."""
        grown: dict[str, float | None] = {}
        if self.cost and baseline.cost:
            for growth, name in (
                ("growth", "macs"),
                ("params_growth", "params"),
                ("activations_growth", "activations"),
            ):
                before = getattr(baseline.cost, name)
                grown[growth] = getattr(self.cost, name) / before if before else None
        here, there = (row.timing.peak_memory_bytes if row.timing else None for row in (self, baseline))
        grown["memory_growth"] = here / there if here and there else None
        if self.model != baseline.model:
            grown["target_growth"] = None
        return replace(self, **grown)  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """The row that ``asdict`` took apart, also after a way through JSON.

        Raises:
            pydantic.ValidationError: it is none.
        """
        return _ROW.validate_python(dict(data))


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two rows of one comparison: time of ``name`` over time of ``other``, round by round."""

    mode: Mode
    batch_size: int
    name: str
    other: str
    ratio: Interval
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Report:
    """A benchmark. The first row of each comparison (mode and batch size) is its baseline."""

    model: str
    environment: Environment
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...] = ()
    """Every two rows of a comparison that were timed in the same rounds."""
    notes: tuple[str, ...] = ()
    """What a reader must know: a smaller batch than was asked for, say."""
    interrupted: bool = False
    plans: dict[str, Plan] = field(default_factory=dict)
    """By the name of the variant, where it was made by a plan. A row has its plan's hash."""

    @property
    def ok(self) -> bool:
        """Whether every variant was built, verified and timed without a problem."""
        return all(row.problem is None for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, as JSON takes them."""
        return asdict(replace(self, plans={})) | {
            "plans": {name: plan.model_dump() for name, plan in self.plans.items()}
        }


_ROW = TypeAdapter(Row)
