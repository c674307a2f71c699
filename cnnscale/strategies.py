"""Scaling strategies: in which proportion depth, width and resolution grow.

A strategy is a curve of multipliers through the baseline (1, 1, 1), given by the points it passes:

    at(phi) -> Multipliers,    depth * width**2 * resolution**2 == 2 ** phi

Between two points it is a straight line in the logarithms; beyond them every dimension keeps the share of the growth
that it has at the farthest. One point makes it a power law, several describe a family whose members its authors chose
one by one. ``STRATEGIES`` is the one table of those that have a name; :class:`cnnscale.Coefficients`, the paper's own
notation, can stand wherever a strategy can.

How far a network moves along its curve is another matter: a phi or a budget says, and :mod:`cnnscale.fitting` finds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from .coefficients import EFFICIENTNET, Coefficients, Multipliers
from .errors import UsageError

__all__ = [
    "DEPTH",
    "EFFICIENTNET_V2",
    "FAST",
    "RESNET_RS",
    "RESOLUTION",
    "STRATEGIES",
    "TINY",
    "WIDTH",
    "Curve",
    "Strategy",
    "named",
    "stage_exponents",
    "traits",
]


_Knot: TypeAlias = tuple[float, tuple[float, float, float]]
"""(phi, logarithms of depth, width and resolution)."""


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How depth, width and resolution grow together, and what limits them.

    Law: ``at(phi).growth == 2 ** phi``, asserted where it is made.

    Raises:
        UsageError: there is no point, or two points (the baseline is one) have the same growth.
    """

    points: tuple[Multipliers, ...]
    """What the curve passes, besides (1, 1, 1); in any order."""
    late_depth: float = 1.0
    """Exponent of the last stage's depth over the first's. Above 1, late stages get more of the new blocks; the mean
    exponent stays 1 (:func:`stage_exponents`)."""
    max_image_size: int | None = None
    """The longest side of the image is never enlarged beyond it, in pixels; the other dimensions make up for it."""
    depth_rounding: Literal["ceil", "round", "floor"] = "ceil"
    """How the strategy's authors make repeats integers."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - not a field: how plans read it

    def __post_init__(self) -> None:
        phis = [phi for phi, _ in self._knots()]
        if len(phis) < 2 or any(math.isclose(low, high, abs_tol=1e-9) for low, high in pairwise(phis)):
            raise UsageError(f"a strategy needs points of different growths, other than 1, got {self.points}")
        if not 0 < self.late_depth < math.inf:
            raise UsageError(f"late_depth must be a positive number, got {self.late_depth!r}")

    @classmethod
    def from_shares(cls, *, d: float = 0, w: float = 0, r: float = 0) -> Strategy:
        """The growth of the cost s, shared out among depth, width and resolution (a missing share is 0).

        With S = d + w + r: depth = s^(d/S), width = s^(w/2S), resolution = s^(r/2S). The weightings of Dollar, Singh,
        Girshick, Fast and Accurate Model Scaling (arXiv 2103.06877), as in pycls ``models/scaler.py``, which rounds
        repeats to the nearest.

        Raises:
            UsageError: a share is negative, or all are 0.
        """
        shares = {"d": d, "w": w, "r": r}
        if any(not 0 <= share < math.inf for share in shares.values()) or not any(shares.values()):
            raise UsageError(f"shares must be at least 0 and not all 0, got {shares}")
        total = d + w + r
        point = Multipliers(depth=2 ** (d / total), width=2 ** (w / total / 2), resolution=2 ** (r / total / 2))
        return cls(points=(point,), depth_rounding="round")

    def at(self, phi: float) -> Multipliers:
        """The multipliers whose formula growth is 2 ** phi; negative phi shrinks."""
        knots = self._knots()
        (low, before), (high, after) = next(
            (pair for pair in pairwise(knots) if pair[0][0] <= phi <= pair[1][0]), self._outside(phi, knots)
        )
        part = (phi - low) / (high - low)
        logs = (start + part * (end - start) for start, end in zip(before, after, strict=True))
        depth, width, resolution = map(math.exp, logs)
        made = Multipliers(depth=depth, width=width, resolution=resolution)
        assert math.isclose(made.growth, 2.0**phi, rel_tol=1e-9)
        return made

    @staticmethod
    def _outside(phi: float, knots: list[_Knot]) -> tuple[_Knot, _Knot]:
        """The line beyond the points: from the baseline to the farthest, on the side of ``phi`` if there is one."""
        first, last = knots[0], knots[-1]
        return (0.0, (0.0, 0.0, 0.0)), (first if last[0] == 0 or (phi < 0 and first[0] < 0) else last)

    def _knots(self) -> list[_Knot]:
        """(phi, logarithms of the multipliers) of the points and the baseline, by phi."""
        points = (Multipliers(), *self.points)
        logs = [(math.log(p.depth), math.log(p.width), math.log(p.resolution)) for p in points]
        return sorted((math.log2(p.growth), log) for p, log in zip(points, logs, strict=True))


Curve: TypeAlias = Coefficients | Strategy
"""What ``coefficients=`` takes: something with ``at(phi) -> Multipliers``."""


def stage_exponents(stages: int, late_depth: float) -> tuple[float, ...]:
    """The exponent of the depth multiplier in each stage: on a straight line from the first stage to the last, which
    has ``late_depth`` times the first one's; their mean is 1."""
    first = 2 / (1 + late_depth)
    step = (late_depth - 1) * first / max(1, stages - 1)
    return tuple(first + step * i for i in range(stages)) if stages > 1 else (1.0,) * stages


