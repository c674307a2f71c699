"""Records as text. This module formats, :mod:`cnnscale.cli` prints; nothing else does either.

Each ``*_view`` or ``*_table`` function returns something that rich can print, with colours where the terminal has
them; ``format_*`` renders the same thing to plain ASCII text of a fixed width, so that a string and the command line
never disagree.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .inputs import Inputs, InputSize

if TYPE_CHECKING:
    from .budgets import Budget, Cost, Measurement
    from .coefficients import Multipliers
    from .plans import Family, Fixed, Plan, Stage
    from .records import Scaling, Verification

__all__ = [
    "aim_text",
    "cell",
    "explain_view",
    "failure_of",
    "family_view",
    "fixed_point",
    "format_family",
    "format_plan",
    "format_scaling",
    "format_verification",
    "labelled",
    "new_table",
    "plain_text",
    "plan_view",
    "quantity",
    "ratio_text",
    "scaling_view",
    "size_text",
    "verification_view",
]

_WIDTH = 120
_NAMES_SHOWN = 6  # of the layers that share one reason not to be scaled
_PREFIXES = ("", " K", " M", " G", " T", " P", " E")


def format_plan(plan: Plan) -> str:
    """What ``print(plan)`` shows."""
    return plain_text(plan_view(plan))


def format_family(family: Family) -> str:
    """What ``print(family)`` shows."""
    return plain_text(family_view(family))


def format_scaling(scaling: Scaling) -> str:
    """What ``print(model.scaling)`` shows: the plan, and what the built model measures."""
    return plain_text(scaling_view(scaling))


def format_verification(verification: Verification) -> str:
    return plain_text(verification_view(verification))


def quantity(number: float, unit: str = "") -> str:
    """Three significant digits and an SI prefix: 4089184256 -> ``4.09 G``, with unit B ``4.09 GB``."""
    power, value = 0, float(number)
    while abs(value) >= 999.5 and power < len(_PREFIXES) - 1:
        power, value = power + 1, value / 1000
    digits = 0 if power == 0 and value == int(value) else _decimals(value)
    prefix = _PREFIXES[power] or (" " if unit else "")
    return f"{value:.{digits}f}{prefix}{unit}"


def size_text(input_size: InputSize) -> str:
    """(3, 224, 224) -> ``3x224x224``, several inputs -> ``image=3x224x224 meta=7``: as the command line reads it."""
    inputs = Inputs.of(input_size)
    texts = ["x".join(map(str, size)) for size in inputs.sizes]
    named = zip(inputs.names, texts, strict=True) if inputs.names else (("", text) for text in texts)
    return " ".join(f"{name}={text}" if name else text for name, text in named)


def failure_of(verification: Verification) -> str | None:
    """Why ``verification.ok`` is false, in one line; None where it is true."""
    if verification.ok:
        return None
    reasons = []
    if verification.planned is not None and not verification.as_planned:
        differing = [
            f"{name} planned {getattr(verification.planned, name)}, measured {getattr(verification.scaled, name)}"
            for name in ("macs", "params", "activations")
            if getattr(verification.planned, name) != getattr(verification.scaled, name)
        ]
        reasons.append("cost is not as planned: " + "; ".join(differing))
    reason = _missed(verification)
    return "; ".join([*reasons, reason] if reason else reasons)


def _missed(verification: Verification) -> str | None:
    """How far growth or the binding limit of a budget is off, where it is out of tolerance."""
    target, tolerance = verification.target_growth, f"(tolerance {verification.tolerance:.1%})"
    if verification.on_target:
        return None
    if target is not None:
        growth = f"MACs grew {ratio_text(verification.growth)} where {ratio_text(target)} was wanted"
        return f"{growth}, {verification.growth / target - 1:+.1%} {tolerance}"
    binding, load = max(verification.loads.items(), key=lambda item: item[1])
    limit = _limit_text(binding, load, verification.scaled, verification.measured)
    why = (
        "no plan comes nearer with these rounding rules"
        if verification.measured is None or not hasattr(verification.measured, binding)
        else "the last of several measurements: other work on the machine moves them"
    )
    return f"the budget is missed: {limit}, {load - 1:+.1%} {tolerance}; {why}"


def plan_view(plan: Plan) -> Group:
    """A plan: stages, multipliers, costs, and what stays as it is."""
    return Group(
        _heading(plan),
        Text(),
        _stage_table(plan.stages),
        Text(),
        _multiplier_table(plan.multipliers, plan.achieved),
        Text(),
        _cost_table(plan.before, plan.after),
        Text(),
        labelled("growth of MACs", _growth_text(plan.growth, "planned", plan.target_growth, plan.formula_growth)),
        *_budget_lines(plan.budget, plan.loads, plan.after, plan.measured),
        labelled("channel groups", _width_summary(plan)),
        *_fixed_lines(plan.fixed),
    )


def family_view(family: Family) -> Group:
    """The plans of one model side by side, one line per plan, and under it the repeats and widths of every stage."""
    plans = family.plans
    sizes = new_table(
        "", "input", "depth", "width", "res.", "MACs", "params", "activations", "growth", "wanted", left=("",)
    )
    for plan in plans:
        got, cost = plan.achieved, plan.after
        sizes.add_row(
            Text(aim_text(plan), style="bold"),
            size_text(plan.input_size),
            *(f"{x:.2f}" for x in (got.depth, got.width, got.resolution)),
            *map(quantity, (cost.macs, cost.params, cost.activations)),
            *map(ratio_text, (plan.growth, plan.target_growth)),
        )
    stages = new_table("stage", "block", "now", *map(aim_text, plans), left=("stage", "block"))
    for now, *planned in zip(plans[0].stages, *(plan.stages for plan in plans), strict=True):
        cells = (f"{stage.new_repeats} x {stage.new_width}" for stage in planned)
        stages.add_row(*map(cell, (now.path, now.block, f"{now.repeats} x {now.width}", *cells)))
    below = (Text(), Text("repeats x width", style="dim"), stages) if plans[0].stages else ()
    return Group(Text(plans[0].model, style="bold"), Text(), sizes, *below)


def explain_view(plan: Plan) -> Group:
    """Every number of a plan: what was wanted, what it was rounded to, by which rule, and what stayed."""
    options = plan.options
    rounding = f"{options.depth_rounding} of repeats, at least 1"
    limit = "" if options.round_limit == 0 else f", never below {options.round_limit:.0%} of the width wanted"
    return Group(
        _heading(plan),
        Text(),
        *_direction_lines(plan),
        Text(),
        labelled("repeats", rounding),
        _repeats_table(plan.stages) if plan.stages else Text("no block of this model repeats"),
        Text(),
        labelled("widths", f"multiples of {options.divisor}{limit}, save where another rule is named"),
        _widths_table(plan),
        Text(),
        _cost_table(plan.before, plan.after),
        *_budget_lines(plan.budget, plan.loads, plan.after, plan.measured),
        *_fixed_lines(plan.fixed),
    )


def verification_view(verification: Verification) -> Group:
    """A verification: measured costs, every growth that was promised or counted, the notes and the verdict."""
    growth = _growth_text(verification.growth, "measured", verification.target_growth, verification.formula_growth)
    thop = "could not count this model" if verification.thop_growth is None else ratio_text(verification.thop_growth)
    failure = failure_of(verification)
    verdict = Text("ok", style="green") if failure is None else Text(f"FAILED: {failure}", style="red")
    return Group(
        _cost_table(verification.baseline, verification.scaled),
        Text(),
        labelled("growth of MACs", growth),
        *_budget_lines(verification.budget, verification.loads, verification.scaled, verification.measured),
        labelled("thop's growth", thop),
        labelled("changed", f"{verification.changed:.1%} of the weights of 2 or more dimensions"),
        *(labelled("note", note) for note in verification.notes),
        labelled("verification", verdict),
    )


def scaling_view(scaling: Scaling) -> Group:
    """Plan and verification of a scaled model."""
    form = {"module": "the baseline's own class", "graph": "a torch.fx.GraphModule"}[scaling.form]
    plan, verification = scaling.plan, scaling.verification
    growth = _growth_text(plan.growth, "planned", None, None)
    return Group(
        _heading(plan),
        labelled("form", form),
        Text(),
        _stage_table(plan.stages),
        Text(),
        _multiplier_table(plan.multipliers, plan.achieved),
        Text(),
        *verification_view(verification).renderables,
        labelled("plan", growth + (", as measured" if verification.as_planned else ", NOT as measured")),
        labelled("channel groups", _width_summary(plan)),
        *_fixed_lines(plan.fixed),
    )


def aim_text(plan: Plan) -> str:
    """What was asked for: ``phi 1``, ``MACs 4 G``, or what else it was."""
    if plan.phi is not None:
        return f"phi {plan.phi:g}"
    if plan.budget is not None:
        return ", ".join(f"{_LIMITS[name][0]} {_LIMITS[name][1](limit)}" for name, limit in plan.budget.asked.items())
    return "explicit multipliers"


def _heading(plan: Plan) -> Text:
    sizes = f"input {size_text(plan.baseline_size)} -> {size_text(plan.input_size)}"
    part = f" at {plan.options.submodule!r}" if plan.options.submodule else ""
    return Text.assemble((plan.model, "bold"), f"{part}, {aim_text(plan)}, {sizes}")


def _direction_lines(plan: Plan) -> list[RenderableType]:
    """The formula's multipliers, where the fit came to rest, and what the rounding made of it."""
    lines = []
    if plan.phi is not None:
        lines.append(labelled("formula", _multipliers_text(plan.coefficients.at(plan.phi))))
    if plan.phi is not None or plan.budget is not None:
        came = "fitted" if plan.options.fit else "taken as it is"
        lines.append(labelled(came, _multipliers_text(plan.multipliers)))
    else:
        lines.append(labelled("given", _multipliers_text(plan.multipliers)))
    lines.append(labelled("got", _multipliers_text(plan.achieved)))
    return lines


