"""Orders of channels for networks that cut their channels in two again and again, as the units of a ShuffleNet do.

An order by the width alone (:mod:`cnnscale.orders`) may send a channel and its copy to different layers there. Here
both networks are walked, every channel that a layer makes is followed to the layers that read it, and a new channel
repeats one that goes the same way. Channels that meet in a sum or product go together.

What is found is a proposal: whoever takes it follows the channels as always, and measures the result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from .analysis import Analysis
from .recognition import NEW, spread
from .rewriting import Aligned
from .running import has_tensors, operands, run
from .stages import is_cat
from .tracing import Trace
from .weighted import Weighted, weighted

__all__ = ["orders_by_way"]

_GRID = 2**20
"""Channels of one network; their numbers lie between 0.1 and 0.9, where clipping and rectifying change nothing."""
_NOBODY = 0
"""The number of channels that are none of the baseline's."""


def orders_by_way(analysis: Analysis, aligned: Aligned) -> dict[fx.Node, Tensor]:
    """For each layer of the baseline that mixes channels, which channel each of the scaled layer's repeats.

    A channel that goes where none of the baseline goes is NEW. Empty where more channels of the baseline go a way than
    of the scaled network.
    """
    old = _Ways(analysis, analysis.trace, lambda node: (node, 0))
    new = _Ways(analysis, aligned.trace, aligned.sources.__getitem__)
    before, after = old.groups(), new.groups()
    if any(len(after.get(way, ())) < len(groups) for way, groups in before.items()):
        return {}
    rows: dict[fx.Node, dict[int, int]] = defaultdict(dict)
    for way, groups in after.items():
        known = before.get(way, ())
        for at, group in zip(spread(len(known), len(groups)).tolist(), groups, strict=True):
            repeated = [channel for _, channel in known[at]] if known else [NEW] * len(group)
            for (layer, channel), of in zip(group, repeated, strict=True):
                rows[layer][channel] = of
    return {layer: torch.tensor([row[i] for i in range(len(row))]) for layer, row in rows.items()}


Channel = tuple[fx.Node, int]
"""(layer of the baseline, channel of its output)."""


