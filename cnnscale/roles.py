"""Analysis -> the rule by which each inner width follows a trunk width.

Layers in the same place of blocks of one class play one role; :mod:`cnnscale.derivation` says which rule reproduces
all widths of a role. What the baseline cannot show, the user may tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

from .analysis import COPY, Analysis
from .derivation import Base, Derived, Member, derive, parse
from .errors import UsageError
from .patterns import compiled
from .stages import Block, class_name
from .symbolic import Atom, Poly

__all__ = ["Layers", "Rules", "found_rules", "told_rules"]

Layers: TypeAlias = Mapping[Atom, Sequence[tuple[str, int]]]
"""Width -> (path, channels per unit of the width) of each layer that has it."""
Rules: TypeAlias = dict[Atom, tuple[Derived, Poly]]
"""Width -> its rule, and the polynomial that it derives from."""
Roles: TypeAlias = dict[tuple[str, str], list[tuple[Atom, Member, dict[Base, Poly], str]]]
"""(class of the block, place in it) -> the layers there."""


def found_rules(analysis: Analysis, layers: Layers, parts: Mapping[Atom, str], trunk: set[Atom], divisor: int) -> Rules:
    """The derivation that the baseline shows, of every width that has one; ``parts`` are widths of no layer: places."""
    resolve = analysis.ctx.equations.resolve
    blocks = _block_paths(analysis)
    last = max((block.stop for _, _, block in analysis.block_calls()), default=0)
    position = {p: i for i, p in enumerate(analysis.ctx.producers)}
    rules: Rules = {}
    roles: Roles = defaultdict(list)
    order = {node.target: i for i, node in enumerate(analysis.trace.nodes) if node.op == "call_module"}
    transitions = _transitions(analysis, layers)
    for atom, own in layers.items():
        path, unit = min(own, key=lambda item: position[item[0]])
        inputs = resolve(analysis.ctx.inputs[path])
        width = unit * atom.hint
        if transitions.get(path) and atom not in set(inputs.atoms()):
            rules[atom] = Derived("own input", over=inputs.hint // width), inputs
            continue
        if atom in trunk:
            continue
        block = _enclosing(blocks, path)
        if block is not None:
            bases = _other(analysis, _bases(analysis, block, inputs), atom)
            member = Member(width, {name: poly.hint for name, poly in bases.items()})
            roles[_role(analysis, blocks, path)].append((atom, member, bases, path))
        elif (
            last
            and order.get(path, -1) >= last
            and inputs.has_width
            and atom not in set(inputs.atoms())
            and width % inputs.hint == 0
            and width > inputs.hint
        ):
            rules[atom] = Derived("own input", times=width // inputs.hint), inputs
    for atom, place in parts.items():
        block = _enclosing(blocks, place)
        if block is not None and atom not in trunk:
            bases = _other(analysis, _trunk_bases(analysis, block), atom)
            member = Member(atom.hint, {name: poly.hint for name, poly in bases.items()})
            roles[_role(analysis, blocks, place)].append((atom, member, bases, place))
    for role in _fitted(roles, divisor):
        rules.update(role)
    return rules


def told_rules(analysis: Analysis, rules: Rules, layers: Layers, pattern: str, text: str, divisor: int) -> Rules:
    """``rules``, with the one that ``text`` names for all layers that match ``pattern``.

    Raises:
        UsageError: nothing matches, or the rule does not give the width that a layer has in the baseline.
    """
    search, hypothesis, blocks = compiled(pattern, "derive"), parse(text, divisor), _block_paths(analysis)
    matches = [(a, p, unit) for a, own in layers.items() for p, unit in own if search(analysis.plain_path(p))]
    if not matches:
        raise UsageError(f"derive={{{pattern!r}: ...}} matches no layer whose width is free")
    rules = dict(rules)
    for atom, path, unit in matches:
        if hypothesis is None:
            rules.pop(atom, None)
            continue
        inputs = analysis.ctx.equations.resolve(analysis.ctx.inputs[path])
        block = _enclosing(blocks, path)
        bases = _bases(analysis, block, inputs)
        member = Member(unit * atom.hint, {name: poly.hint for name, poly in bases.items()})
        rule = hypothesis(member)
        if rule is None or atom in set(bases[rule.base].atoms()):
            why = "is in no block with one input" if rule is None else f"has the width of its {rule.base} already"
            raise UsageError(f"derive={{{pattern!r}: {text!r}}}: {path!r} {why}")
        is_copy = analysis.baseline_path(path).endswith(COPY)
        if not is_copy and rule.width(member.bases[rule.base]) != member.width:
            raise UsageError(
                f"derive={{{pattern!r}: {text!r}}} gives {rule.width(member.bases[rule.base])} channels for {path!r}, "
                f"which has {member.width} today"
            )
        rules[atom] = rule, bases[rule.base]
    return rules


def _block_paths(analysis: Analysis) -> dict[str, Block]:
    return {path: block for _, _, block in analysis.blocks() for path in block.modules}


def _transitions(analysis: Analysis, layers: Layers) -> dict[str, bool]:
    """The layers that read added blocks -> whether all of that name, in modules of that class, hand on one exact
    fraction of what they read."""
    roles: dict[tuple[type, str], dict[str, Fraction]] = defaultdict(dict)
    for atom, own in layers.items():
        for path, unit in own:
            inputs = analysis.ctx.equations.resolve(analysis.ctx.inputs[path])
            if _counts_blocks(analysis, inputs, behind=True):
                parent, _, name = path.rpartition(".")
                roles[type(analysis.trace.modules[parent]), name][path] = Fraction(inputs.hint, unit * atom.hint)
    return {
        path: len(set(parts.values())) == 1 and part.denominator == 1
        for parts in roles.values()
        for path, part in parts.items()
    }


def _counts_blocks(analysis: Analysis, poly: Poly, *, behind: bool = False) -> bool:
    """Whether ``poly`` depends on how many blocks a stage has; only ``behind`` it, or for one of its copies too."""
    joined = [s.concatenation for s in analysis.stages if s.concatenation is not None]
    counts = {c.extra for c in joined} | (set() if behind else {c.copy for c in joined})
    return any(atom in counts for atom in poly.atoms())


def _enclosing(blocks: dict[str, Block], path: str) -> Block | None:
    holder = _holder(blocks, path)
    return blocks[holder] if holder else None


def _holder(blocks: dict[str, Block], path: str) -> str:
    """The module of a block which holds ``path``."""
    while path and path not in blocks:
        path = path.rpartition(".")[0]
    return path


def _role(analysis: Analysis, blocks: dict[str, Block], path: str) -> tuple[str, str]:
    """(class of the block's module that holds ``path``, place in it)."""
    holder = _holder(blocks, path)
    return class_name(analysis.trace.modules[holder]), path[len(holder) + 1 :]


def _bases(analysis: Analysis, block: Block | None, inputs: Poly) -> dict[Base, Poly]:
    own: dict[Base, Poly] = {"own input": inputs}
    return own | (_trunk_bases(analysis, block) if block is not None else {})


def _other(analysis: Analysis, bases: dict[Base, Poly], atom: Atom) -> dict[Base, Poly]:
    """The bases from which the width ``atom`` could follow: not those that it is part of, nor those that stay, nor what
    grows from block to block, which only transitions follow."""
    return {
        name: poly
        for name, poly in bases.items()
        if poly.has_width and atom not in set(poly.atoms()) and not _counts_blocks(analysis, poly)
    }


def _trunk_bases(analysis: Analysis, block: Block) -> dict[Base, Poly]:
    entry = analysis.channels(block.inputs[-1]) if len(block.inputs) == 1 else None
    ends: dict[Base, Poly | None] = {"block input": entry, "block output": analysis.channels(block.output)}
    return {name: poly for name, poly in ends.items() if poly is not None}


def _fitted(roles: Roles, divisor: int) -> Iterator[Rules]:
    """Roles are fitted together where one hypothesis serves all: those of one place, whatever the class of the block;
    else those of one class whose places differ in numbers only; else each alone."""
    yield from _merged(roles, [_place, lambda role: (role[0], _place(role)), lambda role: role], divisor)


def _place(role: tuple[str, str]) -> str:
    return ".".join(part for part in role[1].split(".") if not part.isdigit())


def _merged(roles: Roles, keys: Sequence[Callable[[tuple[str, str]], object]], divisor: int) -> Iterator[Rules]:
    """The rules of ``roles``, merged by the first of ``keys``; those that no one hypothesis serves by the next."""
    parts: dict[object, Roles] = defaultdict(dict)
    for role, members in roles.items():
        parts[keys[0](role)][role] = members
    for part in parts.values():
        members = [member for several in part.values() for member in several]
        found = derive([m for _, m, _, _ in members], divisor)
        if found is not None:
            yield {a: (d, bases[d.base]) for (a, _, bases, _), d in zip(members, found, strict=True)}
        elif keys[1:]:
            yield from _merged(part, keys[1:], divisor)
