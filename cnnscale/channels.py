"""Which channels of a widened layer repeat which of the baseline: the choice where there is one, and its recognition.

A layer may write its channels in any order, but layers whose outputs meet must choose the same one. The order chosen
here depends on the width alone, so that they do: each channel is followed by its copies, ``i * old // new`` for channel
``i``. Cut into equal parts, groups or halves, such an order gives such orders again. Where a width is a concatenation
of others, or is cut into unequal ones, it is the concatenation of their orders.

Channels are recognised by their values, one number for each image of a batch (:func:`fingerprint`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx

from .analysis import Analysis
from .ops import channel_axis, operation_name
from .shapes import Sym
from .symbolic import Atom, Poly, Values

__all__ = ["NEW", "UNKNOWN", "Orders", "fingerprint", "matched", "spread"]

NEW, UNKNOWN = -1, -2
"""In place of a channel of the baseline: none, it is new; none that was recognised."""
_NEAR = 1e-9


def spread(old: int, new: int) -> Tensor:
    """The channel of ``old`` that each of ``new`` channels repeats: all of them in order, as equally often as can be."""
    return torch.arange(new) * old // max(1, new)


Chosen = Callable[[Atom, int], Tensor]
"""(width, its new value) -> the channels that stay, in order."""


@dataclass
class Orders:
    """The order of channels of every width of one scaled network."""

    analysis: Analysis
    values: Values
    kept: Chosen | None = None
    """Which channels stay where a width shrinks; by default they are thinned out evenly."""
    _known: dict[Poly, Tensor] = field(default_factory=dict)

    def of(self, dim: Poly) -> Tensor:
        """The baseline's channel for each channel of a dimension of the scaled network."""
        dim = self.analysis.ctx.equations.resolve(dim)
        if dim not in self._known:
            self._known[dim] = spread(dim.hint, dim.at(self.values))  # while its own parts are looked up
            self._known[dim] = self._of(dim)
        return self._known[dim]

    def _of(self, dim: Poly) -> Tensor:
        parts, unit = self._layouts.get(dim, ((), 1))
        if parts:
            starts = [sum(part.hint for part in parts[:i]) for i in range(len(parts))]
            return torch.cat([self.of(part) + start for part, start in zip(parts, starts, strict=True)])
        single = dim.single()
        if single is None or not single[1].is_width:
            return spread(dim.hint, dim.at(self.values))
        times, atom = single
        old, new = atom.hint, Poly({(atom,): 1}).at(self.values)
        own = self.kept(atom, new) if new < old and self.kept is not None else spread(old, new)
        if unit == times:
            return (own[:, None] * unit + torch.arange(unit)).flatten()
        return (own + torch.arange(times)[:, None] * old).flatten()

    @cached_property
    def _layouts(self) -> dict[Poly, tuple[tuple[Poly, ...], int]]:
        """Width -> (its parts in order, how many neighbours stay together)."""
        found: dict[Poly, tuple[tuple[Poly, ...], int]] = {}
        for node in self.analysis.trace.nodes:
            for whole, parts, unit in self._layout(node):
                whole, parts = self._resolved(whole), tuple(map(self._resolved, parts))
                if whole.has_width and (unit > 1 or len(set(parts)) > 1) and sum(p.hint for p in parts or (whole,)):
                    fits = not parts or sum(p.at(self.values) for p in parts) == whole.at(self.values)
                    if fits:
                        found.setdefault(whole, (parts, unit))
        return found

    def _resolved(self, poly: Poly) -> Poly:
        return self.analysis.ctx.equations.resolve(poly)

    def _layout(self, node: fx.Node) -> Iterator[tuple[Poly, tuple[Poly, ...], int]]:
        name = operation_name(node.target) if node.op in ("call_function", "call_method") else ""
        value = self.analysis.values.get(node)
        inputs = [v for v in map(self.analysis.values.get, node.all_input_nodes) if isinstance(v, Sym)]
        if not inputs:
            return
        ctx = self.analysis.ctx
        if name in ("cat", "concat", "concatenate") and isinstance(value, Sym):
            axis = channel_axis(ctx, value)
            listed = node.args[0] if node.args else ()
            joined = [self.analysis.values.get(n) for n in listed if isinstance(n, fx.Node)]  # type: ignore[union-attr]
            if all(isinstance(v, Sym) and len(v.shape) == len(value.shape) for v in joined):
                yield value.shape[axis], tuple(v.shape[axis] for v in joined), 1  # type: ignore[union-attr]
        elif name in ("split", "split_with_sizes", "chunk") and isinstance(value, (tuple, list)):
            axis = channel_axis(ctx, inputs[0])
            yield inputs[0].shape[axis], tuple(part.shape[axis] for part in value if isinstance(part, Sym)), 1
        elif name in ("getitem", "narrow"):
            yield from self._cuts(node, inputs[0])
        elif name == "pad" and isinstance(value, Sym) and len(value.shape) > 1:
            axis = channel_axis(ctx, inputs[0])
            added = value.shape[axis] - inputs[0].shape[axis]
            if self._resolved(added).hint:
                yield value.shape[axis], _padded(node, axis, inputs[0].shape[axis], added), 1
        elif "pixel_shuffle" in name and isinstance(value, Sym):
            yield inputs[0].shape[1], (), inputs[0].shape[1].hint // value.shape[1].hint

    def _cuts(self, node: fx.Node, whole: Sym) -> Iterator[tuple[Poly, tuple[Poly, ...], int]]:
        """A dimension cut by slices, at all the places where slices cut it."""
        dim = self._resolved(whole.shape[channel_axis(self.analysis.ctx, whole)])
        own = [s for s in self.analysis.ctx.splits if self._resolved(s.whole) == dim]
        sliced = [s for s in own if operation_name(s.node.target) in ("getitem", "narrow")]
        at = sorted({self._resolved(s.part) for s in sliced}, key=lambda p: p.hint)
        if any(s.node is node for s in sliced):
            yield dim, tuple(high - low for low, high in zip([dim * 0, *at], [*at, dim], strict=True)), 1


