"""The public functions. Only :func:`scale` spells the whole chain out: analyse, plan, rebuild, initialize, verify."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError
from torch import nn

from .analysis import Analysis
from .coefficients import EFFICIENTNET, Coefficients, Multipliers
from .costs import sizes
from .errors import GrowthError, GrowthWarning, PlanError, RewriteError, UsageError
from .growth import Preserve, Weights, grow
from .initialization import initialize
from .planning import Planner, Request
from .plans import Options, Plan
from .reading import analyse, fingerprint
from .records import Scaling, Verification
from .rewriting import Rebuilt, rebuild
from .surgery import Origin
from .symbolic import Values
from .verification import check

__all__ = ["apply", "plan", "scale", "verify"]

DepthRounding = Literal["ceil", "round", "floor"]


def scale(
    model: nn.Module,
    phi: float | None = None,
    *,
    depth: float | None = None,
    width: float | None = None,
    resolution: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    coefficients: Coefficients = EFFICIENTNET,
    input_size: tuple[int, ...] | None = None,
    fit: bool | None = None,
    tolerance: float = 0.03,
    strict: bool = False,
    divisor: int = 8,
    round_limit: float = 0.9,
    depth_rounding: DepthRounding = "ceil",
    pin: Sequence[str] = (),
    pin_depth: Sequence[str] = (),
    derive: Mapping[str, str] | None = None,
    weights: Weights = "fresh",
    preserve: Preserve = "exact",
    seed: int | None = None,
) -> nn.Module:
    """Scale any convolutional network by compound scaling (EfficientNet, arXiv 1905.11946).

    ``model`` is left unchanged. The result is of its class wherever possible, on its devices, in its dtypes, and
    carries the record ``result.scaling``.

    Args:
        model: the baseline.
        phi: compound coefficient; the cost grows as 2 ** phi. Negative shrinks, 0 changes nothing.
        depth: multiplier of the repeats. It, ``width`` and ``resolution`` replace phi; a missing one is 1.
        width: multiplier of the channels.
        resolution: multiplier of the input's sides.
        image_size: side, or (H, W), of the scaled input in pixels, set outright.
        coefficients: the bases alpha, beta and gamma of depth, width and resolution.
        input_size: the baseline's input, (C, H, W); by default the model's own, else (C, 224, 224).
        fit: move along the compound direction until the measured MACs are within ``tolerance`` of 2 ** phi. True by
            default with phi; False is the paper's bare formula.
        tolerance: allowed relative deviation of the measured growth.
        strict: raise :class:`GrowthError` where the growth is out of tolerance, instead of a :class:`GrowthWarning`.
        divisor: widths are rounded to multiples of it.
        round_limit: a rounded width is never below this fraction of the width wanted; 0 turns that off.
        depth_rounding: how repeats become integers.
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

    Raises:
        UsageError: contradictory arguments.
        ModelError, TraceError, UnsupportedOpError: the model cannot be read.
        WidthError: pinned and widened channels meet, or the input size does not fit.
        PreserveError: with ``weights="preserve"``, the function cannot be preserved; the message names the node.
        GrowthError: with ``strict``, the growth is out of tolerance.
    """
    _checked_weights(weights, preserve, seed)
    request = _request(
        phi,
        depth,
        width,
        resolution,
        image_size,
        coefficients,
        fit,
        tolerance,
        divisor,
        round_limit,
        depth_rounding,
        pin,
        pin_depth,
        derive,
    )
    analysis = _analysis(model, input_size, request)
    planner = Planner(analysis, request.options)
    made = planner.plan(request)
    result, record = _carry_out(model, analysis, planner, made, weights, preserve, seed)
    _judge(record.verification, strict)
    return result


def plan(
    model: nn.Module,
    phi: float | None = None,
    *,
    depth: float | None = None,
    width: float | None = None,
    resolution: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    coefficients: Coefficients = EFFICIENTNET,
    input_size: tuple[int, ...] | None = None,
    fit: bool | None = None,
    tolerance: float = 0.03,
    divisor: int = 8,
    round_limit: float = 0.9,
    depth_rounding: DepthRounding = "ceil",
    pin: Sequence[str] = (),
    pin_depth: Sequence[str] = (),
    derive: Mapping[str, str] | None = None,
) -> Plan:
    """The plan that :func:`scale` would carry out, with the same arguments and errors; nothing is built."""
    request = _request(
        phi,
        depth,
        width,
        resolution,
        image_size,
        coefficients,
        fit,
        tolerance,
        divisor,
        round_limit,
        depth_rounding,
        pin,
        pin_depth,
        derive,
    )
    return Planner(_analysis(model, input_size, request), request.options).plan(request)


def apply(
    model: nn.Module, plan: Plan, *, weights: Weights = "fresh", preserve: Preserve = "exact", seed: int | None = None
) -> nn.Module:
    """Carry out ``plan`` on the model it was made for; the result is that of :func:`scale`.

    Raises:
        PreserveError: with ``weights="preserve"``, the function cannot be preserved.
        PlanError: the plan was made for a model of other shapes, or does not name this model's widths and stages.
    """
    _checked_weights(weights, preserve, seed)
    if plan.fingerprint != fingerprint(model):
        raise PlanError(
            f"the plan was made for a {plan.model} with other parameter shapes than this {type(model).__name__}; "
            "make a new plan for this model"
        )
    analysis = analyse(model, plan.baseline_size, _pinned_apart(plan))
    planner = Planner(analysis, plan.options)
    result, _ = _carry_out(model, analysis, planner, plan, weights, preserve, seed)
    return result


def verify(baseline: nn.Module, scaled: nn.Module) -> Verification:
    """Measure a scaled model against its baseline, anew.

    Raises:
        UsageError: ``scaled`` carries no scaling record.
        ModelError: a model does not run.
    """
    record = getattr(scaled, "scaling", None)
    if not isinstance(record, Scaling):
        raise UsageError("verify needs a model made by cnnscale.scale or cnnscale.apply (it has no .scaling record)")
    changed = record.verification.changed
    return check(baseline, scaled, record.plan, changed=changed, tolerance=record.plan.options.tolerance)


# --- steps ------------------------------------------------------------------------------------------------------------


def _request(
    phi: float | None,
    depth: float | None,
    width: float | None,
    resolution: float | None,
    image_size: int | tuple[int, int] | None,
    coefficients: Coefficients,
    fit: bool | None,
    tolerance: float,
    divisor: int,
    round_limit: float,
    depth_rounding: DepthRounding,
    pin: Sequence[str],
    pin_depth: Sequence[str],
    derive: Mapping[str, str] | None,
) -> Request:
    """The arguments, checked."""
    wanted = {"depth": depth, "width": width, "resolution": resolution}
    given = {name: value for name, value in wanted.items() if value is not None}
    if phi is not None and given:
        raise UsageError(f"give phi or multipliers, not both: phi={phi!r} and {', '.join(given)}")
    if phi is None and not given and image_size is None:
        raise UsageError("give phi (compound scaling), or some of depth, width, resolution and image_size")
    if phi is not None and not (_is_a(Real, phi) and -30 < phi < 30):
        raise UsageError(f"phi must be a number between -30 and 30, got {phi!r}")
    if not _is_a(Coefficients, coefficients):
        raise UsageError(
            f"coefficients must be cnnscale.Coefficients(alpha=..., beta=..., gamma=...), got {coefficients!r}"
        )
    if fit and phi is None:
        raise UsageError("fit=True needs phi: explicit multipliers have no target to fit")
    if resolution is not None and image_size is not None:
        raise UsageError("give resolution or image_size, not both")
    multipliers = coefficients.at(phi) if phi is not None else Multipliers(**(dict.fromkeys(wanted, 1.0) | given))
    options = _options(
        divisor=divisor,
        round_limit=round_limit,
        depth_rounding=depth_rounding,
        pin=_patterns(pin, "pin"),
        pin_depth=_patterns(pin_depth, "pin_depth"),
        derive=_told(derive),
        fit=phi is not None if fit is None else fit,
        tolerance=tolerance,
    )
    return Request(
        phi=phi, coefficients=coefficients, multipliers=multipliers, sides=_sides(image_size), options=options
    )


def _options(**given: Any) -> Options:
    try:
        return Options(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][0]
        raise UsageError(f"{name}={given[str(name)]!r}: {first['msg']}") from error


def _patterns(value: Sequence[str], name: str) -> tuple[str, ...]:
    if isinstance(value, str):
        raise UsageError(f"{name} takes a sequence of regular expressions: {name}=({value!r},)")
    return tuple(value)


def _told(value: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    if value is not None and not _is_a(Mapping, value):
        raise UsageError(f"derive takes a mapping of regular expressions to rules, got {value!r}")
    return tuple((value or {}).items())


def _sides(image_size: int | tuple[int, int] | None) -> tuple[int, ...] | None:
    if image_size is None:
        return None
    sides: Any = (image_size,) if isinstance(image_size, int) else image_size
    if not _are_sides(sides):
        raise UsageError(f"image_size must be a positive int or (H, W), got {image_size!r}")
    return tuple(sides)


def _are_sides(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) > 0 and all(isinstance(v, int) and v > 0 for v in value)


def _is_a(cls: type, value: object) -> bool:
    return isinstance(value, cls)


def _checked_weights(weights: str, preserve: str, seed: int | None) -> None:
    for name, value, choices in (("weights", weights, get_args(Weights)), ("preserve", preserve, get_args(Preserve))):
        if value not in choices:
            raise UsageError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    if seed is not None and not _is_a(int, seed):
        raise UsageError(f"seed must be an int, got {seed!r}")


def _analysis(model: nn.Module, input_size: tuple[int, ...] | None, request: Request) -> Analysis:
    if not isinstance(model, nn.Module):
        raise UsageError(f"scale takes a torch.nn.Module, got {type(model).__name__}; call the factory first")
    if hasattr(model, "scaling") and not isinstance(model.scaling, Scaling):
        raise UsageError("the model has an attribute named 'scaling', where the record would go; rename it")
    size = _own_input_size(model) if input_size is None else input_size
    if not _are_sides(size):
        raise UsageError(f"input_size must be (C, H, W), all positive ints, got {size!r}")
    return analyse(model, tuple(size), _pinned_apart(request))


def _pinned_apart(asked: Request | Plan) -> tuple[str, ...]:
    """The pins that set widths apart from others: at width 1, none do."""
    return asked.options.pin if asked.multipliers.width != 1 else ()


def _own_input_size(model: nn.Module) -> tuple[int, ...]:
    """The input size that a model declares, else 224 pixels and the first convolution's channels."""
    record: Any = getattr(model, "scaling", None)
    if isinstance(record, Scaling):
        return record.input_size
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, dict) else None
        if size:
            return tuple(size)
    first = next((m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)
    if first is None:
        return (3, 224, 224)
    return (first.in_channels, *(224,) * len(first.kernel_size))


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
    values = sizes(analysis, made.input_size, repeats)
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
    preservation = None
    if made.is_identity:
        result = copy.deepcopy(model)
        rebuilt = Rebuilt(result, "module", {path: Origin(path, 0) for path, _ in result.named_modules()})
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
    message = f"MACs grew {verification.growth:.3f} times"
    if verification.target_growth is not None:
        message += f" where {verification.target_growth:.3f} was wanted"
        message += f", beyond the tolerance of {verification.tolerance:.1%}"
    if verification.notes:
        message += f" ({verification.notes[0]})"
    if strict:
        raise GrowthError(message)
    warnings.warn(GrowthWarning(message), stacklevel=3)
