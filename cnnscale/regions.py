"""A trace as nested calls: which operations, and which calls of submodules, each module's forward consists of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from .tracing import Call, Trace

__all__ = ["Region", "chain", "nodes_in", "regions"]


@dataclass(frozen=True)
class Region:
    """One call of a module."""

    path: str
    inputs: tuple[Any, ...]
    """What its forward is given, in order: nodes, or lists of nodes."""
    items: tuple[fx.Node | Region, ...]
    """Operations and calls of submodules."""
    output: Any
    """A node, or a structure of nodes and constants."""


def regions(trace: Trace, inlined: frozenset[str]) -> Region:
    """The model's own call, with all others inside.

    A call becomes part of its caller where its path is in ``inlined``, or where its forward could not be written down
    by itself: it uses another module's tensors, or what it computes is used though it does not return it.
    """
    waiting: dict[int, list[Region]] = defaultdict(list)
    order = {node: i for i, node in enumerate(trace.nodes)}
    spans: dict[int, tuple[int, int]] = {}
    for call in trace.calls:
        items = tuple(_items(trace, call.start, call.stop, waiting.pop(call.depth + 1, []), spans))
        keep = call.path not in inlined and _closed(trace, call, order)
        region = Region(call.path, _inputs(call, trace, order) if keep else (), items, call.output)
        spans[id(region)] = (call.start, call.stop)
        waiting[call.depth].append(region)
        if not keep:
            spans[-id(region)] = (0, 0)
    nodes = trace.nodes
    items = tuple(_items(trace, 0, len(nodes), waiting.pop(0, []), spans))
    body = tuple(i for i in items if not (isinstance(i, fx.Node) and i.op in ("placeholder", "output")))
    result = nodes[-1].args[0]
    used = {n for item in body for n in nodes_in(item)} | set(nodes_in(result))
    first = next(i for i, node in enumerate(nodes) if node.op == "placeholder")
    inputs = tuple(n for i, n in enumerate(nodes) if n.op == "placeholder" and (i == first or n in used))
    return Region("", inputs, body, result)


def _items(
    trace: Trace, start: int, stop: int, calls: list[Region], spans: dict[int, tuple[int, int]]
) -> Iterator[fx.Node | Region]:
    at = start
    for region in calls:
        begin, end = spans[id(region)]
        yield from trace.nodes[at:begin]
        if -id(region) in spans:
            yield from region.items
        else:
            yield region
        at = end
    yield from trace.nodes[at:stop]


def _inputs(call: Call, trace: Trace, order: dict[fx.Node, int]) -> tuple[Any, ...]:
    """The arguments that hold nodes, then what else the call reads from outside."""
    given = [value for value in call.inputs if any(True for _ in nodes_in(value))]
    known = {node for value in given for node in nodes_in(value)}
    nodes = trace.nodes[call.start : call.stop]
    read = (*(n for node in nodes for n in node.all_input_nodes), *nodes_in(call.output))
    free = dict.fromkeys(n for n in read if not call.start <= order[n] < call.stop and n not in known)
    return (*dict.fromkeys(_frozen(value) for value in given), *free)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _closed(trace: Trace, call: Call, order: dict[fx.Node, int]) -> bool:
    """Whether the call uses its own module's layers and tensors only, and hands on nothing but its output."""
    nodes = trace.nodes[call.start : call.stop]
    prefix = f"{call.path}."
    if any(isinstance(value, dict) and any(True for _ in nodes_in(value)) for value in call.inputs):
        return False
    own = all(str(n.target).startswith(prefix) for n in nodes if n.op in ("call_module", "get_attr"))
    output = set(nodes_in(call.output))
    return own and all(
        call.start <= order[user] < call.stop for n in nodes if n not in output and n.op != "get_attr" for user in n.users
    )


def nodes_in(value: Any) -> Iterator[fx.Node]:
    """The nodes that a value, an operation's arguments or a call's, reads or consists of."""
    if isinstance(value, fx.Node):
        yield value
    elif isinstance(value, Region):
        for given in (*value.inputs, value.output):
            yield from nodes_in(given)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from nodes_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from nodes_in(item)
    elif isinstance(value, slice):
        yield from nodes_in((value.start, value.stop, value.step))


def chain(module: nn.Module, region: Region) -> bool:
    """Whether the call does what ``nn.Sequential`` does: each child once, in order, on what the last one gave."""
    if len(region.inputs) != 1 or not isinstance(region.inputs[0], fx.Node):
        return False
    value, names = region.inputs[0], []
    for item in region.items:
        if isinstance(item, Region):
            path, given, result = item.path, item.inputs, item.output
        elif item.op == "call_module" and not item.kwargs:
            path, given, result = str(item.target), item.args, item
        else:
            return False
        if given != (value,) or not isinstance(result, fx.Node):
            return False
        value = result
        names.append(path)
    prefix = f"{region.path}." if region.path else ""
    return region.output is value and names == [prefix + name for name in module._modules]
