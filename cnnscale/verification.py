"""Does the scaled network cost what was promised? Measured, not computed."""

from __future__ import annotations

from typing import Any

import thop
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from .errors import ModelError
from .measuring import measure
from .plans import Cost, Plan
from .records import Verification
from .tracing import example_input, meta_copy

__all__ = ["check", "thop_macs"]

_THOP_ZERO = thop.vision.basic_hooks.zero_ops


def check(
    baseline: nn.Module, scaled: nn.Module, plan: Plan, *, changed: float, tolerance: float, before: Cost | None = None
) -> Verification:
    """Measure both networks, each at its own input size.

    Raises:
        ModelError: a network does not run, or the scaled one's outputs differ in shape from the baseline's.
    """
    _same_outputs(baseline, scaled, plan)
    before = before or measure(baseline, plan.baseline_size)
    after = measure(scaled, plan.input_size)
    counts = (thop_macs(baseline, plan.baseline_size), thop_macs(scaled, plan.input_size))
    thop_growth = counts[1] / counts[0] if counts[0] and counts[1] else None
    growth = after.macs / before.macs
    return Verification(
        baseline=before,
        scaled=after,
        planned=plan.after,
        target_growth=plan.target_growth,
        formula_growth=plan.formula_growth,
        tolerance=tolerance,
        thop_growth=thop_growth,
        changed=changed,
        notes=tuple(_notes(plan, growth, thop_growth, before.macs, counts[0])),
    )


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


def thop_macs(model: nn.Module, input_size: tuple[int, ...]) -> int | None:
    """MACs of the convolution and linear modules as thop counts them, on a meta copy; None where thop cannot run it."""
    module = meta_copy(model).eval()
    leaves = [m for m in module.modules() if not list(m.children())]
    silent = {type(m): _THOP_ZERO for m in leaves if not isinstance(m, (_ConvNd, nn.Linear))}
    try:
        total, _ = thop.profile(module, (example_input(module, input_size, batch=1),), custom_ops=silent, verbose=False)
    except Exception:  # a second opinion may fail without harm; the absence is reported
        return None
    return int(total)


def _same_outputs(baseline: nn.Module, scaled: nn.Module, plan: Plan) -> None:
    before, after = (_outputs(m, s) for m, s in ((baseline, plan.baseline_size), (scaled, plan.input_size)))
    if plan.baseline_size == plan.input_size and before != after:
        raise ModelError(f"the scaled model returns {after} where the baseline returns {before}")
    if _classes(before) != _classes(after):
        raise ModelError(f"the scaled model returns {after} where the baseline returns {before}")


def _classes(shapes: Any) -> Any:
    """What scaling may not change in nested output shapes: all but the sides of maps."""
    if isinstance(shapes, list):
        return [_classes(s) for s in shapes]
    return shapes[:2], len(shapes)


def _outputs(model: nn.Module, size: tuple[int, ...]) -> Any:
    module = meta_copy(model).eval()
    with torch.no_grad():
        result = module(example_input(module, size, batch=1))
    return _shapes(result)


def _shapes(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return tuple(result.shape)
    if isinstance(result, dict):
        result = list(result.values())
    return [_shapes(item) for item in result] if isinstance(result, (tuple, list)) else ()
