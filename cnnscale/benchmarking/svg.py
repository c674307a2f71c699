"""Charts of a benchmark as SVG: throughput against MACs, latencies, memory, and the nets drawn to scale.

Each is 360 units wide, which is a phone's width, and takes its colours from the page's style sheet by class. Variants
carry the number of their row in the table, so that no chart depends on telling colours apart. What a chart shows is
also in a table; its title and description say so in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from cnnscale.drawing import Box, boxes_of
from cnnscale.formatting import fixed_point, quantity, size_text
from cnnscale.inputs import Inputs
from cnnscale.plans import Plan

from .charted import latencies, memories, throughputs
from .records import Row

__all__ = ["element", "latency_chart", "memory_chart", "nets_drawing", "throughput_chart"]

_WIDTH: Final = 360.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 10.0, 34.0
_LINE: Final = 15.0  # height of a line of text
_BAR: Final = 14.0


def element(name: str, *children: str, **attributes: object) -> str:
    """Markup. Children are markup already, attributes are texts. An underscore in a name is a dash, or no more."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"' for key, value in attributes.items()
    )
    return f"<{name}{told}>{''.join(children)}</{name}>"


def throughput_chart(rows: Sequence[Row]) -> str:
    """Images per second against MACs, both in doublings; the broken line is what the first row's GMAC/s would give."""
    points = [(p.gmacs, p.images_per_s, p.number) for p in throughputs(rows)]
    if not points:
        return ""
    height = 250.0
    across = _Log([x for x, _, _ in points], _LEFT, _WIDTH - _RIGHT)
    up = _Log([y for _, y, _ in points], height - _BOTTOM, _TOP + _LINE)
    parts = [*_axis(across, height, "GMACs per image"), *_side(up, "images/s")]
    first_x, first_y, _ = points[0]
    ends = [(x, first_y * first_x / x) for x in (across.low, across.high)]
    parts.append(_line(*(across(ends[0][0]), up(ends[0][1]), across(ends[1][0]), up(ends[1][1])), "guide"))
    for x, y, number in points:
        parts += _mark(across(x), up(y), number)
    return _figure("Throughput against MACs", "Each numbered point is a row of the table.", height, parts)


def latency_chart(rows: Sequence[Row]) -> str:
    """Of each row's single steps: the median, the middle half as a box, and 5 to 95 % as a line."""
    found = latencies(rows)
    if not found:
        return ""
    scale = _Linear(max(latency.ms[-1] for latency in found), _LEFT / 2, _WIDTH - _RIGHT)
    parts: list[str] = []
    y = _TOP
    for number, name, (low, early, middle, late, high) in found:
        parts.append(_label(number, f"{name}: {fixed_point(middle)} ms", y))
        y += _LINE
        centre = y + _BAR / 2
        parts.append(_line(scale(low), centre, scale(high), centre, "whisker"))
        parts.append(_box(scale(early), y, max(1.0, scale(late) - scale(early)), _BAR, "bar"))
        parts.append(_line(scale(middle), y - 2, scale(middle), y + _BAR + 2, "median"))
        y += _BAR + 8
    parts += _axis(scale, y + _BOTTOM, "milliseconds per batch")
    told = "The line reaches from 5 to 95 % of all steps, the box holds the middle half, the mark is the median."
    return _figure("Latency distribution", told, y + _BOTTOM, parts)


def memory_chart(rows: Sequence[Row]) -> str:
    """Peak memory, a bar per row."""
    peaks = memories(rows)
    if not peaks:
        return ""
    scale = _Linear(max(peak for *_, peak in peaks), _LEFT / 2, _WIDTH - _RIGHT)
    parts: list[str] = []
    y = _TOP
    for number, name, peak in peaks:
        parts.append(_label(number, f"{name}: {quantity(peak, 'B')}", y))
        parts.append(_box(scale(0), y + _LINE, scale(peak) - scale(0), _BAR, "bar"))
        y += _LINE + _BAR + 8
    return _figure("Peak memory", "Weights, input and all that one step takes beyond them.", y, parts)


