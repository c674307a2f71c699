"""Python expressions as data: what stands in a generated ``__init__``, compared, unified and printed.

Where modules of one class are built alike but for some values, :class:`Arguments` turns these into arguments: values
which differ in the same way from module to module are one argument.
"""

from __future__ import annotations

import keyword
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["Argument", "Arguments", "Callee", "Expression", "Group", "Literal", "New", "Ref", "is_name", "render"]

WIDTH = 100
"""Characters in a line of generated source."""


@dataclass(frozen=True)
class Literal:
    """A constant, by the text that makes it (so that 1, 1.0 and True differ)."""

    text: str


@dataclass(frozen=True)
class Callee:
    """What is called: its name, which arguments are given by position, and the defaults of the others."""

    name: str
    positional: frozenset[str] = frozenset()
    defaults: tuple[tuple[str, Expression], ...] = ()


@dataclass(frozen=True)
class New:
    """A constructor's call with all of its arguments; those which equal their default are not printed."""

    callee: Callee
    arguments: tuple[tuple[str, Expression], ...] = ()


@dataclass(frozen=True)
class Group:
    """A container of torch (``nn.Sequential``) and what it holds; ``names`` is None where they are 0, 1, 2, ..."""

    kind: str
    names: tuple[str, ...] | None
    items: tuple[Expression, ...]


@dataclass(eq=False)
class Argument:
    """An argument of a generated class, and its value for each module of that class."""

    values: tuple[Expression, ...]
    hints: list[tuple[str, str]] = field(default_factory=list)
    """(what holds the value, name of the value there), wherever it stands: ``("conv1", "in_channels")``."""
    name: str = ""
    default: Expression | None = None


@dataclass(frozen=True)
class Ref:
    """The name of an argument, within the class that has it."""

    argument: Argument


Expression: TypeAlias = Literal | New | Group | Ref

_IN = ("in_channels", "in_features")
_OUT = ("out_channels", "out_features")
_NORMS = ("num_features", "normalized_shape", "num_channels")
_NOTHING = New(Callee("nn.Identity"))


class Arguments:
    """The arguments of one class, found by unifying what its modules are built of."""

    def __init__(self) -> None:
        self.found: dict[tuple[Expression, ...], Argument] = {}

    def unify(self, values: Sequence[Expression], owner: str, name: str) -> Expression:
        """One expression that gives each module its value; ``owner`` and ``name`` say what the value is."""
        first = values[0]
        if all(value == first for value in values):
            return first
        if all(isinstance(value, New) for value in values):
            news = [value for value in values if isinstance(value, New)]
            keys = [name for name, _ in news[0].arguments]
            if all(n.callee == news[0].callee and [k for k, _ in n.arguments] == keys for n in news):
                columns = zip(*([value for _, value in n.arguments] for n in news), strict=True)
                pairs = zip(keys, columns, strict=True)
                return New(news[0].callee, tuple((k, self.unify(column, owner, k)) for k, column in pairs))
        if all(isinstance(value, Group) for value in values):
            groups = [value for value in values if isinstance(value, Group)]
            if len({(g.kind, g.names, len(g.items)) for g in groups}) == 1:
                names = groups[0].names or tuple(map(str, range(len(groups[0].items))))
                columns = zip(*(g.items for g in groups), strict=True)
                items = (self.unify(column, f"{owner}_{n}", n) for n, column in zip(names, columns, strict=True))
                return Group(groups[0].kind, groups[0].names, tuple(items))
        argument = self.found.setdefault(tuple(values), Argument(tuple(values)))
        argument.hints.append((owner, name))
        return Ref(argument)

    def finish(self, taken: Iterable[str] = ()) -> list[Argument]:
        """The arguments with names and defaults, those without a default first."""
        arguments = list(self.found.values())
        used = {*taken, "self"}
        wanted = Counter(_role(argument) for argument in arguments)
        for argument in arguments:
            role, owner = _role(argument), argument.hints[0][0]
            name = role if wanted[role] == 1 else f"{owner}_{role}"
            argument.name = _unused(name if is_name(name) else f"{role}_", used)
            used.add(argument.name)
            argument.default = _default(argument)
        return [*(a for a in arguments if a.default is None), *(a for a in arguments if a.default is not None)]


