"""What is compared: a network as it is, its scaled versions, other networks.

A variant is a name and a function that builds a network with its record; nothing is built before its turn. One more
way to scale is one more entry in a list of (name, keywords of :func:`cnnscale.scale`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from cnnscale.coefficients import Multipliers
from cnnscale.formatting import failure_of
from cnnscale.inputs import InputSize
from cnnscale.loading import load
from cnnscale.measuring import measure
from cnnscale.plans import Cost, Plan
from cnnscale.records import Scaling
from cnnscale.scaling import scale
from cnnscale.strategies import Curve

__all__ = ["Built", "Variant", "built", "phi_variants", "plain_variant", "scaled_variants"]


@dataclass(frozen=True, kw_only=True)
class Built:
    """A network that is there, what it costs, and what its verification says."""

    model: nn.Module
    input_size: InputSize
    cost: Cost
    verified: bool = True
    problem: str | None = None
    achieved: Multipliers | None = None
    target_growth: float | None = None
    plan: Plan | None = None
    """None where it was not made by one."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Something to be built and timed. ``build`` may be called once only, and its model is the caller's to change."""

    model: str
    """As the user named it."""
    name: str
    phi: float | None
    build: Callable[[], Built]


def phi_variants(
    model: nn.Module,
    phis: Iterable[float],
    *,
    name: str = "",
    prefix: str = "",
    curves: Mapping[str, Curve] | None = None,
    **planning: Any,
) -> tuple[Variant, ...]:
    """The baseline and then one variant per phi, each once, in the order given; the baseline is always there.

    ``prefix`` goes before each variant's name. With ``curves``, there is one variant per phi and curve, by the curve's
    name.
    """
    wanted = [phi for phi in dict.fromkeys(map(float, phis)) if phi]
    # an input size set outright belongs to the scaled variants, not to the baseline
    fixed = {key: value for key, value in planning.items() if key != "image_size"}
    entries: list[tuple[str, dict[str, Any]]] = [(f"{prefix}phi 0", {"phi": 0.0, **fixed})]
    named = {f" {key}": {"coefficients": curve} for key, curve in (curves or {}).items()} or {"": {}}
    for phi in wanted:
        entries += [(f"{prefix}phi {phi:g}{key}", {"phi": phi, **planning, **curve}) for key, curve in named.items()]
    return scaled_variants(model, entries, name=name)


def scaled_variants(
    model: nn.Module, entries: Iterable[tuple[str, Mapping[str, Any]]], *, name: str = ""
) -> tuple[Variant, ...]:
    """One variant per (name, keywords of :func:`cnnscale.scale`); the model itself is left as it is."""

    def builder(keywords: Mapping[str, Any]) -> Callable[[], Built]:
        return lambda: built(scale(model, **keywords))

    whose = name or type(model).__name__
    return tuple(
        Variant(model=whose, name=label, phi=keywords.get("phi"), build=builder(keywords))
        for label, keywords in entries
    )


def plain_variant(spec: str, *, name: str, input_size: InputSize | None = None) -> Variant:
    """The network that ``spec`` names (:func:`cnnscale.loading.load`) as its author wrote it.

    ``input_size``: default, its own, or 224 pixels.
    """

    def build() -> Built:
        loaded = load(spec)
        size = input_size or loaded.input_size or (3, 224, 224)
        return Built(model=loaded.model, input_size=size, cost=measure(loaded.model, size))

    return Variant(model=spec, name=name, phi=None, build=build)


def built(model: nn.Module) -> Built:
    """From a network that cnnscale made, with what its record says."""
    scaling = cast("Scaling", model.scaling)
    plan, verification = scaling.plan, scaling.verification
    return Built(
        model=model,
        input_size=scaling.input_size,
        cost=verification.scaled,
        verified=verification.ok,
        problem=failure_of(verification),
        achieved=plan.achieved,
        target_growth=verification.target_growth,
        plan=plan,
    )
