"""The search: only :func:`search` spells the chain out.

prepare: analyse once, grid -> candidates of equal MACs, their schedule     nothing is trained: the dry run
open:    the store is this search's, or is refused
measure: latency and memory of every candidate, those over a limit dropped
train:   rung after rung, through the ledger
result:  ranking, ties, the cheapest of the tied
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from cnnscale.errors import SearchError, UsageError
from cnnscale.inputs import GivenSize
from cnnscale.planning import Planner
from cnnscale.reading import analyse
from cnnscale.scaling import apply, plan
from cnnscale.timing import Settings, time_models

from .candidates import Candidates, LeftOut, find_candidates
from .engine import MAX_RETRIES, Driver
from .grid import Grid
from .halving import Rung, keep_best, schedule
from .ledger import Ledger
from .pools import dumps_of, open_executor
from .result import SearchResult, complete, conclude, last_error
from .trials import TrainFn, pack

__all__ = ["Prepared", "Watch", "prepare", "search"]

Watch = Callable[[Ledger], object]
"""Hears of every change in a search's ledger."""

_MIN_TIME_S = 0.2  # of measurement per candidate


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A search before it starts."""

    model: nn.Module
    candidates: Candidates
    rungs: tuple[Rung, ...]
    seeds: int
    keep: float

    @property
    def trainings(self) -> int:
        return sum(rung.trainings for rung in self.rungs)

    @property
    def baseline_schedules(self) -> float:
        """The work, in full trainings of the baseline: a candidate's takes as many times longer as it has MACs."""
        return self.candidates.budget * sum(rung.schedules for rung in self.rungs)


def prepare(
    model: nn.Module | Callable[[], nn.Module],
    *,
    budget: float = 2.0,
    input_size: GivenSize | None = None,
    grid: Grid | None = None,
    seeds: int = 3,
    rungs: Sequence[float] = (0.5, 1.0),
    keep: float = 0.5,
    tolerance: float = 0.02,
    **options: Any,
) -> Prepared:
    """What :func:`search` would train, with the same arguments and errors."""
    baseline = model if isinstance(model, nn.Module) else model()
    if options.get("submodule") is not None:
        raise UsageError("a search trains whole nets: drop submodule")
    start = plan(baseline, 0, input_size=input_size, **options)
    planner = Planner(analyse(baseline, start.baseline_size), start.options.model_copy(update={"fit": False}))
    found = find_candidates(planner, grid or Grid.default(), budget, tolerance=tolerance)
    return Prepared(
        model=baseline,
        candidates=found,
        rungs=schedule(len(found.members), seeds, rungs, keep),
        seeds=seeds,
        keep=keep,
    )


def search(
    model: nn.Module | Callable[[], nn.Module],
    train_fn: TrainFn,
    *,
    budget: float = 2.0,
    input_size: GivenSize | None = None,
    grid: Grid | None = None,
    seeds: int = 3,
    rungs: Sequence[float] = (0.5, 1.0),
    keep: float = 0.5,
    latency_ms: float | None = None,
    peak_memory_bytes: int | None = None,
    store: str | Path = "runs/search.db",
    executor: Any = "local",
    workers: int | None = None,
    max_retries: int = MAX_RETRIES,
    checkpoints: str | Path | None = None,
    resume: bool = True,
    tolerance: float = 0.02,
    timing: Settings | None = None,
    watch: Watch = lambda ledger: None,
    **options: Any,
) -> SearchResult:
    """Find alpha, beta and gamma for ``model``: the paper's step 1 (EfficientNet, arXiv 1905.11946, section 3.3).

    Candidates of equal MACs are trained under several seeds, the better ones for longer. The result proposes the
    cheapest to run of those that cannot be told from the best:

        result = cnnscale.search(build, train_fn, budget=2.0)
        model = cnnscale.scale(build(), phi=3, coefficients=result.best)

    Everything is kept in ``store``: the same call goes on after an interruption of any kind, also a kill -9, and a
    second one beside it shares the work. Trainings run in spawned processes, so a script needs
    ``if __name__ == "__main__":`` around the call.

    Args:
        model: the baseline, or a function that builds it; it has to be one that can be pickled.
        train_fn: trains a net and returns what is to be maximised: ``train_fn(model, trial) -> float``, with a
            :class:`cnnscale.searching.trials.Trial`. Score on validation data, never on the test set.
        budget: MACs of the candidates, relative to the baseline's.
        input_size: the baseline's input, (C, H, W), or its inputs as :func:`cnnscale.scale` takes them; by default
            the model's own.
        grid: values of two bases; by default alpha and gamma around the paper's.
        seeds: trainings per candidate and rung, under seeds 0, 1, ...
        rungs: shares of the full schedule, rising to 1; each is a complete schedule of its own.
        keep: part of the candidates that goes on to the next rung.
        latency_ms: candidates that take longer per batch, as measured on this machine, are left out.
        peak_memory_bytes: the same for memory.
        store: SQLite file of the search.
        executor: ``local``; ``ray`` or ``ray://HOST:PORT``; a pool of ``concurrent.futures`` or a function that makes
            one; or an object with ``submit``, ``wait``, ``close`` and ``slots``
            (:class:`cnnscale.searching.executors.Executor`).
        workers: trainings at once; by default as many as the executor has places.
        max_retries: how often a training is begun again whose worker died.
        checkpoints: folder that all workers see, where they are on other machines; by default beside the store.
        resume: False refuses a store that is in use already.
        tolerance: allowed deviation of a candidate's MACs from the budget.
        timing: how latency is measured.
        watch: called with the ledger after every change.
        options: ``divisor``, ``depth_rounding``, ``pin`` and what else :func:`cnnscale.scale` rounds by.

    Raises:
        UsageError: contradictory arguments, or something that worker processes cannot be given.
        SearchError: the store belongs to another search, or no candidate finished.
    """
    ready = prepare(
        model,
        budget=budget,
        input_size=input_size,
        grid=grid,
        seeds=seeds,
        rungs=rungs,
        keep=keep,
        tolerance=tolerance,
        **options,
    )
    limits = {"latency_ms": latency_ms, "peak_memory_bytes": peak_memory_bytes}
    with closing(open_executor(executor, workers)) as runner, closing(Ledger(store)) as ledger:
        payload = pack(model, train_fn, dumps_of(runner))
        ledger.describe(_description(ready, train_fn, limits), resume=resume)
        if checkpoints is not None:
            ledger.keep_checkpoints_in(checkpoints)
        measured = _measured(
            ready, ledger, timing or Settings(min_time_s=_MIN_TIME_S, time_limit_s=4 * _MIN_TIME_S, resident=False)
        )
        ready = _within(ready, measured, limits)
        ledger.add_tasks([m.name for m in ready.candidates.members], range(seeds), 0, ready.rungs[0].share)
        driver = Driver(
            ledger,
            runner,
            payload,
            max_retries=max_retries,
            advance=lambda: _advance(ledger, ready),
            notify=lambda: watch(ledger),
        )
        driver.run()
        return conclude(ready.candidates, ledger, len(ready.rungs))


