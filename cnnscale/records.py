"""What a scaled model carries: the verification of its cost, and the scaling as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .budgets import Budget, Cost, Measurement
from .formatting import format_scaling
from .inputs import InputSize
from .plans import Plan

__all__ = ["Preservation", "Scaling", "Verification"]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The measured cost of a scaled model against its baseline, its plan and its target."""

    baseline: Cost
    scaled: Cost
    planned: Cost | None
    """The plan's cost; None where the model was not made from a plan."""
    target_growth: float | None
    """2 ** phi, or None where multipliers or a budget were given instead of phi."""
    formula_growth: float | None
    """(alpha * beta**2 * gamma**2) ** phi."""
    tolerance: float
    thop_growth: float | None
    """MACs growth of the convolution and linear *modules* as thop counts them; None where thop cannot run the model.
    It differs from ``growth`` where a model multiplies outside modules (functional convolution, matmul)."""
    changed: float
    """Fraction of the weights of 2 or more dimensions which changed shape or belong to a copied block."""
    budget: Budget | None = None
    """What the scaled model was to meet, where a budget was given."""
    measured: Measurement | None = None
    """What the plan says that it took, where the budget had to be measured."""
    notes: tuple[str, ...] = ()
    """Why the growth is what it is, and what the two counters disagree on."""

    @property
    def growth(self) -> float:
        """Measured MACs, scaled / baseline."""
        return self.scaled.macs / self.baseline.macs

    @property
    def params_growth(self) -> float:
        return self.scaled.params / self.baseline.params

    @property
    def activations_growth(self) -> float:
        return self.scaled.activations / max(1, self.baseline.activations)

    @property
    def as_planned(self) -> bool:
        """Whether the measured cost equals the planned one, integer by integer."""
        return self.planned is None or self.planned == self.scaled

    @property
    def loads(self) -> dict[str, float]:
        """What the scaled model takes over what it may take, for each limit of the budget or of phi."""
        aim = self.budget or (None if self.target_growth is None else Budget(growth=self.target_growth))
        return aim.loads(self.baseline, self.scaled, self.measured) if aim is not None else {}

    @property
    def on_target(self) -> bool:
        """Whether the binding limit, where there is any, is met within tolerance."""
        loads = self.loads
        return not loads or abs(max(loads.values()) - 1) <= self.tolerance

    @property
    def ok(self) -> bool:
        """Whether the cost is as planned, and on target."""
        return self.as_planned and self.on_target


@dataclass(frozen=True, kw_only=True)
class Preservation:
    """How far the scaled network's outputs are from the baseline's, in eval mode on one random batch of the baseline's
    input size: max |difference| / max |output|, for each output."""

    fp64: tuple[float, ...]
    """In double precision."""
    fp32: tuple[float, ...]
    """In single precision."""
    rounding: float = 0.0
    """How far single precision alone takes the baseline's own outputs, measured in the same way."""
    notes: tuple[str, ...] = ()
    """What could not be preserved, and why."""

    @property
    def exact(self) -> bool:
        """Whether nothing but rounding tells the outputs apart: 1e-10 in double precision, 1e-5 in single, or twice
        what rounding does to the baseline alone where that is more."""
        return all(e <= 1e-10 for e in self.fp64) and all(e <= max(1e-5, 2 * self.rounding) for e in self.fp32)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What was done to a model; ``model.scaling`` of every scaled model."""

    input_size: InputSize
    """The scaled model's input size, (C, H, W); of several inputs in the form in which the baseline's was given."""
    plan: Plan
    verification: Verification
    form: Literal["module", "graph"]
    """``module``: the baseline's own class. ``graph``: a torch.fx.GraphModule."""
    preservation: Preservation | None = None
    """With ``weights="preserve"``, how far the function was preserved; None where the weights lie on no device."""

    def __str__(self) -> str:
        return format_scaling(self)
