"""Does the scaled network cost what was promised? Measured, not computed."""

from __future__ import annotations

from typing import Any

import thop
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from .budgets import Cost
from .errors import ModelError
from .measuring import run_once
from .plans import Plan
from .records import Verification

__all__ = ["check"]

_THOP_ZERO = thop.vision.basic_hooks.zero_ops


def check(baseline: nn.Module, scaled: nn.Module, plan: Plan, *, changed: float, tolerance: float) -> Verification:
    """Measure both networks, each at its own input size, in one forward pass each.

    Raises:
        ModelError: a network does not run, or the scaled one's outputs differ in shape from the baseline's.
    """
    before, outputs_before, thop_before = _measured(baseline, plan.baseline_size)
    after, outputs_after, thop_after = _measured(scaled, plan.input_size)
    if _classes(outputs_before) != _classes(outputs_after):
        raise ModelError(f"the scaled model returns {outputs_after} where the baseline returns {outputs_before}")
    thop_growth = thop_after / thop_before if thop_before and thop_after else None
    return Verification(
        baseline=before,
        scaled=after,
        planned=plan.after,
        target_growth=plan.target_growth,
        budget=plan.budget,
        measured=plan.measured,
        formula_growth=plan.formula_growth,
        tolerance=tolerance,
        thop_growth=thop_growth,
        changed=changed,
        notes=tuple(_notes(plan, after.macs / before.macs, thop_growth, before.macs, thop_before)),
    )


def _measured(model: nn.Module, size: tuple[int, ...]) -> tuple[Cost, Any, int | None]:
    """(cost, shapes of the outputs, MACs of the convolution and linear modules as thop counts them)."""
    counted: list[float] = []

    def profiled(module: nn.Module, image: torch.Tensor) -> None:
        leaves = [m for m in module.modules() if not list(m.children())]
        silent = {type(m): _THOP_ZERO for m in leaves if not isinstance(m, (_ConvNd, nn.Linear))}
        counted.append(thop.profile(module, (image,), custom_ops=silent, verbose=False)[0])

    try:
        cost, outputs = run_once(model, size, profiled)
    except ModelError:  # without the second opinion: if the model itself fails, this says so
        cost, outputs = run_once(model, size)
    return cost, _shapes(outputs), int(counted[0]) if counted else None


def _notes(plan: Plan, growth: float, thop_growth: float | None, macs: int, thop_count: int | None) -> list[str]:
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
    if thop_count is None:
        notes.append("thop cannot run this model, so its count is missing")
    elif thop_count != macs:
        share = 1 - thop_count / macs
        notes.append(
            f"thop sees {1 - share:.1%} of the baseline's MACs: it counts modules only, not functional "
            "convolutions or matrix products"
        )
    if thop_growth is not None and abs(thop_growth / growth - 1) > 0.05:
        notes.append(f"by thop's count the growth is {thop_growth:.3f}")
    return notes


def _classes(shapes: Any) -> Any:
    """What scaling may not change in nested output shapes: all but the sides of maps."""
    if isinstance(shapes, list):
        return [_classes(s) for s in shapes]
    return shapes[:2], len(shapes)


def _shapes(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return tuple(result.shape)
    if isinstance(result, dict):
        result = list(result.values())
    return [_shapes(item) for item in result] if isinstance(result, (tuple, list)) else ()