def _multipliers_text(multipliers: Multipliers) -> str:
    parts = ", ".join(f"{name} {getattr(multipliers, name):.4f}" for name in ("depth", "width", "resolution"))
    return f"{parts}; depth x width^2 x resolution^2 = {multipliers.growth:.3f}"


def _repeats_table(stages: tuple[Stage, ...]) -> Table:
    table = new_table("stage", "block", "now", "wanted", "got", "note", left=("stage", "block", "note"))
    for stage in stages:
        wanted = "-" if stage.wanted is None else _not_rounded_down(stage.wanted)
        table.add_row(
            *map(cell, (stage.path, stage.block, str(stage.repeats), wanted, str(stage.new_repeats), stage.note))
        )
    return table


def _not_rounded_down(value: float) -> str:
    """Two decimals, and a plus where they hide that it is above a whole number, which ceil would show."""
    text = f"{value:.2f}"
    return f"{text}+" if value > float(text) and float(text).is_integer() else text


def _widths_table(plan: Plan) -> Table:
    table = new_table("width of", "layers", "now", "wanted", "got", "rule", left=("width of", "rule"))
    for width in plan.widths:
        numbers = (str(len(width.layers)), str(width.before), f"{width.wanted:.1f}", str(width.after))
        table.add_row(*map(cell, (width.name, *numbers, width.rule)))
    return table


