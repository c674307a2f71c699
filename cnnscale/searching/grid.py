"""The grid of a search: values for two of alpha, beta and gamma; the third is solved for the budget.

The paper's step 1 (EfficientNet, arXiv 1905.11946, section 3.3): phi = 1, twice the resources, a small grid search
under alpha * beta**2 * gamma**2 ~ 2. The constraint takes one degree of freedom away, so a grid over two is all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

from cnnscale.errors import UsageError

__all__ = ["BASES", "Base", "Cell", "Grid"]

Base = Literal["alpha", "beta", "gamma"]
BASES: Final[tuple[Base, ...]] = ("alpha", "beta", "gamma")

Cell = dict[Base, float]
"""A point of the grid: the values of the two bases that are not solved for."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Values of two bases, at phi = 1; ``solve`` names the third, which has none.

    Raises:
        UsageError: a base has no values and is not solved for, the solved one has some, or a value is below 1.
    """

    alpha: tuple[float, ...] = ()
    beta: tuple[float, ...] = ()
    gamma: tuple[float, ...] = ()
    solve: Base = "beta"

    def __post_init__(self) -> None:
        if self.solve not in BASES:
            raise UsageError(f"solve must be one of {', '.join(BASES)}, got {self.solve!r}")
        if self.values(self.solve):
            raise UsageError(f"{self.solve} is solved for, so the grid must not give it values")
        for base in self.given:
            values = self.values(base)
            if not values:
                raise UsageError(f"the grid needs values for {base}: Grid({base}=(1, 1.1, 1.2), ...)")
            if not all(1 <= value < float("inf") for value in values):
                raise UsageError(f"{base} must be at least 1 (paper, equation 3), got {values}")

    def values(self, base: Base) -> tuple[float, ...]:
        return tuple(getattr(self, base))

    @property
    def given(self) -> tuple[Base, Base]:
        """The two bases on the grid."""
        first, second = (base for base in BASES if base != self.solve)
        return first, second

    def cells(self) -> Iterator[Cell]:
        """Every point once, the first base outermost."""
        first, second = self.given
        for a, b in product(dict.fromkeys(self.values(first)), dict.fromkeys(self.values(second))):
            yield {first: float(a), second: float(b)}

    @classmethod
    def default(cls) -> Grid:
        """Alpha and gamma around the paper's 1.2 and 1.15; beta is solved for."""
        return cls(alpha=(1, 1.1, 1.2, 1.3, 1.4), gamma=(1, 1.1, 1.15, 1.2, 1.3))
