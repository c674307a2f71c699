"""Normalisation, and activations with a parameter for each channel."""

from __future__ import annotations

from typing import Any

from cnnscale.shapes import Context, Sym, symbolic_tensors

from .arguments import today_of
from .table import rule

__all__ = ["channel_norm", "prelu"]


@rule("batch_norm", "instance_norm")
def channel_norm(ctx: Context, x: Sym, *args: Any, **kwargs: Any) -> Sym:
    for vector in symbolic_tensors((args, kwargs)):
        ctx.equate(x.shape[1], vector.shape[0])
    return x


@rule("group_norm")
def group_norm(
    ctx: Context, x: Sym, num_groups: Any, weight: Sym | None = None, bias: Sym | None = None, eps: float = 0
) -> Sym:
    if today_of(num_groups) == x.shape[1].hint:
        ctx.literal(num_groups, x.shape[1])
    else:
        ctx.quotient(x.shape[1], num_groups)
    return channel_norm(ctx, x, weight, bias)


@rule("layer_norm", "rms_norm")
def layer_norm(ctx: Context, x: Sym, normalized_shape: Any, *args: Any, **kwargs: Any) -> Sym:
    tail = x.shape[-len(normalized_shape) :]
    for size, dim in zip(normalized_shape, tail, strict=True):
        ctx.literal(size, dim)
    for weight in symbolic_tensors((args, kwargs)):
        for size, dim in zip(weight.shape, tail, strict=True):
            ctx.equate(dim, size)
    return x


@rule("prelu")
def prelu(ctx: Context, x: Sym, weight: Sym) -> Sym:
    if weight.shape[0].constant != 1:
        ctx.equate(x.shape[1], weight.shape[0])
    return x
