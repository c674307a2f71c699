"""Interleaved rounds: A B C, B C A, ... in one process, until the answer is known well enough or time is up.

    warm up each contestant until it stops getting faster
    in each round: every contestant once, for about ``slice_s``, in an order drawn anew
    stop: every ratio to the baseline is known to ``precision``, or the time limit is reached, or someone said stop

Knows nothing of networks or devices: a contestant is a function that runs something so many times and says how long
each took, and the clock is an argument. Same seed, same order.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypeAlias, TypeVar

from .statistics import median, ratio

__all__ = ["Contestant", "Limits", "OutOfMemoryError", "Rounds", "Tick", "run_rounds"]

_WARM = 0.95
"""Warm: a slice takes at least this fraction of the time of the one before it."""
_WARM_SLICES = 20
_CHECK_EVERY = 1.2
"""Rounds are looked at when there are so many times more than at the last look: peeking less misleads less."""
_MAX_RUNS = 1000
_T = TypeVar("_T")


class OutOfMemoryError(Exception):
    """A contestant needs more memory than there is; the rounds end, since all must run at the same batch size."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Something to be timed: ``times(runs)`` runs it so often and returns the seconds of each run."""

    name: str
    times: Callable[[int], Sequence[float]]
    decisive: bool = True
    """Whether rounds are added until this one's ratio is known."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When there is enough."""

    precision: float = 0.02
    """Wanted half-width of each ratio's confidence interval, relative."""
    min_time_s: float = 1.0
    """Seconds of measurement per contestant, at least."""
    time_limit_s: float = 60.0
    """Seconds for all of it, warm-up included, after a first run of each. Passed only by the round in which it ends and
    by the least rounds."""
    least_rounds: int = 10
    slice_s: float = 0.1
    """Seconds that one contestant's turn takes: fewer where the least rounds would take more than half of the time
    limit, more where a single run does."""
    seed: int = 0


Tick: TypeAlias = Callable[[str, float], object]
"""Hears what is being done and how many seconds are left at most."""


@dataclass
class Rounds:
    """What was measured."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Per contestant, the median run of each round: lists of equal length, round by round."""
    runs: dict[str, list[float]] = field(default_factory=dict)
    """Per contestant, every single run."""
    failed: dict[str, Exception] = field(default_factory=dict)
    cold: set[str] = field(default_factory=set)
    """Contestants that were still getting faster when the warm-up's time was up."""
    stopped: Literal["precise", "time limit", "interrupted"] = "time limit"

    @property
    def count(self) -> int:
        return max(map(len, self.seconds.values()), default=0)


def run_rounds(
    contestants: Sequence[Contestant],
    limits: Limits,
    *,
    clock: Callable[[], float] = time.perf_counter,
    tick: Tick = lambda what, left_s: None,
) -> Rounds:
    """Time the contestants, the first of which is the baseline.

    The first run of each, which may compile for minutes, counts for nothing: time starts after it. One that raises is
    left out from then on (``failed``). Ctrl-C ends the rounds and keeps the whole ones.

    Raises:
        OutOfMemoryError: from a contestant.
    """
    fitting_s = 0.5 * limits.time_limit_s / (limits.least_rounds * max(1, len(contestants)))
    limits = replace(limits, slice_s=min(limits.slice_s, fitting_s))
    result, start = Rounds(), math.inf

    def left() -> float:
        return limits.time_limit_s - max(0.0, clock() - start)

    try:
        for contestant in contestants:
            tick(f"first run of {contestant.name}", left())
            _attempt(contestant, partial(contestant.times, 1), result)
        start = clock()
        contestants = [each for each in contestants if each.name not in result.failed]
        turns = _warmed_up(contestants, limits, result, clock, lambda name: tick(f"warming up {name}", left()))
        _race(contestants, turns, limits, result, left, tick)
    except KeyboardInterrupt:
        result.stopped = "interrupted"
    return result


