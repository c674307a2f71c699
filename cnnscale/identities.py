"""What the layers of a copied block must do so that the block hands on its input.

Going backward from the block's output each node has a goal: to ``carry`` the block's input unchanged, or to be
``zero``. A sum carries by one of its summands, the one with the fewest layers on its way, and the others are zero; a
layer carries as an identity, and is zero with its weights. What has no goal may compute anything. Whether what is to
carry really does is not said here: it is seen when the block is run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, fx, nn

from .ops import operation_name
from .running import operands, run
from .stages import Block, is_cat, is_sum
from .weighted import is_weight, weighted

__all__ = ["Goal", "Obstacle", "goals_of"]

Goal = Literal["carry", "zero"]
_PRODUCTS = {"mul", "imul", "multiply"}
_BILINEAR = {"conv1d", "conv2d", "conv3d", "linear"}


class Obstacle(Exception):  # noqa: N818  # a finding, which its receiver words as an error
    """Why a copied block cannot hand on its input: (node, reason)."""

    def __init__(self, node: fx.Node, why: str) -> None:
        super().__init__(why)
        self.node, self.why = node, why


def goals_of(block: Block, modules: Mapping[str, nn.Module]) -> dict[fx.Node, Goal]:
    """The goals of a block's nodes. A block that appends channels to its input hands on these; the others are new.

    Raises:
        Obstacle: no way leads through the block on which its input could be carried.
    """
    finder = _Finder(block, modules)
    if block.growth:
        finder.goals[block.output] = "carry"
        own = [each for each in block.output.all_input_nodes if finder.length(each) == 0]
        for each in own:
            finder.carry(each)
    else:
        finder.carry(block.output)
    return finder.goals


@dataclass
class _Finder:
    block: Block
    modules: Mapping[str, nn.Module]
    goals: dict[fx.Node, Goal] = field(default_factory=dict)
    _lengths: dict[fx.Node, float] = field(default_factory=dict)

    def carry(self, node: fx.Node) -> None:
        """Make ``node`` the block's input."""
        if node in self.block.inputs:
            return
        if math.isinf(self.length(node)):
            raise Obstacle(self._culprit(node), "no way through it leaves the block's input as it is")
        self.goals[node] = "carry"
        inputs = self._inputs(node)
        best = inputs if is_cat(node) else [min(inputs, key=self.length)]
        for each in inputs:
            if each in best:
                self.carry(each)
            else:
                self.zero(each)

    def length(self, node: fx.Node) -> float:
        """Layers on the shortest way on which ``node`` could carry the input; infinite where there is none."""
        if node in self.block.inputs:
            return 0
        if node not in self._lengths:
            self._lengths[node] = self._length(node)
        return self._lengths[node]

    def _length(self, node: fx.Node) -> float:
        ahead = [self.length(each) for each in self._inputs(node)]
        if not ahead:
            return math.inf
        if is_sum(node):
            return min(ahead)
        if is_cat(node):
            return sum(ahead)
        layer = weighted(node, self.modules)
        if len(ahead) > 1 or (layer is not None and layer.tap is None and not layer.undone):
            return math.inf
        return ahead[0] + (layer is not None)

    def zero(self, node: fx.Node) -> None:
        """Make ``node`` zero by the weights nearest to it, and by one factor of a product only: two would never learn.

        Raises:
            Obstacle: it cannot be, or could not learn from there.
        """
        if self.goals.get(node) == "zero":
            return
        inputs = self._inputs(node)
        layer = weighted(node, self.modules)
        name = operation_name(node.target) if node.op != "call_module" else ""
        if (layer is not None and layer.silenced) or is_weight(node):
            pass
        elif node in self.block.inputs or not inputs or self.goals.get(node) == "carry":
            raise Obstacle(node, "it cannot start as zero")
        elif name in _PRODUCTS:
            self._zero_one(sorted(inputs, key=lambda each: not is_weight(each)), node)
        elif name in _BILINEAR:
            for weight in inputs[1:]:
                self.zero(weight)
        elif (is_sum(node) or is_cat(node)) and len(inputs) > 1:
            for each in inputs:
                self.zero(each)
        else:
            self._check_zero(node, inputs)
            self.zero(inputs[0])
        self.goals[node] = "zero"

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

    def _check_zero(self, node: fx.Node, inputs: list[fx.Node]) -> None:
        """Behind zeros, an operation on one tensor must give zeros too, and let a gradient through."""
        x = torch.zeros(inputs[0].meta["val"].shape, dtype=torch.float64, requires_grad=True)
        layer = weighted(node, self.modules)
        held = self.modules[str(node.target)].state_dict() if layer is not None else {}
        ones = {name: torch.ones(tensor.shape, dtype=torch.float64) for name, tensor in held.items()}
        try:
            with torch.enable_grad():
                y = run(node, self.modules, lambda each: x if each is inputs[0] else each.meta["val"], ones)
                learns = isinstance(y, Tensor) and len(inputs) == 1 and y.requires_grad and not y.any()
                slope = torch.autograd.grad(y.sum(), x)[0] if learns else torch.zeros(1)
        except Exception as error:  # an operation that does not run alone, or on these numbers
            raise Obstacle(node, f"what it makes of zeros is not known ({error})") from error
        if not slope.any():
            raise Obstacle(node, "behind zeros it would not be zero, or could never learn")

    def _inputs(self, node: fx.Node) -> list[fx.Node]:
        """The tensors that a node computes from; of a layer, not its weights."""
        layer = weighted(node, self.modules)
        return [layer.source] if layer is not None else operands(node)

    def _culprit(self, node: fx.Node) -> fx.Node:
        """The last node from which no way leads on."""
        while True:
            behind = [each for each in self._inputs(node) if math.isinf(self.length(each))]
            if not behind or is_sum(node):
                return node
            node = behind[0]
