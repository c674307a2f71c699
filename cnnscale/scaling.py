"""The public functions. Only :func:`scale` spells the whole chain out: analyse, plan, rebuild, initialize, verify."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from torch import nn

from .analysis import Analysis
from .budgets import Budget, Measurement
from .coefficients import EFFICIENTNET
from .comparison import compare, tensors_of
from .costs import sizes
from .errors import GrowthError, GrowthWarning, PlanError, RewriteError, UsageError
from .formatting import failure_of
from .growth import Preserve, Weights, follow, grow
from .initialization import initialize
from .inputs import GivenSize, Inputs
from .limits import meet
from .parts import Part, part_of
from .planning import Planner
from .plans import Family, Plan
from .reading import analyse, fingerprint
from .recipes import Gathered, Recipe
from .records import Preservation, Scaling, Verification
from .requests import DepthRounding, Factor, Request, is_a, moves_depth, moves_widths, request
from .rewriting import Rebuilt, rebuild
from .strategies import Curve
from .surgery import Origin, split_path
from .symbolic import Values
from .timing import DTYPES, Settings, time_model
from .verification import check

_TIMED_S, _RUN_S = 1.0, 0.05  # seconds of measurement, where the time counts and where only memory does
__all__ = ["apply", "family", "origins", "plan", "scale", "verify"]


def scale(
    model: nn.Module,
    phi: float | None = None,
    *,
    depth: Factor = None,
    width: Factor = None,
    resolution: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    macs: float | None = None,
    params: float | None = None,
    activations: float | None = None,
    growth: float | None = None,
    latency_ms: float | None = None,
    peak_memory_bytes: float | None = None,
    device: str = "auto",
    batch_size: int = 1,
    coefficients: Curve = EFFICIENTNET,
    input_size: GivenSize | None = None,
    fit: bool | None = None,
    tolerance: float | None = None,
    strict: bool = False,
    divisor: int = 8,
    round_limit: float = 0.9,
    depth_rounding: DepthRounding | None = None,
    max_image_size: int | None = None,
    max_repeats: int | None = None,
    pin: Sequence[str] = (),
    pin_depth: Sequence[str] = (),
    derive: Mapping[str, str] | None = None,
    weights: Weights = "fresh",
    preserve: Preserve = "exact",
    seed: int | None = None,
    submodule: str | None = None,
) -> nn.Module:
    """Scale any convolutional network by compound scaling (EfficientNet, arXiv 1905.11946).

    ``model`` is left unchanged. The result is of its class wherever possible, on its devices, in its dtypes, and
    carries the record ``result.scaling``.

    Args:
        model: the baseline.
        phi: compound coefficient; the cost grows as 2 ** phi. Negative shrinks, 0 changes nothing.
        depth: multiplier of the repeats. It, ``width`` and ``resolution`` replace phi; a missing one is 1. A mapping
            sets single stages, by regular expressions on stage paths, beside phi or a budget too:
            ``{"layer3": 2.0}``; the last that matches holds, and the empty expression is the rest.
        width: multiplier of the channels; or a mapping by regular expressions on module paths. All layers that share
            a width get it, and widths that follow others by a rule go on doing so.
        resolution: multiplier of the input's sides.
        image_size: side, or (H, W), of the scaled input in pixels, set outright.
        macs: budget instead of phi: multiply-accumulates of one image. Of several budgets the binding one is met.
        params: budget of parameters.
        activations: budget of the convolutions' output elements, of one image.
        growth: budget of MACs as a multiple of the baseline's; 2 is phi = 1.
        latency_ms: budget of the median time of one batch, in milliseconds, measured on this machine. Some networks
            are built and timed on the way; the result is measured again (``plan.measured``).
        peak_memory_bytes: budget of what torch holds during a forward pass of one batch, measured likewise.
        device: where a measured budget is measured: ``cpu``, ``cuda``, or ``auto``, which is cuda where there is one.
        batch_size: images of one batch of a measured budget.
        coefficients: the proportion in which depth, width and resolution grow: a strategy of
            :mod:`cnnscale.strategies`, or coefficients alpha, beta and gamma.
        input_size: the baseline's input, (C, H, W); by default the model's own, else (C, 224, 224). Of several inputs a
            sequence of sizes, in the order of forward's arguments, or a mapping from the arguments' names to sizes.
        fit: move along the compound direction until the measured MACs are within ``tolerance`` of 2 ** phi. True by
            default with phi; False is the paper's bare formula.
        tolerance: allowed relative deviation of the measured growth or budget: 0.03 with phi, 0.02 with a counted
            budget, 0.05 with a measured one.
        strict: raise :class:`GrowthError` where the growth is out of tolerance, instead of a :class:`GrowthWarning`.
        divisor: widths are rounded to multiples of it.
        round_limit: a rounded width is never below this fraction of the width wanted; 0 turns that off.
        depth_rounding: how repeats become integers; by default as the strategy's authors do it, mostly ``ceil``.
        max_image_size: no side of the image is enlarged beyond it; depth and width make up for that.
        max_repeats: no stage is deepened beyond it.
        pin: regular expressions on module paths whose output widths stay.
        pin_depth: regular expressions on stage paths whose repeats stay.
        derive: rules for widths which the baseline cannot show, by regular expression on module paths, in the words of
            a plan: ``{"conv_pw": "in proportion to block input"}`` (:func:`cnnscale.derivation.parse`).
        weights: ``fresh`` draws anew from the baseline's own initialisation; ``inherit`` copies what fits (an
            initialisation, no pruning method: where widths shrink, the channels of largest norm stay); ``preserve``
            grows the baseline's weights so that in eval mode, at one input size, its function is preserved.
        preserve: ``exact`` raises where the function cannot be preserved; ``best`` does the nearest that is known and
            reports the measured error in ``result.scaling.preservation``.
        seed: makes the drawn weights reproducible; the global generator is never touched.
        submodule: path of the module inside ``model`` to scale; the result is a copy of the whole. What that module
            returns keeps its channels; sizes, patterns and growth are its own (:mod:`cnnscale.parts`).

    Raises:
        UsageError: contradictory arguments.
        ModelError, TraceError, UnsupportedOpError: the model cannot be read.
        WidthError: pinned and widened channels meet, or the input size does not fit.
        PreserveError: with ``weights="preserve"``, the function cannot be preserved; the message names the node.
        BudgetError: no network on the strategy's curve meets the budget.
        GrowthError: with ``strict``, the growth is out of tolerance.
    """
    _checked_weights(weights, preserve, seed)
    asked = request(
        phi=phi,
        depth=depth,
        width=width,
        resolution=resolution,
        image_size=image_size,
        budget=Budget(
            macs=macs,
            params=params,
            activations=activations,
            growth=growth,
            latency_ms=latency_ms,
            peak_memory_bytes=peak_memory_bytes,
        ),
        coefficients=coefficients,
        fit=fit,
        tolerance=tolerance,
        divisor=divisor,
        round_limit=round_limit,
        depth_rounding=depth_rounding,
        max_image_size=max_image_size,
        max_repeats=max_repeats,
        pin=pin,
        pin_depth=pin_depth,
        derive=derive,
        submodule=submodule,
    )
    part = part_of(model, submodule)
    analysis = _analysis(part, input_size, asked)
    planner = Planner(analysis, asked.options)
    made = _planned(part.module, analysis, planner, asked, device, batch_size)
    result, record = _carry_out(part.module, analysis, planner, made, weights, preserve, seed)
    _judge(record.verification, strict)
    return part.replaced(result)


def plan(
    model: nn.Module,
    phi: float | None = None,
    *,
    depth: Factor = None,
    width: Factor = None,
    resolution: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    macs: float | None = None,
    params: float | None = None,
    activations: float | None = None,
    growth: float | None = None,
    latency_ms: float | None = None,
    peak_memory_bytes: float | None = None,
    device: str = "auto",
    batch_size: int = 1,
    coefficients: Curve = EFFICIENTNET,
    input_size: GivenSize | None = None,
    fit: bool | None = None,
    tolerance: float | None = None,
    divisor: int = 8,
    round_limit: float = 0.9,
    depth_rounding: DepthRounding | None = None,
    max_image_size: int | None = None,
    max_repeats: int | None = None,
    pin: Sequence[str] = (),
    pin_depth: Sequence[str] = (),
    derive: Mapping[str, str] | None = None,
    submodule: str | None = None,
) -> Plan:
    """The plan that :func:`scale` would carry out, with the same arguments and errors.

    Nothing is built, save for a measured budget.
    """
    asked = request(
        phi=phi,
        depth=depth,
        width=width,
        resolution=resolution,
        image_size=image_size,
        budget=Budget(
            macs=macs,
            params=params,
            activations=activations,
            growth=growth,
            latency_ms=latency_ms,
            peak_memory_bytes=peak_memory_bytes,
        ),
        coefficients=coefficients,
        fit=fit,
        tolerance=tolerance,
        divisor=divisor,
        round_limit=round_limit,
        depth_rounding=depth_rounding,
        max_image_size=max_image_size,
        max_repeats=max_repeats,
        pin=pin,
        pin_depth=pin_depth,
        derive=derive,
        submodule=submodule,
    )
    part = part_of(model, submodule)
    analysis = _analysis(part, input_size, asked)
    return _planned(part.module, analysis, Planner(analysis, asked.options), asked, device, batch_size)


def family(model: nn.Module, phis: Iterable[float] = (-1, 0, 1, 2, 3), **shaping: Any) -> Family:
    """The plans for several phi, side by side; ``shaping`` are further keywords of :func:`plan`.

    Raises:
        UsageError: no phi is given; and everything that :func:`plan` raises.
    """
    plans = tuple(plan(model, phi, **shaping) for phi in phis)
    if not plans:
        raise UsageError("a family needs one phi at least")
    return Family(plans=plans)


def apply(
    model: nn.Module, plan: Plan, *, weights: Weights = "fresh", preserve: Preserve = "exact", seed: int | None = None
) -> nn.Module:
    """Carry out ``plan`` on the model it was made for; the result is that of :func:`scale`.

    Raises:
        PreserveError: with ``weights="preserve"``, the function cannot be preserved.
        PlanError: the plan was made for a model of other shapes, or does not name this model's widths and stages.
    """
    _checked_weights(weights, preserve, seed)
    part, analysis, planner = _read_for(plan, model)
    result, _ = _carry_out(part.module, analysis, planner, plan, weights, preserve, seed)
    return part.replaced(result)


def origins(model: nn.Module, plan: Plan) -> tuple[dict[str, Recipe], dict[str, str]]:
    """(recipes of the tensors of the network that ``plan`` makes of ``model``, the tensor that each stands for).

    Both by the names within the part that is scaled. A tensor without a recipe takes nothing over; one of a copied
    block stands for that of the block.

    Raises:
        PlanError: as :func:`apply`.
    """
    part, analysis, planner = _read_for(plan, model)
    old = tensors_of(part.module)
    same: dict[str, Recipe] = {name: Gathered(name) for name in old}
    if plan.is_identity:
        return same, {name: name for name in old}
    numbers = _numbers(analysis, planner, plan)
    rebuilt = rebuild(part.module, analysis, numbers.repeats, numbers.values)
    sources = {}
    for name in tensors_of(rebuilt.module):
        path, leaf = split_path(name)
        if path in rebuilt.origins:
            sources[name] = f"{rebuilt.origins[path].path}.{leaf}".lstrip(".")
    if _same_tensors(part.module, rebuilt):
        return same, sources
    _, found = follow(part.module, rebuilt, analysis, numbers.repeats, numbers.values, anywhere=True)
    return found.recipes, sources


def _read_for(plan: Plan, model: nn.Module) -> tuple[Part, Analysis, Planner]:
    """What the plan was made of.

    Raises:
        PlanError: the plan was made for a model of other shapes.
    """
    part = part_of(model, plan.options.submodule)
    if plan.fingerprint != fingerprint(part.module):
        raise PlanError(
            f"the plan was made for a {plan.model} with other parameter shapes than this "
            f"{type(part.module).__name__}; make a new plan for this model"
        )
    analysis = analyse(part.module, plan.baseline_size, _pinned_apart(plan), deepen=moves_depth(plan))
    return part, analysis, Planner(analysis, plan.options)


def verify(baseline: nn.Module, scaled: nn.Module) -> Verification:
    """Measure a scaled model against its baseline, anew.

    Raises:
        UsageError: ``scaled`` carries no scaling record.
        ModelError: a model does not run.
    """
    record = getattr(scaled, "scaling", None)
    if not isinstance(record, Scaling):
        raise UsageError("verify needs a model made by cnnscale.scale or cnnscale.apply (it has no .scaling record)")
    changed, path = record.verification.changed, record.plan.options.submodule or ""
    baseline, scaled = baseline.get_submodule(path), scaled.get_submodule(path)
    return check(baseline, scaled, record.plan, changed=changed, tolerance=record.plan.options.tolerance)


# --- steps ------------------------------------------------------------------------------------------------------------


def _checked_weights(weights: str, preserve: str, seed: int | None) -> None:
    for name, value, choices in (("weights", weights, get_args(Weights)), ("preserve", preserve, get_args(Preserve))):
        if value not in choices:
            raise UsageError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    if seed is not None and not is_a(int, seed):
        raise UsageError(f"seed must be an int, got {seed!r}")


def _analysis(part: Part, input_size: GivenSize | None, asked: Request) -> Analysis:
    if not all(isinstance(net.scaling, Scaling) for net in (part.whole, part.module) if hasattr(net, "scaling")):
        raise UsageError("the model has an attribute named 'scaling', where the record would go; rename it")
    inputs = Inputs.of(part.input_size if input_size is None else input_size)
    return analyse(part.module, inputs.input_size, _pinned_apart(asked), deepen=moves_depth(asked))


def _pinned_apart(asked: Request | Plan) -> tuple[str, ...]:
    """The pins that set widths apart from others: where no width moves, none do."""
    return asked.options.pin if moves_widths(asked) else ()


def _planned(
    model: nn.Module, analysis: Analysis, planner: Planner, asked: Request, device: str, batch_size: int
) -> Plan:
    """The plan; where the budget has to be measured, the networks on the way are built and timed."""
    budget = asked.budget
    if budget is None or not budget.measured:
        return planner.plan(asked)
    settings = _settings(model, budget, device, batch_size)

    def plan_for(counted: Budget) -> Plan:
        return planner.plan(dataclasses.replace(asked, budget=counted))

    def measured(made: Plan) -> Measurement:
        built, record = _carry_out(model, analysis, planner, made, "fresh", "exact", 0)
        return time_model(built, record.input_size, settings)

    return meet(plan_for, measured, budget, tolerance=asked.options.tolerance)


def _settings(model: nn.Module, budget: Budget, device: str, batch_size: int) -> Settings:
    """How a measured budget is measured: in the model's own dtype."""
    min_time_s = _TIMED_S if budget.latency_ms is not None else _RUN_S
    if any(tensor.is_meta for tensor in model.parameters()):
        raise UsageError("a measured budget needs a model that can run; this one is on the meta device")
    names = {dtype: name for name, dtype in reversed(DTYPES.items())}  # fp32 rather than tf32, which shares its dtype
    kinds = {parameter.dtype for parameter in model.parameters()} & names.keys()
    if len(kinds) != 1:
        known = ", ".join(names.values())
        raise UsageError(f"a measured budget needs a model of one dtype out of {known}; convert it first")
    return Settings(
        batch_sizes=(batch_size,),
        device=cast("Any", device),
        dtype=cast("Any", names[kinds.pop()]),
        min_time_s=min_time_s,
        time_limit_s=4 * min_time_s,
        resident=False,  # the search needs a number that is the same on every run
    )


