"""Layers as the growth of weights sees them: which tensors they hold, and on which axis their channels lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .ops import operation_name

__all__ = ["Weighted", "is_weight", "weighted"]


@dataclass(frozen=True)
class Weighted:
    """One call of a layer that holds tensors.

    ``mixes``: each output channel is a weighted sum of input channels (convolution, linear).
    ``scales``: each output channel is made of the same input channel alone (batch norm, PReLU).
    ``other``: what it makes of channels is seen by running it (layer norm, group norm, attention).
    """

    kind: Literal["mixes", "scales", "other"]
    tensors: dict[str, str]
    """Name in the layer (``weight``, ``running_mean``, ...) -> name in the network."""
    source: fx.Node
    """What the layer reads."""
    axis: int = 1
    """Where the channels of its input and output lie."""
    groups: int = 1
    transposed: bool = False
    tap: tuple[int, ...] | None = None
    """The place in the kernel that keeps each pixel where it is; None where there is no such place."""
    undone: dict[str, float] = field(default_factory=dict)
    """What its tensors must be for it to hand on its input; empty where nothing makes it do so."""
    silenced: tuple[str, ...] = ()
    """The tensors with which, all zero, its output is zero; empty where it never is."""


def weighted(node: fx.Node, modules: Mapping[str, nn.Module]) -> Weighted | None:
    """What ``node`` calls, if that holds tensors."""
    if node.op == "call_module":
        return _module(node, str(node.target), modules[str(node.target)])
    if node.op == "call_function" and operation_name(node.target) in _ARGUMENTS:
        return _function(node, operation_name(node.target))
    return None


def is_weight(node: object) -> bool:
    """Whether a node is a parameter itself."""
    return isinstance(node, fx.Node) and node.op == "get_attr" and isinstance(node.meta["val"], nn.Parameter)


def _module(node: fx.Node, path: str, module: nn.Module) -> Weighted | None:
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    if not names:
        return None
    tensors = {name: f"{path}.{name}" for name in names}
    source = node.all_input_nodes[0]
    rank = len(source.meta["val"].shape)
    if any("." in name for name in names):  # parametrised tensors, attention
        return Weighted("other", tensors, source)
    if isinstance(module, _ConvNd):
        axis, transposed = rank - len(module.kernel_size) - 1, isinstance(module, _ConvTransposeNd)
        tap = None if transposed else _tap(module)
        return Weighted("mixes", tensors, source, axis, module.groups, transposed, tap, silenced=_affine(names))
    if isinstance(module, nn.Linear):
        return Weighted("mixes", tensors, source, rank - 1, tap=(), silenced=_affine(names))
    if isinstance(module, _NormBase):
        undone = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - module.eps}
        undone = undone if module.track_running_stats else {}
        return Weighted("scales", tensors, source, undone=undone, silenced=_affine(names))
    if isinstance(module, nn.PReLU):
        return Weighted("scales", tensors, source, undone={"weight": 1.0})
    norm = isinstance(module, (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm))
    return Weighted("other", tensors, source, silenced=_affine(names) if norm else ())


def _affine(names: list[str]) -> tuple[str, ...]:
    """The weight and bias of a layer that has a weight."""
    return tuple(name for name in ("weight", "bias") if name in names) if "weight" in names else ()


def _tap(conv: _ConvNd) -> tuple[int, ...] | None:
    """The middle of a kernel of stride 1 whose padding keeps the sides of the image."""
    middle = tuple((k - 1) // 2 for k in conv.kernel_size)
    odd = all(k % 2 == 1 for k in conv.kernel_size)
    reach = tuple(d * m for d, m in zip(conv.dilation, middle, strict=True))
    padding = (0,) * len(middle) if conv.padding == "valid" else conv.padding
    keeps = odd and set(conv.stride) == {1} and padding in ("same", reach)
    return middle if keeps else None


_STATISTICS = ("running_mean", "running_var")
_ARGUMENTS = dict.fromkeys(
    ("conv1d", "conv2d", "conv3d"), ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
) | {
    "linear": ("input", "weight", "bias"),
    "batch_norm": ("input", *_STATISTICS, "weight", "bias", "training", "momentum", "eps"),
}


def _function(node: fx.Node, name: str) -> Weighted | None:
    """A functional layer whose weight is a parameter as it is; None where the weight is computed."""
    given: dict[str, Any] = dict(zip(_ARGUMENTS[name], node.args, strict=False)) | node.kwargs
    if name == "batch_norm":
        return _functional_norm(given)
    weight, bias, groups = given.get("weight"), given.get("bias"), given.get("groups", 1)
    if not is_weight(weight) or not (bias is None or is_weight(bias)) or not isinstance(groups, int):
        return None
    assert isinstance(weight, fx.Node)
    tensors = {role: str(t.target) for role, t in (("weight", weight), ("bias", bias)) if isinstance(t, fx.Node)}
    source = given["input"]
    axis = len(source.meta["val"].shape) - max(1, weight.meta["val"].dim() - 1)
    return Weighted("mixes", tensors, source, axis, groups, silenced=tuple(tensors))


def _functional_norm(given: Mapping[str, Any]) -> Weighted | None:
    """A batch norm in eval mode whose tensors are those of a module as they are."""
    undone = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0 - float(given.get("eps", 1e-5))}
    held = {role: given[role] for role in undone if given.get(role) is not None}
    if given.get("training") or not all(isinstance(t, fx.Node) and t.op == "get_attr" for t in held.values()):
        return None
    tensors = {role: str(tensor.target) for role, tensor in held.items()}
    tracked = all(role in held for role in _STATISTICS)
    return Weighted("scales", tensors, given["input"], undone=undone if tracked else {}, silenced=_affine([*tensors]))
