"""A network -> the source of a Python file that builds it, as an engineer would have written it.

Modules of one class that hold and do the same become one class of the source; what differs between them (widths,
strides) becomes its arguments.
"""

from __future__ import annotations

import graphlib
import inspect
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .blueprints import Blueprint, Blueprints, holes, numbered, read, skeleton
from .constructing import base_layer, buffer_value, class_name, constructor, literal, parameter_value
from .errors import ExportError
from .expressions import WIDTH, Argument, Arguments, Callee, Expression, Group, Literal, New, Ref, is_name, render
from .statements import Hole, Line
from .tracing import Trace

__all__ = ["classes_source"]

_NOTHING = New(Callee("nn.Identity"))


@dataclass(frozen=True)
class Member:
    """A module of a class: its blueprint, and which children of the class it does without."""

    blueprint: Blueprint
    missing: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Kind:
    """Modules that one class of the source makes."""

    key: Any
    members: tuple[Member, ...]

    @property
    def model(self) -> Blueprint:
        """The member that has all children."""
        return next(m.blueprint for m in self.members if not m.missing)


def classes_source(model: nn.Module, traces: tuple[Trace, Trace], *, nested: bool) -> tuple[str, list[str], str]:
    """(the classes' source, lines that import what they need, name of the root's class).

    Raises:
        ExportError: something of the network cannot be written as source.
    """
    blueprints = read(model, traces, nested=nested)
    writer = _Writer(model, blueprints)
    return writer.source(), sorted(blueprints.names.imports), writer.callees[""].name


