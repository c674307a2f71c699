"""Attributes that hold widths but that no operation of the graph reads: ``num_features``, ``in_chs``, ``feature_info``.

Names prove nothing, so what an integer counts is learnt from the baseline:

1. An integer of a module (or a list of integers) follows a *role*, a dimension of what enters or leaves the module or
   its layers, or of their tensors, if in every module of its class it has that role's size. One number alone proves
   nothing where it is small (strides, kernel sizes, heads): then it takes two modules with different numbers. Of a
   class with one module, only the layers behind the last stage count beside the module itself.
2. Where roles of that size part, the last counts, as the variables of an author's loop end with the last block. Where
   one of them is a side of a map or keeps its size, the integer stays. A note tells of either.
3. In a list of dicts that name modules, the integers under one key follow if each is the number of channels of the
   module named, or else a width near. The name of the last block of a stage becomes that of the new last one; a list
   of the places at which the modules named stand among their siblings follows.

What the graph reads is left to the graph.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from torch import fx, nn

from .analysis import Analysis
from .shapes import Sym
from .surgery import CONTAINERS, Origin, Undo, set_attribute
from .symbolic import Poly, Values
from .tracing import is_leaf

__all__ = ["Placed", "follow"]

Key: TypeAlias = tuple[Any, ...]
"""Where an integer stands in a module: attribute name, then indices and keys."""
Role: TypeAlias = tuple[Any, ...]
"""A dimension near a module: ``("conv1", "in", 0, 1)`` is dimension 1 of the first tensor that enters its conv1."""

_SMALL = 16  # numbers up to this one may be anything


@dataclass(frozen=True)
class Placed:
    """A module of the scaled net: where it comes from, where the extended baseline describes it, and its numbers."""

    path: str
    module: nn.Module
    origin: Origin
    source: str
    values: Values


class _Group(NamedTuple):
    """Integers that follow all or none: one alone, or those of a flat list or tuple."""

    keys: tuple[Key, ...]
    values: tuple[int, ...]


class _Row(NamedTuple):
    """A dict of a list of which one names a submodule: its place, itself, and the module that it names."""

    key: Key
    content: Mapping[Any, Any]
    field: Any
    """The key of the name, None where this dict names no module."""


def follow(analysis: Analysis, placed: Iterable[Placed], repeats: Iterable[int]) -> tuple[list[Undo], list[str]]:
    """Give every attribute that follows a width its new value; returns what undoes it, and notes on those in doubt."""
    placed = [place for place in placed if analysis.known(place.origin) == place.origin]
    roles = _Roles(analysis)
    followers = _followers(analysis, roles)
    renamed = _renaming(analysis, placed, repeats)
    undo: list[Undo] = []
    notes: list[str] = []
    for place in placed:
        if is_leaf(place.module):
            continue
        changes, doubts = _followed(analysis, place, followers, roles)
        changes |= _referred(analysis, place, roles, renamed)
        notes += [f"{place.path or 'the model'}: {doubt}" for doubt in doubts]
        for name in dict.fromkeys(key[0] for key in changes):
            inner = {key[1:]: new for key, new in changes.items() if key[0] == name}
            undo.append(set_attribute(place.module, name, _with(getattr(place.module, name), inner)))
    return undo, notes


# --- the integers of a module -----------------------------------------------------------------------------------------

_OWN = frozenset(vars(nn.Module()))


def _attributes(module: nn.Module) -> Iterator[tuple[Key, Any]]:
    return (((name,), value) for name, value in vars(module).items() if name not in _OWN)


def _groups(original: nn.Module, module: nn.Module) -> Iterator[_Group]:
    """The integers of ``module``, save those in tables that name submodules of ``original``."""

    def within(key: Key, value: Any) -> Iterator[_Group]:
        if type(value) is int:
            yield _Group((key,), (value,))
        elif type(value) in (list, tuple) and value and all(type(v) is int for v in value):
            yield _Group(tuple((*key, i) for i in range(len(value))), tuple(value))
        elif not _rows(original, key, value):
            for inner, item in _items(value):
                yield from within((*key, inner), item)

    return (group for key, value in _attributes(module) for group in within(key, value))


def _tables(module: nn.Module) -> Iterator[list[_Row]]:
    """The lists of dicts of ``module`` that name its submodules; also single dicts that do."""

    def within(key: Key, value: Any) -> Iterator[list[_Row]]:
        rows = _rows(module, key, value)
        if rows:
            yield rows
            return
        for inner, item in _items(value):
            yield from within((*key, inner), item)

    return (rows for key, value in _attributes(module) for rows in within(key, value))


def _rows(module: nn.Module, key: Key, value: Any) -> list[_Row]:
    dicts = [(key, value)] if type(value) is dict else [((*key, i), item) for i, item in _items(value)]
    if not all(type(content) is dict for _, content in dicts):
        return []
    rows = [_Row(place, content, next(iter(_fields(module, content)), None)) for place, content in dicts]
    return rows if any(row.field is not None for row in rows) else []


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if type(value) in (list, tuple):
        yield from enumerate(value)
    elif type(value) is dict:
        yield from value.items()


def _fields(module: nn.Module, value: Mapping[Any, Any]) -> list[Any]:
    """The keys of a dict under which the name of a submodule stands."""
    return [key for key, name in value.items() if type(name) is str and name and _holds(module, name)]


def _holds(module: nn.Module | None, path: str) -> bool:
    for name in path.split("."):
        module = module._modules.get(name) if module is not None else None
    return module is not None


def _with(value: Any, changes: Mapping[Key, Any]) -> Any:
    """Nested plain containers with the values at some keys replaced."""
    if () in changes:
        return changes[()]
    inner: dict[Any, dict[Key, Any]] = defaultdict(dict)
    for key, new in changes.items():
        inner[key[0]][key[1:]] = new
    items = {key: _with(item, inner[key]) if key in inner else item for key, item in _items(value)}
    return items if type(value) is dict else type(value)(items.values())


# --- roles ------------------------------------------------------------------------------------------------------------


class _Roles:
    """The dimensions around each module of the extended baseline."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self._known: dict[str, dict[Role, Poly]] = {}

    def __getitem__(self, path: str) -> dict[Role, Poly]:
        if path not in self._known:
            self._known[path] = dict(self._of(path))
        return self._known[path]

    def last(self, path: str) -> dict[Role, Poly]:
        """Those of the module itself and of what it calls behind the last stage: an author's variables end there."""
        early = {name for name, _ in _layers(self.analysis.trace.module.get_submodule(path))}
        early -= {name for name in early if f"{path}.{name}".lstrip(".") in self._late}
        return {role: poly for role, poly in self[path].items() if role[0] not in early}

    @cached_property
    def _late(self) -> set[str]:
        """Modules that are called when the last stage ends, or behind it."""
        nodes, calls = self.analysis.trace.nodes, self.analysis.trace.calls
        end = max((block.stop for _, _, block in self.analysis.block_calls()), default=0)
        leaves = {str(node.target) for node in nodes[end:] if node.op == "call_module"}
        return leaves | {call.path for call in calls if call.stop >= end}

    def channels(self, path: str) -> list[Poly]:
        """The channels of what the last call of a module returns."""
        calls = self._calls.get(path)
        polys = map(self.analysis.channels, calls[-1][1] if calls else ())
        return [poly for poly in polys if poly is not None]

    def _of(self, path: str) -> Iterator[tuple[Role, Poly]]:
        """In the order of construction; what the module returns comes last."""
        module = self.analysis.trace.module.get_submodule(path)
        own = list(self._around((), path, module))
        yield from (item for item in own if item[0][0] != "out")
        for name, child in _layers(module):
            yield from self._around((name,), f"{path}.{name}".lstrip("."), child)
        yield from (item for item in own if item[0][0] == "out")

    def _around(self, role: Role, path: str, module: nn.Module) -> Iterator[tuple[Role, Poly]]:
        ctx = self.analysis.ctx
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            dims = ctx.tensors.get(ctx.shared.get(id(tensor), ""), ())
            yield from (((*role, name, d), ctx.equations.resolve(p)) for d, p in enumerate(dims))
        for number, call in enumerate(self._calls.get(path, ())):
            for way, nodes in zip(("in", "out"), call, strict=True):
                for i, node in enumerate(nodes):
                    value = self.analysis.values.get(node)
                    dims = value.shape[1:] if isinstance(value, Sym) else ()
                    yield from (((*role, way, number, i, d), ctx.equations.resolve(p)) for d, p in enumerate(dims))

    @cached_property
    def _calls(self) -> dict[str, list[tuple[list[fx.Node], list[fx.Node]]]]:
        """(inputs, outputs) of each call of each module."""
        trace = self.analysis.trace
        calls: dict[str, list[tuple[list[fx.Node], list[fx.Node]]]] = defaultdict(list)
        for node in trace.nodes:
            if node.op == "call_module":
                calls[str(node.target)].append((node.all_input_nodes, [node]))
        for call in trace.calls:
            nodes = trace.nodes[call.start : call.stop]
            inside = set(nodes)
            entering = dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n not in inside)
            calls[call.path].append((list(entering), _collected(call.output, fx.Node)))
        return calls