def nets_drawing(plans: Mapping[str, Plan]) -> str:
    """The nets to one scale: a box per stage, as long as it has blocks and as high as it has channels; beside it a
    square as wide as the input has pixels."""
    nets = {
        name: (Inputs.of(plan.input_size).sides, tuple(boxes_of(plan, scaled=True))) for name, plan in plans.items()
    }
    if not nets:
        return ""
    pixel = 56.0 / max(max(sides, default=1) for sides, _ in nets.values())
    start, gap = 76.0, 3.0
    most = max(len(boxes) for _, boxes in nets.values())
    block = (_WIDTH - _RIGHT - start - gap * most) / max(
        1, *(sum(b.blocks for b in boxes) for _, boxes in nets.values())
    )
    channel = 64.0 / max(1, *(b.channels for _, boxes in nets.values() for b in boxes))
    parts: list[str] = []
    y = 4.0
    for name, (sides, boxes) in nets.items():
        parts.append(_text_at(0, y + 11, f"{name}: {size_text(plans[name].input_size)}"))
        high = max([sides[0] * pixel if sides else 1.0, *(box.channels * channel for box in boxes)])
        floor = y + _LINE + 2 + high
        if len(sides) == 2:
            parts.append(_box(0, floor - sides[0] * pixel, sides[1] * pixel, sides[0] * pixel, "input", "input"))
        parts += _stages(boxes, start, floor, block, channel, gap)
        y = floor + 12
    told = "One box per stage: its length is the number of blocks, its height the channels. The square is the input."
    return _figure("The nets, to one scale", told, y, parts)


def _stages(boxes: Iterable[Box], x: float, floor: float, block: float, channel: float, gap: float) -> Iterable[str]:
    for box in boxes:
        length, high = box.blocks * block, box.channels * channel
        told = f"{box.path}: {box.blocks} blocks of {box.channels} channels"
        yield _box(x, floor - high, length, high, "stage", told)
        x += length + gap


# --- scales -------------------------------------------------------------------------------------------------------


class _Linear:
    """From 0 to at least ``most``."""

    def __init__(self, most: float, start: float, end: float) -> None:
        step: float = 10.0 ** math.floor(math.log10(most or 1.0))
        step = next(step * part for part in (0.2, 0.5, 1, 2) if most / (step * part) <= 6)
        self.ticks = [step * i for i in range(math.ceil((most or 1.0) / step) + 1)]
        self.low, self.high, self.start, self.end = 0.0, self.ticks[-1], start, end

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


class _Log:
    """Of positive values, with room around them; ticks where a number is 1, 2 or 5 times a power of ten."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.low, self.high = min(values) / 1.3, max(values) * 1.3
        self.start, self.end = start, end
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        ticks = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
        self.ticks = [tick for tick in ticks if self.low <= tick <= self.high]

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        part: float = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + (self.end - self.start) * part


# --- marks --------------------------------------------------------------------------------------------------------


def _axis(scale: _Linear | _Log, height: float, label: str) -> Iterable[str]:
    floor = height - _BOTTOM + 4
    yield _line(scale.start, floor, scale.end, floor, "axis")
    for tick in scale.ticks:
        yield _line(scale(tick), floor, scale(tick), floor + 4, "axis")
        yield _text_at(scale(tick), floor + 15, f"{tick:g}", "middle")
    yield _text_at((scale.start + scale.end) / 2, floor + 28, label, "middle")


def _side(scale: _Log, label: str) -> Iterable[str]:
    for tick in scale.ticks:
        yield _line(_LEFT, scale(tick), _WIDTH - _RIGHT, scale(tick), "grid")
        yield _text_at(_LEFT - 4, scale(tick) + 4, f"{tick:g}", "end")
    yield _text_at(4, 10, label)


def _mark(x: float, y: float, number: int) -> Iterable[str]:
    yield element("circle", cx=x, cy=y, r=9, class_="first" if number == 1 else "point")
    yield element("text", str(number), x=x, y=y + 4, text_anchor="middle", class_="number")


def _label(number: int, text: str, y: float) -> str:
    return _text_at(0, y + 11, f"{number}  {text}")


def _text_at(x: float, y: float, text: str, anchor: str = "start") -> str:
    return element("text", escape(text), x=x, y=y, text_anchor=anchor)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _box(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    inside = [element("title", escape(title))] if title else []
    return element("rect", *inside, x=x, y=y, width=width, height=height, class_=kind)


def _figure(title: str, description: str, height: float, parts: Iterable[str]) -> str:
    drawn = element(
        "svg", *parts, viewBox=f"0 0 {_WIDTH:g} {height:.0f}", role="img", aria_label=f"{title}. {description}"
    )
    return element("figure", element("figcaption", element("b", escape(title)), f" {escape(description)}"), drawn)


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