def _padded(node: fx.Node, axis: int, before: Poly, added: Poly) -> tuple[Poly, ...]:
    """The parts of a padded width; the zeros in front are as many as behind, or there are none."""
    widths: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad", ())
    rank = len(node.meta["val"].shape)
    at = 2 * (rank - 1 - axis)
    low, high = (int(w) if isinstance(w, int) else -1 for w in (*widths, *(0,) * (2 * rank))[at : at + 2])
    if not low:
        return before, added
    half = added.exact_quotient(Poly({(): 2})) if low == high else None
    return (half, before, half) if half is not None else (added, before) if not high else ()


# --- recognition ------------------------------------------------------------------------------------------------------


def fingerprint(x: Tensor, axis: int) -> Tensor:
    """One number per channel and image: (C, N). Two channels have the same where, and only where, they are equal."""
    x = x.movedim(axis, 0) if x.dim() else x[None]
    x = x.reshape(x.shape[0], x.shape[1], -1) if x.dim() > 1 else x[:, None, None]
    weights = torch.rand(x.shape[2], generator=torch.Generator().manual_seed(x.shape[2]), dtype=x.dtype)
    return (x @ weights.to(x.device)).detach()


def matched(found: Tensor, known: Tensor) -> Tensor:
    """For each row of ``found`` (C', N) the equal row of ``known`` (C, N): its number, NEW for NaN, else UNKNOWN."""
    result = torch.full((found.shape[0],), UNKNOWN)
    if known.shape[1] != found.shape[1] or not len(known):
        return result
    order = torch.argsort(known[:, 0])
    keys = known[order, 0].contiguous()
    at = torch.searchsorted(keys, found[:, 0].contiguous())
    for shift in (0, -1, 1):
        near = order[(at + shift).clamp(0, len(keys) - 1)]
        same = torch.isclose(known[near], found, rtol=_NEAR, atol=_NEAR).all(1) & (result == UNKNOWN)
        result[same] = near[same]
    result[found.isnan().any(1)] = NEW
    return result
