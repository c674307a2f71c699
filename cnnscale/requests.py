"""What was asked for: the arguments of :func:`cnnscale.scale` and :func:`cnnscale.plan`, checked and put together.

How far to go is said in one of three ways: a phi, multipliers, or a budget. A phi is a budget too, of 2 ** phi times
the baseline's MACs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, TypeAlias

from pydantic import ValidationError

from .budgets import Budget
from .coefficients import Coefficients, Multipliers
from .errors import UsageError
from .plans import Options, Plan
from .strategies import Curve, Strategy, traits

__all__ = ["DepthRounding", "Factor", "Request", "is_a", "moves_depth", "moves_widths", "request"]

DepthRounding: TypeAlias = Literal["ceil", "round", "floor"]
Factor: TypeAlias = "float | Mapping[str, float] | None"
"""A multiplier for all, or by regular expression on module paths; the empty expression is all the others."""

_TOLERANCE = 0.03
_COUNTED_TOLERANCE = 0.02
_MEASURED_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for: a phi or a budget on a curve, or multipliers."""

    phi: float | None
    budget: Budget | None
    """None where phi or multipliers were given."""
    coefficients: Curve
    multipliers: Multipliers
    """The coefficients at phi, or those given; where a budget was, those of the baseline."""
    sides: tuple[int, ...] | None
    """Sides of the scaled input, where given outright; a single one is all of them."""
    options: Options

    @property
    def aim(self) -> Budget:
        """What a fit is to meet."""
        if self.budget is not None:
            return self.budget
        assert self.phi is not None
        return Budget(growth=2.0**self.phi)


def moves_widths(asked: Request | Plan) -> bool:
    """Whether any width is to move; the same for a request and the plan that was made of it."""
    if asked.options.width:
        return True
    if asked.budget is not None:
        return asked.coefficients.at(1).width != 1
    return (asked.multipliers if asked.phi is None else asked.coefficients.at(asked.phi)).width != 1


def moves_depth(asked: Request | Plan) -> bool:
    """Whether the repeats of any stage are to move; the same for a request and the plan that was made of it."""
    if asked.options.depth:
        return True
    on_curve = asked.phi is not None or asked.budget is not None
    return (asked.coefficients.at(1) if on_curve else asked.multipliers).depth != 1


def request(
    *,
    phi: float | None,
    depth: Factor,
    width: Factor,
    resolution: float | None,
    image_size: int | tuple[int, int] | None,
    budget: Budget,
    coefficients: Curve,
    fit: bool | None,
    tolerance: float | None,
    max_image_size: int | None,
    depth_rounding: DepthRounding | None,
    pin: Sequence[str],
    pin_depth: Sequence[str],
    derive: Mapping[str, str] | None,
    **rounding: Any,
) -> Request:
    """The arguments, checked; ``rounding`` are further fields of :class:`Options`.

    Raises:
        UsageError: an argument is out of range, or two contradict each other.
    """
    depths, depth = _by_path("depth", depth)
    widths, width = _by_path("width", width)
    wanted = {"depth": depth, "width": width, "resolution": resolution}
    given = {name: value for name, value in wanted.items() if value is not None}
    _one_way(phi, given, budget, by_path=bool(depths or widths), image_size=image_size)
    if phi is not None and not (is_a(Real, phi) and -30 < phi < 30):
        raise UsageError(f"phi must be a number between -30 and 30, got {phi!r}")
    if not is_a(Coefficients, coefficients) and not is_a(Strategy, coefficients):
        raise UsageError(
            "coefficients must be a cnnscale.Strategy or cnnscale.Coefficients(alpha=..., beta=..., gamma=...), "
            f"got {coefficients!r}"
        )
    on_curve = phi is not None or bool(budget.asked)
    if fit and not on_curve:
        raise UsageError("fit=True needs phi or a budget: explicit multipliers have no target to fit")
    if fit is False and budget.asked:
        raise UsageError(f"fit=False and {', '.join(budget.asked)} contradict each other: a budget is met by the fit")
    if resolution is not None and image_size is not None:
        raise UsageError("give resolution or image_size, not both")
    own = traits(coefficients)
    if not on_curve:  # then there is no strategy, and its limits do not hold
        own = traits(Coefficients())
    options = _options(
        depth_rounding=own.depth_rounding if depth_rounding is None else depth_rounding,
        late_depth=own.late_depth,
        max_image_size=own.max_image_size if max_image_size is None else max_image_size,
        depth=tuple(depths.items()),
        width=tuple(widths.items()),
        pin=_patterns(pin, "pin"),
        pin_depth=_patterns(pin_depth, "pin_depth"),
        derive=_told(derive),
        fit=on_curve if fit is None else fit,
        tolerance=_tolerance(budget) if tolerance is None else tolerance,
        **rounding,
    )
    return Request(
        phi=phi,
        budget=budget if budget.asked else None,
        coefficients=coefficients,
        multipliers=Multipliers(**given) if phi is None else coefficients.at(phi),
        sides=_sides(image_size, max_image_size),
        options=options,
    )


