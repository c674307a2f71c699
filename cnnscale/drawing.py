"""Plans as a picture: the baseline and its scaled versions to scale, and how their costs grow.

The law: in one picture all nets share one scale. A stage is a box, as long as it has blocks and as high as it has
channels; a square beside the net is as wide as its input has pixels. Nothing is drawn larger so that it can be seen.

Takes data only; matplotlib (the ``plot`` extra) is imported when a picture is made, without pyplot and its state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .formatting import quantity, size_text
from .inputs import Inputs, InputSize
from .plans import Cost, Plan
from .plotting import COLOURS, FAINT, check_picture, need_matplotlib, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Box", "boxes_of", "family_figure", "save_family"]

# Inches, and points for text: 8 inches are about as wide as the text of a README or of a page.
_WIDTH, _MARGIN = 8.0, 0.15
_NAMES, _INPUTS, _NET, _COSTS = _MARGIN, 1.25, 2.2, 6.6
"""Left edges of the columns."""
_INPUT_SPACE, _NET_SPACE, _HIGHEST, _LEAST_ROW, _LABELS = 0.8, 4.2, 0.9, 0.5, 0.42
_HEAD, _CHART = 0.98, 2.9
_TEXT, _SMALL = 9.0, 7.5
_GAP, _LINE = 0.07, 0.17
_GLYPH = 0.62  # em; the mean width of DejaVu Sans' digits and letters

_COSTS_DRAWN = (
    ("macs", "MACs", COLOURS[0], "o"),
    ("params", "params", COLOURS[1], "s"),
    ("activations", "activations", COLOURS[2], "^"),
)
"""Markers and dashes say again what colours say."""
_INK, _PLAIN = "#222222", "#6BAED6"


@dataclass(frozen=True)
class Box:
    """A stage."""

    path: str
    blocks: int
    channels: int
    side: float | None
    """Of its feature map, in pixels: the geometric mean of the sides; None where it has none."""


@dataclass(frozen=True)
class _Net:
    """What one row shows."""

    name: str
    phi: float | None
    input_size: InputSize
    boxes: tuple[Box, ...]
    cost: Cost

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the largest image, in pixels."""
        return Inputs.of(self.input_size).sides or (1,)

    @property
    def blocks(self) -> int:
        return sum(box.blocks for box in self.boxes)

    @property
    def channels(self) -> int:
        return max((box.channels for box in self.boxes), default=0)


@dataclass(frozen=True)
class _Scale:
    """Inches per block, per channel and per pixel of the input, and the inches between two stages."""

    block: float
    channel: float
    pixel: float
    gap: float


def save_family(plans: Sequence[Plan], path: str | Path) -> None:
    """Draw plans of one model (:func:`family_figure`) and write the picture in the format that the suffix names.

    The same plans give the same bytes.

    Raises:
        UsageError: the suffix is unknown, or the plans are none or of several baselines.
        CnnScaleError: matplotlib is not installed, or the file cannot be written.
    """
    check_picture(path)
    save(family_figure(plans), path)


def family_figure(plans: Sequence[Plan]) -> Figure:
    """The picture: one row per net with everything to scale, and below them growth of cost against phi.

    Each box's gid is ``stage ROW PATH``, each input's ``input ROW``, row 0 being on top.

    Raises:
        UsageError: the plans are none, or were not all made for one baseline at one input size.
        CnnScaleError: matplotlib is not installed.
    """
    need_matplotlib()
    from matplotlib.figure import Figure

    nets = _nets(plans)
    scale = _scale(nets)
    heights = [_row_height(net, scale) for net in nets]
    height = _HEAD + sum(heights) + _CHART
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    sheet = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(0, height))
    sheet.set_axis_off()
    _draw_head(sheet, plans[0].model, nets, height)
    floor = height - _HEAD
    for number, (net, room) in enumerate(zip(nets, heights, strict=True)):
        floor -= room
        _draw_net(sheet, number, net, scale, floor + 0.2, _shades(nets))
    bottom = 0.62
    chart = figure.add_axes(
        (0.75 / _WIDTH, bottom / height, (_WIDTH - 0.95) / _WIDTH, (_CHART - bottom - 0.62) / height)
    )
    _draw_growth(chart, nets, plans[0].before)
    return figure


# --- what is drawn ------------------------------------------------------------------------------------------------


