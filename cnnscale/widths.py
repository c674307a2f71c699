"""Width groups: which channels have one width, and which number each group gets.

1. Trunk widths, those of block inputs, block outputs and residual sums, are multiplied and rounded.
2. A width inside a block follows its trunk by the rule that reproduces the baseline (:mod:`cnnscale.derivation`).
3. What an exact fraction of a concatenation reads (a transition) stays that fraction: depth changes it too.
4. All other widths are multiplied and rounded on their own; at multiplier 1 nothing is rounded.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .analysis import COPY, Analysis
from .derivation import Base, Derived, Member, derive
from .errors import UsageError, WidthError
from .rounding import round_channels
from .stages import Block
from .symbolic import Atom, Poly, Values

__all__ = ["Choice", "Group", "choose", "compiled", "groups", "pinned_atoms"]


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
    """For a literal that cuts channels: what it cuts."""

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


def groups(analysis: Analysis, divisor: int) -> list[Group]:
    """The free widths, in the order in which :func:`choose` decides them: trunk first, then by position in the net."""
    resolve = analysis.ctx.equations.resolve
    producers = {path: resolve(poly) for path, poly in analysis.ctx.producers.items()}
    scalable = {a for poly in producers.values() for a in poly.atoms() if a.is_width}
    cuts = {a: resolve(s.whole) for s in analysis.ctx.splits for a in resolve(s.part).atoms() if a.is_width}
    scalable |= set(cuts)
    layers: dict[Atom, list[tuple[str, int]]] = defaultdict(list)
    for path, poly in producers.items():
        single = poly.single()
        if single is not None:
            layers[single[1]].append((path, single[0]))
    trunk = _trunk(analysis)
    rules = _rules(analysis, producers, layers, trunk, divisor)
    found = []
    for atom in sorted(scalable, key=lambda a: (a not in trunk or a in rules, a.index)):
        own = layers.get(atom, [])
        name = analysis.baseline_path(own[0][0]) if own else atom.name
        derived, base = rules.get(atom, (None, None))
        unit = math.gcd(*(unit for _, unit in own)) if own else 1
        whole = cuts.get(atom) if not own else None
        found.append(Group(atom, name, tuple(path for path, _ in own), unit, derived, base, whole))
    return found


def _trunk(analysis: Analysis) -> set[Atom]:
    polys = [analysis.ctx.equations.resolve(dim) for _, dim in analysis.ctx.sums]
    for _, _, block in analysis.blocks():
        polys += [p for node in (*block.inputs, block.output) if (p := analysis.channels(node)) is not None]
    return {atom for poly in polys for atom in poly.atoms() if atom.is_width}


Rules = dict[Atom, tuple[Derived, Poly]]


def _rules(
    analysis: Analysis,
    producers: dict[str, Poly],
    layers: dict[Atom, list[tuple[str, int]]],
    trunk: set[Atom],
    divisor: int,
) -> Rules:
    """The derivation of every width that has one, and the polynomial that it derives from."""
    resolve = analysis.ctx.equations.resolve
    blocks = {path: block for _, _, block in analysis.blocks() for path in block.modules}
    last = max((block.stop for _, _, block in analysis.blocks()), default=0)
    position = {p: i for i, p in enumerate(producers)}
    rules: Rules = {}
    roles: dict[tuple[str, str], list[tuple[Atom, Member, dict[Base, Poly], str]]] = defaultdict(list)
    order = {node.target: i for i, node in enumerate(analysis.trace.nodes) if node.op == "call_module"}
    for atom, own in layers.items():
        path, unit = min(own, key=lambda item: position[item[0]])
        inputs = resolve(analysis.ctx.inputs[path])
        width = unit * atom.hint
        if _counts_blocks(analysis, inputs) and inputs.hint % width == 0 and atom not in set(inputs.atoms()):
            rules[atom] = Derived("own input", over=inputs.hint // width), inputs
            continue
        if atom in trunk:
            continue
        block = _enclosing(blocks, path)
        if block is not None:
            bases = {n: p for n, p in _bases(analysis, block, inputs).items() if atom not in set(p.atoms())}
            member = Member(width, {name: poly.hint for name, poly in bases.items()})
            roles[block.cls, path[len(block.path) + 1 :]].append((atom, member, bases, path))
        elif (
            last
            and order.get(path, -1) >= last
            and inputs.has_width
            and atom not in set(inputs.atoms())
            and width % inputs.hint == 0
            and width > inputs.hint
        ):
            rules[atom] = Derived("own input", times=width // inputs.hint), inputs
    for role in _fitted(roles, divisor):
        rules.update(role)
    return rules


def _counts_blocks(analysis: Analysis, poly: Poly) -> bool:
    extras = {s.concatenation.extra for s in analysis.stages if s.concatenation is not None}
    return any(atom in extras for atom in poly.atoms())


def _enclosing(blocks: dict[str, Block], path: str) -> Block | None:
    while path:
        if path in blocks:
            return blocks[path]
        path = path.rpartition(".")[0]
    return None


def _bases(analysis: Analysis, block: Block, inputs: Poly) -> dict[Base, Poly]:
    entry = analysis.channels(block.inputs[-1]) if len(block.inputs) == 1 else None
    output = analysis.channels(block.output)
    bases: dict[Base, Poly] = {"own input": inputs}
    if entry is not None:
        bases["block input"] = entry
    if output is not None:
        bases["block output"] = output
    return bases


Roles = dict[tuple[str, str], list[tuple[Atom, Member, dict[Base, Poly], str]]]


def _fitted(roles: Roles, divisor: int) -> Iterator[Rules]:
    """Roles of one class whose places differ in numbers only are fitted together where one hypothesis serves all."""
    merged: Roles = defaultdict(list)
    for (cls, place), members in roles.items():
        merged[cls, ".".join(part for part in place.split(".") if not part.isdigit())] += members
    for (cls, place), members in merged.items():
        together = derive([m for _, m, _, _ in members], divisor)
        if together is not None:
            yield {a: (d, bases[d.base]) for (a, _, bases, _), d in zip(members, together, strict=True)}
            continue
        for (other, exact), few in roles.items():
            if other == cls and ".".join(p for p in exact.split(".") if not p.isdigit()) == place:
                alone = derive([m for _, m, _, _ in few], divisor)
                if alone is not None:
                    yield {a: (d, bases[d.base]) for (a, _, bases, _), d in zip(few, alone, strict=True)}


def choose(
    found: Sequence[Group], width: float, values: Values, *, divisor: int, round_limit: float, pinned: dict[Atom, str]
) -> Iterator[Choice]:
    """Decide each group's width, writing it into ``values`` (which already holds the numbers of added blocks)."""
    for group in found:
        choice = _choice(group, width, values, divisor, round_limit, pinned.get(group.atom))
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
        return Choice(group, min(max(1, int(wanted)), max(1, whole - 1)), wanted, "in proportion to what it cuts")
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


