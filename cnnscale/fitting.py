"""From phi to the candidate whose measured growth is 2 ** phi.

The formula's cost moves in steps: repeats are whole blocks, widths multiples of a divisor. So the fit walks along the
compound direction, in an exponent that starts at 0 and may pass phi, in three moves:

1. bisect the exponent to where the growth crosses its target;
2. the crossing is often a step in depth: keep the repeats of either side of it, and bisect width and resolution alone;
3. close what is left by single pixels of the input. Pixels are the finest step, so they also pay for a width exponent
   nearer to phi, where the one found is too small to move channels that come in steps of the divisor.

Every candidate is costed by its polynomials; no model is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

__all__ = ["Candidate", "Growth", "Space", "fit"]

_STEPS = 20  # bisection steps: 1e-5 of an exponent, finer than any rounding rule
_REACH = 4.0  # how far beyond phi the exponent may go
_WIDTHS = 6  # width exponents tried between the one found and phi
_DEPTHS = 4  # depth exponents tried below the one found, where the widths do not move
_CHANGED = 0.95  # share of the weights that should move
_STILL = 0.15  # the detour, in log units, that this is worth

Sides = tuple[int, ...]


@dataclass(frozen=True)
class Growth:
    """MACs growth as a function of the image's sides, repeats and widths being settled; NaN where sides do not fit."""

    at: Callable[[Sides], float]
    changed: Callable[[], float]
    """Share of the weights which these repeats and widths change."""


@dataclass(frozen=True)
class Space:
    """What a fit moves in."""

    growth: Callable[[float, float], Growth]
    """(exponent of depth, exponent of width) -> growth."""
    sides: Callable[[float], Sides]
    """Exponent of resolution -> the formula's sides."""
    logs: tuple[float, float, float]
    """log(beta), log(gamma), log(alpha): a unit of the exponent in width, in resolution and in depth."""
    fitting: Callable[[Sides], Sides]
    """Sides -> the nearest ones that the model takes."""
    fixed: bool = False
    """Whether the sides are given and stay."""


@dataclass(frozen=True)
class Candidate:
    """One point: exponents of depth and width, the image's sides, and the growth that they give."""

    depth: float
    width: float
    sides: Sides
    growth: float
    detour: float = field(compare=False)
    """Distance from the compound direction, in log units of the multipliers."""


def fit(space: Space, phi: float, target: float, tolerance: float) -> Candidate:
    """The candidate whose growth is nearest to ``target``, as long as it stays near the compound direction."""
    candidates = list(_candidates(space, phi, target))
    good = _within(candidates, target, tolerance)
    if phi and not any(_moves(space, c) and not _turns_back(space, c, phi) for c in good):
        candidates += _wider(space, phi, target, candidates)
        good = _within(candidates, target, tolerance)
    if phi and not good:
        candidates += _further(space, phi, target, candidates)
        good = _within(candidates, target, tolerance)
    if not good:
        return min(candidates, key=lambda c: _miss(c, target))
    return min(good, key=lambda c: _score(space, c, phi, target))


def _within(candidates: list[Candidate], target: float, tolerance: float) -> list[Candidate]:
    return [c for c in candidates if abs(c.growth / target - 1) <= tolerance]


def _moves(space: Space, candidate: Candidate) -> bool:
    """Whether nearly all weights change: none of the widths is rounded back to the baseline's."""
    return space.growth(candidate.depth, candidate.width).changed() >= _CHANGED


def _turns_back(space: Space, candidate: Candidate, phi: float) -> bool:
    """Whether the image shrinks where the network grows, or grows where it shrinks."""
    return (sum(candidate.sides) - sum(space.sides(0.0))) * phi < 0


def _score(space: Space, candidate: Candidate, phi: float, target: float) -> float:
    still = phi != 0 and not _moves(space, candidate)
    rest = max(0.0, _CHANGED - space.growth(candidate.depth, candidate.width).changed()) if still else 0.0
    return (
        candidate.detour + 3 * _miss(candidate, target) + _STILL * still + rest / 2 + _turns_back(space, candidate, phi)
    )


def _miss(candidate: Candidate, target: float) -> float:
    return abs(math.log(candidate.growth / target)) if candidate.growth > 0 else math.inf


