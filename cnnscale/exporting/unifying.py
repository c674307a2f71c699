"""Modules built and run alike -> one class, whose arguments are what differs between them.

What makes each module is an expression; of several, those parts which differ become arguments, and parts that differ in
the same way from module to module become the same one.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .constructing import Argument
from .statements import Fixed, Replaced, differences, parsed

__all__ = ["Arguments", "Blocks", "Layer", "Parameter", "attributes", "numbered", "skeleton"]

_IN, _OUT = ("in_channels", "in_features"), ("out_channels", "out_features")
_WIDTHS = ("channels", "features", "width", "normalized_shape")
"""Ends of the names of arguments that are numbers of channels."""
_FEW = 2


class Layer(ast.Call):
    """A layer without tensors, such as an activation: modules of one class may differ in it."""

    role: str = "layer"


class Blocks(ast.Call):
    """A container of blocks of one class: modules of one class may differ in how many there are."""


def skeleton(node: Any) -> Any:
    """What modules of one class have in common: the code without its constants, layers and blocks that may differ."""
    if isinstance(node, Layer):
        return Layer
    if isinstance(node, Blocks):
        return Blocks, *{skeleton(item) for item in ast.walk(node) if isinstance(item, ast.Name)}
    if isinstance(node, ast.Constant) and not isinstance(node, Fixed):
        return "constant"
    if isinstance(node, (list, tuple)):
        return tuple(map(skeleton, node))
    if isinstance(node, ast.AST):
        return (type(node), *(skeleton(value) for _, value in ast.iter_fields(node)))
    return node


def constants(node: Any) -> Iterator[ast.Constant]:
    """The constants of a piece of code, in order."""
    if isinstance(node, ast.Constant) and not isinstance(node, Fixed):
        yield node
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from constants(item)
    elif isinstance(node, ast.AST):
        for _, value in ast.iter_fields(node):
            yield from constants(value)


@dataclass
class Parameter:
    """An argument of a class, and its value for each module of that class."""

    values: tuple[ast.expr, ...]
    hints: list[tuple[str, str]] = field(default_factory=list)
    """(what holds the value, name of the value there), wherever it stands: ``("conv1", "in_channels")``."""
    uses: list[ast.Name] = field(default_factory=list)
    name: str = ""
    default: ast.expr | None = None
    usual: ast.expr | None = None
    """The default where it is first handed on to."""

    @property
    def first(self) -> bool:
        """Whether it is given by position: widths are."""
        return any(_is_width(name) for _, name in self.hints)

    def argument(self, number: int) -> Argument:
        """What the call that makes a module is given."""
        return Argument.of(self.name, self.values[number], self.default, first=self.first)


class Arguments:
    """The arguments of one class."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, ...], Parameter] = {}

    def unify(self, values: Sequence[Any], owner: str, name: str) -> Any:
        """One expression that gives each module its value; ``owner`` and ``name`` say what the value is."""
        first = values[0]
        if not isinstance(first, ast.AST):
            return first
        if isinstance(first, ast.Constant) and all(differences(first, value) == [] for value in values):
            width = _is_width(name) or (name == "groups" and tuple(map(ast.dump, values)) in self.found)
            return self.use(values, owner, name) if width and len(values) > 1 else first
        if not isinstance(first, ast.Constant) and _alike(values):
            if isinstance(first, ast.keyword):
                return self._keyword(values, owner)
            name = "num_channels" if isinstance(first, ast.Tuple) else name  # the shape of a tensor
            if not isinstance(first, Blocks) or self._added(values, owner, name) <= _FEW:
                return self._parts(values, owner, name)
        return self.use(values, owner, name)

    def _keyword(self, values: Sequence[ast.keyword], owner: str) -> ast.keyword:
        unified = copy.copy(values[0])
        unified.value = self.unify([each.value for each in values], owner, values[0].arg or "")
        for parameter in self.found.values():
            if any(use is unified.value for use in parameter.uses) and isinstance(unified, Argument):
                parameter.usual = parameter.usual or unified.default
        return unified

    def _added(self, values: Sequence[Any], owner: str, name: str) -> int:
        """How many arguments it would take to unify the parts of these."""
        trial = copy.deepcopy(self)
        trial._parts(values, owner, name)
        return len(trial.found) - len(self.found)

    def _parts(self, values: Sequence[Any], owner: str, name: str) -> ast.AST:
        unified: ast.AST = copy.copy(values[0])
        for part, value in ast.iter_fields(values[0]):
            if part == "func":
                continue
            column = [getattr(each, part) for each in values]
            if isinstance(value, ast.AST):
                setattr(unified, part, self.unify(column, owner, name))
            elif isinstance(value, list):
                rows = zip(*column, strict=True)
                setattr(unified, part, [self.unify(row, owner, name) for row in rows])
        return unified

    def use(self, values: Sequence[ast.expr], owner: str, name: str) -> ast.Name:
        """The argument that has these values, as an expression."""
        key = tuple(map(ast.dump, values))
        parameter = self.found.setdefault(key, Parameter(tuple(values)))
        parameter.hints.append((owner, name))
        parameter.uses.append(ast.Name("", ast.Load()))
        return parameter.uses[-1]

    def finish(self, taken: Iterable[str]) -> list[Parameter]:
        """The arguments with names and defaults, those without a default first."""
        parameters, used = list(self.found.values()), {*taken, "self"}
        wanted = Counter(map(_role, parameters))
        for parameter in parameters:
            role, owner = _role(parameter), parameter.hints[0][0]
            name = role if wanted[role] == 1 or not owner.isidentifier() else f"{owner}_{role}"
            parameter.name = next(n for n in numbered(name) if n not in used)
            used.add(parameter.name)
            parameter.default = _default(parameter)
            for use in parameter.uses:
                use.id = parameter.name
        return sorted(parameters, key=lambda p: (p.default is not None, not p.first))


