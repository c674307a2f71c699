"""Which channels of the baseline a widened layer repeats, and in which order: the choice, where a layer has one.

Layers whose outputs meet must choose the same order. The order chosen here depends on the width alone, so that they do:
each channel is followed by its copies, channel ``i * old // new`` of the baseline at ``i``. Cut into equal parts,
groups or halves, such an order gives such orders again. Where a width is a concatenation of others, or is cut into
unequal ones, it is the concatenation of their orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from .analysis import Analysis
from .ops import channel_axis, operation_name
from .recognition import spread
from .shapes import Sym
from .stages import is_cat
from .symbolic import Atom, Poly, Values, as_poly

__all__ = ["Orders"]

Kept: TypeAlias = Callable[[Atom, int], Tensor]
"""(width, its smaller new value) -> the channels that stay, in order."""


@dataclass(frozen=True)
class _Layout:
    """What a width is made of: ``parts`` in order, or channels of which ``unit`` neighbours stay together."""

    parts: tuple[Poly, ...] = ()
    unit: int = 1


@dataclass
class Orders:
    """The order of channels of every width of one scaled network."""

    analysis: Analysis
    values: Values
    kept: Kept
    """Which channels stay where a width shrinks."""
    own: Mapping[fx.Node, Tensor] = field(default_factory=dict)
    """Layers whose outputs have another order than that of their width."""
    _known: dict[Poly, Tensor] = field(default_factory=dict)

    def of(self, dim: Poly) -> Tensor:
        """The baseline's channel for each channel of a dimension of the scaled network."""
        dim = self._resolved(dim)
        if dim not in self._known:
            self._known[dim] = spread(dim.hint, dim.at(self.values))  # while its own parts are looked up
            self._known[dim] = self._of(dim)
        return self._known[dim]

    def _of(self, dim: Poly) -> Tensor:
        layout = self._layouts.get(dim, _Layout())
        if layout.parts:
            starts = [sum(part.hint for part in layout.parts[:i]) for i in range(len(layout.parts))]
            return torch.cat([self.of(part) + start for part, start in zip(layout.parts, starts, strict=True)])
        single = dim.single()
        if single is None or not single[1].is_width:
            return spread(dim.hint, dim.at(self.values))
        times, atom = single
        old, new = atom.hint, Poly({(atom,): 1}).at(self.values)
        own = self.kept(atom, new) if new < old else spread(old, new)
        if layout.unit == times:
            return (own[:, None] * times + torch.arange(times)).flatten()
        return (own + torch.arange(times)[:, None] * old).flatten()

    def _resolved(self, poly: Poly) -> Poly:
        return self.analysis.ctx.equations.resolve(poly)

    @cached_property
    def _layouts(self) -> dict[Poly, _Layout]:
        """Width -> what it is made of; the first place in the network that says so counts."""
        found: dict[Poly, _Layout] = {}
        for node in self.analysis.trace.nodes:
            for written, layout in self._read(node):
                whole, parts = self._resolved(written), tuple(map(self._resolved, layout.parts))
                whole_now, parts_now = whole.at(self.values), sum(part.at(self.values) for part in parts)
                unequal = len(set(parts)) > 1 and parts_now == whole_now
                if whole.has_width and (unequal or layout.unit > 1):
                    found.setdefault(whole, _Layout(parts, layout.unit))
        return found

    def _read(self, node: fx.Node) -> Iterator[tuple[Poly, _Layout]]:
        """The widths that a node joins, cuts or folds."""
        name = operation_name(node.target) if node.op in ("call_function", "call_method") else ""
        value = self.analysis.values.get(node)
        inputs = [v for v in map(self.analysis.values.get, node.all_input_nodes) if isinstance(v, Sym)]
        if not inputs:
            return
        first, ctx = inputs[0], self.analysis.ctx
        if name and is_cat(node) and isinstance(value, Sym):
            axis = channel_axis(ctx, value)
            listed: Any = node.args[0] if node.args else ()
            joined = [self.analysis.values[n] for n in listed if isinstance(n, fx.Node)]
            yield value.shape[axis], _Layout(tuple(v.shape[axis] for v in joined))
        elif name in ("split", "split_with_sizes", "chunk") and isinstance(value, (tuple, list)):
            axis = channel_axis(ctx, first)
            yield first.shape[axis], _Layout(tuple(part.shape[axis] for part in value))
        elif name in ("getitem", "narrow"):
            yield from self._cuts(node, first)
        elif name == "pad" and isinstance(value, Sym) and len(value.shape) > 1:
            axis = channel_axis(ctx, first)
            yield value.shape[axis], _Layout(_padded(node, axis, first.shape[axis], value.shape[axis]))
        elif "pixel_shuffle" in name and isinstance(value, Sym):
            yield first.shape[1], _Layout(unit=first.shape[1].hint // value.shape[1].hint)

    def _cuts(self, node: fx.Node, whole: Sym) -> Iterator[tuple[Poly, _Layout]]:
        """A dimension cut by slices, at all the places where slices cut it."""
        axis = channel_axis(self.analysis.ctx, whole)
        if axis >= len(whole.shape):
            return  # a weight that gets more axes
        dim = self._resolved(whole.shape[axis])
        own = [s for s in self.analysis.ctx.splits if self._resolved(s.whole) == dim]
        sliced = [s for s in own if operation_name(s.node.target) in ("getitem", "narrow")]
        if any(s.node is node for s in sliced):
            at = sorted({self._resolved(s.part) for s in sliced}, key=lambda p: p.hint)
            yield dim, _Layout(tuple(high - low for low, high in zip([dim * 0, *at], [*at, dim], strict=True)))


def _padded(node: fx.Node, axis: int, before: Poly, after: Poly) -> tuple[Poly, ...]:
    """The parts of a padded width; the zeros in front are as many as behind, or there are none."""
    widths: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad", ())
    at = 2 * (len(node.meta["val"].shape) - 1 - axis)
    low, high = (int(w) if isinstance(w, int) else -1 for w in (*widths, *(0,) * (at + 2))[at : at + 2])
    added = after - before
    if not low or not high:
        return (added, before) if low else (before, added)
    half = added.exact_quotient(as_poly(2)) if low == high else None
    return (half, before, half) if half is not None else ()