@dataclass(frozen=True)
class _Numbers:
    repeats: tuple[int, ...]
    values: Values


def _numbers(analysis: Analysis, planner: Planner, made: Plan) -> _Numbers:
    """A plan's numbers as repeats and atom values."""
    names = [planner.stage_path(stage) for stage in analysis.stages]
    if names != [s.path for s in made.stages]:
        raise PlanError(f"the plan names the stages {[s.path for s in made.stages]}, but the model has {names}")
    repeats = tuple(s.new_repeats for s in made.stages)
    values = sizes(analysis, Inputs.of(made.input_size), repeats)
    widths = {w.name: w.after for w in made.widths}
    if set(widths) != {g.name for g in planner.groups}:
        odd = sorted(set(widths) ^ {g.name for g in planner.groups})
        raise PlanError(f"the plan and the model differ in the widths {', '.join(odd[:5])}")
    for group in planner.groups:
        if widths[group.name] % group.unit:
            raise PlanError(f"width {widths[group.name]} of {group.name} is not a multiple of its {group.unit} groups")
        values[group.atom] = widths[group.name] // group.unit
    return _Numbers(repeats, values)


def _carry_out(
    model: nn.Module,
    analysis: Analysis,
    planner: Planner,
    made: Plan,
    weights: Weights,
    preserve: Preserve,
    seed: int | None,
) -> tuple[nn.Module, Scaling]:
    """The scaled network, and the record that it carries."""
    preservation: Preservation | None = None
    if made.is_identity:
        result = copy.deepcopy(model)
        places = {path: Origin(path, 0) for path, _ in result.named_modules()}
        rebuilt = Rebuilt(result, "module", places, places)
    else:
        numbers = _numbers(analysis, planner, made)
        rebuilt = rebuild(model, analysis, numbers.repeats, numbers.values)
        result = rebuilt.module
        if _same_tensors(model, rebuilt):
            result = _with_tensors_of(model, result)
        else:
            initialize(result, model, rebuilt.origins, seed)
            if weights != "fresh":
                preservation = grow(
                    model, rebuilt, analysis, numbers.repeats, numbers.values, weights=weights, preserve=preserve
                )
    if weights == "preserve" and preservation is None and not any(t.is_meta for t in tensors_of(model).values()):
        preservation = compare(model, result, made.baseline_size)  # nothing had to grow
    changed, tolerance = _changed(model, rebuilt), made.options.tolerance
    verification = check(analysis.baseline, result, made, changed=changed, tolerance=tolerance)
    _agree(verification, made)
    verification = dataclasses.replace(verification, notes=(*verification.notes, *rebuilt.notes))
    record = Scaling(
        input_size=made.input_size,
        plan=made,
        verification=verification,
        form=rebuilt.form,
        preservation=preservation,
    )
    result.scaling = record  # type: ignore[assignment]  # to torch, a module's attributes are tensors and modules
    return result, record


