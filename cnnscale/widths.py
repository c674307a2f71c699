"""Width groups: which channels have one width, and which number each group gets.

1. Trunk widths, those of block inputs, block outputs and residual sums, are multiplied and rounded.
2. A width inside a block follows its trunk by the rule that reproduces the baseline (:mod:`cnnscale.roles`).
3. What an exact fraction of a concatenation reads (a transition) stays that fraction: depth changes it too.
4. All other widths are multiplied and rounded on their own; at multiplier 1 nothing is rounded.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from .analysis import Analysis
from .derivation import Derived
from .errors import UsageError, WidthError
from .patterns import compiled
from .roles import Layers, found_rules, told_rules
from .rounding import round_channels
from .shapes import Split
from .symbolic import Atom, Poly, Values
from .tracing import caller

__all__ = [
    "Choice",
    "Group",
    "check_pins",
    "choose",
    "groups",
    "meeting",
    "pinned_atoms",
    "pinned_layers",
    "told_factors",
]


@dataclass(frozen=True)
class Group:
    """One free width and the layers that have it (``unit`` of it each, where the width counts channels per group)."""

    atom: Atom
    name: str
    layers: tuple[str, ...]
    """Paths in the extended baseline."""
    unit: int
    derived: Derived | None = None
    base: Poly | None = None
    whole: Poly | None = None
    """For a literal that cuts channels, or pads them, or a weight that lies beside others: the channels."""

    @property
    def width(self) -> int:
        return self.unit * self.atom.hint


@dataclass(frozen=True)
class Choice:
    """The value of one group's atom, and why."""

    group: Group
    value: int
    wanted: float
    """The full width wanted, ``unit`` times the atom's."""
    rule: str


def groups(analysis: Analysis, divisor: int, told: Sequence[tuple[str, str]] = ()) -> list[Group]:
    """The free widths, in the order in which :func:`choose` decides them: trunk first, then by position in the net.

    ``told`` are the user's own rules for some of them: (regular expression on module paths, rule).
    """
    resolve = analysis.ctx.equations.resolve
    producers = {path: resolve(poly) for path, poly in analysis.ctx.producers.items()}
    scalable = {a for poly in producers.values() for a in poly.atoms() if a.is_width}
    cuts = {a: s for s in analysis.ctx.splits for a in resolve(s.part).atoms() if a.is_width}
    scalable |= set(cuts)
    joined = {a: s for s, a in _joined(analysis) if a not in scalable}
    scalable |= set(joined)
    wholes = {a: s for s in analysis.ctx.pads for a in resolve(s.part).atoms() if a.is_width} | joined | cuts
    layers: dict[Atom, list[tuple[str, int]]] = defaultdict(list)
    for path, poly in producers.items():
        single = poly.single()
        if single is not None:
            layers[single[1]].append((path, single[0]))
    trunk = _trunk(analysis)
    rules = found_rules(analysis, layers, _parts(analysis, cuts, layers), trunk, divisor)
    for pattern, text in told:
        rules = told_rules(analysis, rules, layers, pattern, text, divisor)
    units = _units_of_tensors(analysis) if scalable - layers.keys() else {}
    found = []
    for atom in sorted(scalable, key=lambda a: (a not in trunk or a in rules, a.index)):
        own = layers.get(atom, [])
        name = analysis.baseline_path(own[0][0]) if own else atom.name
        derived, base = rules.get(atom, (None, None))
        unit = math.gcd(*(unit for _, unit in own)) if own else units.get(atom, 1)
        whole = resolve(wholes[atom].whole) if atom in wholes and not own else None
        whole = None if whole is None or atom in set(whole.atoms()) else whole
        found.append(Group(atom, name, tuple(path for path, _ in own), unit, derived, base, whole))
    return _ordered(found)


def _joined(analysis: Analysis) -> Iterator[tuple[Split, Atom]]:
    """The parts of concatenations that are widths by themselves, where the whole is given: weights side by side."""
    resolve = analysis.ctx.equations.resolve
    for split in analysis.ctx.joins:
        single = resolve(split.part).single()
        if single is not None and single[1].is_width and single[1] not in set(resolve(split.whole).atoms()):
            yield split, single[1]