def pinned_atoms(analysis: Analysis, patterns: Sequence[str]) -> dict[Atom, str]:
    """The widths that ``pin`` keeps, each with its pattern.

    Raises:
        UsageError: a pattern is no regular expression, or matches no layer.
        WidthError: a pinned layer shares its width with one that is not pinned.
    """
    resolve = analysis.ctx.equations.resolve
    producers = {path: resolve(poly) for path, poly in analysis.ctx.producers.items()}
    pinned: dict[str, str] = {}
    for pattern in patterns:
        search = compiled(pattern, "pin")
        matches = [p for p in producers if search(analysis.baseline_path(p)) or search(_plain(analysis, p))]
        if not matches:
            example = next(iter(producers))
            raise UsageError(f"pin={pattern!r} matches no convolution or linear layer; paths look like {example!r}")
        pinned.update(dict.fromkeys(matches, pattern))
    atoms: dict[Atom, str] = {}
    for path, pattern in pinned.items():
        for other, poly in producers.items():
            if other not in pinned and poly.has_width and poly == producers[path]:
                raise WidthError(_clash(analysis, path, other, poly))
        atoms.update(dict.fromkeys((a for a in producers[path].atoms() if a.is_width), pattern))
    return atoms


def _plain(analysis: Analysis, path: str) -> str:
    return analysis.baseline_path(path).removesuffix(COPY)


def _clash(analysis: Analysis, pinned: str, other: str, poly: Poly) -> str:
    node = next((n for n, d in analysis.ctx.sums if analysis.ctx.equations.resolve(d) == poly), None)
    where = f" at the sum {node.name!r}" if node is not None else ""
    one, two = analysis.baseline_path(pinned), analysis.baseline_path(other)
    return (
        f"{one!r} is pinned at {poly.hint} channels but shares its width with {two!r}, which is to be widened: they "
        f"meet{where} and no projection lies between them; pin {two!r} as well, or pin neither"
    )


def compiled(pattern: str, option: str) -> Callable[[str], object]:
    """``re.search`` for a pattern given by the user."""
    try:
        return re.compile(pattern).search
    except re.error as error:
        raise UsageError(f"{option}={pattern!r} is not a regular expression: {error}") from error