class _Writer:
    def __init__(self, model: nn.Module, blueprints: Blueprints) -> None:
        self.model, self.blueprints = model, blueprints
        self.first = {id(module): path for path, module in model.named_modules()}
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.kinds = _ordered(list(_kinds(blueprints)), blueprints)
        self.callees: dict[str, Callee] = {}
        """Path -> the class that makes the module."""
        self.made: dict[str, New] = {}
        """Path -> the call that makes the module."""

    def source(self) -> str:
        names = _class_names(self.kinds)
        classes = ["\n".join(self._class(kind, names[i])) for i, kind in enumerate(self.kinds)]
        tuples = [
            f'{name} = namedtuple("{name}", [{", ".join(repr(f) for f in fields)}])'.replace("'", '"')
            for name, fields in self.blueprints.names.tuples.items()
        ]
        return "\n\n\n".join([*tuples, *classes])

    # -- expressions that make modules

    def _child(self, path: str) -> Expression:
        module = self.modules[path]
        kind = self.blueprints.kinds[path]
        if kind == "layer":
            return constructor(module)
        if kind == "class":
            return self.made[path]
        names = None if numbered(module) and kind != "nn.ModuleDict" else tuple(module._modules)
        items = (self._child(self._path(path, name)) for name in self._own_children(path))
        return Group(kind, names, tuple(items))

    def _path(self, path: str, name: str) -> str:
        return f"{path}.{name}" if path else name

    def _own_children(self, path: str) -> Iterator[str]:
        """Names of the children that are made here: one that stands elsewhere, too, is made where it comes first."""
        for name, child in self.modules[path]._modules.items():
            if child is None:
                continue
            if self.first[id(child)] != self._path(path, name):
                if self.blueprints.kinds.get(path) != "class":
                    raise ExportError(f"{self._path(path, name)} is also {self.first[id(child)]}, in a container")
                continue
            yield name

    # -- one class

    def _class(self, kind: Kind, name: str) -> list[str]:
        members, model = kind.members, kind.model
        arguments = Arguments()
        base, super_args = self._base(kind, arguments)
        children = {child: self._unified(kind, child, arguments) for child in self._own_children(model.path)}
        tensors = list(self._tensors(kind, arguments, made=base is not None))
        forward, attributes = _filled(kind, arguments, dict(super_args))
        ordered = arguments.finish(taken=("nn", "torch", "F"))
        callee = _callee(name, ordered)
        for i, member in enumerate(members):
            path = member.blueprint.path
            self.callees[path] = callee
            self.made[path] = New(callee, tuple((a.name, a.values[i]) for a in ordered))
        listed = bool(children) and numbered(model.module) and base is None
        parent = "nn.Module"
        if base is not None:
            parent = class_name(base)
        elif listed:
            parent = "nn.Sequential" if model.chained else "nn.ModuleList"
        lines = [f"class {name}({parent}):", *_signature(ordered)]
        if base is not None:
            own = New(Callee("super().__init__", *_like(super_args, base)), tuple(super_args))
            lines.append("        " + render(own, indent=8))
        elif listed:
            group = render(Group(parent, None, tuple(children.values())), indent=8, before=7)
            lines.append("        super().__init__" + group[len(parent) :])
        else:
            lines.append("        super().__init__()")
        lines += [f"        self.{a} = {render(Ref(arg), indent=8)}" for a, arg in attributes.items()]
        if not listed:
            lines += [_assigned(child, value) for child, value in children.items()]
        lines += tensors
        if not model.path:
            lines += self._ties()
        if lines[-1] == "        super().__init__()" and len(ordered) == 0:
            lines = lines[:1]  # nothing to construct
        if forward:
            result = "".join(f", {parameter}" for parameter in model.parameters)
            lines += [""] * (len(lines) > 1) + [f"    def forward(self{result}):", *_looped(forward)]
        return lines if len(lines) > 1 else [*lines, "    pass"]

    def _unified(self, kind: Kind, child: str, arguments: Arguments) -> Expression:
        values = [
            _NOTHING if child in m.missing else self._child(self._path(m.blueprint.path, child)) for m in kind.members
        ]
        return arguments.unify(values, child, child)

    def _base(self, kind: Kind, arguments: Arguments) -> tuple[type[nn.Module] | None, list[tuple[str, Expression]]]:
        """The class of torch that the modules derive from, and what its constructor is given."""
        base = base_layer(kind.model.module)
        if base is None:
            return None, []
        try:
            calls = [constructor(m.blueprint.module, base) for m in kind.members]
        except ExportError:
            return None, []
        columns = zip(*([value for _, value in call.arguments] for call in calls), strict=True)
        keys = [name for name, _ in calls[0].arguments]
        return base, [(k, arguments.unify(column, "", k)) for k, column in zip(keys, columns, strict=True)]

    def _tensors(self, kind: Kind, arguments: Arguments, *, made: bool) -> Iterator[str]:
        """Statements for parameters and buffers that no layer of torch makes."""
        module = kind.model.module
        known: set[str] = set()
        if made:
            base = base_layer(module)
            assert base is not None
            known = set(inspect.signature(base).parameters) | {"weight", "bias", "running_mean", "running_var"}
            known |= {"num_batches_tracked"}
        for name, parameter in module._parameters.items():
            if name in known:
                continue
            if parameter is None:
                yield f"        self.register_parameter({name!r}, None)"
                continue
            values = [parameter_value(m.blueprint.module._parameters[name]) for m in kind.members]
            unified = render(arguments.unify(values, name, name), indent=8, before=len(name) + 22)
            yield f"        self.{name} = nn.Parameter({unified})"
        for name, buffer in module._buffers.items():
            if name in known or buffer is None:
                continue
            persistent = name not in module._non_persistent_buffers_set
            values = [buffer_value(m.blueprint.module._buffers[name], persistent=persistent) for m in kind.members]
            unified = render(arguments.unify(values, name, name), indent=8, before=len(name) + 30)
            rest = "" if persistent else ", persistent=False"
            yield f'        self.register_buffer("{name}", {unified}{rest})'

    def _ties(self) -> Iterator[str]:
        """Statements which make modules and parameters of several names one, and frozen parameters frozen."""
        for path, module in self.modules.items():
            if self.first[id(module)] != path:
                yield self._tie(path, self.first[id(module)])
        first: dict[int, str] = {}
        for path, module in self.model.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is None:
                    continue
                full = self._path(path, name)
                if first.setdefault(id(parameter), full) != full:
                    yield self._tie(full, first[id(parameter)])
                elif not parameter.requires_grad:
                    yield f"        self{self._access(full)}.requires_grad_(False)"

    def _tie(self, path: str, first: str) -> str:
        return f"        self{self._access(path)} = self{self._access(first)}"

    def _access(self, path: str) -> str:
        return self.blueprints.names.access("", path)


# --- which modules are of one kind ------------------------------------------------------------------------------------


