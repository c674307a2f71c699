"""From phi or a budget to the candidate that meets it.

What is fitted is the load: the cost over its limit, of several limits the largest (:mod:`cnnscale.budgets`); for phi
the limit is 2 ** phi times the baseline's MACs. It moves in steps: repeats are whole blocks, widths multiples of a
divisor. So the fit walks along the strategy's curve, in an exponent that starts at 0 and may pass phi, in three moves:

1. bisect the exponent to where the load crosses its target, 1;
2. the crossing is often a step in depth: keep the repeats of either side of it, and bisect width and resolution alone;
3. close what is left by single pixels of the input. Pixels are the finest step, so they also pay for a width exponent
   nearer to phi, where the one found is too small to move channels that come in steps of the divisor. Where the
   strategy leaves the resolution alone, pixels close a gap of a few percent only, and none that is in tolerance.

Every candidate is costed by its polynomials; no model is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from .coefficients import Multipliers

__all__ = ["REACH", "Candidate", "Growth", "Space", "crossing", "fit"]

REACH = 30.0  # the largest exponent that is looked at

_STEPS = 20  # bisection steps: 1e-5 of an exponent, finer than any rounding rule
_BEYOND = 4.0  # how far beyond phi the exponent may go
_WIDTHS = 6  # width exponents tried between the one found and phi
_DEPTHS = 4  # depth exponents tried below the one found, where the widths do not move
_FURTHER = (1.0, 1.5)  # how far beyond phi the exponents may go where nothing nearer is in tolerance
_CHANGED = 0.95  # share of the weights that should move
_CLOSING = 0.03  # how far an image that the strategy leaves alone may grow or shrink to close a gap
_UNSEEN = 2  # pixels that strides may round away
_STILL = 0.15  # the detour, in log units, that this is worth

Sides = tuple[int, ...]


@dataclass(frozen=True)
class Growth:
    """The load as a function of the image's sides, repeats and widths being settled; NaN where sides do not fit."""

    at: Callable[[Sides], float]
    changed: Callable[[], float]
    """Share of the weights which these repeats and widths change."""


@dataclass(frozen=True)
class Space:
    """What a fit moves in."""

    growth: Callable[[float, float], Growth]
    """(exponent of depth, exponent of width) -> load."""
    sides: Callable[[float], Sides]
    """Exponent of resolution -> the formula's sides."""
    curve: Callable[[float], Multipliers]
    """Exponent -> the strategy's multipliers."""
    fitting: Callable[[Sides], Sides]
    """Sides -> the nearest ones that the model takes."""
    tolerance: float
    """How far the load may be from its target."""
    fixed: bool = False
    """Whether the sides are given and stay."""

    def holds(self, dimension: Literal["width", "resolution"]) -> bool:
        """Whether the strategy leaves a dimension alone."""
        return all(getattr(self.curve(t), dimension) == 1 for t in (-1.0, 1.0))

    def apart(self, dimension: Literal["depth", "width"], one: float, other: float) -> float:
        """The distance of two exponents in one dimension, in log units of its multiplier."""
        return abs(math.log(getattr(self.curve(one), dimension) / getattr(self.curve(other), dimension)))


@dataclass(frozen=True)
class Candidate:
    """One point: exponents of depth and width, the image's sides, and the load that they give."""

    depth: float
    width: float
    sides: Sides
    growth: float
    detour: float = field(compare=False)
    """Distance from the compound direction, in log units of the multipliers."""


def crossing(space: Space, target: float) -> float:
    """The exponent at which the load on the curve itself crosses ``target``; the end of its reach where it does not."""

    def load(t: float) -> float:
        return space.growth(t, t).at(space.sides(t))

    if load(0.0) == target:
        return 0.0
    grows = load(0.0) < target
    near = 0.0
    for reach in (1.0, 2.0, 4.0, 8.0, 16.0, REACH):
        far = reach if grows else -reach
        if load(far) >= target if grows else load(far) <= target:
            return _bisect(load, target, *sorted((near, far)))
        near = far
    return near


def fit(space: Space, phi: float, target: float) -> Candidate:
    """The candidate whose load is nearest to ``target``, as long as it stays near the strategy's curve.

    ``phi``, which tells growing from shrinking, is the exponent at which the curve is expected to meet it.
    """
    candidates = list(_candidates(space, phi, target))
    good = _within(space, candidates, target)
    if phi and not space.holds("width") and not any(_moves(space, c) and not _turns_back(space, c, phi) for c in good):
        candidates += _wider(space, phi, target, candidates)
        good = _within(space, candidates, target)
    near = candidates
    for beyond in _FURTHER:
        if phi and not good:
            candidates = near + _further(space, phi, target, near, beyond)
            good = _within(space, candidates, target)
    if not good:
        return min(candidates, key=lambda c: _miss(c, target))
    return min(good, key=lambda c: _score(space, c, phi, target))


def _within(space: Space, candidates: list[Candidate], target: float) -> list[Candidate]:
    return [c for c in candidates if abs(c.growth / target - 1) <= space.tolerance]


def _moves(space: Space, candidate: Candidate) -> bool:
    """Whether nearly all weights change: none of the widths is rounded back to the baseline's."""
    return space.growth(candidate.depth, candidate.width).changed() >= _CHANGED


