"""Grid -> candidates: nets of equal measured MACs, each one once.

The law: the MACs of every candidate's *rounded* net are within ``tolerance`` of ``budget`` times the baseline's. The
formula would not do: widths come in multiples of a divisor and repeats in whole blocks, and a constraint that holds
for alpha * beta**2 * gamma**2 misses by tens of per cent on the net. So two bases are taken from the grid, the third is
bisected on the cost polynomials, and what the steps of the third leave is closed by single pixels of the input. One
analysis serves all candidates; nothing is built.

Points of the grid that round to the same net are one candidate. It goes by the coefficients nearest to what the net
has after rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from cnnscale.budgets import Cost
from cnnscale.coefficients import Coefficients, Multipliers
from cnnscale.errors import UsageError, WidthError
from cnnscale.planning import Planner
from cnnscale.plans import Plan
from cnnscale.requests import Request

from .grid import BASES, Base, Cell, Grid

__all__ = ["Candidate", "Candidates", "LeftOut", "explicit", "find_candidates", "net_of"]

_STEPS = 16  # bisection steps: 2e-5 of a base
_MOST = 64.0  # no base is solved beyond it
_SHARE = 0.06  # of a side, within which single pixels close what is left

_DIMENSION: dict[Base, str] = {"alpha": "depth", "beta": "width", "gamma": "resolution"}

Sides = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One net of the search, and the coefficients that it stands for."""

    name: str
    """Unique within a search, the same in every process: ``d1.2 w1.083 r1.15``."""
    multipliers: Multipliers
    """Of depth, width and resolution at the budget."""
    plan: Plan
    merged: tuple[Multipliers, ...] = ()
    """Other points of the grid that round to the same net."""

    def coefficients(self, budget: float) -> Coefficients:
        """The bases per unit of phi, where one unit doubles the cost: multipliers ** (1 / log2(budget))."""
        unit = 1 / math.log2(budget)
        wanted = self.multipliers
        return Coefficients(alpha=wanted.depth**unit, beta=wanted.width**unit, gamma=wanted.resolution**unit)


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A point of the grid that gives no candidate, and why."""

    cell: Cell
    why: str


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The nets that a search compares."""

    budget: float
    """MACs wanted, relative to the baseline."""
    tolerance: float
    baseline: Cost
    members: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def macs(self) -> int:
        """MACs of one image through every candidate."""
        return sum(member.plan.after.macs for member in self.members)


def find_candidates(planner: Planner, grid: Grid, budget: float, *, tolerance: float = 0.02) -> Candidates:
    """The candidates of a grid whose measured MACs are ``budget`` times the baseline's, to ``tolerance``.

    Raises:
        UsageError: the budget or the tolerance is out of range, or no point of the grid meets the budget.
    """
    if not 1 < budget < _MOST:
        raise UsageError(f"budget must be between 1 and {_MOST:g} times the baseline's MACs, got {budget!r}")
    if not 0 < tolerance < 1:
        raise UsageError(f"tolerance must be a fraction between 0 and 1, got {tolerance!r}")
    solver = _Solver(planner, grid.solve, budget, tolerance)
    found: list[Plan] = []
    left_out: list[LeftOut] = []
    for cell in grid.cells():
        solved = solver.solve(cell)
        if isinstance(solved, Plan):
            found.append(solved)
        else:
            left_out.append(LeftOut(cell=cell, why=solved))
    if not found:
        why = "; ".join(dict.fromkeys(item.why for item in left_out))
        raise UsageError(f"no point of the grid meets the budget of {budget:g}: {why}")
    return Candidates(
        budget=budget,
        tolerance=tolerance,
        baseline=planner.baseline,
        members=tuple(_merged(found)),
        left_out=tuple(left_out),
    )


def explicit(planner: Planner, multipliers: Multipliers, sides: Sides | None = None) -> Plan:
    """The plan for multipliers and sides as they are.

    Raises:
        WidthError: the model does not take the sides, or has no width that could change.
    """
    return planner.plan(
        Request(
            phi=None,
            budget=None,
            coefficients=Coefficients(),
            multipliers=multipliers,
            sides=sides,
            options=planner.options.model_copy(update={"fit": False}),
        )
    )


