"""A study: the nets of a figure trained under several seeds, and what can be said of them.

Trainings go through the same ledger and executors as a search's, so that a study is resumed like one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from torch import nn

from cnnscale.errors import SearchError, UsageError
from cnnscale.formatting import size_text
from cnnscale.inputs import InputSize
from cnnscale.searching.candidates import net_of
from cnnscale.searching.engine import MAX_RETRIES, Driver
from cnnscale.searching.ledger import Ledger
from cnnscale.searching.pools import dumps_of, open_executor
from cnnscale.searching.result import as_csv, complete, last_error
from cnnscale.searching.search import Watch, identity
from cnnscale.searching.statistics import rank
from cnnscale.searching.trials import TrainFn, pack

from .paper import SOURCE, TABLE_7
from .variants import COMPOUND, FIGURES, OWN, Variant

__all__ = ["Point", "StudyResult", "Verdict", "run_study", "trained_once"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One net of a figure, trained."""

    line: str
    level: float
    input_size: InputSize
    macs: int
    growth: float
    """Of MACs, measured / baseline."""
    mean: float | None
    """Of the values of all seeds; None where a training failed."""
    spread: float | None
    """Standard deviation over the seeds; None for fewer than two."""
    seconds: float | None
    """Mean time of a training."""
    values: Mapping[int, float]
    """Seed -> value."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Compound scaling, by the paper's coefficients or by one's own, against one other line at equal MACs."""

    line: str
    level: float
    other: str
    ahead: float
    """Mean difference, the line less the other."""
    margin: float | None
    """Half the 95 % interval of the paired difference; None for a single seed."""
    wins: int
    """Seeds on which the line was ahead."""
    seeds: int

    @property
    def verdict(self) -> Literal["ahead", "behind", "tie", "unknown"]:
        """``unknown`` for a single seed, which says nothing of the noise."""
        if self.margin is None and self.ahead:
            return "unknown"
        if self.margin is not None and abs(self.ahead) <= self.margin:
            return "tie"
        return "ahead" if self.ahead > 0 else "behind" if self.ahead < 0 else "tie"


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A finished study."""

    figure: str
    points: tuple[Point, ...]
    verdicts: tuple[Verdict, ...]

    def to_dict(self) -> dict[str, Any]:
        verdicts = [{**asdict(verdict), "verdict": verdict.verdict} for verdict in self.verdicts]
        paper = {"source": SOURCE, "table_7": [asdict(row) for row in TABLE_7]}
        return {"figure": self.figure, "points": [asdict(p) for p in self.points], "verdicts": verdicts, "paper": paper}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_csv(self) -> str:
        """One row per point and seed."""
        rows = []
        for point in self.points:
            shared = {k: v for k, v in vars(point).items() if k not in ("values", "mean", "spread")}
            shared["input_size"] = size_text(point.input_size)
            rows += [{**shared, "seed": seed, "value": value} for seed, value in point.values.items()]
        return as_csv(rows)


def run_study(
    figure: str,
    model: nn.Module | Callable[[], nn.Module],
    train_fn: TrainFn,
    *,
    levels: Sequence[float] = (),
    seeds: int = 3,
    store: str | Path = "runs/study.db",
    executor: Any = "local",
    workers: int | None = None,
    max_retries: int = MAX_RETRIES,
    checkpoints: str | Path | None = None,
    resume: bool = True,
    watch: Watch = lambda ledger: None,
    **options: Any,
) -> StudyResult:
    """Train the nets of a figure (:data:`cnnscale.studies.variants.FIGURES`) and compare them.

    Args:
        figure: ``figure3``, ``figure4`` or ``figure8``.
        model: the baseline, or a function that builds it.
        train_fn: as for :func:`cnnscale.search`; here it may score on the test set, for nothing is chosen.
        levels: instead of the paper's: multipliers, or for figure 8 growths of MACs.
        seeds: trainings per net, under seeds 0, 1, ...
        store: SQLite file of the study.
        executor: as for :func:`cnnscale.search`, and so are the next five.
        workers: trainings at once.
        max_retries: how often a training is begun again whose worker died.
        checkpoints: folder that all workers see.
        resume: False refuses a store that is in use already.
        watch: called with the ledger after every change.
        options: ``input_size``, ``divisor``, and what else :func:`cnnscale.plan` takes; for figure 8 also
            ``coefficients``, which are one more line.

    Raises:
        UsageError: there is no such figure, or no seed.
        SearchError: the store belongs to something else, or every training failed.
    """
    if figure not in FIGURES or seeds < 1:
        raise UsageError(f"studies are {', '.join(FIGURES)}, of one seed at least; got {figure!r} and {seeds}")
    baseline = model if isinstance(model, nn.Module) else model()
    variants = tuple(FIGURES[figure](baseline, levels, **options))
    nets = trained_once(variants)
    with closing(open_executor(executor, workers)) as runner, closing(Ledger(store)) as ledger:
        payload = pack(model, train_fn, dumps_of(runner))
        ledger.describe(_description(figure, nets, seeds, train_fn), resume=resume)
        if checkpoints is not None:
            ledger.keep_checkpoints_in(checkpoints)
        ledger.add_candidates(
            (name, variant.plan.to_json(), {"macs": variant.plan.after.macs}) for name, variant in nets.items()
        )
        ledger.add_tasks(list(nets), range(seeds), 0, 1.0)
        Driver(ledger, runner, payload, max_retries=max_retries, notify=lambda: watch(ledger)).run()
        return _result(figure, variants, nets, ledger)


def trained_once(variants: Sequence[Variant]) -> dict[str, Variant]:
    """Every net once, under the name of its first point."""
    first: dict[object, Variant] = {}
    for variant in variants:
        first.setdefault(net_of(variant.plan), variant)
    return {variant.name: variant for variant in first.values()}


def _description(figure: str, nets: Mapping[str, Variant], seeds: int, train_fn: TrainFn) -> dict[str, Any]:
    plan = next(iter(nets.values())).plan
    return {
        "kind": figure,
        "model": plan.model,
        "fingerprint": plan.fingerprint,
        "input_size": plan.baseline_size,
        "options": plan.options.model_dump(),
        "candidates": list(nets),
        "seeds": seeds,
        "train_fn": identity(train_fn),
    }


def _result(figure: str, variants: Sequence[Variant], nets: Mapping[str, Variant], ledger: Ledger) -> StudyResult:
    tasks = ledger.tasks()
    values = complete(tasks)
    if not values:
        raise SearchError(f"every training failed: {last_error(tasks)}")
    names = {net_of(variant.plan): name for name, variant in nets.items()}
    points = []
    for variant in variants:
        name = names[net_of(variant.plan)]
        own = values.get(name, {})
        times = [task.seconds for task in tasks if task.candidate == name and task.seconds is not None]
        points.append(
            Point(
                line=variant.line,
                level=variant.level,
                input_size=variant.plan.input_size,
                macs=variant.plan.after.macs,
                growth=variant.plan.growth,
                mean=fmean(own.values()) if own else None,
                spread=stdev(own.values()) if len(own) > 1 else None,
                seconds=fmean(times) if times else None,
                values=own,
            )
        )
    return StudyResult(figure=figure, points=tuple(points), verdicts=tuple(_verdicts(points)))


def _verdicts(points: Sequence[Point]) -> list[Verdict]:
    """Compound, and one's own coefficients, against every other line of the same level, by the paired t-test."""
    made = []
    for own in sorted(points, key=lambda point: point.line == OWN):
        if own.line not in (COMPOUND, OWN) or not own.values:
            continue
        for other in points:
            if other.level == own.level and other.line != own.line and other.values:
                ahead = [own.values[seed] - other.values[seed] for seed in own.values]
                margin = rank({"own": own.values, "other": other.values}).margin
                made.append(
                    Verdict(
                        line=own.line,
                        level=own.level,
                        other=other.line,
                        ahead=fmean(ahead),
                        margin=margin,
                        wins=sum(difference > 0 for difference in ahead),
                        seeds=len(ahead),
                    )
                )
    return made