def _nets(plans: Sequence[Plan]) -> tuple[_Net, ...]:
    """The baseline and the planned nets, smallest phi first; the baseline first where multipliers were given."""
    if not plans:
        raise UsageError("a picture needs at least one plan")
    first = plans[0]
    if any((p.fingerprint, p.baseline_size) != (first.fingerprint, first.baseline_size) for p in plans):
        raise UsageError("one picture shows plans of one baseline at one input size")
    baseline = _Net("baseline", 0.0, first.baseline_size, tuple(boxes_of(first, scaled=False)), first.before)
    scaled = [_Net(_name(p), p.phi, p.input_size, tuple(boxes_of(p, scaled=True)), p.after) for p in plans]
    nets = [
        baseline,
        *(net for net, plan in zip(scaled, plans, strict=True) if not (plan.phi == 0 and plan.is_identity)),
    ]
    if all(net.phi is not None for net in nets):
        nets.sort(key=lambda net: net.phi or 0.0)
    return tuple(nets)


def _name(plan: Plan) -> str:
    if plan.phi is not None:
        return f"φ = {_number(plan.phi)}"
    wanted = plan.multipliers
    return f"d {wanted.depth:.3g}, w {wanted.width:.3g}"


def _number(phi: float) -> str:
    return f"{phi:g}".replace("-", "\N{MINUS SIGN}")


def _apart(places: Sequence[float]) -> bool:
    """Whether no two labels at these places of the chart would touch."""
    steps = [after - before for before, after in pairwise(places)]
    return all(step > 0.06 * (places[-1] - places[0]) for step in steps)


def boxes_of(plan: Plan, *, scaled: bool) -> Iterator[Box]:
    for stage in plan.stages:
        sides = stage.new_sides if scaled else stage.sides
        side = math.prod(sides) ** (1 / len(sides)) if sides else None
        blocks, channels = (stage.new_repeats, stage.new_width) if scaled else (stage.repeats, stage.width)
        yield Box(stage.path, blocks, channels, side)


def _scale(nets: Sequence[_Net]) -> _Scale:
    """The largest scale at which the longest, the highest and the sharpest net fit."""
    stages = max(len(net.boxes) for net in nets)
    gap = min(_GAP, 0.3 * _NET_SPACE / max(1, stages))
    blocks, channels = max(net.blocks for net in nets), max(net.channels for net in nets)
    pixels = max(max(net.sides) for net in nets)
    return _Scale(
        block=(_NET_SPACE - gap * max(0, stages - 1)) / max(1, blocks),
        channel=_HIGHEST / max(1, channels),
        pixel=_INPUT_SPACE / pixels,
        gap=gap,
    )


def _row_height(net: _Net, scale: _Scale) -> float:
    return max(net.channels * scale.channel, net.sides[0] * scale.pixel, _LEAST_ROW) + _LABELS


def _shades(nets: Sequence[_Net]) -> dict[float, str]:
    """A blue for each side of a feature map: the coarser, the darker, in equal steps per halving."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    sides = sorted({box.side for net in nets for box in net.boxes if box.side})
    if not sides:
        return {}
    span = math.log(sides[-1] / sides[0]) or 1.0
    blues = colormaps["Blues"]
    return {side: to_hex(blues(0.25 + 0.6 * math.log(sides[-1] / side) / span)) for side in sides}


# --- drawing it ---------------------------------------------------------------------------------------------------


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Text as it is: paths and names may hold the dollar signs that matplotlib would read as formulas."""
    axes.text(x, y, text, **{"size": _TEXT, "color": _INK, "parse_math": False, **style})


def _fits(text: str, size: float, room: float) -> bool:
    return len(text) * _GLYPH * size / 72 <= room


def _shortened(text: str, size: float, room: float) -> str:
    """The text, its middle left out where it is longer than ``room`` inches."""
    keep = int(room * 72 / (_GLYPH * size))
    return text if len(text) <= keep else f"{text[: keep // 2 - 1]}…{text[len(text) - keep // 2 + 1 :]}"


def _draw_head(sheet: Axes, model: str, nets: Sequence[_Net], height: float) -> None:
    _write(sheet, _MARGIN, height - 0.3, _shortened(model, 12, _WIDTH - 2 * _MARGIN), size=12, weight="bold")
    line = height - 0.62
    shades = _shades(nets)
    words = "Stages: length = blocks, height = channels"
    for x, text in ((_INPUTS, "Input"), (_NET, words), (_COSTS, "Cost of one image")):
        _write(sheet, x, line, text, size=_SMALL, color=FAINT)
    if not shades:
        return
    from matplotlib.patches import Rectangle

    x, sides = _NET, sorted(shades, reverse=True)
    _write(sheet, x, line - 0.19, f"feature map {sides[0]:.0f} px", size=_SMALL, color=FAINT)
    x += 1.18
    for side in sides:
        step = 1.2 / len(sides)
        sheet.add_patch(Rectangle((x, line - 0.2), step, 0.11, facecolor=shades[side], linewidth=0))
        x += step
    _write(sheet, x + 0.06, line - 0.19, f"{sides[-1]:.0f} px", size=_SMALL, color=FAINT)


