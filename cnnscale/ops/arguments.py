"""What several rules do with their arguments: lists of sizes, literals beside channels, axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnnscale.shapes import Context, Lit, Split, Sym
from cnnscale.symbolic import Poly, as_poly

__all__ = ["channel_axis", "cut", "flat", "owner", "replaced", "soft", "spread", "today_of"]


def channel_axis(ctx: Context, x: Sym) -> int:
    """The first dimension that has channels, else 1."""
    return next((i for i, dim in enumerate(x.shape) if ctx.is_channel(dim)), 1)


def today_of(value: Poly | int) -> int:
    return value.hint if isinstance(value, Poly) else int(value)


def cut(ctx: Context, bound: Poly | int, whole: Poly) -> Poly:
    """A bound within channels: a literal becomes an unknown, the same one for the same cut of the same whole."""
    if not isinstance(bound, Lit):
        return as_poly(bound)
    whole = ctx.equations.resolve(whole)
    for split in ctx.splits:
        if split.part.hint == bound and ctx.equations.resolve(split.whole) == whole:
            return ctx.literal(bound, split.part)
    part = ctx.equations.atom(f"{ctx.node.name}:{int(bound)}", int(bound), is_width=True)
    ctx.splits.append(Split(part, whole, ctx.node))
    return ctx.literal(bound, part)


def flat(sizes: Sequence[Any]) -> list[Any]:
    return list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else list(sizes)


def replaced(x: Sym, dim: int, size: Poly) -> Sym:
    shape = list(x.shape)
    shape[dim] = size
    return Sym(tuple(shape))


def soft(ctx: Context, value: Any) -> Poly:
    """A literal beside channels: it stays unless a channel forces it."""
    if not isinstance(value, Lit) or value == 0:
        return as_poly(value)
    return ctx.literal(value, ctx.equations.atom(f"{ctx.node.name}:{int(value)}", int(value), is_width=True))


def spread(value: Any, n: int) -> list[Any]:
    """A per-dimension option as a list: an int, or a sequence of n (or of 1)."""
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    return values * n if len(values) == 1 else values


def owner(ctx: Context, weight: Sym) -> str:
    """The module whose parameter a computed weight comes from (weight standardisation), else the node's name."""
    width = next((atom for atom in ctx.equations.resolve(weight.shape[0]).atoms() if atom.is_width), None)
    tensor = width.name.rpartition(":")[0] if width is not None else ""
    return tensor.rpartition(".")[0] if tensor in ctx.tensors and "." in tensor else ctx.node.name
