"""Operations on windows of a map, which change its sides: pooling, resizing, pixel shuffle."""

from __future__ import annotations

from typing import Any

from cnnscale.shapes import Context, Sym
from cnnscale.symbolic import Poly, as_poly, product

from .arguments import replaced, spread, today_of
from .table import rule

__all__ = ["adaptive_pool", "interpolate", "pixel_shuffle", "pixel_unshuffle", "pool", "pool_output"]


@rule("unfold")
def unfold(ctx: Context, x: Sym, *args: Any, **kwargs: Any) -> Sym:
    """``Tensor.unfold(dimension, size, step)``, or ``torch.nn.functional.unfold(x, kernel_size, ...)``."""
    if ctx.node.op == "call_method":
        axis, size, step = (
            kwargs.get(name, value) for name, value in zip(("dimension", "size", "step"), args, strict=False)
        )
        windows = ctx.call("floordiv", x.shape[axis] - as_poly(size), today_of(step)) + 1
        return Sym((*replaced(x, axis, windows).shape, as_poly(size)))
    return columns(ctx, x, *args, **kwargs)


@rule("fold")
def fold(ctx: Context, input: Sym, output_size: Any, kernel_size: Any, *args: Any, **kwargs: Any) -> Sym:
    """Columns as an image again, overlaps added."""
    kernel = product(list(map(as_poly, spread(kernel_size, 2))))
    sides = (as_poly(side) for side in spread(output_size, 2))
    return Sym((input.shape[0], ctx.quotient(input.shape[1], kernel), *sides))


def columns(ctx: Context, x: Sym, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Sym:
    """The patches of an image as columns: (N, C * kernel, patches)."""
    options = [spread(o, 2) for o in (kernel_size, stride, padding, dilation)]
    sides = [
        pool_output(ctx, side, as_poly(k), as_poly(s), as_poly(p), as_poly(d))
        for side, k, s, p, d in zip(x.shape[-2:], *options, strict=True)
    ]
    return Sym((x.shape[0], x.shape[1] * product(list(map(as_poly, options[0]))), product(sides)))


def pool_output(
    ctx: Context, side: Poly, kernel: Poly, stride: Poly, padding: Poly, dilation: Poly, ceil_mode: bool = False
) -> Poly:
    """Output side of a sliding window (torch.nn.Conv2d's formula)."""
    if ceil_mode and stride.constant != 1:
        return ctx.call("ceil_pool", side, *(p.hint for p in (kernel, stride, padding, dilation)))
    reach = side + padding * 2 - dilation * (kernel - 1) - 1
    return reach + 1 if stride.constant == 1 else ctx.call("floordiv", reach, stride.hint) + 1


@rule("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(
    ctx: Context,
    input: Sym,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Sym:
    return pool(ctx, input, kernel_size, stride, padding, dilation, ceil_mode)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def avg_pool(
    ctx: Context,
    input: Sym,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    *args: Any,
    **kwargs: Any,
) -> Sym:
    return pool(ctx, input, kernel_size, stride, padding, 1, ceil_mode)


def pool(ctx: Context, x: Sym, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Sym:
    several = isinstance(kernel_size, (tuple, list)) and len(kernel_size) > 1
    n = len(kernel_size) if several else len(x.shape) - 2
    options = [spread(o, n) for o in (kernel_size, kernel_size if stride in (None, []) else stride, padding, dilation)]
    sides = tuple(
        pool_output(ctx, side, as_poly(k), as_poly(s), as_poly(p), as_poly(d), ceil_mode)
        for side, k, s, p, d in zip(x.shape[-n:], *options, strict=True)
    )
    return Sym((*x.shape[:-n], *sides))


@rule(
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
)
def adaptive_pool(ctx: Context, x: Sym, output_size: Any, return_indices: bool = False) -> Sym:
    n = len(x.shape) - 2
    sizes = spread(output_size, n)
    return Sym((*x.shape[:2], *(dim if s is None else as_poly(s) for s, dim in zip(sizes, x.shape[2:], strict=True))))


@rule("interpolate", "upsample")
def interpolate(ctx: Context, input: Sym, size: Any = None, scale_factor: Any = None, *args: Any, **kwargs: Any) -> Sym:
    n = len(input.shape) - 2
    if size is not None:
        return Sym((*input.shape[:2], *(as_poly(s) for s in spread(size, n))))
    factors = spread(scale_factor, n)
    sides = [
        dim * int(f) if float(f).is_integer() else ctx.call("scale", dim, float(f))
        for dim, f in zip(input.shape[2:], factors, strict=True)
    ]
    return Sym((*input.shape[:2], *sides))


@rule("grid_sample")
def grid_sample(ctx: Context, input: Sym, grid: Sym, *args: Any, **kwargs: Any) -> Sym:
    """A map read at places, (N, H, W, 2) of them."""
    ctx.constant(grid.shape[-1], "it holds the coordinates of a place")
    return Sym((*input.shape[:2], *grid.shape[1:-1]))


@rule("affine_grid")
def affine_grid(ctx: Context, theta: Sym, size: Any, *args: Any, **kwargs: Any) -> Sym:
    """The places where an affine map, (N, 2, 3), puts the pixels of ``size``."""
    rows = ctx.constant(theta.shape[1], "it holds the coordinates of a place")
    ctx.constant(theta.shape[2], "it is the matrix of an affine map")
    return Sym((theta.shape[0], *map(as_poly, tuple(size)[2:]), as_poly(rows)))


@rule("pixel_shuffle")
def pixel_shuffle(ctx: Context, x: Sym, upscale_factor: int) -> Sym:
    n, c, h, w = x.shape
    r = upscale_factor
    return Sym((n, ctx.quotient(c, r * r), h * r, w * r))


@rule("pixel_unshuffle")
def pixel_unshuffle(ctx: Context, x: Sym, downscale_factor: int) -> Sym:
    n, c, h, w = x.shape
    r = downscale_factor
    return Sym((n, c * (r * r), ctx.call("floordiv", h, r), ctx.call("floordiv", w, r)))
