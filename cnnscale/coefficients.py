"""Compound coefficients and the multipliers that they give.

The law, from EfficientNet (arXiv 1905.11946, section 3.3, equation 3):

    depth = alpha ** phi,  width = beta ** phi,  resolution = gamma ** phi
    alpha * beta**2 * gamma**2 ~ 2,  alpha, beta, gamma >= 1

so that MACs, which grow as depth * width**2 * resolution**2, grow as about 2 ** phi.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import UsageError

__all__ = ["EFFICIENTNET", "Coefficients", "Multipliers"]


@dataclass(frozen=True, kw_only=True)
class Multipliers:
    """Depth, width and resolution relative to the baseline; 1 leaves a dimension alone.

    Raises:
        UsageError: a multiplier is not a positive finite number.
    """

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0

    def __post_init__(self) -> None:
        for name in ("depth", "width", "resolution"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0 < value < float("inf")):
                raise UsageError(f"{name} multiplier must be a positive number, got {value!r}")

    @property
    def growth(self) -> float:
        """MACs growth promised by the formula: depth * width**2 * resolution**2."""
        return self.depth * self.width**2 * self.resolution**2


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """The bases of compound scaling (paper section 3.3): depth, width and resolution per unit of phi.

    Keyword-only, because other code bases order them differently.

    Raises:
        UsageError: a base is below 1.
    """

    alpha: float = 1.2
    beta: float = 1.1
    gamma: float = 1.15

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 1 <= value < float("inf")):
                raise UsageError(f"{name} must be at least 1 (paper, equation 3), got {value!r}")

    def at(self, phi: float) -> Multipliers:
        """The multipliers for one phi; negative phi shrinks."""
        return Multipliers(depth=self.alpha**phi, width=self.beta**phi, resolution=self.gamma**phi)


EFFICIENTNET = Coefficients()
"""alpha 1.2, beta 1.1, gamma 1.15: found by grid search on EfficientNet-B0 (paper, section 4)."""
