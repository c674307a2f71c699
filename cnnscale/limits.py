"""Measured budgets: the network whose latency or peak memory on a device is what it may be.

Measuring is dear and the analytic model cheap, so few networks are built: the fit turns a growth of MACs into a plan,
and only that growth is searched, on the line that the measurements so far draw in the logarithms of growth and load.
The plan chosen is built and measured once more, since the best of several noisy measurements flatters itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from .budgets import Budget, Measurement
from .plans import Plan

__all__ = ["counted_part", "meet"]

_MOST = 8  # measurements
_REACH = 8.0  # how much the growth may change from one measurement to the next, where only one side is known
_LEAST = 0.1  # share of the bracket that a step leaves on either side
_CLOSE = 0.5  # share of the tolerance within which the search ends


@dataclass(frozen=True)
class _Tried:
    growth: float
    plan: Plan
    load: float


def counted_part(budget: Budget) -> Budget | None:
    """The limits that need no measurement; None where there are none."""
    rest = dataclasses.replace(budget, latency_ms=None, peak_memory_bytes=None)
    return rest if rest.asked else None


def meet(
    plan_for: Callable[[Budget], Plan], measure: Callable[[Plan], Measurement], budget: Budget, *, tolerance: float
) -> Plan:
    """The plan whose measured load is nearest to 1 and not beyond the tolerance, with its measurement.

    Args:
        plan_for: the plan for counted limits.
        measure: builds and measures a plan's network.
        budget: has at least one measured limit. Its counted limits are never passed.
        tolerance: how far the load may be from 1.

    Raises:
        BudgetError: from ``plan_for``: no network on the strategy's curve is small or large enough.
    """

    def tried(growth: float, plan: Plan) -> _Tried:
        loads = budget.loads(plan.before, plan.after, measure(plan))
        return _Tried(growth, plan, max(loads[name] for name in budget.measured))

    counted = counted_part(budget)
    start = plan_for(counted or Budget(growth=1.0))
    most = start.growth if counted else math.inf
    found = [tried(start.growth, start)]
    while len(found) < _MOST and not _is_enough(found, most, tolerance):
        growth = min(most, _next(found))
        plan = plan_for(Budget(growth=growth))
        if any(_same(plan, each.plan) for each in found):
            break  # there is no other network between those that were measured
        found.append(tried(growth, plan))
    kept = [each for each in found if each.load <= 1 + tolerance]
    best = max(kept, key=lambda each: each.load) if kept else min(found, key=lambda each: each.load)
    return best.plan.model_copy(update={"budget": budget, "measured": measure(best.plan)})


def _is_enough(found: list[_Tried], most: float, tolerance: float) -> bool:
    """Whether a plan is close enough, or the counted limits bind before the measured ones."""
    close = any(abs(each.load - 1) <= _CLOSE * tolerance for each in found)
    return close or any(each.growth >= most and each.load <= 1 + tolerance for each in found)


def _next(found: list[_Tried]) -> float:
    """The growth at which the load should be 1: between the two sides where both are known, else in proportion."""
    over = min((each for each in found if each.load > 1), key=lambda each: each.growth, default=None)
    below = [each for each in found if each.load <= 1 and (over is None or each.growth < over.growth)]
    under = max(below, key=lambda each: each.growth, default=None)
    if over is None or under is None:
        known = over or under
        assert known is not None
        return known.growth * min(_REACH, max(1 / _REACH, 1 / known.load))
    part = -math.log(under.load) / math.log(over.load / under.load)
    part = min(1 - _LEAST, max(_LEAST, part))
    return math.exp((1 - part) * math.log(under.growth) + part * math.log(over.growth))


def _same(one: Plan, other: Plan) -> bool:
    return (one.stages, one.widths, one.input_size) == (other.stages, other.widths, other.input_size)
