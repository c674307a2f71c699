"""Operations that take a part: indexing, slices, splits, chunks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import fx

from cnnscale.shapes import Context, Sym, broadcast, constant, is_size
from cnnscale.symbolic import Poly, as_poly

from .arguments import cut, replaced, today_of
from .table import rule, unknown

__all__ = ["glu"]


@rule("getitem")
def getitem(ctx: Context, x: Any, index: Any) -> Any:
    if not isinstance(x, Sym):
        if isinstance(index, slice):
            bounds = (index.start, index.stop, index.step)
            index = slice(*(None if b is None else int(b) for b in bounds))
        return x[index]
    indices = list(index) if isinstance(index, (tuple, list)) else [index]
    missing = len(x.shape) - sum(i is not None and i is not Ellipsis for i in indices)
    at = next((k for k, i in enumerate(indices) if i is Ellipsis), len(indices))
    indices[at : at + 1] = [slice(None)] * missing
    dims, shape = iter(x.shape), []
    indices = [Sym((as_poly(len(i)),)) if isinstance(i, (list, tuple)) else i for i in indices]
    tables = [i if isinstance(i, Sym) else constant(i) for i in indices if isinstance(i, (Sym, torch.Tensor))]
    gathered = broadcast(ctx, [table.shape for table in tables])
    if tables and not _adjacent(indices):
        shape, gathered = list(gathered), ()
    for i in indices:
        if i is None:
            shape.append(as_poly(1))
        elif isinstance(i, slice):
            shape.append(sliced(ctx, next(dims), i))
        elif is_size(i):
            dim = next(dims)
            if today_of(i) not in (0, -1):  # the first and the last there always are
                ctx.constant(dim, "it is indexed by a number")
        elif isinstance(i, (Sym, torch.Tensor)):
            dim = next(dims)
            ctx.constant(dim, "it is indexed by a tensor")
            _look_up(ctx, dim)
            shape += gathered
            gathered = ()
        else:
            unknown(ctx, x)
    return Sym(tuple(shape))


@rule("setitem")
def setitem(ctx: Context, x: Any, index: Any, value: Any) -> None:
    """What is written broadcasts to what is written over; a literal bound that cuts channels counts as in reading."""
    if isinstance(x, Sym):
        place = getitem(ctx, x, index)
        if isinstance(value, (Sym, torch.Tensor)):
            written = value if isinstance(value, Sym) else constant(value)
            broadcast(ctx, [place.shape, written.shape])


def _look_up(ctx: Context, dim: Poly) -> None:
    """A tensor indexes ``dim``. Where it counts pixels and ``dim`` is a table that stays, or where it is a constant and
    ``dim`` counts pixels, either fits this input size alone."""
    origins = _origins(ctx)
    counts = [ctx.counts[node] for node in origins if node in ctx.counts]
    dim = ctx.equations.resolve(dim)
    if dim.constant is not None:
        for end in counts:
            ctx.equate(end, end.hint)
    elif not counts and not any(node.op in ("placeholder", "call_module") for node in origins):
        ctx.equate(dim, dim.hint)


def _origins(ctx: Context) -> list[fx.Node]:
    """The tensors from which an index is made, back to those that count something."""
    origins: dict[fx.Node, None] = {}
    ahead: list[fx.Node] = []
    fx.node.map_arg(ctx.node.args[1], ahead.append)
    while ahead:
        node = ahead.pop()
        if node not in origins and isinstance(node.meta["val"], torch.Tensor):
            origins[node] = None
            ahead += [] if node in ctx.counts else node.all_input_nodes
    return list(origins)


def _adjacent(indices: list[Any]) -> bool:
    """Whether the tensors among indices stand side by side: then what they gather stands there too, else in front."""
    places = [k for k, i in enumerate(indices) if isinstance(i, (Sym, torch.Tensor)) or is_size(i)]
    return places[-1] - places[0] == len(places) - 1


def sliced(ctx: Context, dim: Poly, index: slice) -> Poly:
    """Length of ``dim[index]``. A literal bound that cuts channels is free to move; one that cuts pixels stays."""
    start, stop, step = index.start, index.stop, index.step or 1
    if start is None and stop is None and step == 1:
        return dim
    if not ctx.is_channel(dim):
        return ctx.call("slice", dim, *(None if b is None else today_of(b) for b in (start, stop, step)))
    if step != 1 or any(b is not None and today_of(b) < 0 for b in (start, stop)):
        length = len(range(ctx.constant(dim, "its channels are sliced with a step or from the end"))[index])
        return as_poly(length)
    low = as_poly(0) if not start else cut(ctx, start, dim)
    if stop is None or today_of(stop) > dim.hint:
        return dim - low
    high = ctx.literal(stop, dim) if today_of(stop) == dim.hint else cut(ctx, stop, dim)
    return high - low


@rule("chunk")
def chunk(ctx: Context, x: Sym, chunks: int, dim: int = 0) -> tuple[Sym, ...]:
    whole = x.shape[dim]
    if ctx.is_channel(whole) and whole.hint % chunks == 0:
        return (replaced(x, dim, ctx.quotient(whole, chunks)),) * chunks
    if not ctx.is_channel(whole):
        size = ctx.call("ceildiv", whole, chunks)
        return pieces(x, dim, size, len(ctx.node.meta["val"]))
    ctx.constant(whole, f"it is cut into {chunks} unequal chunks")
    return parts_of_today(ctx, x, dim)


@rule("tensor_split")
def tensor_split(ctx: Context, x: Sym, indices_or_sections: Any, dim: int = 0) -> tuple[Sym, ...]:
    """In so many parts, of which the first may be longer by one; or at bounds."""
    whole = x.shape[dim]
    if is_size(indices_or_sections):
        count = today_of(indices_or_sections)
        if ctx.is_channel(whole):
            return chunk(ctx, x, count, dim)
        parts = [ctx.call("floordiv", whole + (count - 1 - i), count) for i in range(count)]
    elif isinstance(indices_or_sections, (tuple, list)):
        inner = [cut(ctx, i, whole) if ctx.is_channel(whole) else as_poly(i) for i in indices_or_sections]
        bounds = [as_poly(0), *inner, whole]
        parts = [end - start for start, end in pairwise(bounds)]
    else:
        unknown(ctx, x)
    return tuple(replaced(x, dim, part) for part in parts)


@rule("glu")
def glu(ctx: Context, x: Sym, dim: int = -1) -> Sym:
    return chunk(ctx, x, 2, dim)[0]


@rule("split", "split_with_sizes")
def split(ctx: Context, x: Sym, split_size: Any, dim: int = 0) -> tuple[Sym, ...]:
    whole, count = x.shape[dim], len(ctx.node.meta["val"])
    if isinstance(split_size, (tuple, list)):
        return tuple(replaced(x, dim, part) for part in _parts(ctx, whole, split_size))
    if not ctx.is_channel(whole):
        return pieces(x, dim, as_poly(split_size), count)
    if whole.hint % today_of(split_size):
        ctx.constant(whole, "it is split into unequal parts")
        return parts_of_today(ctx, x, dim)
    part = ctx.literal(split_size, ctx.quotient(whole, count))
    return (replaced(x, dim, part),) * count


def _parts(ctx: Context, whole: Poly, wanted: Sequence[Any]) -> list[Poly]:
    """The parts of a split: the first of the largest takes what the others leave."""
    if not ctx.is_channel(whole):
        parts = [as_poly(size) for size in wanted]
        ctx.equate(whole, sum(parts[1:], parts[0]))
        return parts
    largest = max(range(len(wanted)), key=lambda i: today_of(wanted[i]))
    parts = [as_poly(0) if i == largest else cut(ctx, size, whole) for i, size in enumerate(wanted)]
    parts[largest] = ctx.literal(wanted[largest], whole - sum(parts[1:], parts[0]))
    return parts


@rule("unbind")
def unbind(ctx: Context, x: Sym, dim: int = 0) -> tuple[Sym, ...]:
    """Whoever takes each by itself takes as many as today, of pixels too."""
    count = ctx.constant(x.shape[dim], "it is unbound")
    ctx.equate(x.shape[dim], count)
    shape = list(x.shape)
    del shape[dim]
    return (Sym(tuple(shape)),) * count


def pieces(x: Sym, dim: int, size: Poly, count: int) -> tuple[Sym, ...]:
    """``count`` pieces of ``size``, the last one being what is left."""
    last = x.shape[dim] - size * (count - 1)
    return (*(replaced(x, dim, size) for _ in range(count - 1)), replaced(x, dim, last))


def parts_of_today(ctx: Context, x: Sym, dim: int) -> tuple[Sym, ...]:
    return tuple(replaced(x, dim, as_poly(part.shape[dim])) for part in ctx.node.meta["val"])


@rule("narrow")
def narrow(ctx: Context, x: Sym, dim: int, start: Any, length: Any) -> Sym:
    whole = x.shape[dim]
    if not ctx.is_channel(whole):
        return replaced(x, dim, as_poly(length))
    if today_of(start) not in (0, whole.hint - today_of(length)):
        ctx.constant(whole, "its channels are narrowed in the middle")
        return replaced(x, dim, as_poly(today_of(length)))
    if today_of(start) == 0:
        return replaced(x, dim, cut(ctx, length, whole))
    low = cut(ctx, start, whole)
    return replaced(x, dim, ctx.literal(length, whole - low))