def _same_tensors(model: nn.Module, rebuilt: Rebuilt) -> bool:
    """Whether no tensor changed: only the input size did."""
    before = {n: t.shape for n, t in (*model.named_parameters(), *model.named_buffers())}
    after = {n: t.shape for n, t in (*rebuilt.module.named_parameters(), *rebuilt.module.named_buffers())}
    return before == after and not any(origin.copy for origin in rebuilt.origins.values())


def _with_tensors_of(model: nn.Module, result: nn.Module) -> nn.Module:
    initialize(result, model, {path: Origin(path, 0) for path, _ in result.named_modules()}, 0, same=True)
    return result


def _changed(model: nn.Module, rebuilt: Rebuilt) -> float:
    """Fraction of the weights of two or more dimensions that changed shape or belong to a copy."""
    weights = changed = 0
    for path, module in rebuilt.module.named_modules():
        origin = rebuilt.origins.get(path)
        if origin is None:
            continue
        original = model.get_submodule(origin.path)
        for name, tensor in module._parameters.items():
            like = getattr(original, name, None)
            if tensor is not None and isinstance(like, torch.Tensor) and tensor.dim() > 1:
                weights += 1
                changed += origin.copy > 0 or tensor.shape != like.shape
    return changed / max(1, weights)


def _agree(verification: Verification, made: Plan) -> None:
    """What torch counts is what was planned, for both networks.

    Raises:
        RewriteError: it is not, so that the plan was made of wrong numbers.
    """
    for name, counted, planned in (
        ("baseline", verification.baseline, made.before),
        ("scaled model", verification.scaled, made.after),
    ):
        if counted != planned:
            raise RewriteError(
                f"the {name} costs {counted} as torch counts it, but {planned} by the plan: an operation is counted "
                "in another way than torch does; open an issue with the model"
            )


def _judge(verification: Verification, strict: bool) -> None:
    if verification.ok:
        return
    message = failure_of(verification) or ""
    if verification.notes:
        message += f" ({verification.notes[0]})"
    if strict:
        raise GrowthError(message)
    warnings.warn(GrowthWarning(message), stacklevel=3)