def _draw_net(sheet: Axes, row: int, net: _Net, scale: _Scale, floor: float, shades: dict[float, str]) -> None:
    from matplotlib.patches import Rectangle

    size = _TEXT if _fits(net.name, 1.1 * _TEXT, _INPUTS - _NAMES) else _SMALL  # bold is wider
    _write(sheet, _NAMES, floor + 0.2, net.name, size=size, weight="bold")
    _write(sheet, _NAMES, floor + 0.02, size_text(net.input_size).replace("x", "×") + " px", size=_SMALL, color=FAINT)
    tall, wide = net.sides[0], net.sides[-1]
    square = Rectangle((_INPUTS, floor), wide * scale.pixel, tall * scale.pixel, facecolor="#F2F2F2", edgecolor=FAINT)
    square.set(linewidth=0.8, gid=f"input {row}")
    sheet.add_patch(square)
    x = _NET
    labels = []
    for i, box in enumerate(net.boxes):
        length, high = box.blocks * scale.block, box.channels * scale.channel
        colour = shades.get(box.side, _PLAIN) if box.side else _PLAIN
        patch = Rectangle((x, floor), length, high, facecolor=colour, edgecolor=_INK, linewidth=0.5)
        patch.set_gid(f"stage {row} {box.path}")
        sheet.add_patch(patch)
        above = (str(box.channels or "?"), floor + high + 0.03, "bottom", length + 2 * _overhang(net, i, scale))
        below = (f"×{box.blocks}", floor - 0.04, "top", length + 0.5 * scale.gap)
        labels += [(x + length / 2, y, text, va) for text, y, va, room in (above, below) if _fits(text, _SMALL, room)]
        x += length + scale.gap
    if len(labels) < len(net.boxes):  # fewer than half: a few numbers here and there say nothing
        summary = f"{len(net.boxes)} stages, {net.blocks} blocks, at most {net.channels} channels"
        _write(sheet, _NET, floor - 0.04, summary, size=_SMALL, va="top")
    else:
        for middle, y, text, va in labels:
            _write(sheet, middle, y, text, size=_SMALL, ha="center", va=va)
    if not net.boxes:
        _write(sheet, _NET, floor + 0.1, "no block repeats: there is no depth to draw", size=_SMALL, color=FAINT)
    for line, (name, label, colour, _) in enumerate(reversed(_COSTS_DRAWN)):
        text = f"{quantity(getattr(net.cost, name))} {label}"
        _write(sheet, _COSTS, floor + 0.02 + _LINE * line, text, size=_SMALL, color=colour)


def _overhang(net: _Net, number: int, scale: _Scale) -> float:
    """Inches by which the label on top of a stage may be wider than it, on each side: more beside lower stages."""
    own = net.boxes[number].channels
    neighbours = net.boxes[max(0, number - 1) : number] + net.boxes[number + 1 : number + 2]
    free = all((own - box.channels) * scale.channel > _LINE for box in neighbours)
    return 2 * _GAP if free else scale.gap / 4


def _draw_growth(chart: Axes, nets: Sequence[_Net], before: Cost) -> None:
    """Growth against phi on a scale of doublings; against the nets' names where one has no phi."""
    from matplotlib.ticker import FuncFormatter

    by_phi = all(net.phi is not None for net in nets)
    places = [net.phi or 0.0 if by_phi else float(i) for i, net in enumerate(nets)]
    if by_phi:
        chart.plot(
            places, [2.0**place for place in places], color=_INK, dashes=(4, 3), linewidth=1, label="2^φ", zorder=3
        )
        chart.set_xlabel("φ", size=_TEXT)
        if _apart(places):
            chart.set_xticks(places, [_number(place) for place in places])
    else:
        chart.set_xticks(places, [net.name.replace(", ", "\n") for net in nets])
        chart.margins(x=0.1)
    for name, label, colour, marker in _COSTS_DRAWN:
        old = getattr(before, name)
        if old:
            growth = [getattr(net.cost, name) / old for net in nets]
            chart.plot(places, growth, color=colour, marker=marker, markersize=5, linewidth=1.8, label=label)
    chart.set_yscale("log", base=2)
    low, high = chart.get_ylim()
    chart.set_ylim(min(low, 0.9), max(high, 2.1))  # two ticks at least
    chart.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    chart.set_ylabel("growth, scaled / baseline", size=_TEXT)
    chart.tick_params(labelsize=_SMALL, colors=_INK)
    chart.grid(visible=True, color="#E3E3E3", linewidth=0.7)
    chart.spines[["top", "right"]].set_visible(False)
    chart.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=_TEXT, borderaxespad=0.2)