def _layers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The direct children of a module; containers and what they hold count as its own."""
    for name, child in module.named_children():
        yield prefix + name, child
        if type(child) in CONTAINERS:
            yield from _layers(child, f"{prefix}{name}.")


def _collected(value: Any, cls: type) -> list[Any]:
    """All instances of ``cls`` in nested arguments."""
    found: list[Any] = []

    def collect(item: Any) -> Any:
        if isinstance(item, cls):
            found.append(item)
        return item

    fx.node.map_aggregate(value, collect)
    return found


# --- rules 1 and 2 ----------------------------------------------------------------------------------------------------

_Followers: TypeAlias = dict[tuple[type[nn.Module], tuple[Key, ...]], list[set[Role]]]
"""(class, places of a group) -> for each of its integers, the roles that it follows."""


def _followers(analysis: Analysis, roles: _Roles) -> _Followers:
    read = {place[:2] for place in analysis.ctx.read}
    extended = {origin: path for path, origin in analysis.origins.items()}
    seen: dict[tuple[type[nn.Module], tuple[Key, ...]], list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
    for path, module in analysis.baseline.named_modules():
        if not is_leaf(module):
            for keys, values in _groups(module, module):
                seen[type(module), keys].append((extended.get(Origin(path, 0), path), values))
    found: _Followers = {}
    for (cls, keys), members in seen.items():
        telling = max(max(values) for _, values in members) > _SMALL or len({values for _, values in members}) > 1
        if not telling or any((path, keys[0][0]) in read for path, _ in members):
            continue
        near = [(roles[path] if len(members) > 1 else roles.last(path), values) for path, values in members]
        common = [_common([(known, values[i]) for known, values in near]) for i in range(len(keys))]
        if all(common):
            found[cls, keys] = common
    return found


def _common(members: list[tuple[dict[Role, Poly], int]]) -> set[Role]:
    """The roles that have the member's number in every member that has them; none if a member is left without."""
    wrong = {role for roles, number in members for role, poly in roles.items() if poly.hint != number}
    right = [set(roles) - wrong for roles, _ in members]
    return set().union(*right) if all(right) else set()