def _alike(values: Sequence[Any]) -> bool:
    """Whether the values are calls of one thing, or other expressions of one form."""
    first = values[0]
    for other in values[1:]:
        if type(other) is not type(first) or other._fields != first._fields:
            return False
        for name, one in ast.iter_fields(first):
            two = getattr(other, name)
            if isinstance(one, list):
                alike = len(one) == len(two)
            else:
                alike = differences(one, two) == [] or (isinstance(one, ast.AST) and name != "func")
            if not alike:
                return False
    return True


def _role(parameter: Parameter) -> str:
    """What the argument is: a width is named by where it comes first and by whether it is handed on."""
    hints = [name for _, name in parameter.hints]
    channels = [name for name in hints if name.endswith((*_IN, *_OUT))]
    if channels:
        reads, writes = (any(name.endswith(names) for name in channels) for names in (_IN, _OUT))
        if reads and writes:
            first, last = channels[0].endswith(_IN), channels[-1].endswith(_OUT)
            return "channels" if first else "out_channels" if last else "width"
        return "in_channels" if reads else "out_channels"
    if all(map(_is_width, hints)):
        return "width" if hints[0].endswith("width") else "channels"
    roles = [value.role for value in parameter.values if isinstance(value, Layer)]
    named = (name for name in (*hints, parameter.hints[0][0]) if name.isidentifier())
    return next(named, "activation" if "activation" in roles else "layer" if roles else "value")


def _is_width(name: str) -> bool:
    return name.endswith(_WIDTHS)


def _default(parameter: Parameter) -> ast.expr | None:
    """The layer's own default, else the value of most modules, where it is a setting rather than a width."""
    if parameter.first:
        return None
    dumps = [ast.dump(value) for value in parameter.values]
    if parameter.usual is not None and ast.dump(parameter.usual) in dumps:
        return parameter.usual
    common, times = Counter(dumps).most_common(1)[0]
    value = parameter.values[dumps.index(common)]
    return value if 2 * times > len(dumps) and isinstance(value, ast.Constant) else None


def numbered(name: str) -> Iterator[str]:
    """The name, then with numbers from 2 on."""
    return itertools.chain([name], (f"{name}{number}" for number in itertools.count(2)))


def attributes(
    bodies: Sequence[list[ast.stmt]],
    arguments: Arguments,
    name_of: Callable[[Sequence[ast.Constant], Iterable[str]], str],
) -> tuple[list[ast.stmt], dict[str, ast.expr]]:
    """One forward for all modules, and the attributes that hold the constants which differ between them."""
    names: dict[tuple[str, ...], str] = {}
    held: dict[str, ast.expr] = {}
    replaced: dict[int, ast.expr] = {}
    for column in zip(*map(constants, bodies), strict=True):
        if any(differences(column[0], other) != [] for other in column):
            key = tuple(map(ast.dump, column))
            if key not in names:
                names[key] = name_of(column, held)
                held[names[key]] = _held(column, names[key], arguments)
            replaced[id(column[0])] = parsed(f"self.{names[key]}")
    return [Replaced(replaced).visit(statement) for statement in bodies[0]], held


def _held(column: Sequence[ast.Constant], name: str, arguments: Arguments) -> ast.expr:
    """What the attribute is set to: an argument, or a tuple of one."""
    values: list[Any] = [each.value for each in column]
    if all(isinstance(value, tuple) and len(value) == 1 for value in values):
        return ast.Tuple([arguments.use([ast.Constant(value[0]) for value in values], "", name)], ast.Load())
    return arguments.use(column, "", name)
