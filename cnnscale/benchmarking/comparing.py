"""Comparisons: all variants built and verified, then timed in the same rounds, at the same batch size.

    variants -> build -> verified? -> warm up -> rounds -> memory -> rows -> pairs

A variant that fails verification is reported and not timed; one that raises becomes a row with its error and does not
stop the others. Where one runs out of memory, all of them start again with half the batch.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import uuid
import warnings
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from cnnscale.errors import CnnScaleError, GrowthWarning
from cnnscale.plans import Plan
from cnnscale.timing.devices import MemorySource
from cnnscale.timing.memory import quiet_torch
from cnnscale.timing.rounds import Contestant, OutOfMemoryError, Rounds, Tick, run_rounds
from cnnscale.timing.settings import Mode, Settings
from cnnscale.timing.statistics import judge, median, median_interval, quantile, ratio
from cnnscale.timing.workloads import Workload

from .environment import environment
from .layers import stage_shares
from .records import Pair, Report, Row, StageShare, Timing
from .variants import Built, Variant

__all__ = ["Job", "compare", "judged"]

_log = logging.getLogger(__name__)
_STEPS = 20
"""Steps of the quantiles that a row keeps."""


@dataclass(frozen=True)
class Job:
    """One comparison: a mode at a batch size."""

    mode: Mode
    batch_size: int


@dataclass
class _Entry:
    """A variant on its way through."""

    row: Row
    built: Built | None = None


@dataclass
class _Results:
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    plans: dict[str, Plan] = field(default_factory=dict)


def compare(
    variants: Iterable[Variant],
    settings: Settings,
    *,
    known: Callable[[Job, Sequence[Row]], Sequence[Row] | None] = lambda job, rows: None,
    on_rows: Callable[[Job, Sequence[Row], bool], object] = lambda job, rows, complete: None,
    tick: Tick = lambda what, left_s: None,
) -> Report:
    """Measure the variants, the first of which is the baseline, in every mode and at every batch size of the settings.

    Ctrl-C ends the measurement; the report holds what there is, and says so. ``known`` is asked before each comparison,
    with its rows as far as they are known without a measurement, for rows that were measured earlier; ``on_rows`` hears
    of those of each comparison that is measured, as soon as they are there, and whether Ctrl-C left it complete.

    Raises:
        CnnScaleError: from building the baseline, without which nothing can be compared.
    """
    variants = tuple(variants)
    where, found = environment(settings), _Results()
    _heed(where.state, "before the measurement", settings, found)
    jobs = [Job(mode, size) for mode in settings.modes for size in settings.batch_sizes]
    try:
        entries = _built(variants, tick, settings.time_limit_s * len(jobs))
        found.plans |= {entry.row.name: entry.built.plan for entry in entries if entry.built and entry.built.plan}
        for number, job in enumerate(jobs):
            done = {row.batch_size for row in found.rows if row.mode == job.mode and row.timing}
            if job.batch_size in done:  # a larger one came down to it
                continue
            rest_s = settings.time_limit_s * (len(jobs) - number - 1)
            rows: Sequence[Row] = [replace(entry.row, mode=job.mode) for entry in entries]
            earlier = known(job, rows)
            if earlier is None:
                rows, _ = judged(_measured(entries, job, done, settings, found, _later(tick, rest_s)), settings)
                if rows:
                    on_rows(job, rows, not found.interrupted)
            found.rows += rows if earlier is None else earlier
            if found.interrupted:
                break
    except KeyboardInterrupt:
        found.interrupted = True
    names = dict.fromkeys(variant.model for variant in variants)
    judged_rows, pairs = judged(found.rows, settings)
    return Report(
        model=", ".join(names),
        environment=where,
        rows=judged_rows,
        pairs=pairs,
        notes=tuple(found.notes),
        interrupted=found.interrupted,
        plans=found.plans,
    )


def _heed(state: dict[str, str], when: str, settings: Settings, found: _Results) -> None:
    """Add a note where the device's state makes its times worth less."""
    trouble = settings.found_device.trouble(state)
    if trouble:
        found.notes.append(f"{when}, {trouble}")


