"""The nets of each figure, as plans of one baseline.

Nets that come out the same are trained once, and belong to several points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from cnnscale.coefficients import EFFICIENTNET, Coefficients
from cnnscale.plans import Plan
from cnnscale.scaling import plan
from cnnscale.strategies import DEPTH, FAST, RESOLUTION, WIDTH, Curve

from .paper import FIGURE_3, FIGURE_4

__all__ = ["COMPOUND", "FIGURES", "OWN", "Variant", "cam", "figure3", "figure4", "figure8"]

COMPOUND: Final = "compound"
OWN: Final = "own"
"""The line of the coefficients that the caller gives."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One point of a figure."""

    line: str
    """Which line of the figure it is on: ``depth``, ``compound``."""
    level: float
    """Where on the line: a multiplier, or the growth of MACs that was asked for."""
    plan: Plan

    @property
    def name(self) -> str:
        return f"{self.line} {self.level:g}"


_STRATEGIES: dict[str, Curve] = {
    "depth": DEPTH,
    "width": WIDTH,
    "resolution": RESOLUTION,
    COMPOUND: EFFICIENTNET,
    "fast": FAST,
}


def figure3(model: nn.Module, levels: Sequence[float] = (), **options: Any) -> Iterator[Variant]:
    """Depth, width and resolution each alone, at the paper's values up to the largest of ``levels``."""
    most = max(levels, default=float("inf"))
    for line, values in FIGURE_3.items():
        for value in values:
            if value <= most:
                alone: dict[str, Any] = {line: value}
                yield Variant(line=line, level=value, plan=plan(model, **alone, **options))


def figure4(model: nn.Module, levels: Sequence[float] = (), **options: Any) -> Iterator[Variant]:
    """Width along four lines of fixed depth and resolution."""
    for depth, resolution in FIGURE_4:
        for width in levels or FIGURE_3["width"]:
            made = plan(model, depth=depth, width=width, resolution=resolution, **options)
            yield Variant(line=f"d={depth:g} r={resolution:g}", level=width, plan=made)


def figure8(
    model: nn.Module, levels: Sequence[float] = (), *, coefficients: Coefficients | None = None, **options: Any
) -> Iterator[Variant]:
    """Single dimensions, compound and fast scaling at equal MACs: 2, 4 and 8 times the baseline's.

    ``coefficients``, those that a search found say, are one more line: ``own``.
    """
    strategies = _STRATEGIES | ({} if coefficients is None else {OWN: coefficients})
    yield Variant(line="baseline", level=1.0, plan=plan(model, 0, **options))
    for growth in levels or (2.0, 4.0, 8.0):
        for line, strategy in strategies.items():
            made = plan(model, growth=growth, coefficients=strategy, **options)
            yield Variant(line=line, level=growth, plan=made)


def cam(model: nn.Module, levels: Sequence[float] = (), **options: Any) -> Iterator[Variant]:
    """The nets of figure 7, whose class activation maps are compared: table 7's, at 4 times the baseline's MACs."""
    for variant in figure8(model, levels or (4.0,), **options):
        if variant.line != "fast":
            yield variant


FIGURES: Final[dict[str, Callable[..., Iterator[Variant]]]] = {
    "figure3": figure3,
    "figure4": figure4,
    "figure8": figure8,
    "cam": cam,
}
