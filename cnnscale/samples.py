"""Numbers that stand for the tensors of a traced network, so that its operations can be run one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from .identities import Obstacle
from .running import has_tensors, operands, run
from .stages import is_cat, is_sum
from .tracing import Trace
from .weighted import weighted

__all__ = ["Samples", "narrow"]


def narrow(shape: Iterable[int], seed: int) -> Tensor:
    """Random numbers between 0.1 and 0.9, where activations are one to one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tuple(shape), generator=generator, dtype=torch.float64) * 0.8 + 0.1


@dataclass
class Samples:
    """Numbers for the nodes of the extended baseline."""

    trace: Trace
    instead: dict[fx.Node, fx.Node] = field(default_factory=dict)
    """Nodes that the baseline does not have, and those which have their value."""
    fixed: dict[fx.Node, Tensor] = field(default_factory=dict)
    """Tensors that depend on no image."""
    silent: dict[fx.Node, tuple[int, Tensor]] = field(default_factory=dict)
    """Nodes with channels that are always zero: (axis, which)."""
    pending: set[fx.Node] = field(default_factory=set)
    """Nodes whose numbers are made of those of what they read."""
    _wide: dict[fx.Node, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._order = {node: i for i, node in enumerate(self.trace.nodes)}
        for node in self.trace.nodes:
            if node.op == "call_module" and isinstance(self.trace.modules[str(node.target)], nn.Identity):
                self.instead[node] = node.all_input_nodes[0]

    def source(self, node: fx.Node) -> fx.Node:
        """The node of the baseline whose value ``node`` has."""
        while node in self.instead:
            node = self.instead[node]
        return node

    def of(self, node: fx.Node) -> Any:
        """Numbers with which any two channels differ, save those that are always zero; sizes are today's.

        Raises:
            Obstacle: the node's value is no tensor of fractions.
        """
        node = self.source(node)
        value = node.meta.get("val")
        if node in self.fixed:
            return self.fixed[node]
        if node in self.pending:
            return run(node, self.trace.modules, self.of, {})
        if isinstance(value, (tuple, list)) and has_tensors(value):
            raise Obstacle(node, "its several results are read as one")
        if not isinstance(value, Tensor):
            return value
        if not value.is_floating_point():
            raise Obstacle(node, f"its result is made of {value.dtype}")
        sample = narrow(value.shape, self._order[node])
        if node in self.silent:
            axis, which = self.silent[node]
            sample = sample.index_fill(axis, which.nonzero().flatten(), 0.0)
        return sample

    def wide(self, node: fx.Node) -> Any:
        """Numbers of any size that the node can really have: those behind a ReLU are not negative."""
        node = self.source(node)
        if node not in self._wide:
            inputs, value = operands(node), node.meta.get("val")
            single = len(inputs) == 1 and not is_sum(node) and weighted(node, self.trace.modules) is None
            if node.op != "get_attr" and (single or (inputs and is_cat(node))):
                self._wide[node] = run(node, self.trace.modules, self.wide, {})
            else:
                self._wide[node] = self._any(node) if isinstance(value, Tensor) else value
        return self._wide[node]

    def _any(self, node: fx.Node) -> Tensor:
        """Of one image numbers of any sign and many sizes, of the others small ones, so that none is clipped there."""
        shape = node.meta["val"].shape
        sample = narrow(shape, self._order[node])
        generator = torch.Generator().manual_seed(self._order[node])
        signs = torch.randint(0, 2, tuple(shape[1:]), generator=generator) * 2 - 1
        sample[0] = signs * torch.exp(12 * (sample[0] - 0.4))  # 0.03 to 400
        return sample
