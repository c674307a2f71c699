"""What the paper reports, as data: EfficientNet (arXiv 1905.11946v5), tables 3 and 7, figures 3, 4 and 8.

MACs are the paper's "FLOPS", in units of 10^9; accuracies are top-1 on ImageNet in per cent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cnnscale.coefficients import Multipliers

__all__ = ["FIGURE_3", "FIGURE_4", "SOURCE", "TABLE_3", "TABLE_7", "Reported"]

SOURCE: Final = "EfficientNet, arXiv 1905.11946v5"


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One net of a table."""

    baseline: str
    multipliers: Multipliers
    gmacs: float
    top1: float


def _table(baseline: str, *rows: tuple[float, float, float, float, float]) -> tuple[Reported, ...]:
    """Rows of depth, width, resolution, MACs and accuracy."""
    return tuple(
        Reported(baseline=baseline, multipliers=Multipliers(depth=d, width=w, resolution=r), gmacs=gmacs, top1=top1)
        for d, w, r, gmacs, top1 in rows
    )


TABLE_3: Final = (
    *_table(
        "MobileNetV1", (1, 1, 1, 0.6, 70.6), (1, 2, 1, 2.2, 74.2), (1, 1, 2, 2.2, 72.7), (1.4, 1.2, 1.3, 2.3, 75.6)
    ),
    *_table(
        "MobileNetV2",
        *((1, 1, 1, 0.3, 72.0), (4, 1, 1, 1.2, 76.8), (1, 2, 1, 1.1, 76.4)),
        *((1, 1, 2, 1.2, 74.8), (1.4, 1.2, 1.3, 1.3, 77.4)),
    ),
    *_table(
        "ResNet-50",
        *((1, 1, 1, 4.1, 76.0), (4, 1, 1, 16.2, 78.1), (1, 2, 1, 14.7, 77.7)),
        *((1, 1, 2, 16.4, 77.5), (1.4, 1.2, 1.3, 16.7, 78.8)),
    ),
)
"""Scaling up existing nets."""

TABLE_7: Final = _table(
    "EfficientNet-B0",
    *((1, 1, 1, 0.4, 77.3), (4, 1, 1, 1.8, 79.0), (1, 2, 1, 1.8, 78.9)),
    *((1, 1, 2, 1.9, 79.1), (1.4, 1.2, 1.3, 1.8, 81.1)),
)
"""Single dimensions against compound scaling; figure 8 draws the same comparison over several budgets."""

FIGURE_3: Final = {
    "width": (1.0, 1.4, 1.8, 2.6, 3.8, 5.0),
    "depth": (1.0, 2.0, 3.0, 4.0, 6.0, 8.0),
    "resolution": (1.0, 1.3, 1.5, 1.7, 1.9, 2.2, 2.5),
}
"""The multipliers of each dimension scaled alone."""

FIGURE_4: Final = ((1.0, 1.0), (1.0, 1.3), (2.0, 1.0), (2.0, 1.3))
"""(Depth, resolution) of the four lines along which width grows."""