def _warmed_up(
    contestants: Sequence[Contestant],
    limits: Limits,
    result: Rounds,
    clock: Callable[[], float],
    tick: Callable[[str], object],
) -> dict[str, int]:
    """Runs per turn of each contestant, once it is warm.

    Warm-up takes at most a fifth of the time limit, in whole.
    """
    turns = {}
    allowed = 0.2 * limits.time_limit_s / max(1, len(contestants))
    for contestant in contestants:
        tick(contestant.name)
        warm = _attempt(contestant, partial(_warm_up, contestant, limits.slice_s / 2, allowed, clock), result)
        if warm is not None:
            one_run_s, steady = warm
            if not steady:
                result.cold.add(contestant.name)
            turns[contestant.name] = _runs(one_run_s, limits.slice_s)
            result.seconds[contestant.name], result.runs[contestant.name] = [], []
    return turns


def _warm_up(
    contestant: Contestant, slice_s: float, allowed_s: float, clock: Callable[[], float]
) -> tuple[float, bool]:
    """Seconds of one run, and whether two slices in a row were no faster than the one before them."""
    begun = clock()
    before, steady = median(contestant.times(1)), 0
    for _ in range(_WARM_SLICES):
        now = median(contestant.times(_runs(before, slice_s)))
        steady, before = (steady + 1 if now >= _WARM * before else 0), now
        if steady == 2 or clock() - begun > allowed_s:
            break
    return before, steady == 2


def _race(
    contestants: Sequence[Contestant],
    turns: dict[str, int],
    limits: Limits,
    result: Rounds,
    left: Callable[[], float],
    tick: Tick,
) -> None:
    order, shuffle, next_look = list(contestants), random.Random(limits.seed), limits.least_rounds  # noqa: S311 - no secret
    while running := [each for each in order if each.name not in result.failed]:
        tick(f"round {result.count + 1}", left())
        shuffle.shuffle(running)
        _round(running, turns, result)
        if result.count < limits.least_rounds:
            continue
        if left() <= 0:
            return
        if result.count >= next_look:
            next_look = max(next_look + 1, int(next_look * _CHECK_EVERY))
            if _precise(contestants, result, limits):
                result.stopped = "precise"
                return


def _round(running: Sequence[Contestant], turns: dict[str, int], result: Rounds) -> None:
    """One turn of each. A round counts for all or for none: where it is broken off, nothing of it is kept."""
    taken = {each.name: _attempt(each, partial(each.times, turns[each.name]), result) for each in running}
    for name, runs in taken.items():
        if runs is not None:
            result.seconds[name].append(median(runs))
            result.runs[name] += runs


def _attempt(contestant: Contestant, act: Callable[[], _T], result: Rounds) -> _T | None:
    """What ``act`` returns; where it raises, the contestant is out, and None is returned.

    Raises:
        OutOfMemoryError: from ``act``.
    """
    try:
        return act()
    except OutOfMemoryError:
        raise
    except Exception as error:  # it must not stop the others; the caller reports it
        result.failed[contestant.name] = error
        for series in (result.seconds, result.runs):
            series.pop(contestant.name, None)
        return None


def _precise(contestants: Sequence[Contestant], result: Rounds, limits: Limits) -> bool:
    if any(sum(runs) < limits.min_time_s for runs in result.runs.values()):
        return False
    baseline = result.seconds.get(contestants[0].name)
    decisive = [c.name for c in contestants[1:] if c.decisive and c.name in result.seconds]
    if baseline is None:
        return True  # there is nothing to be precise about
    if not decisive:
        return ratio(baseline, [median(baseline)] * len(baseline)).precision <= limits.precision
    return all(ratio(result.seconds[name], baseline).precision <= limits.precision for name in decisive)


def _runs(one_run_s: float, slice_s: float) -> int:
    return min(max(1, round(slice_s / max(one_run_s, 1e-9))), _MAX_RUNS)
