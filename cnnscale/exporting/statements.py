"""The graph of one forward -> the statements of a Python function, as ``ast`` nodes.

Each operation on tensors is a statement ``out = f(x)``; sizes and tensors of modules stand where they are used. A
result takes over the variable of an input that is not needed afterwards, as people write it.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import keyword
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.fx.graph import inplace_methods, magic_methods
from torch.fx.node import _get_qualified_name
from torch.nn import functional

from cnnscale.errors import ExportError

from .calls import is_input

__all__ = [
    "Fixed",
    "Replaced",
    "Surroundings",
    "both_modes",
    "call",
    "constant",
    "differences",
    "function_body",
    "parsed",
]

_RESERVED = {"self", "torch", "nn", "F", "math", "operator", *keyword.kwlist, *dir(builtins)}


@dataclass
class Surroundings:
    """How what lies outside of a forward is written in it."""

    access: Callable[[str], ast.expr]
    """Path of a module or tensor, from the module whose forward it is -> ``self.layers[0].conv``."""
    imported: Callable[[str, str], str]
    """(module, name) -> the name by which the file knows it."""
    record: Callable[[type], str]
    """Class of a named tuple -> the name by which the file knows it."""
    takes_all: Callable[[str], bool]
    """Whether the module at a path is called with constants too, or is one of the file's, which know them."""


def function_body(graph: fx.Graph, around: Surroundings) -> tuple[list[str], list[ast.stmt]]:
    """(names of the inputs, statements) of a graph of :func:`cnnscale.calls.trace_call`.

    Raises:
        ExportError: something in it cannot be written down.
    """
    return _Writer(graph, around).write()


# --- small pieces -----------------------------------------------------------------------------------------------------


def parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def differences(one: Any, other: Any) -> list[tuple[ast.Constant, ast.Constant]] | None:
    """The constants in which two pieces of code differ; None where they differ in more."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        parts = [differences(a, b) for a, b in zip(one, other, strict=True)]
        return None if any(part is None for part in parts) else [pair for part in parts for pair in part or ()]
    if type(one) is not type(other):
        return None
    if isinstance(one, ast.Constant):
        equal = type(one.value) is type(other.value) and repr(one.value) == repr(other.value)
        return [] if equal else None if isinstance(one, Fixed) else [(one, other)]
    if isinstance(one, ast.AST):
        names = [name for name, _ in ast.iter_fields(one)]
        return differences([getattr(one, n) for n in names], [getattr(other, n, None) for n in names])
    return [] if one == other else None


class Fixed(ast.Constant):
    """The place of a layer in a list, or a name: part of the structure, not a setting."""


class Replaced(ast.NodeTransformer):
    """Some nodes, by their id, replaced by others."""

    def __init__(self, by: Mapping[int, ast.expr]) -> None:
        self.by = by

    def visit(self, node: ast.AST) -> Any:
        return self.by[id(node)] if id(node) in self.by else super().visit(node)


def call(name: str, *args: ast.expr, **kwargs: ast.expr) -> ast.Call:
    return ast.Call(parsed(name), list(args), [ast.keyword(key, value) for key, value in kwargs.items()])


def constant(value: Any) -> ast.expr:
    """A constant as an expression.

    Raises:
        ExportError: no text makes the value.
    """
    plain = _plain(value)
    if isinstance(plain, (torch.dtype, torch.memory_format, torch.layout)):
        return parsed(str(plain))
    if isinstance(plain, torch.device):
        return parsed(f'torch.device("{plain}")')
    if isinstance(plain, float) and not math.isfinite(plain):
        return parsed(f'float("{plain}")')
    try:
        if plain is ... or ast.literal_eval(repr(plain)) == plain:
            return ast.Constant(plain)
    except (ValueError, SyntaxError):
        pass
    raise ExportError(f"a constant of type {type(value).__name__} cannot be written as source: {value!r:.80}")


def _plain(value: Any) -> Any:
    """Without subclasses: an int that knows its origin is an int, a torch.Size a tuple."""
    if isinstance(value, (bool, str)) or value is None:
        return value
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, (tuple, list)):
        return (tuple if isinstance(value, tuple) else list)(map(_plain, value))
    return value


# --- one graph --------------------------------------------------------------------------------------------------------


@dataclass
class _Variable:
    """A name for the values of one or more nodes, each made when the last one is no longer needed."""

    wanted: str
    last: int
    """Where it is read for the last time."""
    made: int
    chained: bool = False
    name: str = ""
    uses: list[ast.Name] = field(default_factory=list)

    def use(self) -> ast.Name:
        """The variable in an expression."""
        self.uses.append(ast.Name("", ast.Load()))
        return self.uses[-1]


@dataclass
class _Growing:
    """A list to which each of several calls adds what it makes of the list so far."""

    nodes: list[fx.Node]
    content: tuple[fx.Node, ...]
    """What it holds, where the writing has come to."""
    variable: _Variable | None = None


class _Writer:
    def __init__(self, graph: fx.Graph, around: Surroundings) -> None:
        self.graph, self.around = graph, around
        self.needed = _needed(graph)
        self.nodes = [node for node in graph.nodes if node in self.needed]
        self.variables: dict[fx.Node, _Variable] = {}
        self.unpacked: dict[fx.Node, list[fx.Node]] = {}
        self.last: dict[fx.Node, int] = {}
        self.growing = list(_growing(self.nodes))
        self.grown = {node: each for each in self.growing for node in each.nodes}

    def write(self) -> tuple[list[str], list[ast.stmt]]:
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        self._find_unpacked()
        self._find_last_uses()
        known = [self._input(node) for node in inputs]
        statements = [
            statement
            for at, node in enumerate(self.nodes)
            if node.op != "placeholder" and not self._inlined(node)
            for statement in self._statements(at, node)
        ]
        variables = list({id(v): v for v in self.variables.values()}.values())
        _name(known, [v for v in variables if v not in known])
        return [variable.name for variable in known], statements

    def _input(self, node: fx.Node) -> _Variable:
        variable = _Variable(str(node.target), self.last.get(node, -1), -1, name=str(node.target).lstrip("*"))
        self.variables[node] = variable
        return variable

    def _find_unpacked(self) -> None:
        """Tuples all of whose items are taken one by one: ``a, b = x.chunk(2)``."""
        for node in self.nodes:
            value, users = node.meta.get("val"), [user for user in node.users if user in self.needed]
            if node.op == "placeholder" or not isinstance(value, (tuple, list)) or len(users) < 2:
                continue
            items = {user.args[1]: user for user in users if user.target is operator.getitem}
            if len(items) == len(users) and set(items) == set(range(len(value))):
                self.unpacked[node] = [items[i] for i in range(len(value))]

    def _find_last_uses(self) -> None:
        """Where each value is read for the last time; what stands within another expression is read with it."""
        for at, node in enumerate(self.nodes):
            if not self._inlined(node):
                for read in self._read(node):
                    self.last[read] = at

    def _read(self, node: fx.Node) -> Iterator[fx.Node]:
        for value in node.all_input_nodes:
            if self._inlined(value):
                yield from self._read(value)
            elif not any(value in items for items in self.unpacked.values()) or node not in self.unpacked.get(
                value, ()
            ):
                yield value

    def _inlined(self, node: fx.Node) -> bool:
        """Whether the value is written where it is used: tensors of modules, sizes, items."""
        if node.op == "get_attr":
            return True
        if node.op not in ("call_function", "call_method") or node in self.unpacked:
            return False
        source = node.args[0] if node.args else None
        if node.target is operator.getitem and isinstance(source, fx.Node):
            if node in self.unpacked.get(source, ()):
                return False
            if isinstance(source.meta.get("val"), (tuple, list, dict)):
                return True
        value = node.meta.get("val")
        if _holds_tensor(value):
            return False
        used = sum(user in self.needed for user in node.users)
        return node.target is getattr or isinstance(value, torch.Size) or used <= 1

    # -- statements

    def _statements(self, at: int, node: fx.Node) -> Iterator[ast.stmt]:
        if node.op == "output":
            yield ast.Return(self._argument(node.args[0]))
            return
        if any(node in items for items in self.unpacked.values()):
            return
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and getattr(operator, name, None) is node.target and name in inplace_methods:
            target = self._argument(node.args[0])
            if name == "setitem":
                place = ast.Subscript(target, self._index(node.args[1]), ast.Store())
                yield ast.Assign([place], self._argument(node.args[2]), lineno=0)
                return
            if isinstance(target, ast.Name) and isinstance(node.args[0], fx.Node):
                variable = self.variables[node.args[0]]
                self.variables[node] = variable  # the same tensor
                variable.last = max(variable.last, self.last.get(node, -1))
                sign = ast.parse(inplace_methods[name].format("a", "b")).body[0]
                assert isinstance(sign, ast.AugAssign)
                yield ast.AugAssign(target, sign.op, self._argument(node.args[1]))
                return
        if node in self.grown:
            yield from self._appended(at, node, self.grown[node])
            return
        value = self._expression(node)
        if node in self.unpacked:
            names = [self._made(at, item) for item in self.unpacked[node]]
            yield ast.Assign([ast.Tuple(names, ast.Store())], value, lineno=0)
        elif any(user in self.needed for user in node.users):
            yield ast.Assign([self._made(at, node)], value, lineno=0)
        else:
            yield ast.Expr(value)

    def _appended(self, at: int, node: fx.Node, growing: _Growing) -> Iterator[ast.stmt]:
        if growing.variable is None:
            last = max(self.last.get(each, at) for each in growing.nodes)
            start = ast.List([self._argument(each) for each in growing.content], ast.Load())
            growing.variable = _Variable("features", last, at)
            yield ast.Assign([growing.variable.use()], start, lineno=0)
        added = ast.Call(ast.Attribute(growing.variable.use(), "append"), [self._expression(node)], [])
        self.variables[node] = growing.variable
        growing.content += (node,)
        yield ast.Expr(added)

    def _made(self, at: int, node: fx.Node) -> ast.expr:
        """The variable that takes the node's value: that of an input which is not read again, else a new one."""
        last = self.last.get(node, at)
        alone = isinstance(node.meta.get("val"), torch.Tensor) and node not in self._items()
        source = next((n for n in self._read(node) if self._free(n, at)), None) if alone else None
        if source is not None and not self._carries_on(source, node):
            source = None
        if source is not None:
            variable = self.variables[source]
            variable.last, variable.chained = last, True
        else:
            variable = _Variable(_wanted(node), last, at)
        self.variables[node] = variable
        return self._use(node)

    def _carries_on(self, source: fx.Node, node: fx.Node) -> bool:
        """Whether the value is what became of another, rather than one of several to be brought together."""
        users = [user for user in node.users if user in self.needed]
        joined = len(list(self._read(node))) > 2
        return not joined and (len(source.users) == 1 or all(len(list(self._read(user))) == 1 for user in users))

    def _items(self) -> set[fx.Node]:
        return {item for items in self.unpacked.values() for item in items}

    def _free(self, node: fx.Node, at: int) -> bool:
        variable = self.variables[node]
        return variable.last == at and isinstance(node.meta.get("val"), torch.Tensor) and node not in self.grown

    def _use(self, node: fx.Node) -> ast.expr:
        name = self.variables[node].use()
        if node in self.grown:
            return ast.Subscript(name, Fixed(self.grown[node].content.index(node)), ast.Load())
        return name

    # -- expressions

    def _expression(self, node: fx.Node) -> ast.expr:
        args, kwargs = list(node.args), dict(node.kwargs)
        if node.op == "get_attr":
            return self.around.access(str(node.target))
        if node.op == "call_module":
            if not self.around.takes_all(str(node.target)):
                args = [arg for arg in args if is_input(_value(arg))]
                kwargs = {key: arg for key, arg in kwargs.items() if is_input(_value(arg))}
            return self._call(self.around.access(str(node.target)), args, kwargs)
        if node.op == "call_method":
            return self._call(ast.Attribute(self._argument(args[0]), str(node.target)), args[1:], kwargs)
        return self._function(node, args, kwargs)

    def _function(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> ast.expr:
        target: Any = node.target
        name = getattr(target, "__name__", "")
        if target is getattr and len(args) == 2:
            return ast.Attribute(self._argument(args[0]), args[1])
        if target is operator.getitem:
            return ast.Subscript(self._argument(args[0]), self._index(args[1]))
        if getattr(operator, name, None) is target and name in magic_methods and not kwargs:
            operation = parsed(magic_methods[name].format(*"ab"[: len(args)]))
            letters = {n.id: id(n) for n in ast.walk(operation) if isinstance(n, ast.Name)}
            values = {letters[letter]: self._argument(arg) for letter, arg in zip("ab"[: len(args)], args, strict=True)}
            substituted: ast.expr = Replaced(values).visit(operation)
            return substituted
        return self._call(self._called(target), args, kwargs)

    def _called(self, target: Any) -> ast.expr:
        """How the source calls a function.

        Raises:
            ExportError: it cannot be imported by a name.
        """
        name = getattr(target, "__name__", "")
        if isinstance(target, type) and hasattr(target, "_fields"):
            return parsed(self.around.record(target))
        for home, prefix in ((functional, "F"), (torch, "torch"), (torch.Tensor, "torch.Tensor")):
            if getattr(home, name, None) is target:
                return parsed(f"{prefix}.{name}")
        try:
            home_name, _, name = _get_qualified_name(target).rpartition(".")
        except Exception as error:
            raise ExportError(f"the function {target!r} has no name to import it by") from error
        if not home_name:
            return parsed(name)
        if home_name.split(".")[0] == "torch":
            return parsed(f"{home_name}.{name}")
        return parsed(self.around.imported(home_name, name))

    def _call(self, function: ast.expr, args: Sequence[Any], kwargs: dict[str, Any]) -> ast.Call:
        keywords = [ast.keyword(key, self._argument(value)) for key, value in kwargs.items()]
        return ast.Call(function, [self._argument(arg) for arg in args], keywords)

    def _index(self, index: Any) -> ast.expr:
        if isinstance(index, tuple) and len(index) > 1:
            return ast.Tuple([self._index(part) for part in index], ast.Load())
        if isinstance(index, slice):
            lower, upper, step = (
                None if part is None else self._argument(part) for part in (index.start, index.stop, index.step)
            )
            return ast.Slice(lower, upper, step)
        return self._argument(index)

    def _argument(self, value: Any) -> ast.expr:
        if isinstance(value, fx.Node):
            return self._expression(value) if self._inlined(value) else self._use(value)
        if not any(True for _ in _nodes(value)):
            return constant(value)
        if isinstance(value, slice):
            return self._call(parsed("slice"), (value.start, value.stop, value.step), {})
        if isinstance(value, dict):
            return ast.Dict([constant(key) for key in value], [self._argument(v) for v in value.values()])
        for growing in self.growing:
            if growing.variable is not None and isinstance(value, list) and growing.content == tuple(value):
                return growing.variable.use()
        whole = _whole(value)
        if whole is not None:
            return self._argument(whole)
        parts = [self._argument(part) for part in value]
        if hasattr(value, "_fields"):
            return ast.Call(parsed(self.around.record(type(value))), parts, [])
        return ast.List(parts, ast.Load()) if isinstance(value, list) else ast.Tuple(parts, ast.Load())


def _needed(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that have an effect, and those which these read; an assertion about sizes has none."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        name = str(getattr(node.target, "__name__", node.target))
        in_place = name in inplace_methods or (name.endswith("_") and not name.endswith("__"))
        effect = node.op in ("output", "call_module") or in_place or bool(node.kwargs.get("out"))
        if effect or any(user in needed for user in node.users):
            needed.add(node)
    return needed


def _growing(nodes: Sequence[fx.Node]) -> Iterator[_Growing]:
    """Lists that three calls or more add to, one after the other."""
    found = _Growing([], ())
    for node in nodes:
        given = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(given, list) or not all(isinstance(each, fx.Node) for each in given):
            continue
        if tuple(given) == (*found.content, *found.nodes):
            found.nodes.append(node)
            continue
        if len(found.nodes) > 2:
            yield found
        found = _Growing([node], tuple(given))
    if len(found.nodes) > 2:
        yield found


def _nodes(value: Any) -> Iterator[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return iter(found)


def _value(argument: Any) -> Any:
    return fx.node.map_arg(argument, lambda node: node.meta["val"])


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_tensor, value))
    if isinstance(value, dict):
        return any(map(_holds_tensor, value.values()))
    return isinstance(value, torch.Tensor)


def _whole(values: Sequence[Any]) -> fx.Node | None:
    """The list whose items these are, all of them in order."""
    sources = {v.args[0] for v in values if isinstance(v, fx.Node) and v.target is operator.getitem}
    source = next(iter(sources), None)
    if len(sources) != 1 or not isinstance(source, fx.Node) or not isinstance(values, type(source.meta.get("val"))):
        return None
    items = [v.args[1] if isinstance(v, fx.Node) and v.target is operator.getitem else None for v in values]
    return source if items == list(range(len(source.meta["val"]))) else None


def _wanted(node: fx.Node) -> str:
    """What a value is called that no other takes the place of: by the layer or operation that makes it."""
    if node.op == "call_module":
        return str(node.target).rpartition(".")[2]
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return f"{'part' if isinstance(node.meta.get('val'), torch.Tensor) else 'side'}{node.args[1]}"
    if not isinstance(node.meta.get("val"), torch.Tensor):
        return "size"
    return str(getattr(node.target, "__name__", node.target)).strip("_")


def _name(known: Sequence[_Variable], variables: Sequence[_Variable]) -> None:
    """The lowest free name for each variable; a layer's own for what is made once."""
    for variable in (*known, *variables):
        wanted = "out" if variable.chained or not variable.wanted.isidentifier() else variable.wanted
        names = itertools.chain([wanted], (f"{wanted}{i}" for i in itertools.count(2)))
        busy = {v.name for v in (*known, *variables) if v is not variable and v.last > variable.made and v.name}
        variable.name = variable.name or next(n for n in names if n not in busy | _RESERVED)
        for use in variable.uses:
            use.id = variable.name


# --- two modes --------------------------------------------------------------------------------------------------------


def both_modes(evaluated: Sequence[ast.stmt], trained: Sequence[ast.stmt]) -> list[ast.stmt]:
    """One body that is the first in eval mode and the second in train mode."""
    pairs = zip(evaluated, trained, strict=False)
    start = list(itertools.takewhile(lambda s: s is not None, (_either(*pair) for pair in pairs)))
    rest = evaluated[len(start) :], trained[len(start) :]
    backwards = zip(reversed(rest[0]), reversed(rest[1]), strict=False)
    end = list(itertools.takewhile(lambda s: s is not None, (_either(*pair) for pair in backwards)))
    quiet, busy = (list(lines[: len(lines) - len(end)]) for lines in rest)
    middle: list[ast.stmt] = []
    if busy:
        returns = isinstance(busy[-1], ast.Return)
        middle = [ast.If(parsed("self.training"), busy, [] if returns else quiet), *(quiet if returns else [])]
    elif quiet:
        middle = [ast.If(parsed("not self.training"), quiet, [])]
    return [s for s in (*start, *middle, *reversed(end)) if s is not None]


def _either(evaluated: ast.stmt, trained: ast.stmt) -> ast.stmt | None:
    """The statement that is one or the other by ``self.training``; None where there is no such one."""
    pairs = differences(evaluated, trained)
    if pairs is None or any({type(one.value), type(other.value)} != {bool} for one, other in pairs):
        return None
    flags = {id(one): parsed("not self.training" if one.value else "self.training") for one, _ in pairs}
    replaced: ast.stmt = Replaced(flags).visit(evaluated)
    return replaced
