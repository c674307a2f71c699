"""Equations between polynomials, solved as they come.

Every equation holds for the baseline, so no system here is contradictory; what the solver finds is which atoms are
free and how the others follow from them. A width is eliminated only where it stands alone with coefficient 1 (or after
the Euclidean step that makes it so), so every integer assignment of the free atoms gives integers everywhere.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from .symbolic import FUNCTIONS, Atom, Monomial, Poly, Values, as_poly

__all__ = ["Check", "Equations"]


@dataclass(frozen=True)
class Check:
    """A condition on the input size alone, met by the baseline; ``where`` names the node."""

    poly: Poly
    where: str
    holds: Callable[[int], bool] = (0).__eq__
    """Whether a value of ``poly`` will do; by default it must be 0."""

    def at(self, values: Values) -> bool:
        return self.holds(self.poly.at(values))


class Equations:
    """A growing system of equations; :meth:`resolve` writes any polynomial in free atoms."""

    def __init__(self) -> None:
        self.definitions: dict[Atom, Poly] = {}
        self.checks: list[Check] = []
        self._count = 0
        self._calls: dict[tuple[object, ...], Poly] = {}

    def atom(self, name: str, hint: int, *, is_width: bool = False) -> Poly:
        """A new unknown, as a polynomial."""
        self._count += 1
        return Poly({(Atom(self._count, name, hint, is_width=is_width),): 1})

    def call(self, function: str, argument: Poly, *parameters: float | None) -> Poly:
        """``FUNCTIONS[function](argument, *parameters)``; the same call is the same atom."""
        argument = self.resolve(argument)
        if argument.constant is not None:
            return as_poly(FUNCTIONS[function](argument.constant, *parameters))
        key = (function, argument, parameters)
        if key not in self._calls:
            self._count += 1
            hint = FUNCTIONS[function](argument.hint, *parameters)
            name = f"{function}({', '.join(map(str, (argument, *parameters)))})"
            self._calls[key] = Poly({(Atom(self._count, name, hint, call=(function, argument, parameters)),): 1})
        return self._calls[key]

    def resolve(self, poly: Poly) -> Poly:
        """``poly`` in free atoms."""
        resolved = poly.substitute(self.definitions)
        if resolved is poly:
            return poly
        resolved = self.resolve(resolved)
        known = poly.single()
        if known is not None and known[0] == 1:
            self.definitions[known[1]] = resolved
        return resolved

    def equate(self, left: Poly, right: Poly, where: str = "") -> None:
        """From now on ``left == right``."""
        left, right = self.resolve(left), self.resolve(right)
        if left != right:
            self._eliminate(_reduced(left - right), where)

    def define(self, unknown: Poly, poly: Poly) -> None:
        """From now on ``unknown``, a single atom that is no width, is ``poly``."""
        (atom,) = unknown.atoms()
        assert not atom.is_width
        assert poly.hint == unknown.hint
        self.definitions[atom] = poly

    def decide(self, poly: Poly, holds: Callable[[int], bool], where: str) -> None:
        """From now on ``holds(poly)``, if no width is in it."""
        poly = self.resolve(poly)
        if poly.constant is None and not poly.has_width:
            self.checks.append(Check(poly, where, holds))

    def quotient(self, poly: Poly, divisor: Poly, name: str = "", where: str = "") -> Poly:
        """``poly / divisor``, which is declared to be exact; a new unknown called ``name`` where it does not divide."""
        poly, divisor = self.resolve(poly), self.resolve(divisor)
        exact = poly.exact_quotient(divisor)
        if exact is None:
            exact = self.atom(name or f"({poly})/({divisor})", poly.hint // divisor.hint, is_width=poly.has_width)
            self.equate(poly, exact * divisor, where)
        return self.resolve(exact)

    def freeze(self, poly: Poly, where: str = "") -> list[Atom]:
        """Keep every width of ``poly`` at today's value; returns the widths that were free until now."""
        widths = list(dict.fromkeys(atom for atom in self.resolve(poly).atoms() if atom.is_width))
        for atom in widths:
            self.equate(Poly({(atom,): 1}), as_poly(atom.hint), where)
        return widths

    def _eliminate(self, difference: Poly, where: str) -> None:
        """Define one width of ``difference == 0`` by the others; without any, it is a condition on the input size."""
        widths = {atom for atom in difference.atoms() if atom.is_width}
        if not widths:
            self.checks.append(Check(difference, where))
            return
        linear = {m[0]: c for m, c in difference.terms.items() if len(m) == 1 and m[0].is_width}
        times = Counter(difference.atoms())
        linear = {a: c for a, c in linear.items() if times[a] == 1}
        units = [atom for atom, c in linear.items() if abs(c) == 1]
        if units:
            signs = Counter(c > 0 for c in difference.terms.values())
            atom = min(units, key=lambda a: self._preference(a, alone=signs[linear[a] > 0] == 1))
            rest = difference - Poly({(atom,): linear[atom]})
            self.definitions[atom] = rest * -linear[atom]
        elif len(linear) == len(difference.terms) == 2:
            (v, a), (w, b) = linear.items()
            common = self.atom(f"{v.name}/{abs(b)}", v.hint // abs(b), is_width=True)
            self.definitions[v], self.definitions[w] = common * abs(b), common * abs(a)
        elif len(linear) > 1 or (linear and self._divides(difference, *linear)):
            self._divide(difference, linear, where)
        else:
            for atom in sorted(widths, key=lambda a: a.index):
                self.equate(Poly({(atom,): 1}), as_poly(atom.hint), where)

    @staticmethod
    def _divides(difference: Poly, atom: Atom) -> bool:
        """Whether the coefficient of ``atom`` divides every other, so that the atom is an integer whatever they are."""
        return all(c % difference.terms[(atom,)] == 0 for c in difference.terms.values())

    @staticmethod
    def _preference(atom: Atom, *, alone: bool) -> tuple[bool, int, int]:
        """Smaller is eliminated first: what is ``alone`` with its sign is a sum of positive terms and stays positive;
        else the largest; else the newest."""
        return (not alone, 0 if alone else -atom.hint, -atom.index)

    def _divide(self, difference: Poly, linear: dict[Atom, int], where: str) -> None:
        """One Euclidean step: with a*v + b*w + ... = 0 and |a| least, v = t - (b // a)*w - ..., t new; or -t, where t
        would be negative today."""
        atom = min(linear, key=lambda a: (abs(linear[a]), a.index))
        a = linear[atom]
        shift = Poly({m: c // a for m, c in difference.terms.items() if m != (atom,)})
        hint = atom.hint + shift.hint
        new = self.atom(f"{atom.name}'", abs(hint), is_width=True) * (1 if hint >= 0 else -1)
        self.definitions[atom] = new - shift
        self.equate(difference, as_poly(0), where)


def _reduced(poly: Poly) -> Poly:
    """``poly`` without the factor that all its terms share."""
    divisor = math.gcd(*poly.terms.values())
    common: Monomial = min(poly.terms, key=len)
    shared = [atom for atom in dict.fromkeys(common) if all(atom in m for m in poly.terms)]
    if divisor == 1 and not shared:
        return poly
    reduced = poly.exact_quotient(Poly({tuple(shared): divisor}))
    assert reduced is not None
    return reduced
