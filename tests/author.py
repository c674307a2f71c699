"""The net that the author of a random net would write for a plan: the same spec with the plan's repeats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from nets import NetSpec, StageSpec, output_layers
from nets.layers import DropPath
from torch import nn

import cnnscale
from cnnscale.plans import Stage

FULLY_DROPPED = {"basic", "preact", "bottleneck", "inverted", "layer_scale"}
"""Kinds with stochastic depth in every block: where all stages are of these, the schedule can be seen whole."""


LONE = {"plain", "separable", "concat"}
"""Kinds of which a single block is a layer between stages as much as a stage: a plan may leave it as it is."""


@dataclass(frozen=True)
class Authored:
    spec: NetSpec
    """The spec with the plan's repeats and input size."""
    missed: tuple[StageSpec, ...]
    """Stages of the spec that the plan does not know as such."""
    surplus: tuple[Stage, ...]
    """What the plan repeats though it is no stage of the spec."""


OPENING = {"project", "identity"}
"""Shortcuts whose opening block keeps its projection where rounding happens to make its two widths equal."""
APART = 960
"""Added to a stage's width to keep it from equalling the width before; a multiple of everything that divides one."""


def authored(spec: NetSpec, plan: cnnscale.Plan) -> Authored:
    """What the author would write for ``plan``: stages are matched in order, by block class and repeats."""
    rest, stages, missed, surplus, unknown = list(plan.stages), [], [], [], set()
    stem_width, *widths = planned_widths(spec, plan)
    for at, stage in enumerate(spec.stages):
        match = next((i for i, s in enumerate(rest) if (s.block, s.repeats) == (stage.block, stage.repeats)), None)
        if match is None:
            stages.append(stage)
            unknown.add(at)
            seen_once = sum(other.kind == stage.kind for other in spec.stages) == 1  # nothing shows that it repeats
            missed += [stage] if stage.repeats > 1 or not (stage.kind in LONE or seen_once) else []
        else:
            stages.append(replace(stage, repeats=rest[match].new_repeats))
            if stage.kind == "concat":  # the width of its last branch is what the others leave
                widths[at] = rest[match].new_width
            surplus += rest[:match]
            rest = rest[match + 1 :]
    surplus = [s for s in (*surplus, *rest) if s.new_repeats != s.repeats]
    container = "sequential" if spec.container.startswith("hand") else spec.container
    scaled = replace(spec, size=plan.input_size, container=container, stem_width=stem_width)
    scaled = replace(scaled, stages=tuple(opened(spec, scaled, stages, widths, unknown)))
    return Authored(scaled, tuple(missed), tuple(surplus))


def planned_widths(spec: NetSpec, plan: cnnscale.Plan) -> list[int]:
    """Output channels of the stem and of each stage after scaling."""
    groups = {layer: group for group in plan.widths for layer in group.layers}
    params = dict(spec.build(device="meta").named_parameters(remove_duplicate=False))

    def width(layer: str) -> int:
        before, group = params[f"{layer}.weight"].shape[0], groups.get(layer)
        return before if group is None else before * group.after // group.before

    return [sum(map(width, layers)) or spec.stem_width for layers in output_layers(spec)]


def opened(
    spec: NetSpec, scaled: NetSpec, stages: list[StageSpec], widths: list[int], unknown: set[int]
) -> Iterator[StageSpec]:
    """The stages at their new widths, save that those which open with a projection still do, as does a lone block:
    without a second one of its class nothing shows what it would do for equal shapes."""
    before, after = ((s.size[0] if s.stem == "none" else s.stem_width) for s in (spec, scaled))
    shift = 0  # what has been added to the width before
    for at, (stage, width) in enumerate(zip(stages, widths, strict=True)):
        equal = after == width
        opens = (
            at in unknown or stage.kind not in FULLY_DROPPED or stage.kind == "layer_scale" or stage.shortcut in OPENING
        )
        if not equal:
            shift = 0
        elif opens and before != stage.width:
            shift += APART
        yield replace(stage, width=width + shift)
        before, after = stage.width, width


def drop_rates(model: nn.Module) -> list[float]:
    """Rates of stochastic depth, in order."""
    return [module.rate for module in model.modules() if isinstance(module, DropPath) and module.rate]