def _budget_lines(
    budget: Budget | None, loads: Mapping[str, float], cost: Cost, measured: Measurement | None
) -> list[RenderableType]:
    """Each limit of a budget, what there is of it, and which of them binds."""
    if budget is None:
        return []
    binding = max(loads, key=lambda name: loads[name], default="")
    lines = []
    for name, load in loads.items():
        binds = ", which binds" if name == binding and len(loads) > 1 else ""
        lines.append(labelled("budget", f"{_limit_text(name, load, cost, measured)} ({load - 1:+.1%}){binds}"))
    return lines


def _limit_text(name: str, load: float, cost: Cost, measured: Measurement | None) -> str:
    label, shown = _LIMITS[name]
    there = float(getattr(measured if hasattr(measured, name) else cost, name))
    return f"{label} {shown(there)} of {shown(there / load)}"


def _stage_table(stages: tuple[Stage, ...]) -> RenderableType:
    if not stages:
        return labelled("depth", "not applicable: no block of this model repeats")
    notes = ["note"] if any(stage.note for stage in stages) else []
    table = new_table("stage", "block", "repeats", "width", *notes, left=("stage", "block", "note"))
    for stage in stages:
        repeats, width = _change(stage.repeats, stage.new_repeats), _change(stage.width, stage.new_width)
        table.add_row(*map(cell, (stage.path, stage.block, repeats, width, *(stage.note for _ in notes))))
    return table


