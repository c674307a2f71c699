"""Successive halving whose rungs are complete schedules.

A rung trains every candidate that is left, under every seed, for a share of the full schedule, and keeps a part of
them. Each training is complete: its learning rate comes down within its share, and the next rung starts anew. A short
*cut* of a long schedule ranks nets badly; but so does a very short schedule: on the reference net rankings after a
third of the schedule had nothing to do with the final ones, hence first rungs of one half or more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnnscale.errors import UsageError

__all__ = ["Rung", "keep_best", "kept", "schedule"]


@dataclass(frozen=True, kw_only=True)
class Rung:
    """How much one rung trains."""

    share: float
    """Of the full schedule."""
    candidates: int
    trainings: int

    @property
    def schedules(self) -> float:
        """Its trainings, in full schedules."""
        return self.share * self.trainings


def schedule(candidates: int, seeds: int, rungs: Sequence[float], keep: float) -> tuple[Rung, ...]:
    """The rungs of a search, if no training fails.

    Raises:
        UsageError: shares that do not rise to 1, or a part to keep that is none.
    """
    if not rungs or list(rungs) != sorted(set(rungs)) or rungs[0] <= 0 or rungs[-1] != 1:
        raise UsageError(f"rungs are shares of the full schedule which rise to 1, as in (0.5, 1.0), got {rungs!r}")
    if not 0 < keep <= 1:
        raise UsageError(f"keep is the part of the candidates that goes on, between 0 and 1, got {keep!r}")
    if seeds < 1:
        raise UsageError(f"seeds must be at least 1, got {seeds!r}")
    made = []
    for share in rungs:
        made.append(Rung(share=share, candidates=candidates, trainings=candidates * seeds))
        candidates = kept(candidates, keep)
    return tuple(made)


def kept(candidates: int, keep: float) -> int:
    """How many of so many candidates go on: the part, rounded up."""
    return max(1, math.ceil(round(keep * candidates, 9)))


def keep_best(means: Mapping[str, float], keep: float) -> list[str]:
    """The names that go on, in the order in which they came; of equals those that came first."""
    best = sorted(means, key=lambda name: -means[name])[: kept(len(means), keep)]
    return [name for name in means if name in best]
