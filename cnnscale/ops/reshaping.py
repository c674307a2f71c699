"""Operations that keep every element and move it: views, permutations, concatenation, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from cnnscale.shapes import Context, Lit, Split, Sym, broadcast, is_size
from cnnscale.symbolic import Poly, as_poly, product

from .arguments import flat, replaced, soft, today_of
from .table import rule

__all__ = ["channel_shuffle", "flatten"]


@rule("view", "reshape")
def view(ctx: Context, x: Sym, *sizes: Any, shape: Any = None) -> Sym:
    """Cut both shapes into the smallest runs of equal product; within a run the products are equal.

    1. A ``-1`` is the quotient; literals beside it stay.
    2. One literal is the quotient, mostly the largest; other literals stay.
    3. Otherwise the products are equated.
    """
    wanted = flat(sizes) if shape is None else list(shape)
    if wanted and isinstance(wanted[0], torch.dtype):
        return x
    now = list(ctx.node.meta["val"].shape)
    result: list[Poly] = []
    for ins, outs in _runs([d.hint for d in x.shape], now):
        dims = _factors(x.shape[ins]) if len(_numbers(wanted[outs])) > 1 else x.shape[ins]
        for inner, part in _runs([d.hint for d in dims], now[outs]):
            result += _fill(ctx, product(dims[inner]), wanted[outs][part], now[outs][part])
    return Sym(tuple(result))


def _numbers(wanted: Sequence[Any]) -> list[int]:
    """Places of the literals that may move."""
    return [k for k, w in enumerate(wanted) if isinstance(w, Lit) and w > 1]


def _factors(dims: tuple[Poly, ...]) -> tuple[Poly, ...]:
    """Flattened dimensions as those that they were flattened from, where each is a product of unknowns alone."""
    factors: list[Poly] = []
    for dim in dims:
        monomials = list(dim.terms.items())
        if len(monomials) != 1 or monomials[0][1] != 1:
            return dims
        factors += [Poly({(atom,): 1}) for atom in monomials[0][0]] or [dim]
    return tuple(factors)


def _runs(before: list[int], after: list[int]) -> list[tuple[slice, slice]]:
    runs, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        start_i, start_j, a, b = i, j, before[i], after[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a, i = a * before[i], i + 1
            else:
                b, j = b * after[j], j + 1
        runs.append((slice(start_i, i), slice(start_j, j)))
    if not runs:
        return [(slice(0, len(before)), slice(0, len(after)))]
    last_i, last_j = runs[-1]
    return [*runs[:-1], (slice(last_i.start, len(before)), slice(last_j.start, len(after)))]


def _fill(ctx: Context, total: Poly, wanted: list[Any], now: list[int]) -> list[Poly]:
    literals = _numbers(wanted)
    open_at = next((k for k, w in enumerate(wanted) if is_size(w) and today_of(w) == -1), None)
    if open_at is None and literals:
        open_at = _movable(ctx.equations.resolve(total), {k: now[k] for k in literals})
    dims = [as_poly(n if k == open_at else w) for k, (w, n) in enumerate(zip(wanted, now, strict=True))]
    if open_at is None:
        ctx.equate(total, product(dims))
        return dims
    rest = product([d for k, d in enumerate(dims) if k != open_at])
    dims[open_at] = ctx.quotient(total, rest)
    if open_at in literals:
        ctx.literal(wanted[open_at], dims[open_at])
    return dims


def _movable(total: Poly, literals: dict[int, int]) -> int:
    """The place of the literal that is the quotient: with it, ``total`` is divided by the least number, not counting
    what divides its coefficients. Mostly that is the largest; not beside the 9 of patches of 3 x 3."""
    common, whole = math.gcd(*total.terms.values()), math.prod(literals.values())

    def divisor(k: int) -> int:
        others = whole // literals[k]
        return others // math.gcd(common, others)

    return min(literals, key=divisor)


@rule("view_as", "reshape_as")
def view_as(ctx: Context, x: Sym, other: Sym) -> Sym:
    return view(ctx, x, other.shape)


@rule("expand_as")
def expand_as(ctx: Context, x: Sym, other: Sym) -> Sym:
    return expand(ctx, x, other.shape)


@rule("expand", "broadcast_to")
def expand(ctx: Context, x: Sym, *sizes: Any) -> Sym:
    wanted = flat(sizes)
    old = [as_poly(1)] * (len(wanted) - len(x.shape)) + list(x.shape)
    shape = []
    for dim, size in zip(old, wanted, strict=True):
        if today_of(size) == -1:
            shape.append(dim)
        elif dim.constant == 1:
            shape.append(as_poly(size))
        else:
            shape.append(ctx.literal(size, dim))
    return Sym(tuple(shape))


@rule("repeat", "tile")
def repeat(ctx: Context, x: Sym, *sizes: Any) -> Sym:
    times = flat(sizes)
    old = [as_poly(1)] * (len(times) - len(x.shape)) + list(x.shape)
    return Sym(
        tuple(soft(ctx, n) if dim.constant == 1 else dim * as_poly(n) for dim, n in zip(old, times, strict=True))
    )


@rule("repeat_interleave")
def repeat_interleave(ctx: Context, x: Sym, repeats: Any, dim: int, **kwargs: Any) -> Sym:
    return replaced(x, dim, x.shape[dim] * as_poly(repeats))


@rule("flatten")
def flatten(ctx: Context, x: Sym, start_dim: int = 0, end_dim: int = -1) -> Sym:
    start, stop = start_dim % len(x.shape), end_dim % len(x.shape) + 1
    return Sym((*x.shape[:start], product(x.shape[start:stop]), *x.shape[stop:]))


@rule("unflatten")
def unflatten(ctx: Context, x: Sym, dim: int, sizes: Any) -> Sym:
    dim %= len(x.shape)
    now = list(ctx.node.meta["val"].shape)[dim : dim + len(sizes)]
    return Sym((*x.shape[:dim], *_fill(ctx, x.shape[dim], list(sizes), now), *x.shape[dim + 1 :]))


@rule("permute")
def permute(ctx: Context, x: Sym, *dims: Any) -> Sym:
    return Sym(tuple(x.shape[d] for d in flat(dims)))


@rule("transpose", "swapaxes")
def transpose(ctx: Context, x: Sym, dim0: int, dim1: int) -> Sym:
    shape = list(x.shape)
    shape[dim0], shape[dim1] = shape[dim1], shape[dim0]
    return Sym(tuple(shape))


@rule("t")
def t(ctx: Context, x: Sym) -> Sym:
    return Sym(x.shape[::-1])


@rule("movedim")
def movedim(ctx: Context, x: Sym, source: int, destination: int) -> Sym:
    shape = list(x.shape)
    shape.insert(destination % len(shape), shape.pop(source))
    return Sym(tuple(shape))


@rule("squeeze")
def squeeze(ctx: Context, x: Sym, dim: int | None = None) -> Sym:
    axes = range(len(x.shape)) if dim is None else [dim % len(x.shape)]
    gone = [i for i in axes if x.shape[i].hint == 1]
    for i in gone:
        ctx.equate(x.shape[i], 1)
    return Sym(tuple(d for i, d in enumerate(x.shape) if i not in gone))


@rule("unsqueeze")
def unsqueeze(ctx: Context, x: Sym, dim: int) -> Sym:
    at = dim % (len(x.shape) + 1)
    return Sym((*x.shape[:at], as_poly(1), *x.shape[at:]))


@rule("cat", "concat", "concatenate")
def cat(ctx: Context, tensors: Sequence[Sym], dim: int = 0) -> Sym:
    dim %= len(tensors[0].shape)
    total = sum((t.shape[dim] for t in tensors[1:]), tensors[0].shape[dim])
    ctx.joins += [Split(t.shape[dim], total, ctx.node) for t in tensors if ctx.is_channel(t.shape[dim])]
    shape = broadcast(ctx, [replaced(t, dim, as_poly(1)).shape for t in tensors])
    return replaced(Sym(shape), dim, total)


@rule("stack")
def stack(ctx: Context, tensors: Sequence[Sym], dim: int = 0) -> Sym:
    return replaced(unsqueeze(ctx, Sym(broadcast(ctx, [t.shape for t in tensors])), dim), dim, as_poly(len(tensors)))


@rule("pad")
def pad(ctx: Context, x: Sym, pad: Sequence[Any], mode: str = "constant", value: Any = None) -> Sym:
    shape = list(x.shape)
    for k in range(0, len(pad), 2):
        axis = -1 - k // 2
        low, high = pad[k], pad[k + 1]
        if ctx.is_channel(shape[axis]) and any(isinstance(p, Lit) and p for p in (low, high)):
            low, high = (soft(ctx, p) for p in (low, high))
            ctx.pads += [Split(part, shape[axis], ctx.node) for part in (low, high)]
        shape[axis] = shape[axis] + as_poly(low) + as_poly(high)
    return Sym(tuple(shape))


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(ctx: Context, x: Sym, groups: int) -> Sym:
    ctx.quotient(x.shape[1], groups)
    return x
