"""What a candidate costs, without building it.

Every cost is a sum of products of dimensions, and every dimension a polynomial in the free widths, the image's sides and
the numbers of added blocks. Costs of a block count as often as the block repeats; in a concatenating stage each copy
has its own widths, so there the polynomial is evaluated once per copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal


from .analysis import Analysis, Stage
from .plans import Cost
from .symbolic import Atom, Poly, Values

__all__ = ["CostModel", "sizes"]

Kind = Literal["macs", "activations", "params"]
Place = tuple[int, int]
"""(stage, position of the block in it); (-1, -1) outside all stages."""
_OUTSIDE: Place = (-1, -1)


@dataclass
class CostModel:
    """The cost polynomials of one analysis."""

    analysis: Analysis

    @cached_property
    def _terms(self) -> list[tuple[Kind, Place, tuple[Poly, ...], int]]:
        """(kind, place, factors, how often): equal products at one place are counted together."""
        counted: Counter[tuple[Kind, Place, tuple[Poly, ...]]] = Counter()
        positions = {node: i for i, node in enumerate(self.analysis.trace.nodes)}
        batch = self.analysis.ctx.tensors["input"][0]
        for product in self.analysis.eval_products:
            factors = tuple(f for f in product.factors if f != batch and f.constant != 1)
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
        return [(block.start, block.stop, (s, b)) for s, b, block in self.analysis.blocks()]

    def _place_of_node(self, position: int) -> Place:
        return next((place for start, stop, place in self._spans if start <= position < stop), _OUTSIDE)

    @cached_property
    def _modules(self) -> dict[str, Place]:
        return {path: (s, b) for s, b, block in self.analysis.blocks() for path in block.modules}

    def _place_of_path(self, path: str) -> Place:
        while path:
            if path in self._modules:
                return self._modules[path]
            path = path.rpartition(".")[0]
        return _OUTSIDE

    def cost(self, values: Values, repeats: Sequence[int]) -> Cost:
        """The cost of one image with these widths, sizes and repeats (one number per stage), as exact integers."""
        totals = {"macs": 0, "activations": 0, "params": 0}
        known: dict[Poly, int] = {}
        for kind, place, factors, times in self._terms:
            stage = self.analysis.stages[place[0]] if place is not _OUTSIDE else None
            times *= 1 if stage is None else multiplicity(stage, place[1], repeats[place[0]])
            if not times:
                continue
            atom = copy_atom(stage, place[1])
            if atom is None:
                totals[kind] += times * _product(factors, values, known)
            else:
                rounds = range(multiplicity(stage, place[1], repeats[place[0]]))
                each = times // len(rounds)
                totals[kind] += sum(each * _product(factors, {**values, atom: k}, {}) for k in rounds)
        return Cost(macs=totals["macs"], params=totals["params"], activations=totals["activations"])


def _product(factors: tuple[Poly, ...], values: Values, known: dict[Poly, int]) -> int:
    total = 1
    for factor in factors:
        if factor not in known:
            known[factor] = factor.at(values)
        total *= known[factor]
    return total


def multiplicity(stage: Stage | None, position: int, repeats: int) -> int:
    """How often the block at ``position`` occurs in a stage of ``repeats`` blocks: the last block is the one repeated."""
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


def sizes(analysis: Analysis, input_size: Sequence[int], repeats: Sequence[int]) -> Values:
    """The values of the image's sides and of the numbers of added blocks."""
    sides = analysis.ctx.tensors["input"][2:]
    values: Values = {poly.single()[1]: side for poly, side in zip(sides, input_size[1:], strict=True)}  # type: ignore[index]
    for stage, count in zip(analysis.stages, repeats, strict=True):
        if stage.concatenation is not None:
            values[stage.concatenation.extra] = count - len(stage.blocks)
    return values


