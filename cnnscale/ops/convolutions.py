"""Convolutions as functions, transposed ones too."""

from __future__ import annotations

from typing import Any

from cnnscale.shapes import Context, Sym
from cnnscale.symbolic import Poly, as_poly

from .arguments import owner, spread, today_of
from .table import rule
from .windows import pool_output

__all__ = ["convolution", "depthwise", "transposed"]


def convolution(
    ctx: Context,
    name: str,
    x: Sym,
    weight: Sym,
    bias: Sym | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Poly | int,
) -> Sym:
    """Input channels = groups * weight.shape[1]; the groups stay and their widths grow, save that depthwise stays
    depthwise: there each channel is its own group."""
    n = len(weight.shape) - 2
    channels, outputs, inner = x.shape[-n - 1], weight.shape[0], weight.shape[1]
    kernel = ctx.kernel(weight.shape[2:])
    if depthwise(channels, inner, groups):
        ctx.equate(outputs, channels * (outputs.hint // today_of(groups)))
    else:
        ctx.equate(channels, inner * groups)
        each = ctx.quotient(outputs, groups)
        if isinstance(groups, Poly):  # one group for each image of the batch, whose kernel is its own
            ctx.produce(name, inner, each)
        else:
            ctx.produce(name, channels, outputs)
    if bias is not None:
        ctx.equate(outputs, bias.shape[0])
    if padding == "same":
        sides = x.shape[-n:]
    else:
        options = [spread(o, n) for o in (stride, 0 if padding == "valid" else padding, dilation)]
        sides = tuple(
            pool_output(ctx, side, k, as_poly(s), as_poly(p), as_poly(d))
            for side, k, s, p, d in zip(x.shape[-n:], kernel, *options, strict=True)
        )
    result = Sym((*x.shape[: -n - 1], outputs, *sides))
    ctx.spend("macs", *result.shape, *weight.shape[1:])
    ctx.spend("activations", *result.shape)
    return result


def depthwise(channels: Poly, inner: Poly, groups: Poly | int) -> bool:
    return 1 < today_of(groups) == channels.hint and inner.hint == 1


@rule("conv1d", "conv2d", "conv3d")
def conv(
    ctx: Context,
    input: Sym,
    weight: Sym,
    bias: Sym | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> Sym:
    _follow(ctx, input, weight, groups)
    return convolution(ctx, owner(ctx, weight), input, weight, bias, stride, padding, dilation, groups)


def _follow(ctx: Context, x: Sym, weight: Sym, groups: Any) -> None:
    """The number of groups of a depthwise convolution is its number of channels."""
    channels = x.shape[1 - len(weight.shape)]
    if depthwise(channels, weight.shape[1], groups):
        ctx.literal(groups, channels)


def transposed(
    ctx: Context,
    name: str,
    x: Sym,
    weight: Sym,
    bias: Sym | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Sym:
    """Transposed convolution; the weight is (in, out / groups, *kernel)."""
    n = len(weight.shape) - 2
    channels, inner = x.shape[-n - 1], weight.shape[1]
    kernel = ctx.kernel(weight.shape[2:])
    ctx.equate(channels, weight.shape[0])
    if depthwise(channels, inner, groups):
        outputs = channels
    else:
        outputs = inner * groups
        if groups > 1:
            ctx.quotient(channels, groups)
        ctx.produce(name, channels, outputs)
    if bias is not None:
        ctx.equate(outputs, bias.shape[0])
    options = [spread(o, n) for o in (stride, padding, output_padding, dilation)]
    sides = tuple(
        (side - 1) * s - 2 * p + d * (k - 1) + o + 1
        for side, k, s, p, o, d in zip(x.shape[-n:], kernel, *options, strict=True)
    )
    result = Sym((*x.shape[: -n - 1], outputs, *sides))
    ctx.spend("macs", *x.shape, *weight.shape[1:])
    ctx.spend("activations", *result.shape)
    return result


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    ctx: Context,
    input: Sym,
    weight: Sym,
    bias: Sym | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: Any = 1,
    dilation: Any = 1,
) -> Sym:
    _follow(ctx, input, weight, groups)
    return transposed(ctx, owner(ctx, weight), input, weight, bias, stride, padding, output_padding, groups, dilation)