def _followed(
    analysis: Analysis, place: Placed, followers: _Followers, roles: _Roles
) -> tuple[dict[Key, Any], list[str]]:
    """(new values by place, notes on those in doubt)."""
    changes: dict[Key, Any] = {}
    notes = []
    for keys, values in _groups(analysis.baseline.get_submodule(place.origin.path), place.module):
        followed = followers.get((type(place.module), keys), [])
        for key, number, own in zip(keys, values, followed, strict=False):
            sizes = [_size(p, place.values) for role, p in roles[place.source].items() if role in own]
            new = number if number in sizes else (sizes or [number])[-1]
            if new != number:
                changes[key] = new
            if len(set(sizes)) > 1:
                notes.append(f"{_shown(key)} = {number} becomes {new}; what had its size is now {sorted(set(sizes))}")
    return changes, notes


def _size(poly: Poly, values: Values) -> int:
    """The new size of a width. Sides of maps are none: they count as they are, so that what equals one stays."""
    return poly.at(values) if poly.has_width else poly.hint


def _shown(key: Key) -> str:
    return f"attribute {key[0]}" + "".join(f"[{part!r}]" for part in key[1:])


# --- rule 3 -----------------------------------------------------------------------------------------------------------

_Renaming: TypeAlias = Callable[[str], str | None]
"""Module path in the baseline -> in the scaled net; None where it is gone."""


