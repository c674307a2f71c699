"""Which rule did the author use for the inner widths?

Authors derive the widths inside a block from its trunk: expansion = 6 * input, bottleneck = output / 4,
squeeze = input / 4. All layers that play one role (the same place in blocks of one class) follow one rule, so the
baseline's own numbers tell which: the first hypothesis that reproduces every one of them. Where none does, the width is
rounded on its own. Where several would, only the author knows which: :func:`parse` reads the one that a user tells.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from .errors import UsageError
from .rounding import round_channels

__all__ = ["ALONE", "Base", "Derived", "Hypothesis", "Member", "derive", "parse"]

Base = Literal["block input", "block output", "own input"]


@dataclass(frozen=True)
class Member:
    """One layer in a role: its width and the widths that it may derive from, today."""

    width: int
    bases: dict[Base, int]


@dataclass(frozen=True)
class Derived:
    """``width = base * times / over``, rounded to a multiple of ``divisor`` where that is above 1, else down."""

    base: Base
    times: int = 1
    over: int = 1
    divisor: int = 1

    def wanted(self, base: int) -> float:
        return base * self.times / self.over

    def width(self, base: int) -> int:
        if self.divisor == 1:
            return max(1, base * self.times // self.over)
        return round_channels(base * self.times / self.over, divisor=self.divisor)

    def __str__(self) -> str:
        if self.times > 1:
            factor = f"{self.times}{f'/{self.over}' if self.over > 1 else ''} x {self.base}"
        else:
            factor = f"{self.base} / {self.over}" if self.over > 1 else f"as {self.base}"
        return factor + (f", to a multiple of {self.divisor}" if self.divisor > 1 else "")


def derive(members: Sequence[Member], divisor: int) -> list[Derived] | None:
    """The rule of each member under the first hypothesis that gives every member's width, or None."""
    for hypothesis in _hypotheses(divisor):
        rules = [hypothesis(member) for member in members]
        found = [rule for rule in rules if rule is not None]
        if len(found) == len(members) and all(
            rule.width(m.bases[rule.base]) == m.width for rule, m in zip(found, members, strict=True)
        ):
            return found
    return None


Hypothesis: TypeAlias = Callable[[Member], "Derived | None"]
_FACTORS = range(2, 65)


def _hypotheses(divisor: int) -> Iterator[Hypothesis]:
    """In order of preference: one factor for all, first those that widen; then a factor of each block's own."""

    def uniform(base: Base, times: int = 1, over: int = 1, rounded_to: int = 1) -> Hypothesis:
        return lambda member: Derived(base, times, over, rounded_to) if base in member.bases else None

    yield from (uniform("block input", times=k) for k in range(2, 17))
    yield uniform("block output")
    for base in ("block output", "block input", "own input"):
        yield from (uniform(base, over=k, rounded_to=r) for k in _FACTORS for r in dict.fromkeys((divisor, 1)))
        yield from (uniform(base, times=k) for k in range(2, 17))
    yield uniform("block input")
    yield lambda m: _own_factor(m, "block input")


def _own_factor(member: Member, base: Base) -> Derived | None:
    """An integer factor that may differ from block to block (expansion 3 here, 6 there)."""
    if base not in member.bases or member.width % member.bases[base]:
        return None
    return Derived(base, times=member.width // member.bases[base])


ALONE = "on its own"
_PROPORTION = re.compile("in proportion to (?P<base>block input|block output|own input)")
_RULE = re.compile(
    r"(?:as |(?P<times>\d+)(?:/(?P<part>\d+))? x )?(?P<base>block input|block output|own input)"
    r"(?: / (?P<over>\d+))?(?:, to a multiple of (?P<divisor>\d+))?"
)


def parse(text: str, divisor: int) -> Hypothesis | None:
    """The rule that ``text`` names, None where each width is to be rounded on its own (``on its own``).

    A plan prints rules in this language: ``6 x block input``, ``block output / 4``, ``as own input``, each with
    ``, to a multiple of 8`` or without. ``in proportion to block input`` keeps the ratio that each width has in the
    baseline, rounded to multiples of ``divisor`` where the baseline's width is one.

    Raises:
        UsageError: the text names no rule.
    """
    if text == ALONE:
        return None
    proportion, rule = _PROPORTION.fullmatch(text), _RULE.fullmatch(text)
    if proportion is not None:
        return lambda member: _in_proportion(member, cast("Base", proportion["base"]), divisor)
    if rule is None:
        raise UsageError(
            f"{text!r} is no rule for a width; rules look like '6 x block input', 'block output / 4, to a multiple of "
            f"8', 'in proportion to block input' or '{ALONE}', where the base is block input, block output or own input"
        )
    base, numbers = cast("Base", rule["base"]), rule.groupdict(default="1")
    told = Derived(
        base, int(numbers["times"]), int(numbers["part"]) * int(numbers["over"]), max(1, int(numbers["divisor"]))
    )
    return lambda member: told if base in member.bases else None


def _in_proportion(member: Member, base: Base, divisor: int) -> Derived | None:
    if base not in member.bases:
        return None
    common = math.gcd(member.width, member.bases[base])
    rounded_to = divisor if member.width % divisor == 0 else 1
    return Derived(base, member.width // common, member.bases[base] // common, rounded_to)