def _ordered(found: list[Group]) -> list[Group]:
    """The groups, each behind the widths of the whole that it is in proportion to."""
    waiting, ordered, open_ = found, [], {group.atom for group in found}
    while waiting:
        ready = [g for g in waiting if g.whole is None or open_.isdisjoint(g.whole.atoms())] or waiting
        first = ready[0]
        ordered.append(first)
        open_.remove(first.atom)
        waiting = [group for group in waiting if group is not first]
    return ordered


def _units_of_tensors(analysis: Analysis) -> dict[Atom, int]:
    """What the tensors that have a width alone have it times."""
    units: dict[Atom, int] = {}
    for dim in {dim for dims in analysis.ctx.tensors.values() for dim in dims}:
        single = analysis.ctx.equations.resolve(dim).single()
        if single is not None:
            units[single[1]] = math.gcd(single[0], units.get(single[1], 0))
    return units


def _parts(analysis: Analysis, cuts: Mapping[Atom, Split], layers: Layers) -> dict[Atom, str]:
    """Where the widths are cut that no layer has, of a whole that is nothing but its parts: their places in the net."""
    count: Counter[fx.Node] = Counter()
    parts: dict[Atom, str] = {}
    for atom, split in cuts.items():
        if atom not in layers and atom in set(analysis.ctx.equations.resolve(split.whole).atoms()):
            parts[atom] = f"{caller(split.node)}.part{count[split.node]}"
            count[split.node] += 1
    return parts


def _trunk(analysis: Analysis) -> set[Atom]:
    polys = [analysis.ctx.equations.resolve(dim) for _, dim in analysis.ctx.sums]
    for _, _, block in analysis.blocks():
        polys += [p for node in (*block.inputs, block.output) if (p := analysis.channels(node)) is not None]
    return {atom for poly in polys for atom in poly.atoms() if atom.is_width}


def choose(
    found: Sequence[Group],
    width: float,
    values: Values,
    *,
    divisor: int,
    round_limit: float,
    pinned: Mapping[Atom, str],
    factors: Mapping[Atom, float],
) -> Iterator[Choice]:
    """Decide each group's width, writing it into ``values`` (which already holds the numbers of added blocks).

    ``factors`` are multipliers of single groups, instead of ``width``.
    """
    for group in found:
        factor = factors.get(group.atom, width)
        choice = _choice(group, factor, values, divisor, round_limit, pinned.get(group.atom))
        values[group.atom] = choice.value
        yield choice


def _choice(group: Group, width: float, values: Values, divisor: int, round_limit: float, pin: str | None) -> Choice:
    now, unit = group.atom.hint, group.unit
    if pin is not None:
        return Choice(group, now, unit * now, f"pinned by {pin!r}")
    if group.derived is not None and group.base is not None:
        base = group.base.at(values)
        value = max(1, round(group.derived.width(base) / unit))
        return Choice(group, value, group.derived.wanted(base), str(group.derived) + _of(unit))
    if group.whole is not None:
        whole = group.whole.at(values)
        wanted = whole * now / group.whole.hint
        most = max(1, whole - 1) if now < group.whole.hint else int(wanted)
        return Choice(group, min(max(1, int(wanted)), most), wanted, "in proportion to what it is part of")
    wanted = unit * now * width
    if width == 1:
        return Choice(group, now, wanted, "unchanged")
    step = unit * divisor // math.gcd(unit, divisor)
    step = step if step == max(unit, divisor) else unit
    rounded = round_channels(wanted, divisor=step, round_limit=round_limit) // unit
    value = max(rounded, now) if width > 1 else min(rounded, now)
    return Choice(group, value, wanted, f"to a multiple of {step}")


def _of(unit: int) -> str:
    return f", in {unit} groups" if unit > 1 else ""


