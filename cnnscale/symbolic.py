"""Integer polynomials: the language in which widths, sizes and costs are written.

An :class:`Atom` is an integer that is known today (its ``hint``) and may be another one tomorrow: a width, a side of
the input image, or a function of such (the output side of a strided convolution). A :class:`Poly` is a sum of products
of atoms. Polynomials are immutable, hashable, and evaluate to Python integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping
from functools import cached_property
from typing import TypeAlias

__all__ = ["FUNCTIONS", "Atom", "Monomial", "Poly", "Values", "as_poly", "product"]


def ceil_pool(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Output side of a pooling with ``ceil_mode``: no window starts in the right padding (``pooling_output_shape``)."""
    out = -(-(size + 2 * padding - dilation * (kernel - 1) - 1) // stride) + 1
    return out - 1 if (out - 1) * stride >= size + padding else out


def channel_reach(channels: int, gamma: float, beta: float) -> int:
    """How far a kernel over channels reaches to either side, 1 at least: half of ``|(log2(C) + beta) / gamma|_odd``."""
    return max(1, int(abs(math.log2(channels) + beta) / gamma) // 2)


FUNCTIONS: dict[str, Callable[..., int]] = {
    "channel_reach": channel_reach,
    "floordiv": lambda size, divisor: size // divisor,
    "ceildiv": lambda size, divisor: -(-size // divisor),
    "ceil_pool": ceil_pool,
    "scale": lambda size, factor: math.floor(size * factor),
    "slice": lambda size, start, stop, step: len(range(size)[start:stop:step]),
}
"""The functions of sizes that are not polynomials: name -> function of one size and constant parameters."""


class Atom:
    """One integer unknown. ``call`` makes it a function of a polynomial: (name in FUNCTIONS, argument, parameters)."""

    __slots__ = ("call", "hint", "index", "is_width", "name")

    def __init__(
        self,
        index: int,
        name: str,
        hint: int,
        *,
        is_width: bool = False,
        call: tuple[str, Poly, tuple[float | None, ...]] | None = None,
    ) -> None:
        self.index, self.name, self.hint, self.is_width, self.call = index, name, hint, is_width, call

    def __repr__(self) -> str:
        return f"{self.name}={self.hint}"


Monomial: TypeAlias = tuple[Atom, ...]
Values: TypeAlias = MutableMapping[Atom, int]


def _key(monomial: Monomial) -> tuple[int, ...]:
    return tuple([atom.index for atom in monomial])


def _term_key(term: tuple[Monomial, int]) -> tuple[int, ...]:
    return _key(term[0])


class Poly:
    """A sum of integer coefficients times products of atoms."""

    def __init__(self, terms: dict[Monomial, int]) -> None:
        ordered = sorted(terms.items(), key=_term_key) if len(terms) > 1 else terms.items()
        self.terms = {m: c for m, c in ordered if c}

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(self.terms.items()))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Poly) and self.terms == other.terms

    def __add__(self, other: Poly | int) -> Poly:
        terms = dict(self.terms)
        for monomial, coefficient in as_poly(other).terms.items():
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return Poly(terms)

    def __sub__(self, other: Poly | int) -> Poly:
        return self + as_poly(other) * -1

    def __mul__(self, other: Poly | int) -> Poly:
        if isinstance(other, int):
            return self if other == 1 else Poly({m: c * other for m, c in self.terms.items()})
        if other.constant == 1:
            return self
        terms: dict[Monomial, int] = {}
        for left, a in self.terms.items():
            for right, b in other.terms.items():
                monomial = tuple(sorted(left + right, key=lambda atom: atom.index))
                terms[monomial] = terms.get(monomial, 0) + a * b
        return Poly(terms)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: int) -> Poly:
        return as_poly(other) - self

    @cached_property
    def constant(self) -> int | None:
        """The value of a polynomial without atoms, else None."""
        if not self.terms:
            return 0
        return self.terms.get(()) if len(self.terms) == 1 else None

    @cached_property
    def hint(self) -> int:
        """Today's value."""
        return sum(c * math.prod(atom.hint for atom in m) for m, c in self.terms.items())

    def atoms(self) -> Iterator[Atom]:
        """All atoms of all terms; those inside function calls are not looked into."""
        return (atom for monomial in self.terms for atom in monomial)

    def leaves(self) -> Iterator[Atom]:
        """All atoms that are not function calls, those inside calls included."""
        for atom in self.atoms():
            if atom.call is None:
                yield atom
            else:
                yield from atom.call[1].leaves()

    @property
    def has_width(self) -> bool:
        return any(atom.is_width for atom in self.atoms())

    def single(self) -> tuple[int, Atom] | None:
        """(coefficient, atom) of a polynomial with just one term of degree 1, else None."""
        if len(self.terms) == 1:
            ((monomial, coefficient),) = self.terms.items()
            if len(monomial) == 1:
                return coefficient, monomial[0]
        return None

    def at(self, values: Values) -> int:
        """The value under ``values``, which is also the memo for function atoms; unknown atoms keep their hint."""
        total = 0
        for monomial, coefficient in self.terms.items():
            term = coefficient
            for atom in monomial:
                term *= _value(atom, values)
            total += term
        return total

    def substitute(self, definitions: dict[Atom, Poly]) -> Poly:
        """The polynomial with each defined atom replaced by its definition, once."""
        if definitions.keys().isdisjoint(self.atoms()):
            return self
        total: dict[Monomial, int] = {}
        for monomial, coefficient in self.terms.items():
            known = tuple([atom for atom in monomial if atom not in definitions])
            term = Poly({known: coefficient})
            for atom in monomial:
                if atom in definitions:
                    term = term * definitions[atom]
            for m, c in term.terms.items():
                total[m] = total.get(m, 0) + c
        return Poly(total)

    def exact_quotient(self, divisor: Poly) -> Poly | None:
        """The polynomial divided by a single-term ``divisor``, or None where a term does not divide."""
        if len(divisor.terms) != 1:
            return as_poly(1) if self == divisor else None
        ((factor, scale),) = divisor.terms.items()
        terms: dict[Monomial, int] = {}
        for monomial, coefficient in self.terms.items():
            rest = list(monomial)
            for atom in factor:
                if atom not in rest:
                    return None
                rest.remove(atom)
            if coefficient % scale:
                return None
            terms[tuple(rest)] = coefficient // scale
        return Poly(terms)

    def __repr__(self) -> str:
        parts = []
        for monomial, coefficient in self.terms.items():
            names = "*".join(atom.name for atom in monomial)
            parts.append(f"{coefficient}*{names}" if names and coefficient != 1 else names or str(coefficient))
        return " + ".join(parts) or "0"


def _value(atom: Atom, values: Values) -> int:
    if atom in values:
        return values[atom]
    if atom.call is None:
        return atom.hint
    name, argument, parameters = atom.call
    value = FUNCTIONS[name](argument.at(values), *parameters)
    if not argument.has_width:  # which copies of a block may have other values of
        values[atom] = value
    return value


_SMALL = {n: Poly({(): n}) for n in range(-1, 65)}


def as_poly(value: Poly | int) -> Poly:
    """``value`` itself, or the constant polynomial of an integer."""
    if isinstance(value, Poly):
        return value
    return _SMALL.get(value) or Poly({(): int(value)})


def product(factors: tuple[Poly, ...] | list[Poly]) -> Poly:
    total = _SMALL[1]
    for factor in factors:
        total = total * factor
    return total
