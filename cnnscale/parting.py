"""Where two networks that should compute the same begin to differ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from .analysis import Analysis
from .batches import random_batch
from .comparison import assign, relative_error
from .copying import plain_copy
from .following import Channels, Followed
from .recognition import NEW
from .rewriting import Aligned
from .running import run
from .tracing import argument_of, describe

__all__ = ["first_parting"]

_BOUND = 1e-9


def first_parting(
    model: nn.Module,
    scaled: nn.Module,
    analysis: Analysis,
    aligned: Aligned,
    followed: Followed,
    exact: dict[str, Tensor],
) -> str:
    """The first node of the scaled network, in words, whose channels are not those of the baseline; "" without any."""
    before, after = plain_copy(model).to(torch.float64).eval(), plain_copy(scaled).to(torch.float64).eval()
    assign(after, exact)
    given = random_batch(before, analysis.input_size).arguments(before)
    paths = {path: before.get_submodule(analysis.plain_path(path)) for path in analysis.trace.modules}
    known: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in analysis.trace.nodes:
            if node.op != "output" and followed.samples.source(node) is node:
                known[node] = _value(node, given, paths, lambda each: known.get(followed.samples.source(each)))
        found: dict[fx.Node, Any] = {}
        for node in aligned.trace.nodes:
            if node.op == "output":
                continue
            found[node] = _value(node, given, dict(after.named_modules(remove_duplicate=False)), found.get)
            value = followed.values.get(node)
            if isinstance(value, Channels) and _differs(found[node], known.get(value.of), value):
                return describe(node)
    return ""


def _value(node: fx.Node, given: dict[str, Any], modules: dict[str, nn.Module], value_of: Any) -> Any:
    """A node's value; None where it does not have one in this network."""
    if node.op == "placeholder":
        return given.get(argument_of(node), node.meta.get("val"))
    if node.op == "get_attr":
        parent, _, name = str(node.target).rpartition(".")
        return getattr(modules[parent], name)
    try:
        return run(node, modules, value_of, {})
    except Exception:  # a block that only the scaled network has
        return None


def _differs(found: Any, known: Any, value: Channels) -> bool:
    if not isinstance(found, Tensor) or not isinstance(known, Tensor) or not found.is_floating_point():
        return False
    if value.index is not None:
        at = value.index.to(found.device)
        found = found.index_select(value.axis, (at != NEW).nonzero().flatten())
        known = known.index_select(value.axis, at[at != NEW])
    return found.shape != known.shape or relative_error(found, known) > _BOUND
