"""One rule per layer of ``torch.nn``: its parameters as symbols, and the attributes which must follow them.

A layer is looked up by its class and its bases. What it computes is said by the function rules of :mod:`cnnscale.ops`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import (
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
    _AvgPoolNd,
    _MaxPoolNd,
)

from . import ops
from .errors import UnsupportedOpError
from .kernels import reach
from .shapes import Context, Sym, symbolic_tensors
from .symbolic import as_poly
from .tracing import SAME_SHAPE

__all__ = ["LAYERS", "layer_rule"]

LayerRule: TypeAlias = Callable[..., Any]
"""(context, path, layer, input) -> result; a layer of several inputs takes them as its ``forward`` does."""
LAYERS: dict[type[nn.Module], LayerRule] = {}
_Function = TypeVar("_Function", bound=LayerRule)


def layer(*classes: type[nn.Module]) -> Callable[[_Function], _Function]:
    def register(function: _Function) -> _Function:
        LAYERS.update(dict.fromkeys(classes, function))
        return function

    return register


def layer_rule(module: nn.Module) -> LayerRule | None:
    """The rule of the nearest class that has one."""
    return next((LAYERS[cls] for cls in type(module).__mro__ if cls in LAYERS), None)


def weights(ctx: Context, path: str, *names: str) -> list[Sym | None]:
    """The layer's tensors.

    Raises:
        UnsupportedOpError: one is neither a parameter nor a buffer, so nobody knows what it must follow.
    """
    layer = ctx.module.get_submodule(path)
    for name in names:
        registered = name in layer._parameters or name in layer._buffers or f"{path}.{name}".lstrip(".") in ctx.computed
        if not registered and isinstance(getattr(layer, name, None), torch.Tensor):
            raise UnsupportedOpError(
                f"the {name} of {ctx.where} is no parameter: a hook sets it before each call, as the deprecated "
                "torch.nn.utils.weight_norm and spectral_norm do; use those of torch.nn.utils.parametrizations"
            )
    return [ctx.tensor(f"{path}.{name}" if path else name) for name in names]


@layer(_ConvNd)
def convolution(ctx: Context, path: str, m: _ConvNd, x: Sym) -> Sym:
    weight, bias = weights(ctx, path, "weight", "bias")
    assert weight is not None
    padding = m.padding
    own = reach(ctx, path, m, x)
    if own is not None:
        (weight,), padding = weights(ctx, path, "weight"), "same"
        assert weight is not None
        ctx.attributes[path, "kernel_size"] = (weight.shape[2],)
        ctx.attributes[path, "padding"] = (own,)
    result = ops.convolution(ctx, path, x, weight, bias, m.stride, padding, m.dilation, m.groups)
    n = len(m.kernel_size)
    channels = x.shape[-n - 1]
    ctx.attributes[path, "in_channels"] = channels
    ctx.attributes[path, "out_channels"] = weight.shape[0]
    if ops.depthwise(channels, weight.shape[1], m.groups):
        ctx.attributes[path, "groups"] = channels
    return result


@layer(_ConvTransposeNd)
def transposed_convolution(ctx: Context, path: str, m: _ConvTransposeNd, x: Sym) -> Sym:
    weight, bias = weights(ctx, path, "weight", "bias")
    assert weight is not None
    result = ops.transposed(ctx, path, x, weight, bias, m.stride, m.padding, m.output_padding, m.groups, m.dilation)
    n = len(m.kernel_size)
    ctx.attributes[path, "in_channels"] = x.shape[-n - 1]
    ctx.attributes[path, "out_channels"] = result.shape[-n - 1]
    if ops.depthwise(x.shape[-n - 1], weight.shape[1], m.groups):
        ctx.attributes[path, "groups"] = x.shape[-n - 1]
    return result


@layer(nn.Linear)
def linear(ctx: Context, path: str, m: nn.Linear, x: Sym) -> Sym:
    weight, bias = weights(ctx, path, "weight", "bias")
    assert weight is not None
    ctx.attributes[path, "in_features"] = weight.shape[1]
    ctx.attributes[path, "out_features"] = weight.shape[0]
    return ops.linear(ctx, path, x, weight, bias)


@layer(nn.MultiheadAttention)
def attention(
    ctx: Context,
    path: str,
    m: nn.MultiheadAttention,
    query: Sym,
    key: Sym,
    value: Sym,
    key_padding_mask: Sym | None = None,
    need_weights: bool = True,
    attn_mask: Sym | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Sym, Sym | None]:
    """The number of heads stays and each grows wider; inputs, projections and output all have one width."""
    if key_padding_mask or attn_mask or m.bias_k is not None or m.add_zero_attn or len(query.shape) != 3:
        ops.unknown(ctx)
    projection = f"{path}.out_proj".lstrip(".")
    packed, bias = weights(ctx, path, "in_proj_weight", "in_proj_bias")
    weight, out_bias = weights(ctx, projection, "weight", "bias")
    if packed is None or weight is None:
        ops.unknown(ctx)
    width = query.shape[-1]
    head = ctx.quotient(width, m.num_heads)
    for dim in (key.shape[-1], value.shape[-1], packed.shape[1], weight.shape[0]):
        ctx.equate(dim, width)
    for rows in symbolic_tensors((packed, bias)):
        ctx.equate(rows.shape[0], width * 3)
    for name, poly in {"embed_dim": width, "kdim": width, "vdim": width, "head_dim": head}.items():
        ctx.attributes[path, name] = poly
    ctx.attributes[projection, "in_features"] = ctx.attributes[projection, "out_features"] = width
    batch, length = query.shape[:2] if m.batch_first else query.shape[1::-1]
    keys = key.shape[1 if m.batch_first else 0]
    for projected in (query, key, value):
        ctx.spend("macs", *projected.shape, width)
    for _ in ("query @ key", "scores @ value"):
        ctx.spend("macs", batch, length, keys, width)
    scores = (batch, length, keys) if average_attn_weights else (batch, as_poly(m.num_heads), length, keys)
    return ops.linear(ctx, projection, query, weight, out_bias), Sym(scores) if need_weights else None


@layer(_BatchNorm, _InstanceNorm, _NormBase)
def channel_norm(ctx: Context, path: str, m: _NormBase, x: Sym) -> Sym:
    ctx.attributes[path, "num_features"] = x.shape[1]
    return ops.channel_norm(ctx, x, weights(ctx, path, "weight", "bias", "running_mean", "running_var"))


@layer(nn.GroupNorm)
def group_norm(ctx: Context, path: str, m: nn.GroupNorm, x: Sym) -> Sym:
    ctx.attributes[path, "num_channels"] = x.shape[1]
    if m.num_groups == m.num_channels > 1:
        ctx.attributes[path, "num_groups"] = x.shape[1]
    else:
        ctx.quotient(x.shape[1], m.num_groups)
    return ops.channel_norm(ctx, x, weights(ctx, path, "weight", "bias"))


@layer(nn.LayerNorm, nn.RMSNorm)
def layer_norm(ctx: Context, path: str, m: nn.LayerNorm, x: Sym) -> Sym:
    tail = x.shape[-len(m.normalized_shape) :]
    ctx.attributes[path, "normalized_shape"] = tail
    for tensor in weights(ctx, path, *(("weight", "bias") if hasattr(m, "bias") else ("weight",))):
        for dim, size in zip(tail, tensor.shape if tensor else (), strict=False):
            ctx.equate(dim, size)
    return x


@layer(nn.PReLU)
def prelu(ctx: Context, path: str, m: nn.PReLU, x: Sym) -> Sym:
    (weight,) = weights(ctx, path, "weight")
    assert weight is not None
    ctx.attributes[path, "num_parameters"] = weight.shape[0]
    return ops.prelu(ctx, x, weight)


@layer(_MaxPoolNd)
def max_pool(ctx: Context, path: str, m: Any, x: Sym) -> Sym:
    if m.return_indices:
        ops.unknown(ctx, x)
    return ops.pool(ctx, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode)


@layer(_AvgPoolNd)
def avg_pool(ctx: Context, path: str, m: Any, x: Sym) -> Sym:
    return ops.pool(ctx, x, m.kernel_size, m.stride, m.padding, 1, m.ceil_mode)


@layer(nn.LPPool1d, nn.LPPool2d)
def lp_pool(ctx: Context, path: str, m: Any, x: Sym) -> Sym:
    return ops.pool(ctx, x, m.kernel_size, m.stride, 0, 1, m.ceil_mode)


@layer(_AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd)
def adaptive_pool(ctx: Context, path: str, m: Any, x: Sym) -> Sym:
    return ops.adaptive_pool(ctx, x, m.output_size)


@layer(nn.Flatten)
def flatten(ctx: Context, path: str, m: nn.Flatten, x: Sym) -> Sym:
    return ops.flatten(ctx, x, m.start_dim, m.end_dim)


@layer(nn.Upsample)
def upsample(ctx: Context, path: str, m: nn.Upsample, x: Sym) -> Sym:
    return ops.interpolate(ctx, x, m.size, m.scale_factor)


@layer(nn.PixelShuffle)
def pixel_shuffle(ctx: Context, path: str, m: nn.PixelShuffle, x: Sym) -> Sym:
    return ops.pixel_shuffle(ctx, x, m.upscale_factor)


@layer(nn.PixelUnshuffle)
def pixel_unshuffle(ctx: Context, path: str, m: nn.PixelUnshuffle, x: Sym) -> Sym:
    return ops.pixel_unshuffle(ctx, x, m.downscale_factor)


@layer(nn.ChannelShuffle)
def channel_shuffle(ctx: Context, path: str, m: nn.ChannelShuffle, x: Sym) -> Sym:
    return ops.channel_shuffle(ctx, x, m.groups)


@layer(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d,
       nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d,
       nn.ReplicationPad3d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d)  # fmt: skip
def pad(ctx: Context, path: str, m: Any, x: Sym) -> Sym:
    return Sym(
        tuple(
            dim + as_poly(low) + as_poly(high)
            for dim, (low, high) in zip(x.shape, _padding(len(x.shape), m.padding), strict=True)
        )
    )


def _padding(rank: int, padding: tuple[int, ...]) -> list[tuple[int, int]]:
    pairs = [(padding[k], padding[k + 1]) for k in range(0, len(padding), 2)]
    return [(0, 0)] * (rank - len(pairs)) + pairs[::-1]


@layer(*(cls for cls in SAME_SHAPE if cls is not _BatchNorm))
def same_shape(ctx: Context, path: str, m: nn.Module, x: Sym) -> Sym:
    return x