def judged(rows: Sequence[Row], settings: Settings) -> tuple[tuple[Row, ...], tuple[Pair, ...]]:
    """The rows with what follows from comparing them: growth against the first row of their comparison, and pairs."""
    sessions: dict[str, list[Row]] = {}
    for row in rows:
        sessions.setdefault(row.session, []).append(row)
    done: list[Row] = []
    pairs: list[Pair] = []
    for group in sessions.values():
        baseline, timed = group[0], [row for row in group if row.timing]
        found = {(a.name, b.name): _pair(a, b, settings) for b, a in combinations(timed, 2)}
        pairs += found.values()
        done += [_with_time(row.against(baseline), baseline, found.get((row.name, baseline.name))) for row in group]
    return tuple(done), tuple(pairs)


def _pair(row: Row, other: Row, settings: Settings) -> Pair:
    assert row.timing and other.timing  # noqa: PT018 - one fact: both were timed
    interval = ratio(row.timing.rounds_ms, other.timing.rounds_ms)
    verdict = judge(interval, margin=settings.margin, precision=settings.precision)
    return Pair(
        mode=row.mode, batch_size=row.batch_size, name=row.name, other=other.name, ratio=interval, verdict=verdict
    )


def _with_time(row: Row, baseline: Row, pair: Pair | None) -> Row:
    if pair is None:
        return replace(row, time_growth=1.0 if row.timing and row.name == baseline.name else None)
    low, middle, high = pair.ratio.low, pair.ratio.middle, pair.ratio.high
    return replace(row, time_growth=middle, time_growth_low=low, time_growth_high=high, verdict=pair.verdict)


# --- building -----------------------------------------------------------------------------------------------------


def _built(variants: Sequence[Variant], tick: Tick, left_s: float) -> list[_Entry]:
    entries: list[_Entry] = []
    for variant in variants:
        tick(f"building {variant.name}", left_s)
        entries.append(_build(variant, is_baseline=not entries))
    return entries


def _build(variant: Variant, *, is_baseline: bool) -> _Entry:
    row = Row(model=variant.model, name=variant.name, phi=variant.phi)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GrowthWarning)  # the row says so
            built = variant.build()
    except CnnScaleError as error:
        if is_baseline:
            raise
        return _Entry(replace(row, problem=str(error)))
    except Exception as error:  # out of memory, say: it must not lose the other rows
        return _Entry(_broken(row, error))
    row = replace(
        row,
        verified=built.verified,
        problem=built.problem,
        plan=hashlib.sha256(built.plan.to_json().encode()).hexdigest() if built.plan else None,
        input_size=built.input_size,
        achieved=built.achieved,
        cost=built.cost,
        target_growth=built.target_growth,
    )
    return _Entry(row, built)


def _broken(row: Row, error: Exception) -> Row:
    _log.debug("%s failed", row.name, exc_info=error)
    told = str(error) if isinstance(error, CnnScaleError) else f"{type(error).__name__}: {error}"
    return replace(row, problem=told)


# --- timing -------------------------------------------------------------------------------------------------------


def _measured(
    entries: Sequence[_Entry], job: Job, done: Container[int], settings: Settings, found: _Results, tick: Tick
) -> list[Row]:
    """One comparison; on the way down through batch sizes until all variants fit, or to one that is ``done``."""
    session = uuid.uuid4().hex[:12]
    rows = {e.row.name: replace(e.row, mode=job.mode, batch_size=job.batch_size, session=session) for e in entries}
    running = {e.row.name: e.built for e in entries if e.built and (e.built.verified or settings.unverified)}
    batch = job.batch_size
    while running:
        try:
            with settings.applied(), quiet_torch():
                timings = _timed(rows, running, batch, job.mode, settings, found, tick)
        except OutOfMemoryError as error:
            if batch == 1:
                rows[error.name] = replace(rows[error.name], problem=f"out of memory even at batch 1: {error}")
                del running[error.name]
                continue
            found.notes.append(f"batch {batch} -> {batch // 2} for all rows: {error.name} ran out of memory ({error})")
            batch //= 2
            if batch in done:
                return []
            gc.collect()
            continue
        return [replace(timings.get(name, row), batch_size=batch) for name, row in rows.items()]
    return list(rows.values())