def _renaming(analysis: Analysis, placed: Iterable[Placed], repeats: Iterable[int]) -> _Renaming:
    paths = {place.origin: place.path for place in placed}
    last: dict[str, Origin] = {}
    for stage, count in zip(analysis.stages, repeats, strict=True):
        origins = [[analysis.origins.get(m, Origin(m, 0)) for m in block.modules] for block in stage.blocks]
        own = [modules for modules in origins if not modules[0].copy]
        for before, after in zip(own[-1], own[min(count, len(own)) - 1], strict=False):
            last[before.path] = Origin(after.path, max(0, count - len(own)))

    def renamed(path: str) -> str | None:
        block = next((b for b in last if path == b or path.startswith(f"{b}.")), None)
        moved = Origin(last[block].path + path[len(block) :], last[block].copy) if block is not None else None
        return paths.get(moved or Origin(path, 0), paths.get(Origin(path, 0)))

    return renamed


def _referred(analysis: Analysis, place: Placed, roles: _Roles, renamed: _Renaming) -> dict[Key, Any]:
    """What changes in the tables that name modules, and in lists of their places: new values by place."""
    original = analysis.baseline.get_submodule(place.origin.path)
    extended = {origin: path for path, origin in analysis.origins.items()}
    near = [poly for poly in roles[place.source].values() if poly.has_width]
    prefix = f"{place.path}.".lstrip(".")
    changes: dict[Key, Any] = {}
    for rows in _tables(original):
        channels: list[list[Poly]] = [[] for _ in rows]
        names: dict[str, str] = {}
        for row, polys in zip(rows, channels, strict=True):
            if row.field is not None:
                before = row.content[row.field]
                named = f"{place.origin.path}.{before}".lstrip(".")
                now = renamed(named) or ""
                names[before] = now.removeprefix(prefix) if now.startswith(prefix) else before
                changes |= {(*row.key, row.field): names[before]}
                polys.extend(roles.channels(extended.get(Origin(named, 0), named)))
        name, counted = _counting(rows, channels, near)
        changes |= {(*row.key, name): poly.at(place.values) for row, poly in zip(rows, counted, strict=False)}
        changes |= _renumbered(original, place.module, names)
    return changes


def _renumbered(original: nn.Module, module: nn.Module, names: Mapping[str, str]) -> dict[Key, Any]:
    """New values of the lists that hold the places of the modules named (and perhaps -1), by old name and new name."""
    changes: dict[Key, Any] = {}
    for depth in range(max((name.count(".") for name in names), default=-1) + 1):
        before, after = _numbers(original, names, depth), _numbers(module, names.values(), depth)
        for keys, values in _groups(original, module):
            held = [key for key, value in zip(keys, values, strict=True) if value >= 0]
            if len(set(before)) > 1 and [v for v in values if v >= 0] == before and len(after) == len(before):
                changes |= dict(zip(held, after, strict=True))
    return changes


def _numbers(module: nn.Module, names: Iterable[str], depth: int) -> list[int]:
    """The place among its siblings of each name's part at ``depth``, where it has one."""
    parts = (name.split(".") for name in names if name.count(".") >= depth and _holds(module, name))
    return [list(module.get_submodule(".".join(p[:depth]))._modules).index(p[depth]) for p in parts]


def _counting(rows: list[_Row], channels: list[list[Poly]], near: list[Poly]) -> tuple[Any, list[Poly]]:
    """The key under which each row counts channels, and these; none where there is no such key.

    Of several, that which is the most often the number of channels of the module named.
    """
    best: tuple[int, Any, list[Poly]] = -1, None, []
    names = set.intersection(*({k for k, v in row.content.items() if type(v) is int} for row in rows))
    for name in sorted(names, key=str):
        numbers = [row.content[name] for row in rows]
        own = [[p for p in polys if p.hint == number] for polys, number in zip(channels, numbers, strict=True)]
        found = [o or [p for p in near if p.hint == n] for o, n in zip(own, numbers, strict=True)]
        hits = sum(map(bool, own))
        if max(numbers) > _SMALL and all(found) and hits > best[0]:
            best = hits, name, [polys[-1] for polys in found]
    return best[1:]
