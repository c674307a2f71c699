"""The net that the author of a random net would write for a plan: the same spec with the plan's repeats."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nets import NetSpec, StageSpec
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


def authored(spec: NetSpec, plan: cnnscale.Plan) -> Authored:
    """What the author would write for ``plan``: stages are matched in order, by block class and repeats."""
    rest, stages, missed, surplus = list(plan.stages), [], [], []
    for stage in spec.stages:
        match = next((i for i, s in enumerate(rest) if (s.block, s.repeats) == (stage.block, stage.repeats)), None)
        if match is None:
            stages.append(stage)
            missed += [stage] if stage.repeats > 1 or stage.kind not in LONE else []
        else:
            stages.append(replace(stage, repeats=rest[match].new_repeats))
            surplus += rest[:match]
            rest = rest[match + 1 :]
    surplus = [s for s in (*surplus, *rest) if s.new_repeats != s.repeats]
    container = "sequential" if spec.container.startswith("hand") else spec.container
    scaled = replace(spec, stages=tuple(stages), size=plan.input_size, container=container)
    return Authored(scaled, tuple(missed), tuple(surplus))


def drop_rates(model: nn.Module) -> list[float]:
    """Rates of stochastic depth, in order."""
    return [module.rate for module in model.modules() if isinstance(module, DropPath) and module.rate]
