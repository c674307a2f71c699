"""The operations of one forward -> lines of Python.

Each operation is a statement ``out = f(x)``; sizes and tensors of modules stand where they are used. A result takes over
the variable of an input that is not needed afterwards, as people write it.
"""

from __future__ import annotations

import builtins
import inspect
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import fx

from .constructing import literal, written
from .errors import ExportError
from .expressions import is_name
from .regions import Region, nodes_in

__all__ = ["Hole", "Line", "Names", "body"]

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and_": "&", "or_": "|", "xor": "^",
    "lshift": "<<", "rshift": ">>",
}  # fmt: skip
_IN_PLACE = {f"i{name}": sign for name, sign in _INFIX.items()}
_PREFIX = {"neg": "-", "pos": "+", "invert": "~", "not_": "not "}
_RESERVED = ("self", "torch", "nn", "F", "Tensor", "math", "operator", *dir(builtins))


@dataclass(frozen=True)
class Hole:
    """A constant in a line, which may differ between modules of one class."""

    text: str


Line: TypeAlias = "tuple[str | Hole, ...]"


@dataclass
class Names:
    """How what lies outside of a forward is written in it."""

    access: Callable[[str, str], str]
    """(path of the module, path below it) -> the text that follows ``self``."""
    constants: Mapping[str, torch.Tensor]
    """Tensors of the graph that the model does not have, by their path."""
    imports: set[str] = field(default_factory=set)
    """Lines to import what is called."""
    tuples: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Named tuples to define, and their fields."""


def body(region: Region, parameters: Sequence[str], names: Names, without: frozenset[str] = frozenset()) -> list[Line]:
    """The statements of a forward, ``return`` included.

    Args:
        region: the call.
        parameters: a name for each of its inputs.
        names: how layers, tensors and functions are called.
        without: paths of modules that are taken to hand on what they get.

    Raises:
        ExportError: something in the graph cannot be written down.
    """
    return _Body(region, parameters, names, without).lines()


@dataclass
class _Value:
    """A variable's value: made by a statement, or a parameter (``made`` -1)."""

    made: int
    last: int = -1
    is_tensor: bool = True
    name: str = ""
    after: _Value | None = None
    """The value whose variable it takes over."""
    followed: bool = False
    wanted: str = ""


