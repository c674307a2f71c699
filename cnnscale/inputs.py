"""The sizes of what a network is called with: of one input, of several in order, or of several by name.

A size leaves the batch out: (C, H, W) of an image, (C,) of a vector. Channels stay. The sides of images grow together:
the largest image leads, and every other one keeps its proportion to it. A side of 1 is no extent and stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias, TypeVar

from .errors import UsageError

__all__ = ["GivenSize", "InputSize", "Inputs", "Side", "Size"]

T = TypeVar("T")
Size: TypeAlias = tuple[int, ...]
InputSize: TypeAlias = tuple[int, ...] | tuple[tuple[int, ...], ...] | dict[str, tuple[int, ...]]
"""One size, a size for each of the first arguments of ``forward``, or sizes by the names of its arguments."""
GivenSize: TypeAlias = Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]]
"""The same, as a caller may write it."""
Side: TypeAlias = tuple[int, int]
"""(how many axes it is from the last, how long it is in the baseline): what tells sides apart that may differ."""


@dataclass(frozen=True)
class Inputs:
    """An :data:`InputSize`, taken apart."""

    sizes: tuple[Size, ...]
    names: tuple[str, ...] = ()
    """Of the arguments; none where they are in order."""
    alone: bool = False
    """Whether it was one size, and no sequence of them."""

    @classmethod
    def of(cls, given: object) -> Inputs:
        """Read what a caller gave.

        Raises:
            UsageError: it is neither a size, nor a sequence of sizes, nor a mapping from names to sizes.
        """
        if _is_size(given):
            return cls((_size(given),), alone=True)
        if isinstance(given, Mapping):
            names, sizes = tuple(given), tuple(given.values())
        else:
            names, sizes = (), tuple(given) if isinstance(given, (tuple, list)) else ()
        if not sizes or not all(map(_is_size, sizes)) or not all(isinstance(name, str) for name in names):
            raise UsageError(
                "input_size must be (C, H, W), all positive ints, or for several inputs a sequence of such sizes or a "
                f"mapping from the names of forward's arguments to them, got {given!r}"
            )
        return cls(tuple(map(_size, sizes)), names)

    @property
    def input_size(self) -> InputSize:
        """In the form in which it was given."""
        if self.names:
            return dict(zip(self.names, self.sizes, strict=True))
        return self.sizes[0] if self.alone else self.sizes

    def call(self, make: Callable[[Size], T]) -> tuple[tuple[T, ...], dict[str, T]]:
        """(positional, keyword) arguments of a call, made of the sizes in their order."""
        made = tuple(map(make, self.sizes))
        return ((), dict(zip(self.names, made, strict=True))) if self.names else (made, {})

    def grows(self, size: Size) -> bool:
        """Whether an input of this size grows with the resolution: where there are images, rows of numbers stay."""
        return len(size) > self._least

    @cached_property
    def _least(self) -> int:
        """How many sides an input has that grows, at least."""
        return 2 if any(len(size) > 2 for size in self.sizes) else 1

    @cached_property
    def sides(self) -> Size:
        """Those of the largest image; none where there is no image."""
        images = [size[1:] for size in self.sizes if self.grows(size)]
        return max(images, key=lambda sides: (len(sides), math.prod(sides)), default=())

    def at(self, sides: Size) -> Inputs:
        """The inputs at a resolution at which the largest image has these sides."""
        grown = (tuple(self._side(side, sides) for side in self.sides_of(size)) for size in self.sizes)
        sizes = ((size[0], *new) if new else size for size, new in zip(self.sizes, grown, strict=True))
        return replace(self, sizes=tuple(sizes))

    def sides_of(self, size: Size) -> Iterator[Side]:
        """The sides of an input that grow."""
        if self.grows(size):
            yield from zip(reversed(range(len(size) - 1)), size[1:], strict=True)

    def _side(self, side: Side, sides: Size) -> int:
        axis, own = side
        lead, new = self.sides[-1 - axis], sides[-1 - axis]
        if own == lead:
            return new
        if lead == 1:
            lead, new = max(self.sides), max(sides)
        return 1 if own == 1 else max(1, round(own * new / lead))


def _is_size(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) > 0 and all(map(_is_length, value))


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _size(value: object) -> Size:
    assert isinstance(value, (tuple, list))
    return tuple(value)