@dataclass
class _Solver:
    """Solves one base for a budget, the others given."""

    planner: Planner
    base: Base
    budget: float
    tolerance: float
    _growth: dict[tuple[float, float, Sides], float] = field(default_factory=dict)

    def solve(self, cell: Cell) -> Plan | str:
        """The plan for a point of the grid, or why there is none: the smallest change of the sides that does."""
        tried: list[tuple[float, float]] = []
        try:
            for shift in self._shifts():
                value, growth = self._solved(cell, shift)
                if abs(growth / self.budget - 1) <= self.tolerance:
                    wanted = _multipliers({**cell, self.base: value})
                    return explicit(self.planner, wanted, self._sides(wanted.resolution, shift))
                tried.append((value, growth))
        except WidthError as error:
            return str(error)
        value, nearest = min(tried, key=lambda point: abs(math.log(point[1] / self.budget)))
        if value == 1 and nearest > self.budget:
            return f"its net costs {nearest:.3g} times the baseline already with {self.base} = 1"
        return f"the nearest that rounding allows is {nearest:.3g} times the baseline"

    def _solved(self, cell: Cell, shift: Sides) -> tuple[float, float]:
        """The value whose growth is nearest to the budget, and that growth."""

        @cache
        def growth(value: float) -> float:
            return self._growth_at(_multipliers({**cell, self.base: value}), shift)

        low, high = 1.0, 1.0 + self.budget
        if growth(low) >= self.budget:
            return low, growth(low)
        while growth(high) < self.budget and high < _MOST:
            high *= 2
        for _ in range(_STEPS):
            middle = (low + high) / 2
            if growth(middle) < self.budget:
                low = middle
            else:
                high = middle
        best = min(low, high, key=lambda value: abs(math.log(growth(value) / self.budget)))
        # the fewest digits that round to the same net: 1.083, not 1.0830078125
        short = next((s for digits in (2, 3, 4) if growth(s := round(best, digits)) == growth(best) and s >= 1), best)
        return short, growth(short)

    def _growth_at(self, wanted: Multipliers, shift: Sides) -> float:
        sides = self._sides(wanted.resolution, shift)
        key = wanted.depth, wanted.width, sides
        if key not in self._growth:
            self._growth[key] = self.planner.draft(wanted, sides).cost.macs / self.planner.baseline.macs
        return self._growth[key]

    def _sides(self, resolution: float, shift: Sides) -> Sides:
        plain = self.planner.sides(resolution)
        if not any(shift):
            return plain
        return self.planner.fitting(tuple(side + step for side, step in zip(plain, shift, strict=True)))

    def _shifts(self) -> Iterator[Sides]:
        """Pixels to add to each side, the smallest change first; images stay square before they do not."""
        own = self.planner.inputs.sides
        most = max(1, round(_SHARE * max(own, default=0)))
        yield (0,) * len(own)
        if max(own, default=1) == 1:
            return
        for step in range(1, most + 1):
            for pixels in (step, -step) if self.base != "gamma" else ():
                yield (pixels,) * len(own)
        for step in range(1, most + 1):
            for pixels in (step, -step):
                yield (*(0,) * (len(own) - 1), pixels)


def _multipliers(bases: Cell) -> Multipliers:
    return Multipliers(**{_DIMENSION[base]: bases[base] for base in BASES})


def net_of(plan: Plan) -> object:
    """What two plans of one baseline share where they build the same net for the same images."""
    repeats = tuple(stage.new_repeats for stage in plan.stages)
    return plan.input_size, repeats, tuple(width.after for width in plan.widths)


def _merged(plans: Sequence[Plan]) -> Iterator[Candidate]:
    """One candidate per net."""
    nets: dict[object, list[Plan]] = {}
    for plan in plans:
        nets.setdefault(net_of(plan), []).append(plan)
    for same in nets.values():
        best = min(same, key=lambda plan: _distance(plan.multipliers, plan.achieved))
        others = tuple(plan.multipliers for plan in same if plan is not best)
        yield Candidate(name=_name(best.multipliers), multipliers=best.multipliers, plan=best, merged=others)


def _distance(wanted: Multipliers, got: Multipliers) -> float:
    """Squared distance in logarithms."""
    return sum(math.log(getattr(wanted, name) / getattr(got, name)) ** 2 for name in _DIMENSION.values())


def _name(multipliers: Multipliers) -> str:
    return f"d{multipliers.depth:.4g} w{multipliers.width:.4g} r{multipliers.resolution:.4g}"