def _one_way(
    phi: float | None, given: Mapping[str, object], budget: Budget, *, by_path: bool, image_size: object
) -> None:
    """Exactly one of phi, multipliers and budgets says how far to go."""
    limits = ", ".join(budget.asked)
    if phi is not None and given:
        raise UsageError(f"give phi or multipliers, not both: phi={phi!r} and {', '.join(given)}")
    if phi is not None and limits:
        raise UsageError(f"give phi or a budget, not both: phi={phi!r} and {limits}")
    if limits and given:
        raise UsageError(f"give a budget or multipliers, not both: {limits} and {', '.join(given)}")
    if phi is None and not limits and not given and not by_path and image_size is None:
        raise UsageError(
            "give phi (compound scaling), a budget (macs, params, ...), or some of depth, width, resolution and "
            "image_size"
        )


def _tolerance(budget: Budget) -> float:
    if budget.measured:
        return _MEASURED_TOLERANCE
    return _COUNTED_TOLERANCE if budget.asked else _TOLERANCE


def _by_path(name: str, factor: Factor) -> tuple[dict[str, float], float | None]:
    """(multipliers by pattern, the multiplier of everything else)."""
    if not isinstance(factor, Mapping):
        return {}, factor
    factors = dict(factor)
    for pattern, value in factors.items():
        if not is_a(str, pattern) or isinstance(value, bool) or not is_a(Real, value) or not 0 < value < float("inf"):
            raise UsageError(
                f"{name} takes a multiplier, or a mapping of regular expressions to multipliers, got {factor!r}"
            )
    rest = factors.pop("", None)
    return factors, rest


def _options(**given: Any) -> Options:
    try:
        return Options(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0]
        raise UsageError(f"{name}={given[str(name)]!r}: {first['msg']}") from error


def _patterns(value: Sequence[str], name: str) -> tuple[str, ...]:
    if isinstance(value, str):
        raise UsageError(f"{name} takes a sequence of regular expressions: {name}=({value!r},)")
    return tuple(value)


def _told(value: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    if value is not None and not is_a(Mapping, value):
        raise UsageError(f"derive takes a mapping of regular expressions to rules, got {value!r}")
    return tuple((value or {}).items())


def _sides(image_size: int | tuple[int, int] | None, limit: int | None) -> tuple[int, ...] | None:
    if image_size is None:
        return None
    sides: Any = (image_size,) if isinstance(image_size, int) else image_size
    if not _are_sides(sides):
        raise UsageError(f"image_size must be a positive int or (H, W), got {image_size!r}")
    if limit is not None and max(sides) > limit:
        raise UsageError(f"image_size={image_size!r} is above max_image_size={limit}")
    return tuple(sides)


def _are_sides(value: object) -> bool:
    """Whether it is a sequence of positive ints."""
    return isinstance(value, (tuple, list)) and len(value) > 0 and all(isinstance(v, int) and v > 0 for v in value)


def is_a(cls: type, value: object) -> bool:
    """``isinstance``, where the type says already what a caller may have ignored."""
    return isinstance(value, cls)