def _timed(
    rows: dict[str, Row],
    running: dict[str, Built],
    batch: int,
    mode: Mode,
    settings: Settings,
    found: _Results,
    tick: Tick,
) -> dict[str, Row]:
    """Rounds of all that run, and then the peak memory of each."""
    main = {name: Workload(name, it.model, it.input_size, batch, mode, settings) for name, it in running.items()}
    single = {}
    if settings.single and mode == "infer" and batch > 1:
        single = {name: Workload(name, it.model, it.input_size, 1, mode, settings) for name, it in running.items()}
    contestants = [Contestant(name=name, times=load.times) for name, load in main.items()]
    contestants += [Contestant(name=_alone(name), times=it.times, decisive=False) for name, it in single.items()]
    rounds = run_rounds(contestants, settings.limits, tick=tick)
    found.interrupted |= rounds.stopped == "interrupted"
    state = settings.found_device.state()
    if settings.found_device.kind != "cpu":  # whose load is by now our own
        _heed(state, "after the rounds", settings, found)
    done = {}
    for name, load in main.items():
        if name in rounds.failed:
            done[name] = _broken(rows[name], rounds.failed[name])
        elif rounds.seconds.get(name):
            tick(f"memory of {name}", 0.0)
            shares = _shares(load, running[name], settings, found)
            done[name] = replace(
                rows[name], timing=_timing(load, rounds, running[name], found), stages=shares, state=state
            )
    return done


def _peak(load: Workload, found: _Results) -> tuple[int, MemorySource] | tuple[None, None]:
    """Nothing where there is no time for it any more: the times are there, and must not be lost."""
    try:
        return (None, None) if found.interrupted else load.peak_memory()
    except KeyboardInterrupt:
        found.interrupted = True
        return None, None


def _shares(load: Workload, built: Built, settings: Settings, found: _Results) -> tuple[StageShare, ...]:
    """Of the network as it is written, also where a compiled one was timed."""
    if not settings.layers or load.mode != "infer" or found.interrupted:
        return ()
    eager = replace(settings, compile_mode=None, cuda_graph=False)
    try:
        profiled = Workload(load.name, built.model, built.input_size, load.batch, load.mode, eager)
        return stage_shares(built.model, built.input_size, profiled)
    except KeyboardInterrupt:
        found.interrupted = True
    except Exception as error:  # the times are there, and must not be lost
        found.notes.append(f"{load.name} could not be profiled: {type(error).__name__}: {error}")
    return ()


def _later(tick: Tick, rest_s: float) -> Tick:
    return lambda what, left_s: tick(what, max(0.0, left_s) + rest_s)


def _alone(name: str) -> str:
    return f"{name}, batch 1"


def _timing(load: Workload, rounds: Rounds, built: Built, found: _Results) -> Timing:
    name = load.name
    ms, runs_ms = ([1e3 * s for s in series[name]] for series in (rounds.seconds, rounds.runs))
    alone = [1e3 * s for s in rounds.runs.get(_alone(name), ())]
    middle = median_interval(ms)
    peak, source = _peak(load, found)
    return Timing(
        latency_ms=middle.middle,
        latency_low_ms=middle.low,
        latency_high_ms=middle.high,
        p95_ms=quantile(runs_ms, 0.95),
        images_per_s=1e3 * load.batch / middle.middle,
        gmacs_per_s=built.cost.macs * load.batch / middle.middle / 1e6,
        peak_memory_bytes=peak,
        memory_source=source,
        single_ms=median(alone) if alone else None,
        single_p95_ms=quantile(alone, 0.95) if alone else None,
        runs=len(runs_ms),
        measured_s=(sum(runs_ms) + sum(alone)) / 1e3,
        rounds_ms=tuple(ms),
        quantiles_ms=tuple(quantile(runs_ms, step / _STEPS) for step in range(_STEPS + 1)),
        warm=name not in rounds.cold,
    )
