"""Where an integer of a traced model comes from: an attribute, or arithmetic on attributes.

While a model is traced, its integer attributes are :class:`Attribute`, and arithmetic on them gives :class:`Computed`:
integers that remember how they came about. So when a literal of the graph changes, what its author wrote can be solved
for the attribute that must change: ``x.split([self.part, self.dim - self.part])`` says which ``dim`` makes 240 of 170.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Attribute", "Computed", "Place", "Source", "solve"]


class Place(NamedTuple):
    """An integer attribute of a module; ``item`` is its index where the attribute is a tuple or a list."""

    module: str
    name: str
    item: int | None = None


class Source(int):
    """An integer that knows its origin."""

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)

    def attributes(self) -> Iterator[Attribute]:
        """The attributes that it is computed from."""
        raise NotImplementedError

    def __add__(self, other: Any) -> Any:
        return _computed(operator.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return _computed(operator.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return _computed(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _computed(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return _computed(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return _computed(operator.mul, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _computed(operator.floordiv, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _computed(operator.floordiv, other, self)


class Attribute(Source):
    """An integer attribute of one of the model's own modules."""

    module: str
    name: str
    item: int | None

    def __new__(cls, value: int, module: str, name: str, item: int | None = None) -> Self:
        self = super().__new__(cls, value)
        self.module, self.name, self.item = module, name, item
        return self

    @property
    def place(self) -> Place:
        return Place(self.module, self.name, self.item)

    def attributes(self) -> Iterator[Attribute]:
        yield self


class Computed(Source):
    """``operation(left, right)``, at least one of them a :class:`Source`."""

    operation: Callable[[int, int], int]
    left: int
    right: int

    def __new__(cls, operation: Callable[[int, int], int], left: int, right: int) -> Self:
        self = super().__new__(cls, operation(int(left), int(right)))
        self.operation, self.left, self.right = operation, left, right
        return self

    def attributes(self) -> Iterator[Attribute]:
        for side in (self.left, self.right):
            if isinstance(side, Source):
                yield from side.attributes()


def _computed(operation: Callable[[int, int], int], left: Any, right: Any) -> Any:
    if not isinstance(left, int) or not isinstance(right, int) or (operation is operator.floordiv and not right):
        return NotImplemented
    return Computed(operation, left, right)


def solve(wanted: Iterable[tuple[Source, int]]) -> dict[Place, int]:
    """Values of attributes by which each source has its wanted value.

    Sources of a single attribute are served first. Of several attributes that are still open, the largest of today's
    moves: the number of heads and the number of parts stay, their widths grow. What has no integer solution is left.
    """
    found: dict[Place, int] = {}
    for source, value in sorted(wanted, key=lambda item: len({a.place for a in item[0].attributes()})):
        if _at(source, found) == value:
            continue
        candidates = [a for a in source.attributes() if a.place not in found]
        for attribute in sorted(dict.fromkeys(candidates), key=int, reverse=True):
            number = _inverse(source, value, attribute.place, found)
            if number is not None and _at(source, {**found, attribute.place: number}) == value:
                found[attribute.place] = number
                break
    return found


def _at(value: int, found: Mapping[Place, int]) -> int:
    """An expression under the values found so far; all other attributes have today's."""
    if isinstance(value, Computed):
        return value.operation(_at(value.left, found), _at(value.right, found))
    return found.get(value.place, int(value)) if isinstance(value, Attribute) else int(value)


def _inverse(source: int, value: int, place: Place, found: Mapping[Place, int]) -> int | None:
    """The attribute's value by which ``source`` is ``value``, as far as one step back at a time finds it."""
    if not isinstance(source, Computed):
        return value
    inside = [isinstance(side, Source) and any(a.place == place for a in side.attributes())
              for side in (source.left, source.right)]  # fmt: skip
    if all(inside):
        return None
    side, rest = (source.left, source.right) if inside[0] else (source.right, source.left)
    other = _at(rest, found)
    if source.operation is operator.add:
        return _inverse(side, value - other, place, found)
    if source.operation is operator.sub:
        return _inverse(side, value + other if inside[0] else other - value, place, found)
    if source.operation is operator.mul:
        return None if not other or value % other else _inverse(side, value // other, place, found)
    return _inverse(side, value * other, place, found) if inside[0] else None
