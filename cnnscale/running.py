"""One operation of a traced network, run on numbers: what it does to channels is seen from its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

__all__ = ["has_tensors", "operands", "run"]

ValueOf = Callable[[fx.Node], Any]
"""The value of a node that another one reads."""


def operands(node: fx.Node) -> list[fx.Node]:
    """The nodes with tensors that a node reads."""
    return [each for each in node.all_input_nodes if has_tensors(each.meta.get("val"))]


def has_tensors(value: Any) -> bool:
    """Whether a value is a tensor, or several results with one among them."""
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(map(has_tensors, value)))


def run(node: fx.Node, modules: Mapping[str, nn.Module], value_of: ValueOf, tensors: Mapping[str, Tensor]) -> Any:
    """The result of a node on the values of what it reads, and on the ``tensors`` of the layer it calls, by role.

    Whatever the operation raises is raised: the caller knows what the node is there for.
    """
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: _own(value_of(each)))
    if node.op == "call_module":
        return functional_call(modules[str(node.target)], dict(tensors), args, kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _own(value: Any) -> Any:
    """What an operation may overwrite; where sizes are asked for, devices are those of the numbers."""
    if isinstance(value, Tensor):
        return value.clone()
    return torch.device("cpu") if isinstance(value, torch.device) else value
