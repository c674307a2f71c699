"""Operations whose result has the shape of their inputs, or of what is left of it: elementwise, reductions, new
tensors."""

from __future__ import annotations

from typing import Any

import torch

from cnnscale.shapes import Context, Sym, broadcast, constant, is_size, symbolic_tensors
from cnnscale.symbolic import Poly, as_poly

from .arguments import channel_axis, flat, soft
from .table import rule

__all__ = ["elementwise"]


_ELEMENTWISE = """
abs acos asin addcdiv addcmul asinh acosh atan atan2 atanh bernoulli bitwise_and bitwise_not invert bitwise_or ceil celu
clamp clamp_max clamp_min clip clone contiguous copysign cos cosh detach div dropout dropout1d dropout2d dropout3d
alpha_dropout feature_alpha_dropout elu eq erf exp expm1 float floor floordiv floor_divide fmod ge gelu gt half bfloat16
double long int bool hardshrink hardsigmoid hardswish hardtanh imul isub itruediv leaky_relu le lerp log log10 log1p
log2 logical_and logical_not logical_or logsigmoid lt masked_fill maximum minimum mish mod mul multiply ne neg negative
nan_to_num normalize ones_like pow rand_like randn_like reciprocal relu relu6 remainder round rrelu rsqrt rsub selu
sigmoid sign silu sin sinh softmax log_softmax softmin softplus softshrink softsign sqrt square sub subtract swish tan
tanh tanhshrink threshold to truediv true_divide type_as where xor zeros_like full_like fill cumsum requires_grad_ roll
flip cuda cpu type empty_like zero uniform normal local_response_norm _weight_norm
torchvision.ops.stochastic_depth.stochastic_depth
"""


@rule(*_ELEMENTWISE.split())
def elementwise(ctx: Context, *args: Any, **kwargs: Any) -> Any:
    if not symbolic_tensors((args, kwargs)):
        return ctx.node.meta["val"]
    values = (constant(v) if isinstance(v, torch.Tensor) else v for v in (*args, *kwargs.values()))
    return Sym(broadcast(ctx, [tensor.shape for tensor in symbolic_tensors(tuple(values))]))


@rule("add", "iadd")
def add(ctx: Context, input: Any, other: Any, **kwargs: Any) -> Any:
    if isinstance(input, (tuple, list)) and isinstance(other, (tuple, list)):
        return (*input, *other)
    result = elementwise(ctx, input, other)
    if isinstance(input, Sym) and isinstance(other, Sym) and len(input.shape) > 1:
        alike = [dim.hint for dim in input.shape] == [dim.hint for dim in other.shape]
        if alike and ctx.is_channel(result.shape[channel_axis(ctx, result)]):
            ctx.sums.append((ctx.node, result.shape[channel_axis(ctx, result)]))
    return result


@rule("arange")
def arange(ctx: Context, *args: Any, **kwargs: Any) -> Any:
    """``arange(end)`` or ``arange(start, end)``; other forms are what they are today."""
    start, end = (0, *args, kwargs.get("end"))[:2] if len(args) < 2 else args[:2]
    if len(args) > 2 or not {"start", "step"}.isdisjoint(kwargs) or not isinstance(end, Poly) or not is_size(start):
        return ctx.node.meta["val"]
    ctx.counts[ctx.node] = end
    return Sym((end - as_poly(start),))


@rule("meshgrid")
def meshgrid(ctx: Context, *tensors: Any, **kwargs: Any) -> Any:
    axes = flat(tensors)
    if not symbolic_tensors(axes):
        return ctx.node.meta["val"]
    sides = [(axis if isinstance(axis, Sym) else constant(axis)).shape[0] for axis in axes]
    return (Sym(tuple(sides)),) * len(axes)


@rule("new", "new_empty", "new_zeros", "new_ones", "new_full", "empty", "zeros", "ones", "rand", "randn", "full")
def made(ctx: Context, *args: Any, **kwargs: Any) -> Sym:
    sizes = args[1:] if isinstance(args[0], Sym) else args
    return Sym(tuple(soft(ctx, s) for s in (sizes[0] if isinstance(sizes[0], (tuple, list)) else sizes)))


_REDUCTIONS = """
mean sum amax amin std var prod logsumexp norm all any argmax vector_norm max min var_mean std_mean topk count_nonzero
"""


@rule(*_REDUCTIONS.split())
def reduce(ctx: Context, x: Any, dim: Any = None, *args: Any, keepdim: bool = False, **kwargs: Any) -> Any:
    if not isinstance(x, Sym):
        return ctx.node.meta["val"]
    if isinstance(dim, Sym):
        return elementwise(ctx, x, dim)
    keepdim = keepdim or any(a is True for a in args)
    dims = range(len(x.shape)) if dim is None else dim if isinstance(dim, (tuple, list)) else [dim]
    axes = [d % len(x.shape) for d in dims]
    shape = tuple(as_poly(1) if i in axes else d for i, d in enumerate(x.shape) if keepdim or i not in axes)
    value = ctx.node.meta["val"]
    return tuple(Sym(shape) for _ in value) if isinstance(value, tuple) else Sym(shape)
