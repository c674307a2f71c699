"""Layers as the growth of weights sees them: which tensors they hold, and on which axis their channels lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd

from .ops import operation_name
from .tracing import SAME_SHAPE

__all__ = ["Weighted", "is_activation", "weighted"]

_MIXING_FUNCTIONS = {"conv1d", "conv2d", "conv3d", "linear"}
_NOT_BY_ELEMENT = (
    _BatchNorm, _DropoutNd, nn.Identity, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
)  # fmt: skip
_ACTIVATIONS = frozenset(
    """relu relu6 leaky_relu rrelu elu celu selu gelu silu swish mish sigmoid logsigmoid tanh hardtanh hardsigmoid
    hardswish hardshrink softplus softshrink softsign tanhshrink threshold clamp clamp_min clamp_max""".split()
)


@dataclass(frozen=True)
class Weighted:
    """One call of a layer that holds tensors.

    ``mixes``: each output channel is a weighted sum of input channels (convolution, linear).
    ``scales``: each output channel is made of the same input channel alone (batch norm, PReLU).
    ``standardises``: the same, after statistics over several channels (layer norm, group norm).
    ``other``: a layer of which nothing is known but its tensors.
    """

    kind: Literal["mixes", "scales", "standardises", "other"]
    tensors: dict[str, str]
    """Role (``weight``, ``bias``, ``running_mean``, ...) -> name in the network."""
    axis: int
    groups: int = 1
    transposed: bool = False
    tap: tuple[int, ...] | None = ()
    """The place in the kernel that keeps each pixel where it is; None where there is no such place."""


def weighted(node: fx.Node, modules: Mapping[str, nn.Module]) -> Weighted | None:
    """What ``node`` calls, if that holds tensors."""
    if node.op == "call_module":
        return _module(str(node.target), modules[str(node.target)])
    if node.op == "call_function" and operation_name(node.target) in _MIXING_FUNCTIONS:
        return _function(node)
    return None


def _module(path: str, module: nn.Module) -> Weighted | None:
    held = {**module._parameters, **module._buffers}
    tensors = {role: f"{path}.{role}" for role, tensor in held.items() if tensor is not None}
    deeper = any(True for child in module.children() for _ in child.parameters())
    if not tensors and not deeper:
        return None
    if deeper:  # parametrised tensors, attention
        return Weighted("other", {n: f"{path}.{n}" for n, _ in module.named_parameters()}, 1)
    if isinstance(module, _ConvTransposeNd):
        return Weighted("mixes", tensors, 1, module.groups, transposed=True, tap=None)
    if isinstance(module, _ConvNd):
        return Weighted("mixes", tensors, 1, module.groups, tap=_tap(module))
    if isinstance(module, nn.Linear):
        return Weighted("mixes", tensors, -1)
    if isinstance(module, _NormBase):
        return Weighted("scales", tensors, 1)
    if isinstance(module, nn.PReLU):
        return Weighted("scales", tensors, 1) if module.num_parameters > 1 else None
    if isinstance(module, nn.GroupNorm):
        return Weighted("standardises", tensors, 1)
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
        return Weighted("standardises", tensors, -1)
    return Weighted("other", tensors, 1)


def _tap(conv: _ConvNd) -> tuple[int, ...] | None:
    if any(stride != 1 for stride in conv.stride):
        return None
    same = conv.padding == "same"
    low = [d * (k - 1) // 2 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    padding = low if same else [0] * len(low) if isinstance(conv.padding, str) else conv.padding
    places = zip(padding, conv.dilation, conv.kernel_size, strict=True)
    if not same and any(2 * p != d * (k - 1) for p, d, k in zip(padding, conv.dilation, conv.kernel_size, strict=True)):
        return None
    taps = tuple(p // d for p, d, _ in places)
    return taps if all(t * d == p for t, d, p in zip(taps, conv.dilation, padding, strict=True)) else None


def _function(node: fx.Node) -> Weighted | None:
    """A functional layer whose weight is a parameter as it is; None where the weight is computed."""
    linear = operation_name(node.target) == "linear"
    names = ("input", "weight", "bias") if linear else _CONV_ARGUMENTS
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    weight, bias = given.get("weight"), given.get("bias")
    if not _is_parameter(weight) or not (bias is None or _is_parameter(bias)):
        return None
    tensors = {r: str(t.target) for r, t in (("weight", weight), ("bias", bias)) if isinstance(t, fx.Node)}
    groups = given.get("groups", 1)
    return Weighted("mixes", tensors, -1 if linear else 1, int(groups) if isinstance(groups, int) else 1, tap=None)


_CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def _is_parameter(value: object) -> bool:
    is_attribute = isinstance(value, fx.Node) and value.op == "get_attr"
    return is_attribute and isinstance(value.meta["val"], nn.Parameter)  # type: ignore[attr-defined]


def is_activation(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether ``node`` is a function of each element alone, which could lose what tells two channels apart."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        single = isinstance(module, nn.PReLU) and module.num_parameters == 1
        return single or (isinstance(module, SAME_SHAPE) and not isinstance(module, _NOT_BY_ELEMENT))
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    called = node.op in ("call_function", "call_method")
    return called and len(tensors) == 1 and operation_name(node.target) in _ACTIVATIONS
