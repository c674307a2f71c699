"""Kernels that slide over channels, and are as wide as their author made them for so many channels.

Efficient channel attention (Wang et al. 2020, arXiv 1910.03151, eq. 12) convolves along the channels with a kernel of
``|log2(C) / gamma + beta / gamma|_odd``. The number is computed once, in a constructor, so whether a net's kernels
are of this kind is seen from the baseline: over all layers that one class of modules holds under one name, the formula
with one gamma and beta gives every kernel. A constant says as much where all kernels are alike, so then only the
paper's own gamma and beta count, and not for kernels of 3, which are what is written where nothing is computed.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeAlias

from torch import nn
from torch.nn.modules.conv import _ConvNd

from .shapes import Context, Sym
from .symbolic import FUNCTIONS, Poly

__all__ = ["KernelRules", "follow_kernels", "kernel_rules", "reach"]

Role: TypeAlias = tuple[type[nn.Module], str]
"""(class of the module that holds a layer, the layer's name in it)."""
KernelRules: TypeAlias = Mapping[Role, tuple[float, float]]
"""Role -> gamma and beta."""

_FUNCTION = "channel_reach"
_PAPER = (2.0, 1.0)
_OTHERS = [pair for pair in itertools.product((1.0, 2.0, 3.0, 4.0), (0.0, 1.0, 2.0)) if pair != _PAPER]
_USUAL = 1  # the reach of a kernel of 3


def reach(ctx: Context, path: str, layer: _ConvNd, x: Sym) -> Poly | None:
    """How far the kernel of ``layer`` reaches to either side, as an unknown, if it slides over channels and hands on
    as many; its weight is ``2 * reach + 1`` wide."""
    odd = len(layer.kernel_size) == 1 and layer.kernel_size[0] % 2 == 1 and layer.kernel_size[0] > 1
    centred = layer.padding == (layer.kernel_size[0] // 2,) and layer.stride == layer.dilation == (1,)
    name = ctx.shared.get(id(layer.weight))
    if not (odd and centred and name in ctx.tensors and ctx.is_channel(x.shape[-1])):
        return None
    if path not in ctx.reaches:
        ctx.reaches[path] = ctx.equations.atom(f"reach of {path}", layer.kernel_size[0] // 2), []
        ctx.tensors[name] = (*ctx.tensors[name][:2], ctx.reaches[path][0] * 2 + 1)
    ctx.reaches[path][1].append(x.shape[-1])
    return ctx.reaches[path][0]


def kernel_rules(ctx: Context) -> KernelRules:
    """The gamma and beta of every role whose kernels the formula gives."""
    roles: dict[Role, set[tuple[int, int]]] = defaultdict(set)
    for path, (own, channels) in ctx.reaches.items():
        roles[_role(ctx, path)] |= {(poly.hint, own.hint) for poly in channels}
    found = {role: _fitted(pairs) for role, pairs in roles.items()}
    return {role: pair for role, pair in found.items() if pair is not None}


def _role(ctx: Context, path: str) -> Role:
    parent, _, name = path.rpartition(".")
    return type(ctx.module.get_submodule(parent)), name


def _fitted(pairs: set[tuple[int, int]]) -> tuple[float, float] | None:
    """(gamma, beta) by which the formula gives each reach of its number of channels."""
    reaches = {own for _, own in pairs}
    if reaches == {_USUAL}:
        return None
    candidates = [_PAPER, *(_OTHERS if len(reaches) > 1 else ())]
    return next((c for c in candidates if all(FUNCTIONS[_FUNCTION](n, *c) == own for n, own in pairs)), None)


def follow_kernels(ctx: Context, rules: KernelRules) -> None:
    """Let the kernels that ``rules`` explain follow their channels, once all equations are known."""
    for path, (own, channels) in ctx.reaches.items():
        pair, widths = rules.get(_role(ctx, path)), {ctx.equations.resolve(poly) for poly in channels}
        if pair is not None and len(widths) == 1:
            ctx.equations.define(own, ctx.equations.call(_FUNCTION, widths.pop(), *pair))
