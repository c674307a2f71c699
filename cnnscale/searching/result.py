"""What a search found: the ranking of its last rung, what is tied, and the coefficients to use."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from cnnscale.coefficients import Coefficients
from cnnscale.errors import SearchError

from .candidates import Candidate, Candidates
from .ledger import Ledger, Task
from .statistics import Ranking, rank

__all__ = ["SearchResult", "as_csv", "complete", "conclude", "export_rows", "last_error"]


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """A finished search."""

    candidates: Candidates
    rankings: tuple[Ranking, ...]
    """One per rung; the last one decides."""
    proposed: Candidate
    """The cheapest to run of those that cannot be told from the best."""
    facts: Mapping[str, Mapping[str, Any]]
    """Candidate -> what was measured of it: ``latency_ms``, ``peak_memory_bytes``."""
    tasks: tuple[Task, ...]

    @property
    def best(self) -> Coefficients:
        """Alpha, beta and gamma per unit of phi, for ``cnnscale.scale(model, phi=..., coefficients=...)``."""
        return self.proposed.coefficients(self.candidates.budget)

    @property
    def ranking(self) -> Ranking:
        """Of the last rung."""
        return self.rankings[-1]

    @property
    def tied(self) -> tuple[str, ...]:
        """The best candidate and all that cannot be told from it."""
        return tuple(entry.name for entry in self.ranking.tied)

    @property
    def failed(self) -> tuple[Task, ...]:
        """Trainings that raised, with their tracebacks."""
        return tuple(task for task in self.tasks if task.state == "failed")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, as JSON takes them."""
        found = self.candidates
        return {
            "best": asdict(self.best),
            "proposed": self.proposed.name,
            "tied": list(self.tied),
            "budget": found.budget,
            "baseline": asdict(found.baseline),
            "candidates": [
                {
                    "name": member.name,
                    **asdict(member.multipliers),
                    "input_size": member.plan.input_size,
                    "macs": member.plan.after.macs,
                    "growth": member.plan.growth,
                    **self.facts.get(member.name, {}),
                }
                for member in found.members
            ],
            "left_out": [asdict(item) for item in found.left_out],
            "rankings": [asdict(ranking) for ranking in self.rankings],
            "failed": [{"candidate": t.candidate, "seed": t.seed, "rung": t.rung} for t in self.failed],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2) + "\n"


def complete(tasks: Sequence[Task]) -> dict[str, dict[int, float]]:
    """Candidate -> seed -> value of the candidates none of whose trainings failed; the others cannot be compared."""
    values: dict[str, dict[int, float]] = {}
    spoilt = {task.candidate for task in tasks if task.value is None}
    for task in tasks:
        if task.candidate not in spoilt and task.value is not None:
            values.setdefault(task.candidate, {})[task.seed] = task.value
    return values


def conclude(candidates: Candidates, ledger: Ledger, rungs: int, confidence: float = 0.95) -> SearchResult:
    """The result of a ledger in which nothing is left to do.

    Raises:
        SearchError: no candidate finished the last rung; the message ends with the last traceback's last line.
    """
    tasks = tuple(ledger.tasks())
    by_rung = [complete([task for task in tasks if task.rung == rung]) for rung in range(rungs)]
    if not by_rung[-1]:
        raise SearchError(f"no candidate finished the search: {last_error(tasks)}")
    rankings = tuple(rank(values, confidence) for values in by_rung)
    facts = ledger.facts()
    seconds = {
        name: fmean(t.seconds or 0.0 for t in tasks if t.candidate == name and t.state == "done")
        for name in by_rung[-1]
    }
    tied = [entry.name for entry in rankings[-1].tied]
    cheapest = min(tied, key=lambda name: (facts[name].get("latency_ms", math.inf), seconds[name]))
    proposed = next(member for member in candidates.members if member.name == cheapest)
    return SearchResult(candidates=candidates, rankings=rankings, proposed=proposed, facts=facts, tasks=tasks)


def last_error(tasks: Sequence[Task]) -> str:
    errors = [task.error for task in tasks if task.error]
    return errors[-1].strip().rpartition("\n")[2] if errors else "nothing was trained"


def export_rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Every task with its candidate's facts, as plain rows."""
    facts = ledger.facts()
    return [{**asdict(task), **facts[task.candidate]} for task in ledger.tasks()]


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; columns are all keys in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
