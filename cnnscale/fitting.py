"""From phi to the candidate whose measured growth is 2 ** phi.

The formula's cost moves in steps: repeats are whole blocks, widths multiples of a divisor. So the fit walks along the
compound direction, in an exponent ``t`` that starts at phi, in three moves:

1. bisect ``t`` to where the growth crosses its target;
2. if the crossing is a step in depth, keep the repeats of either side and bisect width and resolution alone;
3. close what is left by single pixels of the input.

Every candidate is costed by its polynomials; no model is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["Candidate", "Space", "fit"]

_STEPS = 22  # bisection steps: 1e-6 of an exponent, finer than any rounding rule
_REACH = 4.0  # how far beyond phi the exponent may go
_PIXELS = 0.12  # resolution may leave the compound direction by this fraction


@dataclass(frozen=True)
class Candidate:
    """One point: exponents for depth and for width and resolution, the image's sides, and the growth that they give."""

    depth: float
    rest: float
    sides: tuple[int, ...]
    growth: float


@dataclass(frozen=True)
class Space:
    """What a fit moves in: how exponents and sides become growth."""

    growth: Callable[[float, float, tuple[int, ...] | None], float]
    """(exponent of depth, of width and resolution, sides or None for the formula's) -> MACs growth, NaN if impossible."""
    sides: Callable[[float], tuple[int, ...]]
    """Exponent -> the formula's sides."""


def fit(space: Space, phi: float, target: float, tolerance: float) -> Candidate:
    """The candidate nearest to ``target``, preferring those that stay closest to the compound direction."""
    crossing = _bisect(lambda t: space.growth(t, t, None), target, *_range(phi))
    starts = list(_starts(space, phi, target, crossing))
    fitted = [_pixels(space, depth, rest, target, tolerance) for depth, rest in starts]
    good = [c for c in fitted if abs(c.growth / target - 1) <= tolerance]
    if not good:
        spread = [(d, r + step / 20) for d, r in starts for step in range(-12, 13)]
        fitted += [_pixels(space, d, r, target, tolerance) for d, r in spread]
        good = [c for c in fitted if abs(c.growth / target - 1) <= tolerance]
    if good:
        return min(good, key=lambda c: _detour(space, c, crossing, phi) + abs(math.log(c.growth / target)))
    return min(fitted, key=lambda c: abs(math.log(c.growth / target)) if c.growth > 0 else math.inf)


def _range(phi: float) -> tuple[float, float]:
    return (0.0, phi + _REACH) if phi >= 0 else (phi - 4 * _REACH, 0.0)


def _bisect(growth: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The smallest exponent whose growth reaches ``target``; the nearer end where none does."""
    if growth(high) < target:
        return high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if growth(middle) < target:
            low = middle
        else:
            high = middle
    return high


def _starts(space: Space, phi: float, target: float, crossing: float) -> Iterator[tuple[float, float]]:
    """(exponent of depth, of the rest) on either side of the crossing, the rest re-fitted for each depth."""
    below = crossing - 1e-5
    for depth in (crossing, below):
        rest = _bisect(lambda t, depth=depth: space.growth(depth, t, None), target, *_range(phi))  # type: ignore[misc]
        for t in (rest, rest - 1e-5):
            yield depth, t


def _pixels(space: Space, depth: float, rest: float, target: float, tolerance: float) -> Candidate:
    """The sides, moved by single pixels from the formula's, whose growth is nearest to the target."""
    wanted = space.sides(rest)
    best = Candidate(depth, rest, wanted, space.growth(depth, rest, wanted))
    for sides in _nearby(wanted, best.growth < target):
        growth = space.growth(depth, rest, sides)
        if math.isnan(best.growth) or abs(growth - target) < abs(best.growth - target):
            best = Candidate(depth, rest, sides, growth)
        if (growth - target) * (1 if best.growth < target else -1) > 0 and growth == growth:
            break
    return best


def _nearby(sides: tuple[int, ...], larger: bool) -> Iterator[tuple[int, ...]]:
    """All sides moved together, one pixel of the longest at a time, in the direction of the target."""
    longest = max(sides)
    for step in range(1, max(3, int(longest * _PIXELS)) + 1):
        scale = (longest + (step if larger else -step)) / longest
        moved = tuple(round(side * scale) for side in sides)
        if min(moved) < 1:
            return
        yield moved


def _detour(space: Space, candidate: Candidate, crossing: float, phi: float) -> float:
    """How far a candidate lies from the compound direction, in log units; against the direction of phi counts most."""
    wanted = space.sides(candidate.rest)
    pixels = abs(math.log(candidate.sides[-1] / wanted[-1]))
    backwards = (candidate.sides[-1] - space.sides(0.0)[-1]) * phi < 0
    return abs(candidate.rest - crossing) * 0.1 + pixels + backwards