def _turns_back(space: Space, candidate: Candidate, phi: float) -> bool:
    """Whether the image shrinks where the network grows, or grows where it shrinks."""
    return not space.holds("resolution") and (sum(candidate.sides) - sum(space.sides(0.0))) * phi < 0


def _score(space: Space, candidate: Candidate, phi: float, target: float) -> float:
    still = phi != 0 and not space.holds("width") and not _moves(space, candidate)
    rest = max(0.0, _CHANGED - space.growth(candidate.depth, candidate.width).changed()) if still else 0.0
    return (
        candidate.detour + 3 * _miss(candidate, target) + _STILL * still + rest / 2 + _turns_back(space, candidate, phi)
    )


def _miss(candidate: Candidate, target: float) -> float:
    return abs(math.log(candidate.growth / target)) if candidate.growth > 0 else math.inf


def _candidates(space: Space, phi: float, target: float) -> Iterator[Candidate]:
    low, high = (0.0, _beyond(space, phi, target)) if phi >= 0 else (phi - 4 * _BEYOND, 0.0)
    crossing = _bisect(lambda t: space.growth(t, t).at(space.sides(t)), target, low, high)
    for depth in dict.fromkeys((crossing, crossing - 1e-4)):
        rest = _bisect(lambda t, d=depth: space.growth(d, t).at(space.sides(t)), target, low, high)  # type: ignore[misc]
        widths = [rest, rest - 1e-4, *(rest + (phi - rest) * i / _WIDTHS for i in range(1, _WIDTHS + 1))]
        for width in widths:
            yield _pixels(space, depth, width, rest, target)


def _beyond(space: Space, phi: float, target: float) -> float:
    """How far to look: a little beyond phi, or farther where a cap on one dimension leaves more to the others."""
    high = phi + _BEYOND
    while high < REACH and space.growth(high, high).at(space.sides(high)) < target:
        high += _BEYOND
    return high


def _wider(space: Space, phi: float, target: float, tried: list[Candidate]) -> list[Candidate]:
    """For the depths tried and some below, the least width that moves nearly all weights, up to where the image would
    have to turn back."""
    if phi < 0:
        return []
    made = []
    still, most = space.sides(0.0), max(c.depth for c in tried)
    for depth in dict.fromkeys([c.depth for c in tried] + [most * i / _DEPTHS for i in range(1, _DEPTHS)]):
        rest = _bisect(lambda t, d=depth: space.growth(d, t).at(space.sides(t)), target, 0.0, phi + _BEYOND)  # type: ignore[misc]
        limit = _bisect(lambda t, d=depth: space.growth(d, t).at(still), target, rest, phi + _BEYOND)  # type: ignore[misc]
        width = _bisect(lambda t, d=depth: space.growth(d, t).changed(), _CHANGED, rest, limit)  # type: ignore[misc]
        candidate = _pixels(space, depth, width, rest, target)
        made.append(replace(candidate, detour=candidate.detour + space.apart("depth", most, depth)))
    return made


def _further(space: Space, phi: float, target: float, tried: list[Candidate], beyond: float) -> list[Candidate]:
    """Where no candidate is in tolerance: other depths, widths in small steps around those tried, unequal sides."""
    steps = range(-round(2 * beyond), round(2 * beyond) + 1)
    depths = {round(c.depth + step / 2, 6) for c in tried for step in steps}
    widths = {round(c.width + step / 10, 6) for c in tried for step in range(-10, 11)}
    span = sorted((0.0, phi + math.copysign(beyond, phi)))
    points = [
        (d, w) for d in sorted(depths) for w in sorted(widths) if span[0] <= d <= span[1] and span[0] <= w <= span[1]
    ]
    seen: dict[int, Candidate] = {}
    for depth, width in points:
        growth = id(space.growth(depth, width))
        if growth not in seen:  # points in plenty round to the same numbers
            seen[growth] = _pixels(space, depth, width, width, target, uneven=True)
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
    held = space.holds("resolution")
    if space.fixed or (held and _distance(growth.at(formula), target) <= space.tolerance):
        return Candidate(depth, width, formula, growth.at(formula), space.apart("width", width, rest))
    own = space.sides(0.0)
    longest = max(own)
    uneven = uneven and own[-1] > 1

    def sides(pixels: int) -> Sides:
        return space.fitting(tuple(max(1, round(side * pixels / longest)) for side in own))

    room = math.ceil(_CLOSING * longest)
    low, high = (longest - room, longest + room) if held else (1, 4 * max(formula))
    while high - low > 1:
        middle = (low + high) // 2
        if growth.at(sides(middle)) >= target:
            high = middle
        else:
            low = middle
    options = [sides(p) for p in range(max(1, low - 2), high + 4)] + [formula]
    if held:
        options = [s for s in options if abs(max(s) - longest) <= room]
    if uneven:
        options += [(*s[:-1], s[-1] + step) for s in options for step in (-1, 1) if s[-1] + step > 0]
    best = min(options, key=lambda s: (_distance(growth.at(s), target), s))
    if growth.at(best) == growth.at(formula) and max(formula) - max(best) > _UNSEEN:
        best = formula  # the binding limit does not depend on the image
    at = growth.at(best)
    detour = space.apart("width", width, rest) + abs(math.log(max(best) / max(formula)))
    return Candidate(depth, width, best, at, detour)


def _distance(growth: float, target: float) -> float:
    return math.inf if math.isnan(growth) else abs(growth / target - 1)