def told_factors(
    analysis: Analysis, found: Sequence[Group], patterns: Sequence[tuple[str, float]]
) -> dict[Atom, float]:
    """The multipliers of single groups: (regular expression on module paths, multiplier), the last match holds.

    All layers that share a width get it. A width that follows another by a rule goes on doing so.

    Raises:
        UsageError: a pattern is no regular expression, matches no width, or only such as follow others.
    """
    factors: dict[Atom, float] = {}
    for pattern, factor in patterns:
        search = compiled(pattern, "width")
        named = [g for g in found if any(search(analysis.baseline_path(p)) for p in g.layers)]
        free = [g for g in named if g.derived is None]
        if not named:
            example = next((g.name for g in found), "none")
            raise UsageError(f"width={{{pattern!r}: ...}} matches no layer whose width can change, such as {example!r}")
        if not free:
            raise UsageError(
                f"width={{{pattern!r}: ...}} names {named[0].name!r}, which follows another width "
                f"({named[0].derived}); name that one, or free it with derive={{{pattern!r}: 'on its own'}}"
            )
        factors.update(dict.fromkeys((g.atom for g in free), factor))
    return factors


def pinned_atoms(analysis: Analysis, patterns: Sequence[str]) -> dict[Atom, str]:
    """The widths that ``pin`` keeps, each with its pattern.

    Raises:
        UsageError: a pattern is no regular expression, or matches no layer.
    """
    atoms: dict[Atom, str] = {}
    for path, pattern in pinned_layers(analysis, patterns).items():
        width = analysis.ctx.equations.resolve(analysis.ctx.producers[path])
        atoms.update(dict.fromkeys((a for a in width.atoms() if a.is_width), pattern))
    return atoms


def pinned_layers(analysis: Analysis, patterns: Sequence[str]) -> dict[str, str]:
    """Layers whose output width ``pin`` keeps: path -> pattern.

    Raises:
        UsageError: a pattern is no regular expression, or matches no layer.
    """
    pinned: dict[str, str] = {}
    for pattern in patterns:
        search, producers = compiled(pattern, "pin"), analysis.ctx.producers
        matches = [p for p in producers if search(analysis.baseline_path(p)) or search(analysis.plain_path(p))]
        if not matches:
            example = next(iter(producers))
            raise UsageError(f"pin={pattern!r} matches no convolution or linear layer; paths look like {example!r}")
        pinned.update(dict.fromkeys(matches, pattern))
    return pinned


def meeting(analysis: Analysis, path: str, pinned: Mapping[str, str]) -> tuple[fx.Node, str] | None:
    """(sum, layer) where a pinned layer is added to one with a will of its own: a gate has none, nor has a projection
    that is there because of the pin."""
    resolve = analysis.ctx.equations.resolve
    width = resolve(analysis.ctx.producers[path])
    node = next((node for node, dim in analysis.ctx.sums if resolve(dim) == width), None)
    free = (
        p for p in analysis.ctx.producers if p not in pinned and not any(q.child.holds(p) for q in analysis.projections)
    )
    other = next((p for p in free if resolve(analysis.ctx.producers[p]) == width), None)
    return None if node is None or other is None or not width.has_width else (node, other)


def check_pins(analysis: Analysis, patterns: Sequence[str]) -> None:
    """Nothing that is to be widened shares its width with a pinned layer.

    Raises:
        WidthError: something does.
    """
    pinned = pinned_layers(analysis, patterns)
    path, met = next(((p, m) for p in pinned if (m := meeting(analysis, p, pinned)) is not None), ("", None))
    if met is None:
        return
    node, other = met
    one, two = analysis.baseline_path(path), analysis.baseline_path(other)
    channels = analysis.ctx.producers[path].hint
    raise WidthError(
        f"{one!r} is pinned at {channels} channels but shares its width with {two!r}, which is to be widened: they "
        f"meet at the sum {node.name!r}, and no block between them is of a class that shows a projection; pin {two!r} "
        "as well, or pin neither"
    )
