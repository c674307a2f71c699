"""Two runs against each other: which rows became slower since a saved one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from cnnscale.errors import CnnScaleError
from cnnscale.timing.settings import Settings
from cnnscale.timing.statistics import Interval, Verdict, independent_ratio, judge

from .records import Environment, Report, Row
from .results import Saved

__all__ = ["Change", "Comparison", "against"]

_INCIDENTAL = {"command", "state", "commit", "libraries"}
"""What may differ between two runs that are compared without a word: the commit is what is compared."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One row, now and then."""

    row: Row
    old: Row
    ratio: Interval
    """Of times, new / old."""
    verdict: Verdict
    regressed: bool
    """Slower by more than allowed, and the whole interval beyond 1."""
    memory_growth: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A report against a saved run."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    """What a reader must know: rows that only one of them has, and what is different about the machines."""

    @property
    def ok(self) -> bool:
        return not any(change.regressed for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and numbers, as JSON takes them."""
        return asdict(self)


def against(report: Report, saved: Sequence[Saved], settings: Settings, *, fail_over: float | None) -> Comparison:
    """Each timed row of the report against the latest saved one of the same variant, mode, batch size and dtype.

    The rounds of two runs are not the same rounds, so their intervals are added up (:func:`independent_ratio`): a
    machine that was busy in one of them shows as a difference, and nothing here can tell it from another.

    Raises:
        CnnScaleError: no row is in both.
    """
    dtype = report.environment.dtype
    old = {_key(line.row): line for line in saved if line.row.timing and line.environment.dtype == dtype}
    timed = [row for row in report.rows if row.timing]
    both = [(row, old[_key(row)]) for row in timed if _key(row) in old]
    if not both:
        raise CnnScaleError("nothing to compare: no row of the old results is the same variant, mode, batch and dtype")
    notes = [f"{row.name} is not in the old results" for row in timed if _key(row) not in old]
    missing = old.keys() - {_key(row) for row in timed}
    notes += [f"{line.row.name} is in the old results only" for key, line in old.items() if key in missing]
    notes += dict.fromkeys(note for _, line in both for note in _differences(report.environment, line.environment))
    changes = tuple(_change(row, line.row, settings, fail_over) for row, line in both)
    return Comparison(changes=changes, notes=tuple(notes))


def _change(row: Row, old: Row, settings: Settings, fail_over: float | None) -> Change:
    assert row.timing and old.timing  # noqa: PT018 - one fact: both were timed
    interval = independent_ratio(row.timing.rounds_ms, old.timing.rounds_ms)
    here, there = row.timing.peak_memory_bytes, old.timing.peak_memory_bytes
    return Change(
        row=row,
        old=old,
        ratio=interval,
        verdict=judge(interval, margin=settings.margin, precision=settings.precision),
        regressed=fail_over is not None and interval.middle > 1 + fail_over and interval.low > 1,
        memory_growth=here / there if here and there else None,
    )


def _key(row: Row) -> tuple[str, str, str, int]:
    return (row.model, row.name, row.mode, row.batch_size)


def _differences(new: Environment, old: Environment) -> list[str]:
    names = [field.name for field in fields(Environment) if field.name not in _INCIDENTAL]
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in names]
    return [f"{name} was {before}, is {now}" for name, before, now in pairs if before != now]