def _multiplier_table(wanted: Multipliers, got: Multipliers) -> Table:
    table = new_table("multiplier", "wanted", "got", left=("multiplier",))
    for name in ("depth", "width", "resolution"):
        table.add_row(cell(name), f"{getattr(wanted, name):.3f}", f"{getattr(got, name):.3f}")
    return table


def _cost_table(before: Cost, after: Cost) -> Table:
    table = new_table("cost of one image", "before", "after", "growth", left=("cost of one image",))
    for label, name in (("MACs", "macs"), ("params", "params"), ("activations", "activations")):
        old, new = getattr(before, name), getattr(after, name)
        table.add_row(cell(label), quantity(old), quantity(new), ratio_text(new / old if old else None))
    return table


def _growth_text(growth: float, kind: str, target: float | None, formula: float | None) -> str:
    parts = [f"{kind} {growth:.3f}"]
    if target is not None:
        parts.append(f"2^phi {target:.3f} ({growth / target - 1:+.1%})")
    if formula is not None:
        parts.append(f"formula {formula:.3f}")
    return ", ".join(parts)


def _width_summary(plan: Plan) -> str:
    changed = sum(width.before != width.after for width in plan.widths)
    return f"{changed} of {len(plan.widths)} change their width"


def _fixed_lines(fixed: tuple[Fixed, ...]) -> list[RenderableType]:
    """What was not scaled, one line per reason: many layers often share one."""
    by_reason: dict[str, list[str]] = {}
    for item in fixed:
        by_reason.setdefault(item.why, []).append(item.what)
    lines = []
    for why, names in by_reason.items():
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        lines.append(labelled("not scaled", f"{', '.join(names[:_NAMES_SHOWN])}{more}: {why}"))
    return list(lines)


# --- parts that all views share -----------------------------------------------------------------------------------


def new_table(*columns: str, left: tuple[str, ...]) -> Table:
    """A table without lines; columns are aligned right unless they are in ``left``."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in left else "right"
        table.add_column(column, justify=justify, no_wrap=column not in ("note", "rule"), overflow="fold")
    return table


def cell(text: str) -> Text:
    """Text as it is: module paths and regexes contain brackets, which rich would read as markup."""
    return Text(text)


def labelled(label: str, text: str | Text) -> RenderableType:
    """``label: text``, wrapped with a hanging indent."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(f"{label}:", style="bold"), text if isinstance(text, Text) else Text(text))
    return Padding(grid, 0, expand=False)


def _change(before: int, after: int) -> str:
    return str(before) if before == after else f"{before} -> {after}"


def ratio_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _decimals(value: float) -> int:
    """Decimals that give three significant digits to a value below 1000."""
    magnitude = abs(value)
    return 2 if magnitude < 9.995 else 1 if magnitude < 99.95 else 0


def fixed_point(value: float) -> str:
    return f"{value:.{_decimals(value)}f}"


def plain_text(view: RenderableType) -> str:
    options: dict[str, Any] = {"color_system": None, "markup": False, "highlight": False, "emoji": False}
    console = Console(file=io.StringIO(), width=_WIDTH, force_terminal=False, **options)
    with console.capture() as capture:
        console.print(view)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


_LIMITS: dict[str, tuple[str, Callable[[float], str]]] = {
    "growth": ("growth", "{:g}x".format),
    "macs": ("MACs", quantity),
    "params": ("params", quantity),
    "activations": ("activations", quantity),
    "latency_ms": ("latency", lambda value: f"{fixed_point(value)} ms"),
    "peak_memory_bytes": ("peak memory", lambda value: quantity(value, "B")),
}
"""Limit of a budget -> its label, and how its value reads."""