def _candidates(space: Space, phi: float, target: float) -> Iterator[Candidate]:
    low, high = (0.0, phi + _REACH) if phi >= 0 else (phi - 4 * _REACH, 0.0)
    crossing = _bisect(lambda t: space.growth(t, t).at(space.sides(t)), target, low, high)
    for depth in dict.fromkeys((crossing, crossing - 1e-4)):
        rest = _bisect(lambda t, d=depth: space.growth(d, t).at(space.sides(t)), target, low, high)  # type: ignore[misc]
        widths = [rest, rest - 1e-4, *(rest + (phi - rest) * i / _WIDTHS for i in range(1, _WIDTHS + 1))]
        for width in widths:
            yield _pixels(space, depth, width, rest, target)


def _wider(space: Space, phi: float, target: float, tried: list[Candidate]) -> list[Candidate]:
    """For the depths tried and some below, the least width that moves nearly all weights, up to where the image would
    have to turn back."""
    if phi < 0:
        return []
    made = []
    still, most = space.sides(0.0), max(c.depth for c in tried)
    for depth in dict.fromkeys([c.depth for c in tried] + [most * i / _DEPTHS for i in range(1, _DEPTHS)]):
        rest = _bisect(lambda t, d=depth: space.growth(d, t).at(space.sides(t)), target, 0.0, phi + _REACH)  # type: ignore[misc]
        limit = _bisect(lambda t, d=depth: space.growth(d, t).at(still), target, rest, phi + _REACH)  # type: ignore[misc]
        width = _bisect(lambda t, d=depth: space.growth(d, t).changed(), _CHANGED, rest, limit)  # type: ignore[misc]
        candidate = _pixels(space, depth, width, rest, target)
        made.append(replace(candidate, detour=candidate.detour + space.logs[2] * (most - depth)))
    return made


def _further(space: Space, phi: float, target: float, tried: list[Candidate]) -> list[Candidate]:
    """Where no candidate is in tolerance: other depths, widths in small steps around those tried, unequal sides."""
    depths = {round(c.depth + step / 2, 6) for c in tried for step in range(-2, 3)}
    widths = {round(c.width + step / 10, 6) for c in tried for step in range(-10, 11)}
    span = sorted((0.0, phi + math.copysign(1.0, phi)))
    points = [
        (d, w) for d in sorted(depths) for w in sorted(widths) if span[0] <= d <= span[1] and span[0] <= w <= span[1]
    ]
    seen: dict[int, Candidate] = {}
    for depth, width in points:
        seen.setdefault(id(space.growth(depth, width)), _pixels(space, depth, width, width, target, uneven=True))
    return list(seen.values())


def _bisect(growth: Callable[[float], float], target: float, low: float, high: float) -> float:
    """The smallest exponent whose growth reaches ``target``; the upper end where none does. NaN counts as too small."""
    if not growth(high) >= target:
        return high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if growth(middle) >= target:
            high = middle
        else:
            low = middle
    return high


def _pixels(space: Space, depth: float, width: float, rest: float, target: float, *, uneven: bool = False) -> Candidate:
    """The sides, in the formula's proportion, whose growth is nearest to the target for these repeats and widths.

    ``uneven`` lets the last side be a pixel longer or shorter, which halves the step.
    """
    formula, growth = space.sides(rest), space.growth(depth, width)
    if space.fixed:
        return Candidate(depth, width, formula, growth.at(formula), space.logs[0] * abs(width - rest))
    longest = max(space.sides(0.0))
    uneven = uneven and space.sides(0.0)[-1] > 1

    def sides(pixels: int) -> Sides:
        return space.fitting(tuple(max(1, round(side * pixels / longest)) for side in space.sides(0.0)))

    low, high = 1, 4 * max(formula)
    while high - low > 1:
        middle = (low + high) // 2
        if growth.at(sides(middle)) >= target:
            high = middle
        else:
            low = middle
    options = [sides(p) for p in range(max(1, low - 2), high + 4)] + [formula]
    if uneven:
        options += [(*s[:-1], s[-1] + step) for s in options for step in (-1, 1) if s[-1] + step > 0]
    best = min(options, key=lambda s: (_distance(growth.at(s), target), s))
    at = growth.at(best)
    detour = space.logs[0] * abs(width - rest) + abs(math.log(max(best) / max(formula)))
    return Candidate(depth, width, best, at, detour)


def _distance(growth: float, target: float) -> float:
    return math.inf if math.isnan(growth) else abs(growth / target - 1)