DEPTH: Final = Strategy.from_shares(d=1)
"""Depth alone: depth = 2^phi. One of the single dimensions that compound scaling is compared with (EfficientNet, arXiv
1905.11946, section 3.2 and figure 3)."""

WIDTH: Final = Strategy.from_shares(w=1)
"""Width alone: width = 2^(phi/2) (the same)."""

RESOLUTION: Final = Strategy.from_shares(r=1)
"""Resolution alone: resolution = 2^(phi/2) (the same)."""

FAST: Final = Strategy.from_shares(d=1, w=8, r=1)
"""Mostly width, dWr or d1_w8_r1: depth = s^0.1, width = s^0.4, resolution = s^0.05. Activations, and with them time on
an accelerator, grow about as the square root of the MACs (arXiv 2103.06877, section 4 with alpha = 0.8)."""

EFFICIENTNET_V2: Final = Strategy(points=(EFFICIENTNET.at(1),), late_depth=2.0, max_image_size=480)
"""EfficientNet's proportions, the image never above 480 pixels, and more of the new layers in late stages
(EfficientNetV2, arXiv 2104.00298, section 3.3, which gives no formula for the last). An exponent twice as large in the
last stage as in the first is our reading: from the published S to M and L, the stages after the fourth deepen with 1.9
and 1.3 times the exponent of those before."""

RESNET_RS: Final = Strategy(points=(Multipliers(depth=139 / 16, width=1.0, resolution=2.0),), max_image_size=320)
"""Depth, with slowly growing images and no width: the line from the smallest to the largest of the published family, 16
blocks at 160 pixels and 139 at 320 (ResNet-RS, arXiv 2103.07579, section 6 and table of the family); 320 pixels are its
largest image. Its authors advise depth for long schedules, where overfitting can occur, and width for short ones."""

TINY: Final = Strategy(
    points=(
        Multipliers(depth=1.2, width=1.0, resolution=0.86),
        Multipliers(depth=1.1, width=0.75, resolution=0.84),
        Multipliers(depth=0.85, width=0.54, resolution=0.825),
        Multipliers(depth=0.695, width=0.54, resolution=0.68),
        Multipliers(depth=0.6, width=0.51, resolution=0.475),
    ),
    depth_rounding="round",
)
"""For shrinking: resolution and depth fall more slowly than width. The curve through the five published TinyNets, A to
E (Model Rubik's Cube, arXiv 2010.14819, table of the family), which were searched one by one. Stem and head stay there
as they are: name them with ``pin``."""

STRATEGIES: Final[Mapping[str, Curve]] = MappingProxyType(
    {
        "efficientnet": EFFICIENTNET,
        "depth": DEPTH,
        "width": WIDTH,
        "resolution": RESOLUTION,
        "fast": FAST,
        "efficientnet-v2": EFFICIENTNET_V2,
        "resnet-rs": RESNET_RS,
        "tiny": TINY,
    }
)
"""Name on the command line -> strategy."""


def named(name: str) -> Curve:
    """The strategy of that name.

    Raises:
        UsageError: there is none.
    """
    try:
        return STRATEGIES[name.lower().replace("_", "-")]
    except KeyError:
        raise UsageError(f"no strategy is called {name!r}; there are {', '.join(STRATEGIES)}") from None


def traits(curve: Curve) -> Strategy:
    """What a curve asks for besides its multipliers; coefficients ask for nothing."""
    return curve if isinstance(curve, Strategy) else Strategy(points=(curve.at(1),))
