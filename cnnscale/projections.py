"""A projection where a pinned width meets a widened one: the block between them gets the one its class has elsewhere.

A pinned layer whose output a block adds to its own output would hold the whole trunk behind it. Authors write such a
block with a projection on the shortcut where its ends differ (``downsample`` in the ResNets, He et al. 2016, 3.3 B).
Which child that is, is learnt from a block of the same class whose ends do differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from .analysis import Analysis
from .copying import meta_copy
from .errors import CnnScaleError
from .opening import keeps_shape, resize_ends, unstride
from .stages import Block, called_blocks, is_residual, shape
from .surgery import Projection, project
from .tracing import Trace
from .widths import meeting, pinned_layers

__all__ = ["projections"]


def projections(analysis: Analysis, pin: Sequence[str]) -> list[Projection]:
    """One for every block between layers pinned by ``pin`` and those of the same width that are not, as far as the
    block's class shows a projection.

    Raises:
        UsageError: a pattern is no regular expression, or matches no layer.
    """
    blocks = [b for b in called_blocks(analysis.trace) if len(b.modules) == len(b.inputs) == 1]
    found: dict[str, Projection] = {}
    pinned = pinned_layers(analysis, pin)
    for path in pinned:
        if meeting(analysis, path, pinned) is None:
            continue
        for block in _around(analysis, path, pinned, blocks):
            made = next(_made(analysis.trace, block, blocks), None)
            if made is not None:
                found[made.block] = made
    return list(found.values())


def _around(analysis: Analysis, path: str, pinned: Mapping[str, str], blocks: Sequence[Block]) -> Iterator[Block]:
    """Of the blocks that add something to what has a layer's width: the one that holds the layer, if there are layers
    of that width which are not pinned before it, and the first one behind, if there are such layers from there on."""
    resolve = analysis.ctx.equations.resolve
    width = resolve(analysis.ctx.producers[path])
    at = {str(node.target): i for i, node in enumerate(analysis.trace.nodes) if node.op == "call_module"}
    others = [at[p] for p, w in analysis.ctx.producers.items() if p not in pinned and p in at and resolve(w) == width]
    own = [b for b in blocks if is_residual(analysis.trace, b) and analysis.channels(b.inputs[0]) == width]
    own.sort(key=lambda block: block.stop - block.start)  # a block before the container that it begins
    if path not in at:
        return
    yield from [b for b in own if b.start <= at[path] < b.stop and any(o < b.start for o in others)][:1]
    behind = min((b for b in own if b.start > at[path]), key=lambda block: block.start, default=None)
    if behind is not None and any(o >= behind.start for o in others):
        yield behind


def _made(trace: Trace, block: Block, blocks: Sequence[Block]) -> Iterator[Projection]:
    """The projections that the block could have."""
    mine = trace.module.get_submodule(block.path)
    size = shape(block.inputs[0])[1:]
    for donor in blocks:
        if donor.cls != block.cls or shape(donor.inputs[0])[1] == shape(donor.output)[1]:
            continue
        theirs = trace.module.get_submodule(donor.path)
        for name, child in theirs.named_children():
            if not _has_parameters(child) or _has_parameters(getattr(mine, name, None)):
                continue
            module = _fitted(child, _input_size(trace, f"{donor.path}.{name}"), size[0])
            made = module and Projection(block.path, name, module, f"{donor.path}.{name}", tuple(theirs._modules))
            if made and _works(meta_copy(mine), made, size):
                yield made


def _has_parameters(module: nn.Module | None) -> bool:
    return module is not None and any(True for _ in module.parameters())


def _input_size(trace: Trace, path: str) -> tuple[int, ...] | None:
    """The shape of what a module gets, without the batch."""
    call = next((c for c in trace.calls if c.path == path), None)
    position = call.start if call else next((i for i, n in enumerate(trace.nodes) if str(n.target) == path), None)
    if position is None or position >= len(trace.nodes):
        return None
    inputs = trace.nodes[position].all_input_nodes
    return shape(inputs[0])[1:] if inputs else None


def _fitted(child: nn.Module, size: tuple[int, ...] | None, channels: int) -> nn.Module | None:
    """A copy of a donor's projection that keeps ``channels`` channels and the sides."""
    module = meta_copy(child)
    unstride(module)
    try:
        if size is None:
            return None
        resize_ends(module, size, channels)
    except CnnScaleError:
        return None
    return module


def _works(block: nn.Module, made: Projection, size: tuple[int, ...]) -> bool:
    """Whether the block with the projection keeps its shape, reads all it has, and adds its bare input no more."""
    project(block, [replace(made, block="")])
    return keeps_shape(block, size) is False