class _Body:
    def __init__(self, region: Region, parameters: Sequence[str], names: Names, without: frozenset[str]) -> None:
        self.region, self.names = region, names
        self.prefix = f"{region.path}." if region.path else ""
        self.where: dict[fx.Node, tuple[_Value, str]] = {}
        """Node -> the value that it is, or is a part of, and the text that follows the variable."""
        self.same: dict[fx.Node, fx.Node] = {}
        self.parameters = [_Value(-1, name=name) for name in parameters]
        self.lists = {g: v for g, v in zip(region.inputs, self.parameters, strict=True) if isinstance(g, tuple)}
        for value, given in zip(self.parameters, region.inputs, strict=True):
            self._bind(given, value)
        self.items = list(self._kept(without))
        self.uses: dict[fx.Node, int] = {}
        for node in (*(n for item in self.items for n in self._reads(item)), *map(self._real, nodes_in(region.output))):
            self.uses[node] = self.uses.get(node, 0) + 1

    # -- which items are statements

    def _kept(self, without: frozenset[str]) -> Iterator[fx.Node | Region]:
        for item in self.region.items:
            path = item.path if isinstance(item, Region) else str(item.target) if item.op == "call_module" else None
            if path not in without or path is None:
                yield item
                continue
            given, result = (item.inputs, item.output) if isinstance(item, Region) else (item.args, item)
            if len(given) != 1 or not isinstance(given[0], fx.Node) or not isinstance(result, fx.Node):
                raise ExportError(f"{path} does not take and give one tensor")
            if result is not given[0]:
                self.same[result] = given[0]

    def _real(self, node: fx.Node) -> fx.Node:
        return self._real(self.same[node]) if node in self.same else node

    def _reads(self, item: fx.Node | Region) -> Iterator[fx.Node]:
        return map(self._real, nodes_in(item.inputs if isinstance(item, Region) else (item.args, item.kwargs)))

    def _inlined(self, node: fx.Node) -> bool:
        """Whether the operation is written where its result is used."""
        value = node.meta.get("val")
        if node.op == "get_attr":
            return True
        if node.op not in ("call_function", "call_method"):
            return False
        if isinstance(value, torch.Tensor):
            source = node.args[0] if node.args else None
            parts = isinstance(source, fx.Node) and not isinstance(source.meta.get("val"), torch.Tensor)
            return node.target is operator.getitem and parts
        if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size) and any(map(torch.is_tensor, value)):
            return False
        simple = node.target in (getattr, operator.getitem) or isinstance(value, torch.Size)
        return simple or self.uses.get(node, 0) <= 1

    def _dropped(self, node: fx.Node) -> bool:
        """Whether the operation has no effect: unused, and of no tensor; nor is an assertion about sizes one."""
        value = node.meta.get("val")
        if node.target is torch._assert:
            return True
        return not self.uses.get(node) and node.op != "call_module" and not isinstance(value, torch.Tensor) and value is not None

    # -- lines

    def lines(self) -> list[Line]:
        while True:  # what only dropped operations use is dropped as well
            dropped = [i for i in self.items if isinstance(i, fx.Node) and self._dropped(i)]
            if not dropped:
                break
            for item in dropped:
                self.items.remove(item)
                for node in self._reads(item):
                    self.uses[node] -= 1
        statements = self._statements()
        self._take_over(statements)
        self._name(statements)
        lines = [self._line(i, *statement) for i, statement in enumerate(statements)]
        return _returned(lines)

    def _statements(self) -> list[tuple[Any, list[_Value], _Value | None, list[Any]]]:
        """(item, values that it reads, value that it makes, its tokens as far as names are known)."""
        made: list[tuple[Any, list[_Value], _Value | None, list[Any]]] = []
        for item in self.items:
            if isinstance(item, fx.Node) and self._inlined(item):
                self.same.pop(item, None)
                continue
            tokens = self._expression(item)
            reads = [token for token in tokens if isinstance(token, _Value)]
            value = self._made(item, len(made), tokens)
            made.append((item, reads, value, tokens))
        tokens = self._argument(self.region.output)
        made.append((None, [token for token in tokens if isinstance(token, _Value)], None, tokens))
        for i, (_, reads, _, _) in enumerate(made):
            for value in reads:
                value.last = i
        return made

    def _made(self, item: fx.Node | Region, at: int, tokens: list[Any]) -> _Value | None:
        output = item.output if isinstance(item, Region) else item
        if isinstance(item, fx.Node) and _augmented(item) and isinstance(tokens[0], _Value) and tokens[1][0] == " ":
            self.where[item] = (tokens[0], "")  # the same tensor, in the same variable
            return tokens[0]
        if not any(True for _ in nodes_in(output)) or (isinstance(item, fx.Node) and not self.uses.get(item)):
            return None
        is_tensor = isinstance(output, fx.Node) and isinstance(output.meta.get("val"), torch.Tensor)
        path = item.path if isinstance(item, Region) else str(item.target) if item.op == "call_module" else ""
        value = _Value(at, is_tensor=is_tensor, wanted=path.rpartition(".")[2])
        if not is_tensor and not isinstance(item, Region):
            value.wanted = "parts" if isinstance(item.meta.get("val"), (tuple, list)) else "size"
        self._bind(output, value)
        return value

    def _bind(self, output: Any, value: _Value, suffix: str = "") -> None:
        if isinstance(output, fx.Node):
            self.where[output] = (value, suffix)
        elif isinstance(output, (tuple, list)):
            for i, part in enumerate(output):
                self._bind(part, value, f"{suffix}[{i}]")
        elif isinstance(output, dict):
            for key, part in output.items():
                self._bind(part, value, f"{suffix}[{key!r}]")

    def _take_over(self, statements: Sequence[tuple[Any, list[_Value], _Value | None, list[Any]]]) -> None:
        for i, (_, reads, value, _) in enumerate(statements):
            if value is None or value.made != i or not value.is_tensor:
                continue
            free = [r for r in reads if r.last == i and r.is_tensor and not r.followed]
            if free:
                value.after, free[0].followed = free[0], True

    def _name(self, statements: Sequence[tuple[Any, list[_Value], _Value | None, list[Any]]]) -> None:
        """The lowest free name for each variable; a layer's own for what is made once and not taken over."""
        values = [v for i, (_, _, v, _) in enumerate(statements) if v is not None and v.made == i]
        ends: dict[int, int] = {}
        heads: dict[int, _Value] = {}
        for value in (*self.parameters, *values):
            heads[id(value)] = heads[id(value.after)] if value.after is not None else value
            head = id(heads[id(value)])
            ends[head] = max(ends.get(head, -1), value.last)
        busy: list[tuple[int, str]] = [(ends[id(p)], p.name) for p in self.parameters]
        for value in values:
            if value.after is not None:
                value.name = value.after.name
                continue
            taken = {name for end, name in busy if end > value.made}
            alone = not value.followed
            wanted = value.wanted if alone and is_name(value.wanted) and value.wanted not in _RESERVED else "out"
            value.name = next(n for n in _numbered(wanted) if n not in taken)
            busy.append((ends[id(value)], value.name))

    def _line(self, at: int, item: Any, reads: list[_Value], value: _Value | None, tokens: list[Any]) -> Line:
        if item is None:
            opening: tuple[str, ...] = ("return ",)
        elif value is None or value.made != at:
            opening = ()
        else:
            opening = (f"{value.name} = ",)
        return _merged((*opening, *(t.name if isinstance(t, _Value) else t for t in tokens)))

    # -- expressions: lists of text, holes and values

    def _expression(self, item: fx.Node | Region) -> list[Any]:
        if isinstance(item, Region):
            return [self._member(item.path), *self._call(list(item.inputs), {})]
        args, kwargs = list(item.args), dict(item.kwargs)
        if item.op == "call_module":
            return [self._member(str(item.target)), *self._call(args, kwargs)]
        if item.op == "get_attr":
            path = str(item.target)
            if path in self.names.constants:
                return [_written(self.names.constants[path])]
            return [self._member(path)]
        if item.op == "call_method":
            return [*self._argument(args[0], tight=True), f".{item.target}", *self._call(args[1:], kwargs)]
        return self._function(item, args, kwargs)

    def _function(self, item: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        target: Any = item.target
        name = getattr(target, "__name__", "")
        if target is getattr and isinstance(args[1], str):
            return [*self._argument(args[0], tight=True), f".{args[1]}"]
        if target is operator.getitem:
            return [*self._argument(args[0], tight=True), "[", *self._index(args[1]), "]"]
        if target is operator.setitem:
            return [*self._argument(args[0], tight=True), "[", *self._index(args[1]), "] = ", *self._argument(args[2])]
        if getattr(operator, name, None) is target and not kwargs:
            if _augmented(item):
                left = self._argument(args[0])
                if len(left) == 1:
                    return [*left, f" {_IN_PLACE[name]}= ", *self._argument(args[1])]
            elif name in _INFIX and len(args) == 2:
                sign = f" {_INFIX[name]} "
                return [*self._argument(args[0], tight=True), sign, *self._argument(args[1], tight=True)]
            elif name in _PREFIX:
                return [_PREFIX[name], *self._argument(args[0], tight=True)]
        return [_function_name(target, self.names), *self._call(args, kwargs)]

    def _call(self, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        parts = [self._argument(arg) for arg in args]
        parts += [[f"{key}=", *self._argument(arg)] for key, arg in kwargs.items()]
        return ["(", *_joined(parts), ")"]

    def _index(self, index: Any) -> list[Any]:
        if isinstance(index, tuple) and index and any(isinstance(i, slice) or i is Ellipsis for i in index):
            return _joined([self._index(i) for i in index])
        if index is Ellipsis:
            return ["..."]
        if isinstance(index, slice):
            ends = [[] if end is None else self._argument(end) for end in (index.start, index.stop)]
            step = [] if index.step is None else [":", *self._argument(index.step)]
            return [*ends[0], ":", *ends[1], *step]
        return self._argument(index)

    def _argument(self, value: Any, *, tight: bool = False) -> list[Any]:
        """A value as tokens; ``tight`` puts an operation in brackets."""
        if isinstance(value, fx.Node):
            return self._node(self._real(value), tight=tight)
        if isinstance(value, (tuple, list)) and type(value) not in (torch.Size,) and any(True for _ in nodes_in(value)):
            return self._sequence(value)
        if isinstance(value, dict) and any(True for _ in nodes_in(value)):
            return ["{", *_joined([[f"{key!r}: ", *self._argument(v)] for key, v in value.items()]), "}"]
        if isinstance(value, slice):
            return ["slice", *self._call([value.start, value.stop, value.step], {})]
        if value is Ellipsis:
            return ["..."]
        return [Hole(literal(value).text)]

    def _sequence(self, value: tuple[Any, ...] | list[Any]) -> list[Any]:
        if tuple(value) in self.lists:
            return [self.lists[tuple(value)]]
        parts = _joined([self._argument(v) for v in value])
        fields = getattr(value, "_fields", None)
        if fields is not None:
            self.names.tuples[type(value).__name__] = fields
            return [type(value).__name__, "(", *parts, ")"]
        if isinstance(value, list):
            return ["[", *parts, "]"]
        return ["(", *parts, ",)" if len(value) == 1 else ")"]

    def _node(self, node: fx.Node, *, tight: bool) -> list[Any]:
        if node in self.where:
            value, suffix = self.where[node]
            return [value, suffix] if suffix else [value]
        if not self._inlined(node):
            raise ExportError(f"{node.name!r} is used where it was not computed")
        tokens = self._expression(node)
        operation = any(isinstance(t, str) and t.startswith(" ") and t.endswith(" ") for t in tokens)
        return ["(", *tokens, ")"] if tight and operation else tokens

    def _member(self, path: str) -> str:
        if not path.startswith(self.prefix):
            raise ExportError(f"{path} is used by {self.region.path}, which does not hold it")
        return f"self{self.names.access(self.region.path, path)}"


def _augmented(node: fx.Node) -> bool:
    """Whether the operation is an augmented assignment (``x += y``) of a tensor."""
    name = getattr(node.target, "__name__", "")
    known = node.op == "call_function" and name in _IN_PLACE and getattr(operator, name, None) is node.target
    return known and isinstance(node.meta.get("val"), torch.Tensor)


def _written(tensor: torch.Tensor) -> str:
    from .expressions import render

    return render(written(tensor)).replace("\n", " ")


def _joined(parts: Sequence[list[Any]]) -> list[Any]:
    tokens: list[Any] = []
    for i, part in enumerate(parts):
        tokens += [", ", *part] if i else part
    return tokens


def _merged(tokens: Sequence[str | Hole]) -> Line:
    """Neighbouring texts as one, so that lines can be compared."""
    line: list[str | Hole] = []
    for token in tokens:
        if line and isinstance(token, str) and isinstance(line[-1], str):
            line[-1] += token
        else:
            line.append(token)
    return tuple(line)


def _returned(lines: list[Line]) -> list[Line]:
    """``x = f(x)``, ``return x`` as ``return f(x)``."""
    if len(lines) > 1 and len(lines[-1]) == 1:
        first, name = lines[-2][0], str(lines[-1][0]).removeprefix("return ")
        if isinstance(first, str) and first.startswith(f"{name} = "):
            return [*lines[:-2], ("return " + first.removeprefix(f"{name} = "), *lines[-2][1:])]
    return lines


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}{number}"
        number += 1


def _function_name(target: Any, names: Names) -> str:
    """How the source calls a function; what is not torch's is imported.

    Raises:
        ExportError: it cannot be imported by a name.
    """
    name = getattr(target, "__name__", "")
    for module, text in ((torch.nn.functional, "F"), (torch, "torch"), (torch.Tensor, "torch.Tensor"), (math, "math")):
        if getattr(module, name, None) is target:
            if text == "math":
                names.imports.add("import math")
            return f"{text}.{name}"
    if getattr(builtins, name, None) is target:
        return name
    module = inspect.getmodule(target)
    home = getattr(target, "__module__", None) or (module.__name__ if module else "")
    if home in ("_operator", "operator"):
        names.imports.add("import operator")
        return f"operator.{name}"
    if home.startswith("torch."):
        return f"{home}.{name}"
    if is_name(name) and getattr(inspect.getmodule(target), name, None) is target:
        names.imports.add(f"from {home} import {name}")
        return name
    raise ExportError(f"the function {target!r} has no name to import it by")