def _kinds(blueprints: Blueprints) -> Iterator[Kind]:
    """Modules that hold and do the same, up to constants and layers that some do without."""
    by_class: dict[type, list[Blueprint]] = defaultdict(list)
    for blueprint in blueprints.found.values():
        by_class[type(blueprint.module)].append(blueprint)
    for cls, found in by_class.items():
        groups: dict[Any, list[Member]] = {}
        for blueprint in sorted(found, key=lambda b: (-len(b.children), b.path != "", len(skeleton(b.lines)))):
            key, missing = _place(blueprint, groups, blueprints)
            groups.setdefault(key, []).append(Member(blueprint, missing))
        order = {b.path: i for i, b in enumerate(blueprints.found.values())}
        for key, members in groups.items():
            ordered = sorted(members, key=lambda m: order[m.blueprint.path])
            yield Kind((cls, key), tuple(ordered))


def _place(
    blueprint: Blueprint, groups: Mapping[Any, list[Member]], blueprints: Blueprints
) -> tuple[Any, frozenset[str]]:
    """The kind that a module belongs to, and the children it does without."""
    own = _key(blueprint)
    if own in groups or not blueprint.lines:
        return own, frozenset()
    for key, members in groups.items():
        model = members[0].blueprint
        missing = frozenset(model.children) - frozenset(blueprint.children)
        if not missing or set(blueprint.children) - set(model.children) or not model.lines or len(members) == 0:
            continue
        if key[0] != own[0] or len(model.calls) != len(blueprint.calls):
            continue
        try:
            lines = blueprints.lines_without(model, missing)
        except ExportError:
            continue
        if skeleton(lines) == skeleton(blueprint.lines) and len(holes(lines)) == len(holes(model.lines)):
            return key, missing
    return own, frozenset()


def _key(blueprint: Blueprint) -> Any:
    """What modules of one kind have in common: ((tensors, parameters), children, forward)."""
    module = blueprint.module
    buffers = [
        (name, name in module._non_persistent_buffers_set, None if b is None else b.dim())
        for name, b in module._buffers.items()
    ]
    parameters = [(name, None if p is None else p.dim()) for name, p in module._parameters.items()]
    listed = numbered(module) and bool(module._modules)
    shared = (tuple(parameters), tuple(buffers), blueprint.parameters, blueprint.chained, listed, not blueprint.path)
    return shared, blueprint.children, skeleton(blueprint.lines)


