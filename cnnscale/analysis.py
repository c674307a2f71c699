"""What is known about one model at one input size: graph, equations, stages and cost polynomials, as data.

:mod:`cnnscale.reading` makes it; :mod:`cnnscale.widths`, :mod:`cnnscale.costs` and :mod:`cnnscale.planning` read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import fx, nn

from .concatenation import Concatenation
from .inputs import Inputs, InputSize
from .shapes import Context, Product, Sym
from .stages import Block, Site, called_blocks
from .surgery import Borrowed, Origin, Projection
from .symbolic import Poly, Values
from .tracing import Trace

__all__ = ["COPY", "Analysis", "Stage"]


COPY = " (copy)"
"""Marks the path of a layer that the baseline does not have: it belongs to a block made for a single-block stage."""


@dataclass(frozen=True)
class Stage:
    """A stage of the extended baseline."""

    site: Site
    repeats: int
    """Blocks in the baseline; one less than in the site where the template was made by us."""
    concatenation: Concatenation | None
    obstacle: str = ""
    """Why the stage cannot grow deeper; empty where it can."""
    least: int = 1
    """Fewer blocks than this do not do."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.site.blocks

    @property
    def turn(self) -> int:
        """How many of the author's blocks take turns to make one of the stage (:mod:`cnnscale.mixtures`)."""
        return len(self.site.template.modules) if self.site.kind == "chain" else 1


@dataclass
class Analysis:
    """What is known about one model at one input size."""

    baseline: nn.Module
    """The baseline itself, which is only read."""
    trace: Trace
    """Of the extended baseline, in eval mode."""
    ctx: Context
    stages: tuple[Stage, ...]
    origins: dict[str, Origin]
    """Module path in the extended baseline -> in the baseline; copy 1 is the one that we made."""
    values: dict[fx.Node, Any]
    """Symbolic value of each node."""
    input_size: InputSize
    projections: tuple[Projection, ...] = ()
    """Children that the baseline's blocks are given because of ``pin``; the baseline itself has none of them."""
    borrowed: tuple[Borrowed, ...] = ()
    """Children of the copies that we made, which the blocks that they copy lack."""
    eval_products: tuple[Product, ...] = field(default=())
    """Costs in eval mode, with factors in free atoms."""

    @property
    def inputs(self) -> Inputs:
        """The input size, taken apart."""
        return self.trace.inputs

    def side_values(self, inputs: Inputs) -> Values:
        """The values of the sides of the inputs, where these are of other sizes."""
        return {
            atom: new
            for own, size in zip(self.inputs.sizes, inputs.sizes, strict=True)
            for side, new in zip(self.inputs.sides_of(own), size[1:], strict=False)
            if side in self.ctx.sides
            for atom in self.ctx.sides[side].atoms()
        }

    def inputs_at(self, values: Values) -> Inputs:
        """The inputs whose sides have these values."""
        sizes = []
        for own in self.inputs.sizes:
            sides = [self.ctx.side(side).at(values) for side in self.inputs.sides_of(own)]
            sizes.append((own[0], *(sides or own[1:])))
        return replace(self.inputs, sizes=tuple(sizes))

    def channels(self, node: fx.Node) -> Poly | None:
        """The channel dimension of a node's value, in free atoms."""
        value = self.values.get(node)
        if not isinstance(value, Sym) or len(value.shape) < 2:
            return None
        dims = [self.ctx.equations.resolve(dim) for dim in value.shape]
        return next((dim for dim in dims if dim.has_width), dims[1])

    def sides(self, node: fx.Node) -> tuple[Poly, ...]:
        """The dimensions of a node's value besides batch and channels, where they are as many as the image's sides;
        none where they are not (a row of tokens), or where one of them moves with a width."""
        value, channels = self.values.get(node), self.channels(node)
        if not isinstance(value, Sym) or channels is None or len(value.shape) != len(self.inputs.sides) + 2:
            return ()
        dims = [self.ctx.equations.resolve(dim) for dim in value.shape]
        sides = [*dims[1 : dims.index(channels, 1)], *dims[dims.index(channels, 1) + 1 :]]
        return () if any(side.has_width for side in sides) else tuple(sides)

    def gained(self, projection: Projection) -> Poly:
        """The channels that a projection's block has more at its end than at its start; without any it needs none."""
        block = next(b for b in called_blocks(self.trace) if b.path == projection.block)
        before, after = self.channels(block.inputs[0]), self.channels(block.output)
        assert before is not None
        assert after is not None
        return after - before

    def known(self, origin: Origin) -> Origin:
        """The origin in the baseline itself: of a child that its block lacks, what that was made after."""
        new = (*(projection.child for projection in self.projections), *self.borrowed)
        return next((child.origin(origin) for child in new if child.holds(origin.path)), origin)

    def baseline_path(self, path: str) -> str:
        """The module path a user knows for a path of the extended baseline."""
        origin = self.origins.get(path, Origin(path, 0))
        return origin.path if origin.copy == 0 else f"{origin.path}{COPY}"

    def plain_path(self, path: str) -> str:
        """The same, a copy's path being that of what it copies."""
        return self.baseline_path(path).removesuffix(COPY)

    def blocks(self) -> Iterator[tuple[int, int, Block]]:
        """(stage number, position, block) of every block."""
        for s, stage in enumerate(self.stages):
            for b, block in enumerate(stage.blocks):
                yield s, b, block

    def block_calls(self) -> Iterator[tuple[int, int, Block]]:
        """The same for every call of every block."""
        for s, b, block in self.blocks():
            for call in block.calls:
                yield s, b, call

    @cached_property
    def owners(self) -> dict[fx.Node, tuple[int, Block]]:
        """Node -> (stage number, the call of a block that it belongs to)."""
        return {node: (s, b) for s, _, b in self.block_calls() for node in self.trace.nodes[b.start : b.stop]}

    def is_copied(self, node: fx.Node, number: int) -> bool:
        """Whether copy ``number`` of a node belongs to a block that the baseline does not have."""
        if number or node not in self.owners:
            return number > 0
        _, block = self.owners[node]
        return self.origins.get(block.path, Origin("", 0)).copy > 0