def _description(ready: Prepared, train_fn: TrainFn, limits: dict[str, float | None]) -> dict[str, Any]:
    """What makes a search another one."""
    made = ready.candidates.members[0].plan
    return {
        "kind": "search",
        "model": made.model,
        "fingerprint": made.fingerprint,
        "input_size": made.baseline_size,
        "budget": ready.candidates.budget,
        "candidates": [member.name for member in ready.candidates.members],
        "options": made.options.model_dump(),
        "seeds": ready.seeds,
        "rungs": [rung.share for rung in ready.rungs],
        "keep": ready.keep,
        "train_fn": identity(train_fn),
        **limits,
    }


def identity(train_fn: Any) -> str:
    """A training function's name, with its settings where it is a dataclass."""
    cls = type(train_fn)
    if is_dataclass(train_fn):
        return f"{cls.__module__}.{train_fn!r}"
    named = train_fn if hasattr(train_fn, "__qualname__") else cls
    return f"{named.__module__}.{named.__qualname__}"


def _measured(ready: Prepared, ledger: Ledger, timing: Settings) -> dict[str, dict[str, Any]]:
    """Latency and memory of each candidate, measured once per store, all in the same rounds."""
    known = ledger.facts()
    unknown = [member for member in ready.candidates.members if member.name not in known]
    timing = replace(timing, time_limit_s=timing.time_limit_s * max(1, len(unknown)))
    timed = time_models({m.name: (apply(ready.model, m.plan), m.plan.input_size) for m in unknown}, timing)
    ledger.add_candidates(
        (
            member.name,
            member.plan.to_json(),
            {
                "macs": member.plan.after.macs,
                "latency_ms": timed[member.name].latency_ms,
                "peak_memory_bytes": timed[member.name].peak_memory_bytes,
            },
        )
        for member in unknown
    )
    return ledger.facts()


def _within(ready: Prepared, measured: dict[str, dict[str, Any]], limits: dict[str, float | None]) -> Prepared:
    """Without the candidates that exceed a limit."""
    found = ready.candidates
    over = {
        member.name: f"its {name} is {measured[member.name][name]:.4g}, over the limit of {limit:g}"
        for member in found.members
        for name, limit in limits.items()
        if limit is not None and measured[member.name][name] > limit
    }
    members = tuple(member for member in found.members if member.name not in over)
    if not members:
        raise UsageError(f"no candidate keeps within the limits: {next(iter(over.values()))}")
    left_out = [
        LeftOut(
            cell={"alpha": m.multipliers.depth, "beta": m.multipliers.width, "gamma": m.multipliers.resolution},
            why=over[m.name],
        )
        for m in found.members
        if m.name in over
    ]
    rungs = schedule(len(members), ready.seeds, [rung.share for rung in ready.rungs], ready.keep)
    return replace(
        ready, rungs=rungs, candidates=replace(found, members=members, left_out=(*found.left_out, *left_out))
    )


def _advance(ledger: Ledger, ready: Prepared) -> bool:
    """Add the tasks of the next rung, where there is one; the same in every driver of a store.

    Raises:
        SearchError: every candidate failed.
    """
    tasks = ledger.tasks()
    if any(task.state in {"waiting", "running"} for task in tasks):  # another driver has just added it
        return True
    rung = max(task.rung for task in tasks)
    if rung + 1 == len(ready.rungs):
        return False
    values = complete([task for task in tasks if task.rung == rung])
    if not values:
        raise SearchError(f"every candidate failed: {last_error(tasks)}")
    best = keep_best({name: fmean(of.values()) for name, of in values.items()}, ready.keep)
    ledger.add_tasks(best, range(ready.seeds), rung + 1, ready.rungs[rung + 1].share)
    return True