def _ordered(kinds: list[Kind], blueprints: Blueprints) -> list[Kind]:
    """Kinds after those that their members hold; one that holds itself is split by how deep its members are."""
    by_path = {m.blueprint.path: i for i, kind in enumerate(kinds) for m in kind.members}
    graph: dict[int, set[int]] = {i: set() for i in range(len(kinds))}
    for path, i in by_path.items():
        holder = path.rpartition(".")[0] if path else None
        while holder is not None and holder not in by_path:
            holder = holder.rpartition(".")[0] if holder else None
        if holder is not None and path:
            graph[by_path[holder]].add(i)
    try:
        return [kinds[i] for i in graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError as error:
        cycle = set(error.args[1])
        split = [part for i, kind in enumerate(kinds) for part in (_by_height(kind, by_path) if i in cycle else [kind])]
        if len(split) == len(kinds):
            raise ExportError("modules hold each other in a circle") from error
        return _ordered(split, blueprints)


def _by_height(kind: Kind, known: Mapping[str, int]) -> list[Kind]:
    """The kind in parts whose members hold equally many levels of modules that need a class."""
    parts: dict[int, list[Member]] = defaultdict(list)
    for member in kind.members:
        path = member.blueprint.path
        below = [p for p in known if p.startswith(f"{path}." if path else "") and p != path]
        parts[max((p[len(path) :].count(".") for p in below), default=0)].append(member)
    whole = [Kind((kind.key, height), tuple(members)) for height, members in sorted(parts.items())]
    return [
        part if any(not m.missing for m in part.members) else Kind(part.key, tuple(part.members)) for part in whole
    ]


def _class_names(kinds: Sequence[Kind]) -> list[str]:
    """A name for each class: its author's, numbered where there are several; the root's stays."""
    taken = {"OrderedDict", "namedtuple", "Tensor"}
    names: dict[int, str] = {}
    for i in sorted(range(len(kinds)), key=lambda i: (bool(kinds[i].model.path), -len(kinds[i].members))):
        own = type(kinds[i].model.module).__name__
        own = own if is_name(own) else "Network"
        number, name = 2, own
        while name in taken:
            name, number = f"{own}{number}", number + 1
        taken.add(name)
        names[i] = name
    return [names[i] for i in range(len(kinds))]


# --- lines ------------------------------------------------------------------------------------------------------------


def _filled(
    kind: Kind, arguments: Arguments, base: Mapping[str, Expression]
) -> tuple[list[Line], dict[str, Argument]]:
    """The forward with constants filled in, and the attributes that hold those which differ between modules."""
    columns = list(zip(*(holes(m.blueprint.lines) for m in kind.members), strict=True))
    attributes: dict[str, Argument] = {}
    texts: list[str] = []
    for column in columns:
        if len(set(column)) == 1:
            texts.append(column[0])
            continue
        name = _attribute(kind, column, attributes)
        value = arguments.unify([Literal(text) for text in column], name, name)
        assert isinstance(value, Ref)
        if base.get(name) != value:
            attributes[name] = value.argument
        texts.append(f"self.{name}")
    waiting = iter(texts)
    return [
        ("".join(next(waiting) if isinstance(token, Hole) else token for token in line),)
        for line in kind.model.lines
    ], attributes


def _attribute(kind: Kind, column: Sequence[str], taken: Mapping[str, Argument]) -> str:
    """A name for a value that differs between modules: that of the attribute in which they have it."""
    modules = [m.blueprint.module for m in kind.members]
    for name, value in vars(modules[0]).items():
        if is_name(name) and not name.startswith("_") and type(value) in (bool, int, float, tuple, list, str):
            have = [vars(module).get(name) for module in modules]
            if all(_is(value, text) for value, text in zip(have, column, strict=True)):
                return name
    same = [name for name, arg in taken.items() if arg.values == tuple(Literal(text) for text in column)]
    if same:
        return same[0]
    number = 1
    while (name := "size" if number == 1 else f"size{number}") in {*taken, *kind.model.children}:
        number += 1
    return name


def _is(value: Any, text: str) -> bool:
    try:
        return literal(value).text == text
    except ExportError:
        return False


def _callee(name: str, arguments: Sequence[Argument]) -> Callee:
    positional = frozenset(
        a.name for a in arguments if a.default is None and all(isinstance(v, Literal) for v in a.values)
    )
    return Callee(name, positional, tuple((a.name, a.default) for a in arguments if a.default is not None))


def _like(arguments: Sequence[tuple[str, Expression]], base: type[nn.Module]) -> tuple[frozenset[str], Any]:
    """(positional arguments, defaults) of a base class's constructor."""
    parameters = inspect.signature(base).parameters
    positional = frozenset(name for name, _ in arguments if parameters[name].default is inspect.Parameter.empty)
    defaults = []
    for name, _ in arguments:
        if name not in positional:
            defaults.append((name, literal(parameters[name].default)))
    return positional, tuple(defaults)


def _signature(arguments: Sequence[Argument]) -> list[str]:
    parts = []
    for argument in arguments:
        default = argument.default
        parts.append(argument.name if default is None else f"{argument.name}={_default_text(default)}")
    line = f"    def __init__({', '.join(['self', *parts])}):"
    if len(line) <= WIDTH:
        return [line]
    return ["    def __init__(", *(f"        {part}," for part in ["self", *parts]), "    ):"]


def _default_text(default: Expression) -> str:
    return default.text if isinstance(default, Literal) else "None"


def _assigned(child: str, value: Expression) -> str:
    if is_name(child):
        return f"        self.{child} = {render(value, indent=8, before=len(child) + 8)}"
    return f'        self.add_module("{child}", {render(value, indent=8, before=len(child) + 20)})'


_CALL = re.compile(r"^(\s*)(\w+) = self\.(.+)\[(\d+)\]\((.*)\)$")


def _looped(lines: Sequence[Line]) -> Iterator[str]:
    """The forward's lines; layers of one list, called one after the other, in a loop."""
    texts = [str(line[0]) for line in lines]
    at = 0
    while at < len(texts):
        stop = at
        match = _CALL.match(texts[at])
        while match and stop < len(texts) and texts[stop] == texts[at].replace("[0](", f"[{stop - at}]("):
            stop += 1
        if match and match[4] == "0" and stop - at > 2:
            item = "layer" if match[2] != "layer" and match[5] != "layer" else "block"
            yield f"        {match[1]}for {item} in self.{match[3]}:"
            yield f"            {match[1]}{match[2]} = {item}({match[5]})"
            at = stop
        else:
            yield f"        {texts[at]}"
            at += 1
