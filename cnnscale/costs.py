"""What a candidate costs, without building it.

Every cost is a sum of products of dimensions, and every dimension a polynomial in the free widths, the image's sides
and the numbers of added blocks. Costs of a block count as often as the block repeats; in a concatenating stage each
copy has its own widths, so there the polynomial is evaluated once per copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from .analysis import Analysis, Stage
from .budgets import Cost
from .inputs import Inputs
from .surgery import Projection
from .symbolic import Atom, Poly, Values, as_poly
from .tracing import caller

__all__ = ["CostModel", "Kind", "copy_atom", "multiplicity", "sizes"]

Kind = Literal["macs", "activations", "params"]


class Place(NamedTuple):
    """Where a cost arises, and so how often."""

    stage: int = -1
    """-1 outside all stages."""
    block: int = -1
    """Position in the stage."""
    gained: Poly | None = None
    """In a projection: there is none where this is 0."""


_OUTSIDE = Place()


@dataclass
class CostModel:
    """The cost polynomials of one analysis."""

    analysis: Analysis

    @cached_property
    def _terms(self) -> list[tuple[Kind, Place, tuple[Poly, ...], int]]:
        """(kind, place, factors, how often): equal products at one place are counted together."""
        counted: Counter[tuple[Kind, Place, tuple[Poly, ...]]] = Counter()
        positions = {node: i for i, node in enumerate(self.analysis.trace.nodes)}
        one_image = {atom: as_poly(1) for atom in self.analysis.ctx.batch.atoms()}
        for product in self.analysis.eval_products:
            factors = tuple(f for f in (f.substitute(one_image) for f in product.factors) if f.constant != 1)
            counted[product.kind, self._place_of_node(positions[product.node]), factors] += 1
        resolve = self.analysis.ctx.equations.resolve
        for name, tensor in self.analysis.trace.module.named_parameters():
            dims = self.analysis.ctx.tensors.get(name)
            factors = tuple(map(resolve, dims)) if dims is not None else ()
            times = 1 if dims is not None else tensor.numel()
            counted["params", self._place_of_path(name), tuple(f for f in factors if f.constant != 1)] += times
        return [(kind, place, factors, times) for (kind, place, factors), times in counted.items()]

    @cached_property
    def _spans(self) -> list[tuple[int, int, Place]]:
        return [(block.start, block.stop, Place(s, b)) for s, b, block in self.analysis.block_calls()]

    def _place_of_node(self, position: int) -> Place:
        place = next((place for start, stop, place in self._spans if start <= position < stop), _OUTSIDE)
        node = self.analysis.trace.nodes[position]
        return self._in_projection(place, str(node.target) if node.op == "call_module" else caller(node))

    def _in_projection(self, place: Place, path: str) -> Place:
        gained = next((gained for projection, gained in self._gained if projection.child.holds(path)), None)
        return place._replace(gained=gained)

    @cached_property
    def _gained(self) -> list[tuple[Projection, Poly]]:
        return [(projection, self.analysis.gained(projection)) for projection in self.analysis.projections]

    @cached_property
    def _modules(self) -> dict[str, Place]:
        return {path: Place(s, b) for s, b, block in self.analysis.blocks() for path in block.modules}

    def _place_of_path(self, name: str) -> Place:
        path = name
        while path and path not in self._modules:
            path = path.rpartition(".")[0]
        return self._in_projection(self._modules.get(path, _OUTSIDE), name)

    def _times(self, place: Place, values: Values, repeats: Sequence[int]) -> int:
        """How often what stands at ``place`` occurs."""
        if place.gained is not None and place.gained.at(values) == 0:
            return 0
        return multiplicity(self._stage(place), place.block, repeats[place.stage]) if place.stage >= 0 else 1

    def _stage(self, place: Place) -> Stage | None:
        return self.analysis.stages[place.stage] if place.stage >= 0 else None

    def cost(self, values: Values, repeats: Sequence[int]) -> Cost:
        """The cost of one image with these widths, sizes and repeats (one number per stage), as exact integers."""
        totals = {"macs": 0, "activations": 0, "params": 0}
        for kind, factors, times, at in self._rounds(values, repeats):
            totals[kind] += times * _product(factors, at)
        return Cost(macs=totals["macs"], params=totals["params"], activations=totals["activations"])

    def by_sides(self, kind: Kind, values: Values, repeats: Sequence[int]) -> Callable[[Values], int]:
        """One cost as a function of the image's sides alone: everything else is multiplied out once."""
        merged: Counter[tuple[Poly, ...]] = Counter()
        mixed: list[tuple[tuple[Poly, ...], int, Values]] = []
        for of, factors, times, at in self._rounds(values, repeats):
            if of == kind:
                sides = tuple(
                    f for f in factors if f.constant is None and not any(leaf.is_width for leaf in f.leaves())
                )
                rest = tuple(f for f in factors if f not in sides)
                if any(atom.call is not None or not atom.is_width for f in rest for atom in f.atoms()):
                    mixed.append((factors, times, at))
                else:
                    merged[sides] += times * _product(rest, at)
        widths = dict(values)

        def cost(sides: Values) -> int:
            total = sum(times * _product(factors, sides) for factors, times in merged.items())
            return total + sum(times * _product(factors, {**widths, **at, **sides}) for factors, times, at in mixed)

        return cost

    def _rounds(self, values: Values, repeats: Sequence[int]) -> Iterator[tuple[Kind, tuple[Poly, ...], int, Values]]:
        """(kind, factors, how often, values to evaluate the factors with), for every copy of every block."""
        for kind, place, factors, times in self._terms:
            count = self._times(place, values, repeats)
            atom = copy_atom(self._stage(place), place.block)
            if atom is None:
                if count:
                    yield kind, factors, times * count, values
            else:
                for number in range(count):
                    yield kind, factors, times, {**values, atom: number}

    def changed(self, values: Values, repeats: Sequence[int]) -> float:
        """Fraction of the weights of two or more dimensions which change shape or belong to a copy."""
        total = changed = 0
        for place, dims in self._weights:
            count = self._times(place, values, repeats)
            total += count
            different = count > 0 and any(dim.at(values) != dim.hint for dim in dims)
            changed += count if different else max(0, count - 1)
        return changed / max(1, total)

    @cached_property
    def _weights(self) -> list[tuple[Place, tuple[Poly, ...]]]:
        resolve, tensors = self.analysis.ctx.equations.resolve, self.analysis.ctx.tensors
        return [
            (self._place_of_path(name), tuple(d for d in map(resolve, tensors.get(name, ())) if d.constant is None))
            for name, tensor in self.analysis.trace.module.named_parameters()
            if tensor.dim() > 1
        ]


def _product(factors: tuple[Poly, ...], values: Values) -> int:
    total = 1
    for factor in factors:
        total *= factor.at(values)
    return total


def multiplicity(stage: Stage | None, position: int, repeats: int) -> int:
    """How often the block at ``position`` occurs in a stage of ``repeats`` blocks: the last one is repeated."""
    if stage is None:
        return 1
    last = len(stage.blocks) - 1
    if position < last:
        return int(position < repeats)
    return max(0, repeats - last)


def copy_atom(stage: Stage | None, position: int) -> Atom | None:
    """The atom that numbers the copies of this block, where each copy has widths of its own."""
    if stage is None or stage.concatenation is None or position < len(stage.blocks) - 1:
        return None
    return stage.concatenation.copy


def sizes(analysis: Analysis, inputs: Inputs, repeats: Sequence[int]) -> Values:
    """The values of the inputs' sides and of the numbers of added blocks."""
    values: Values = analysis.side_values(inputs)
    for stage, count in zip(analysis.stages, repeats, strict=True):
        if stage.concatenation is not None:
            values[stage.concatenation.extra] = count - len(stage.blocks)
    return values
