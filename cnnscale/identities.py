"""What the layers of a copied block must do so that the block hands on its input.

Going backward from the block's output each node has a goal: to ``carry`` the block's input unchanged, or to be
``zero``. A sum carries by one of its summands, the one with the fewest layers on its way, and the others are zero; a
layer carries as an identity, and is zero with its weights. What has no goal may compute anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import fx, nn

from .ops import operation_name
from .stages import Block, is_cat, is_sum, shape
from .tracing import describe
from .weighted import Weighted, is_activation, weighted

__all__ = ["Goal", "Obstacle", "goals_of"]

Goal = Literal["carry", "zero"]
_PRODUCTS = {"mul", "imul", "multiply"}


class Obstacle(Exception):  # noqa: N818  # a finding, which its receiver words as an error
    """Why a copied block cannot hand on its input: (node, reason)."""

    def __init__(self, node: fx.Node, why: str) -> None:
        super().__init__(why)
        self.node, self.why = node, why


def goals_of(block: Block, modules: Mapping[str, nn.Module]) -> dict[fx.Node, Goal]:
    """The goals of a block's nodes.

    Raises:
        Obstacle: no way leads through the block on which its input could be carried.
    """
    finder = _Finder(block, modules)
    finder.carry(block.output)
    return finder.goals


@dataclass
class _Finder:
    block: Block
    modules: Mapping[str, nn.Module]
    goals: dict[fx.Node, Goal] = field(default_factory=dict)
    _lengths: dict[fx.Node, float] = field(default_factory=dict)

    def carry(self, node: fx.Node) -> None:
        if node in self.block.inputs:
            return
        if math.isinf(self.length(node)):
            raise Obstacle(self._culprit(node), "no way through it leaves the input as it is")
        self.goals[node] = "carry"
        inputs = self._inputs(node)
        if is_cat(node):
            for each in inputs:
                self.carry(each)
            return
        best = min(inputs, key=self.length)
        for other in inputs:
            if other is not best:
                self.zero(other)
        self.carry(best)

    def length(self, node: fx.Node) -> float:
        """Layers on the shortest way on which ``node`` could carry the input; infinite where there is none."""
        if node in self.block.inputs:
            return 0
        if node not in self._lengths:
            self._lengths[node] = math.inf
            self._lengths[node] = self._length(node)
        return self._lengths[node]

    def _length(self, node: fx.Node) -> float:
        inputs = self._inputs(node)
        if not inputs:
            return math.inf
        ahead = [self.length(each) for each in inputs]
        if is_sum(node):
            return min(ahead)
        if is_cat(node):
            return sum(ahead)
        layer = self._layer(node)
        if len(inputs) > 1 or self._changes(node, layer):
            return math.inf
        return ahead[0] + (layer is not None)

    def _changes(self, node: fx.Node, layer: Weighted | None) -> bool:
        """Whether the node can do nothing but change its input."""
        if layer is not None:
            return layer.kind not in ("mixes", "scales") or layer.tap is None
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            return not (is_activation(node, self.modules) or isinstance(module, (nn.Identity, nn.Flatten)) or _drops(module))
        name = operation_name(node.target)
        return name in _PRODUCTS or "pool" in name or name in ("interpolate", "mean", "conv2d", "softmax")

    def zero(self, node: fx.Node) -> None:
        """Make ``node`` zero by the weights nearest to it.

        Raises:
            Obstacle: it cannot be, or could not learn from there.
        """
        inputs = self._inputs(node)
        layer = self._layer(node)
        if (layer is not None and layer.kind != "other") or self._is_parameter(node):
            self.goals[node] = "zero"
        elif node in self.block.inputs or not inputs or layer is not None:
            raise Obstacle(node, "it cannot start as zero")
        elif operation_name(node.target) in _PRODUCTS and node.op != "call_module":
            self._zero_one(sorted(inputs, key=lambda each: not self._is_parameter(each)), node)
        else:
            if is_activation(node, self.modules):
                self._check_slope(node)
            for each in inputs:
                self.zero(each)

    def _zero_one(self, factors: list[fx.Node], node: fx.Node) -> None:
        for factor in factors:
            before = dict(self.goals)
            try:
                self.zero(factor)
            except Obstacle:
                self.goals = before
            else:
                return
        raise Obstacle(node, "none of its factors can start as zero")

    def _check_slope(self, node: fx.Node) -> None:
        """An activation behind zeros must be zero too, and let a gradient through."""
        x = torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            y = applied(node, self.modules, x)
        slope = torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else torch.zeros(1)
        if y.item() or not slope.item():
            raise Obstacle(node, "behind zeros it would not be zero, or could never learn")

    def _inputs(self, node: fx.Node) -> list[fx.Node]:
        """The tensors that a node computes from: not the weights of a functional layer, nor sizes."""
        layer = self._layer(node)
        own = set(layer.tensors.values()) if layer is not None and node.op == "call_function" else set()
        return [
            each
            for each in node.all_input_nodes
            if shape_known(each) and not (each.op == "get_attr" and str(each.target) in own)
        ]

    def _layer(self, node: fx.Node) -> Weighted | None:
        return weighted(node, self.modules)

    def _is_parameter(self, node: fx.Node) -> bool:
        return node.op == "get_attr" and isinstance(node.meta["val"], nn.Parameter)

    def _culprit(self, node: fx.Node) -> fx.Node:
        """The last node from which no way leads on."""
        while True:
            behind = [each for each in self._inputs(node) if math.isinf(self.length(each))]
            if not behind:
                return node
            node = behind[0]


def shape_known(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor) or bool(shape(node))


def _drops(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.dropout._DropoutNd)


def applied(node: fx.Node, modules: Mapping[str, nn.Module], x: torch.Tensor) -> torch.Tensor:
    """An activation of ``x``; of a learnt slope, the slope one fourth."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        if isinstance(module, nn.PReLU):
            return nn.functional.prelu(x, x.new_full((1,), 0.25))
        return type(module)(**_settings(module))(x)
    args = fx.node.map_arg(node.args, lambda _: x)
    kwargs = {k: v for k, v in node.kwargs.items() if k != "inplace"}
    if node.op == "call_method":
        return getattr(x.clone(), str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(x.clone(), *args[1:], **kwargs)


def _settings(module: nn.Module) -> dict[str, object]:
    """The arguments of an activation's constructor that it keeps as attributes; none of them works in place."""
    names = type(module).__constants__ if hasattr(type(module), "__constants__") else ()
    return {n: getattr(module, n) for n in names if n != "inplace"}
