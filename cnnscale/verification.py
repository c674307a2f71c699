"""Does the scaled network cost what was promised? Measured, not computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .errors import ModelError
from .measuring import run_once
from .plans import Plan
from .records import Verification

__all__ = ["check"]


def check(baseline: nn.Module, scaled: nn.Module, plan: Plan, *, changed: float, tolerance: float) -> Verification:
    """Measure both networks, each at its own input size, in one forward pass each.

    Raises:
        ModelError: a network does not run, or the scaled one's outputs differ in shape from the baseline's.
    """
    before, after = run_once(baseline, plan.baseline_size), run_once(scaled, plan.input_size)
    shapes_before, shapes_after = _shapes(before.outputs), _shapes(after.outputs)
    resized = plan.input_size != plan.baseline_size
    if _classes(shapes_before, resized=resized) != _classes(shapes_after, resized=resized):
        raise ModelError(f"the scaled model returns {shapes_after} where the baseline returns {shapes_before}")
    growth = after.cost.macs / before.cost.macs
    thop_growth = after.thop_macs / before.thop_macs if before.thop_macs else None
    return Verification(
        baseline=before.cost,
        scaled=after.cost,
        planned=plan.after,
        target_growth=plan.target_growth,
        budget=plan.budget,
        measured=plan.measured,
        formula_growth=plan.formula_growth,
        tolerance=tolerance,
        thop_growth=thop_growth,
        changed=changed,
        notes=tuple(_notes(plan, growth, thop_growth, before.cost.macs, before.thop_macs)),
    )


def _notes(plan: Plan, growth: float, thop_growth: float | None, macs: int, thop_count: int) -> list[str]:
    notes = []
    formula = plan.formula_growth
    if abs(growth / formula - 1) > 0.05:
        got = plan.achieved
        reasons = [
            f"whole blocks: depth x{got.depth:.3f} for x{plan.multipliers.depth:.3f} wanted",
            f"rounded widths: x{got.width:.3f} for x{plan.multipliers.width:.3f} wanted",
        ]
        if plan.options.fit and plan.phi is not None:
            reasons.append("the fit aims at 2^phi, not at the formula")
        reasons.append("layers outside the stages do not repeat, and depthwise layers grow with width, not its square")
        notes.append(f"growth {growth:.3f} is not the formula's {formula:.3f}: " + "; ".join(reasons))
    if thop_count != macs:
        share = 1 - thop_count / macs
        notes.append(
            f"thop sees {1 - share:.1%} of the baseline's MACs: it counts modules only, not functional "
            "convolutions or matrix products"
        )
    if thop_growth is not None and abs(thop_growth / growth - 1) > 0.05:
        notes.append(f"by thop's count the growth is {thop_growth:.3f}")
    return notes


def _classes(shapes: Any, *, resized: bool) -> Any:
    """What scaling may not change in nested output shapes: where inputs are resized, all but the sides of maps, and of
    three dimensions the last two may be such."""
    if isinstance(shapes, list):
        return [_classes(s, resized=resized) for s in shapes]
    return (shapes[: 1 if len(shapes) == 3 else 2], len(shapes)) if resized else shapes


def _shapes(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return tuple(result.shape)
    if isinstance(result, dict):
        result = list(result.values())
    return [_shapes(item) for item in result] if isinstance(result, (tuple, list)) else ()
