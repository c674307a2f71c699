"""Values that depend on a block's place in the net: redrawn where the number of blocks has changed.

Two are known: rates that rise linearly from block to block (stochastic depth), and the standard deviations by which
normaliser-free residual blocks divide their input. Which attribute holds them is seen from the baseline's own numbers.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from .surgery import CONTAINERS

__all__ = ["redraw_schedules"]


def redraw_schedules(baseline: nn.Module, scaled: nn.Module) -> None:
    """Give every block of ``scaled`` the rate and the deviation that its author would have given it."""
    _redraw_rates(baseline, scaled)
    _redraw_deviations(baseline, scaled)


# --- rates ------------------------------------------------------------------------------------------------------------


_DIGITS = 7  # decimals that a rate computed in float32 has


def _redraw_rates(baseline: nn.Module, scaled: nn.Module) -> None:
    """Redraw rates that rise linearly from block to block (stochastic depth) over the new number of blocks.

    Rates are ``peak * i / n`` (EfficientNet) or ``peak * i / (n - 1)`` (ConvNeXt); the author's is the one whose
    peak is the rounder number. Where a block of the baseline has rate 0, its author may have put an Identity.
    """
    for cls, name in _rated(baseline):
        slots = _slots(baseline, cls, name)
        values = [slot.rate for slot in slots]
        if len(values) < 2 or (len(values) < 3 and values[0]):
            continue
        step = (values[-1] - values[0]) / (len(values) - 1)
        linear = all(abs(v - i * step) < 10**-_DIGITS for i, v in enumerate(values))
        after = _slots(scaled, cls, name)
        if step <= 0 or not linear or len(after) == len(values):
            continue
        inclusive, exclusive = round(values[-1], _DIGITS), round(values[-1] + step, _DIGITS)
        shifted = len(repr(exclusive)) < len(repr(inclusive))
        peak, steps = (exclusive, len(after)) if shifted else (inclusive, max(1, len(after) - 1))
        pattern = next(slot.module for slot in reversed(slots) if isinstance(slot.module, cls))
        for i, slot in enumerate(after):
            rate = peak * i / steps
            if isinstance(slot.module, cls):
                setattr(slot.module, name, rate)
            elif rate > 0:
                module = copy.deepcopy(pattern)
                setattr(module, name, rate)
                setattr(slot.parent, slot.child, module)


class _Slot(NamedTuple):
    """A place for a module with a rate."""

    parent: nn.Module
    child: str
    module: nn.Module
    rate: float


def _rated(root: nn.Module) -> Iterator[tuple[type[nn.Module], str]]:
    """Classes of modules without parameters that hold a rate each, and the rate's name."""
    values: dict[tuple[type[nn.Module], str], list[object]] = defaultdict(list)
    for module in root.modules():
        if not module._parameters:
            for name, value in vars(module).items():
                values[type(module), name].append(value)
    for key, rates in values.items():
        numbers = [r for r in rates if isinstance(r, (int, float)) and not isinstance(r, bool) and 0 <= r < 1]
        if len(numbers) == len(rates) and any(isinstance(number, float) for number in numbers):
            yield key


def _slots(root: nn.Module, cls: type[nn.Module], name: str) -> list[_Slot]:
    """Every module of ``cls``, and every Identity in the same place of the same class of block, in order."""
    children = [(parent, key, child) for parent in root.modules() for key, child in parent.named_children()]
    rated = {id(child) for _, _, child in children if type(child) is cls and name in vars(child)}
    places = {(type(parent), key) for parent, key, child in children if id(child) in rated}
    return [
        _Slot(parent, key, child, float(vars(child)[name]) if id(child) in rated else 0.0)
        for parent, key, child in children
        if id(child) in rated or (type(child) is nn.Identity and (type(parent), key) in places)
    ]


# --- deviations -------------------------------------------------------------------------------------------------------

_POWERS = (-2, 2)
"""A deviation is kept as it is, or as the factor that divides by it; its variance is that to the power of 2 or -2."""


def _redraw_deviations(baseline: nn.Module, scaled: nn.Module) -> None:
    """Redraw the expected deviations of normaliser-free residual blocks (Brock et al. 2021, arXiv 2102.06171, sec. 2).

    Each block adds ``step`` to the variance of the signal, and the first block of a stage resets it after it has read
    it: with ``start`` at the input, block k > 0 of any stage reads ``start + k * step``, and the first block of a stage
    what the last one of the stage before has left.
    """
    for cls, name in _positive(baseline):
        before, after = (_rows(net, cls, name) for net in (baseline, scaled))
        for power in _POWERS:
            line = _line([[getattr(block, name) ** power for block in row] for row in before])
            if line is not None and list(map(len, before)) != list(map(len, after)):
                for row, variances in zip(after, _variances(list(map(len, after)), *line), strict=True):
                    for block, variance in zip(row, variances, strict=True):
                        setattr(block, name, variance ** (1 / power))
                break


def _positive(root: nn.Module) -> Iterator[tuple[type[nn.Module], str]]:
    """Classes of modules that hold a positive float each, not the same in all of them; and that number's name."""
    values: dict[tuple[type[nn.Module], str], list[object]] = defaultdict(list)
    for module in root.modules():
        for name, value in vars(module).items():
            values[type(module), name].append(value)
    for key, all_values in values.items():
        numbers = {value for value in all_values if isinstance(value, float) and value > 0}
        if len(numbers) > 2 and all(isinstance(value, float) and value > 0 for value in all_values):
            yield key


def _rows(root: nn.Module, cls: type[nn.Module], name: str) -> list[list[nn.Module]]:
    """The modules of ``cls`` that stand in one container each, in order."""
    rows = [[m for m in parent.children() if type(m) is cls] for parent in root.modules() if _holds(parent, cls)]
    return [row for row in rows if all(name in vars(block) for block in row)]


def _holds(parent: nn.Module, cls: type[nn.Module]) -> bool:
    return isinstance(parent, CONTAINERS) and any(type(child) is cls for child in parent.children())


def _line(rows: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """(start, step) of the variances, where they explain every one."""
    behind = next((row for row in rows if len(row) > 1), None)
    if behind is None:
        return None
    start = rows[0][0]
    step = behind[1] - start
    expected = _variances(list(map(len, rows)), start, step)
    pairs = [pair for row, line in zip(rows, expected, strict=True) for pair in zip(row, line, strict=True)]
    alike = step > 0 and all(math.isclose(value, wanted, rel_tol=1e-6) for value, wanted in pairs)
    return (start, step) if alike else None


def _variances(lengths: Sequence[int], start: float, step: float) -> list[list[float]]:
    last, rows = 0, []
    for length in lengths:
        rows.append([start + step * (k or last) for k in range(length)])
        last = length
    return rows