def _role(argument: Argument) -> str:
    """What the argument is: a width is named by where it comes first and by whether it is handed on."""
    hints = [name for _, name in argument.hints]
    channels = [name for name in hints if name in (*_IN, *_OUT)]
    if channels:
        reads, writes = (any(name in names for name in channels) for names in (_IN, _OUT))
        if reads and writes:
            return "channels" if channels[0] in _IN else "width"
        return "in_channels" if reads else "out_channels"
    if all(name in _NORMS for name in hints):
        return "channels"
    return next((name for name in hints if is_name(name)), argument.hints[0][0] if is_name(argument.hints[0][0]) else "value")


def _default(argument: Argument) -> Expression | None:
    """The value of most modules, where it is a setting rather than a width; for a layer only its absence."""
    value, times = Counter(argument.values).most_common(1)[0]
    widths = {name for _, name in argument.hints} & {*_IN, *_OUT, *_NORMS}
    if widths or 2 * times <= len(argument.values):
        return _NOTHING if _NOTHING in argument.values else None
    return value if isinstance(value, Literal) or value == _NOTHING else None


def _unused(name: str, used: set[str]) -> str:
    number = 2
    candidate = name
    while candidate in used:
        candidate, number = f"{name}{number}", number + 1
    return candidate


def is_name(text: str) -> bool:
    """Whether the text can be a variable."""
    return text.isidentifier() and not keyword.iskeyword(text)


# --- printing ---------------------------------------------------------------------------------------------------------


def render(expression: Expression, *, indent: int = 0, before: int = 0) -> str:
    """The expression as source, broken over lines where it would pass column ``WIDTH``.

    Args:
        expression: what is printed.
        indent: columns of the line that it stands in.
        before: characters between these and the expression.
    """
    line = _flat(expression)
    if indent + before + len(line) < WIDTH or not isinstance(expression, (New, Group)):
        return line
    opening, parts, closing = _parts(expression)
    if not parts:
        return line
    lines = []
    together = ", ".join(prefix + _flat(part) + suffix for prefix, part, suffix in parts)
    if indent + 4 + len(together) <= WIDTH and isinstance(expression, New):
        return "\n".join([opening, " " * (indent + 4) + together, " " * indent + closing])
    for prefix, part, suffix in parts:
        inner = render(part, indent=indent + 4, before=len(prefix) + len(suffix) + 1)
        lines.append(" " * (indent + 4) + prefix + inner + suffix + ",")
    return "\n".join([opening, *lines, " " * indent + closing])


def _flat(expression: Expression) -> str:
    if isinstance(expression, Literal):
        return expression.text
    if isinstance(expression, Ref):
        if expression.argument.default == _NOTHING:
            return f"{expression.argument.name} or nn.Identity()"
        return expression.argument.name
    opening, parts, closing = _parts(expression)
    return opening + ", ".join(prefix + _flat(part) + suffix for prefix, part, suffix in parts) + closing


_Parts: TypeAlias = list[tuple[str, Expression, str]]


def _parts(expression: New | Group) -> tuple[str, _Parts, str]:
    """(opening, [(prefix, expression, suffix)], closing)."""
    if isinstance(expression, New):
        return f"{expression.callee.name}(", list(_call_parts(expression)), ")"
    if expression.names is None:
        opening, closing = ("(", ")") if expression.kind == "nn.Sequential" else ("([", "])")
        return expression.kind + opening, list(_repeats(expression.items)), closing
    opening, closing = ("(OrderedDict({", "}))") if expression.kind == "nn.Sequential" else ("({", "})")
    named = zip(expression.names, expression.items, strict=True)
    return expression.kind + opening, [(f'"{name}": ', item, "") for name, item in named], closing


def _call_parts(new: New) -> Iterator[tuple[str, Expression, str]]:
    defaults = dict(new.callee.defaults)
    for name, value in new.arguments:
        if defaults.get(name) != value:
            yield ("" if name in new.callee.positional else f"{name}="), value, ""


def _repeats(items: Sequence[Expression]) -> Iterator[tuple[str, Expression, str]]:
    """Items, equal neighbours as one comprehension."""
    start = 0
    while start < len(items):
        stop = start + 1
        while stop < len(items) and items[stop] == items[start]:
            stop += 1
        if stop - start > 2 or (stop - start == 2 and len(_flat(items[start])) > WIDTH // 3):
            yield "*(", items[start], f" for _ in range({stop - start}))"
        else:
            yield from (("", item, "") for item in items[start:stop])
        start = stop


