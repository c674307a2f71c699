"""How far a store has come: also while others work on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .halving import kept
from .ledger import Ledger, Task
from .trials import progress

__all__ = ["RungStatus", "Status", "status_of"]


@dataclass(frozen=True, kw_only=True)
class RungStatus:
    """One rung."""

    share: float
    """Of the full schedule."""
    trainings: int
    """All of them; of a rung that has not begun, as many as there will be if none fails."""
    done: int
    running: int
    failed: int

    @property
    def over(self) -> bool:
        return self.done + self.failed >= self.trainings


@dataclass(frozen=True, kw_only=True)
class Status:
    """A store at one moment."""

    kind: str
    """``search``, or the figure of a study."""
    model: str
    rungs: tuple[RungStatus, ...]
    seconds_left: float | None
    """With as many at once as now; None before the first training is over, 0.0 after the last."""
    leaders: tuple[tuple[str, float, int], ...]
    """(candidate, mean value, seeds) of the last rung that has values, best first."""
    errors: tuple[tuple[str, int, str], ...]
    """(candidate, seed, last line of the traceback) of trainings that failed."""

    @property
    def over(self) -> bool:
        return all(rung.over for rung in self.rungs)


def status_of(ledger: Ledger) -> Status:
    """The status of a store; reads only.

    The time left supposes that a training takes as long as its share of the schedule times the MACs of its net.
    """
    described, tasks, facts = ledger.description(), ledger.tasks(), ledger.facts()
    counts = dict(enumerate(_expected(described, tasks)))
    shares = described.get("rungs", [1.0])
    rungs = tuple(_rung(shares[rung], count, [t for t in tasks if t.rung == rung]) for rung, count in counts.items())
    return Status(
        kind=described.get("kind", ""),
        model=described.get("model", ""),
        rungs=rungs,
        seconds_left=_left(ledger, rungs, tasks, facts),
        leaders=_leaders(tasks),
        errors=tuple(
            (task.candidate, task.seed, (task.error or "").strip().rpartition("\n")[2])
            for task in tasks
            if task.state == "failed"
        ),
    )


def _expected(described: Mapping[str, Any], tasks: Sequence[Task]) -> Iterator[int]:
    """Trainings of each rung."""
    seeds, candidates = described.get("seeds", 1), len(described.get("candidates", ()))
    for rung in range(len(described.get("rungs", [1.0]))):
        there = sum(task.rung == rung for task in tasks)
        candidates = there // seeds or candidates
        yield candidates * seeds
        candidates = kept(candidates, described.get("keep", 1.0))


def _rung(share: float, trainings: int, tasks: Sequence[Task]) -> RungStatus:
    states = [task.state for task in tasks]
    return RungStatus(
        share=share,
        trainings=trainings,
        done=states.count("done"),
        running=states.count("running"),
        failed=states.count("failed"),
    )


def _left(
    ledger: Ledger, rungs: Sequence[RungStatus], tasks: Sequence[Task], facts: Mapping[str, Mapping[str, Any]]
) -> float | None:
    def work(task: Task) -> float:
        return task.share * float(facts[task.candidate].get("macs", 1))

    done = [task for task in tasks if task.state == "done" and task.seconds is not None]
    if not done:
        return None
    running = [task for task in tasks if task.state == "running"]
    mean = fmean(float(of.get("macs", 1)) for of in facts.values())
    there = {task.rung for task in tasks}
    to_come = sum(rung.share * mean * rung.trainings for number, rung in enumerate(rungs) if number not in there)
    waiting = sum(work(task) for task in tasks if task.state == "waiting")
    under_way = sum(work(task) * (1 - _fraction(ledger, task)) for task in running)
    pace = sum(task.seconds or 0.0 for task in done) / sum(map(work, done))
    return pace * (to_come + waiting + under_way) / max(1, len(running))


def _fraction(ledger: Ledger, task: Task) -> float:
    """How much of a running training is over, as it last reported."""
    step = progress(ledger.folder, task.candidate, task.seed, task.rung)
    return step[0] / step[1] if step and step[1] else 0.0


def _leaders(tasks: Sequence[Task]) -> tuple[tuple[str, float, int], ...]:
    done = [task for task in tasks if task.value is not None]
    last = [task for task in done if task.rung == max(task.rung for task in done)]
    values: dict[str, list[float]] = {}
    for task in last:
        values.setdefault(task.candidate, []).append(task.value or 0.0)
    leaders = [(name, fmean(of), len(of)) for name, of in values.items()]
    return tuple(sorted(leaders, key=lambda entry: -entry[1]))