@dataclass
class _Ways:
    """The channels of one network, and the layers that each of them reaches."""

    analysis: Analysis
    trace: Trace
    source: Callable[[fx.Node], tuple[fx.Node, int]]
    """The node of the extended baseline that a node repeats, and which copy of it this is."""
    channels: list[Channel | None] = field(default_factory=lambda: [None])
    reached: list[set[fx.Node]] = field(default_factory=lambda: [set()])
    joined: list[int] = field(default_factory=lambda: [_NOBODY])
    """For each channel another one that it goes together with; the first of them has itself."""

    def __post_init__(self) -> None:
        self.values: dict[fx.Node, Any] = {}
        for node in self.trace.nodes:
            if node.op != "output" and has_tensors(node.meta.get("val")):
                self.values[node] = self._value(node)

    def groups(self) -> dict[Any, list[list[Channel]]]:
        """Channels that go together, by their way: the layers that made them, and those that they reach."""
        members: dict[int, list[int]] = defaultdict(list)
        for number in range(1, len(self.channels)):
            members[self._first(number)].append(number)
        found: dict[Any, list[list[Channel]]] = defaultdict(list)
        for numbers in members.values():
            group = [channel for channel in (self.channels[n] for n in numbers) if channel is not None]
            reached = frozenset().union(*(self.reached[n] for n in numbers))
            found[tuple(layer for layer, _ in group), reached].append(group)
        return dict(found)

    def _value(self, node: fx.Node) -> Any:
        layer = weighted(node, self.trace.modules)
        if layer is None:
            return self._passed(node) if operands(node) else self._nobodys(node)
        given = self.values[layer.source]
        shape = node.meta["val"].shape
        same = shape[layer.axis] == layer.source.meta["val"].shape[layer.axis]
        if layer.kind != "mixes" or (same and layer.groups == shape[layer.axis]):
            return _along(given, layer, shape)
        source, copy = self.source(node)
        if self.analysis.is_copied(source, copy):
            return _along(given, layer, shape) if same else self._nobodys(node)
        for number in torch.unique(given).tolist():
            self.reached[number].add(source)
        return _spread_out(self._new(source, shape[layer.axis]), layer.axis, shape)

    def _new(self, layer: fx.Node, count: int) -> Tensor:
        numbers = range(len(self.channels), len(self.channels) + count)
        self.channels += [(layer, i) for i in range(count)]
        self.reached += [set() for _ in numbers]
        self.joined += numbers
        return torch.tensor(numbers)

    def _passed(self, node: fx.Node) -> Any:
        """What an operation without weights hands on."""
        inputs = [self.values[each] for each in operands(node)]
        if len(inputs) > 1 and not is_cat(node):
            return self._met(node, inputs)
        try:
            return _numbers(run(node, self.trace.modules, self._coded, {}), len(self.channels))
        except (ArithmeticError, RuntimeError, TypeError, ValueError):  # it does more than move channels about
            shape, given = node.meta["val"].shape, inputs[0]
            if isinstance(given, Tensor) and given.dim() == len(shape) > 1 and given.shape[1] == shape[1]:
                return _spread_out(given.transpose(0, 1).flatten(1)[:, 0], 1, shape)
            return self._nobodys(node)

    def _coded(self, node: fx.Node) -> Any:
        value = self.values.get(node, node.meta.get("val"))
        if isinstance(value, tuple):
            return tuple(_code(each) for each in value)
        return _code(value) if node in self.values else value

    def _met(self, node: fx.Node, inputs: Iterable[Any]) -> Any:
        """Channels of several tensors that meet one by one."""
        shape = node.meta["val"].shape
        try:
            met = [given.broadcast_to(shape) for given in inputs]
        except (AttributeError, RuntimeError):
            return self._nobodys(node)
        result = met[0]
        for other in met[1:]:
            count = len(self.channels)
            for one, two in (divmod(pair, count) for pair in torch.unique(result * count + other).tolist()):
                if _NOBODY not in (one, two):
                    self._join(one, two)
            result = torch.where(result == _NOBODY, other, result)
        return result

    def _join(self, one: int, two: int) -> None:
        low, high = sorted((self._first(one), self._first(two)))
        self.joined[high] = low

    def _first(self, number: int) -> int:
        while self.joined[number] != number:
            self.joined[number] = self.joined[self.joined[number]]
            number = self.joined[number]
        return number

    def _nobodys(self, node: fx.Node) -> Any:
        def nobodys(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return tuple(map(nobodys, value))
            return torch.full(value.shape, _NOBODY) if isinstance(value, Tensor) else value

        return nobodys(node.meta["val"])


def _along(given: Tensor, layer: Weighted, shape: torch.Size) -> Tensor:
    """The channels that a layer reads, in the shape of its output."""
    return _spread_out(given.movedim(layer.axis, 0).flatten(1)[:, 0], layer.axis, shape)


def _spread_out(numbers: Tensor, axis: int, shape: torch.Size) -> Tensor:
    """Numbers along one axis of a shape, the same on all others."""
    return numbers.reshape([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape)


def _code(value: Any) -> Any:
    return value.double() * (0.8 / _GRID) + 0.1 if isinstance(value, Tensor) else value


def _numbers(value: Any, count: int) -> Any:
    """The channels' numbers, below ``count``, of coded ones.

    Raises:
        ValueError: they are no longer codes.
    """
    if isinstance(value, (tuple, list)):
        return tuple(_numbers(each, count) for each in value)
    if not isinstance(value, Tensor):
        return value
    numbers = (value - 0.1) * (_GRID / 0.8)
    whole = numbers.round()
    if not (((numbers - whole).abs() < 1e-3) & (whole >= 0) & (whole < count)).all():
        raise ValueError("not the numbers of channels")
    return whole.long()
