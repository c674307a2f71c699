"""What an attention module keeps of the width that it multiplies over: ``scale = head_dim ** -0.5``, ``head_dim``.

Such numbers are made once, in a constructor, and the graph may not even read them (a fused attention has its own
scale). So a module whose forward multiplies two tensors over ``k`` channels is asked for its floats and integers:

1. a float that is ``k ** -0.5`` (or that of the width of one of its layers) follows that width;
2. an integer that is ``k`` follows, if it is the module's only one of that value and the graph does not read it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from .shapes import Context, Power
from .symbolic import Poly
from .tracing import caller

__all__ = ["follow_contractions"]

EXPONENT = -0.5


def follow_contractions(ctx: Context) -> None:
    """Let the numbers of every module that multiplies over channels follow them, in ``ctx.attributes``."""
    contracted: dict[str, list[Poly]] = defaultdict(list)
    for node, over in ctx.contractions:
        dim = ctx.equations.resolve(over)
        if dim.has_width and dim.hint > 1:
            contracted[caller(node)].append(dim)
    for path, dims in contracted.items():
        module = ctx.module.get_submodule(path)
        widths = [*dims, *_widths(ctx, path, module)]
        for name, value in vars(module).items():
            if type(value) is float:
                followed = next((w for w in widths if math.isclose(value, w.hint**EXPONENT, rel_tol=1e-9)), None)
                if followed is not None:
                    ctx.attributes[path, name] = Power(followed, EXPONENT)
        ctx.attributes |= {(path, name): dim for name, dim in _integers(ctx, path, module, dims)}


def _widths(ctx: Context, path: str, module: nn.Module) -> Iterator[Poly]:
    """The widths of the layers that a module has itself."""
    for name, _ in module.named_children():
        layer = f"{path}.{name}".lstrip(".")
        for widths in (ctx.inputs, ctx.producers):
            if layer in widths and ctx.is_channel(widths[layer]):
                yield ctx.equations.resolve(widths[layer])


def _integers(ctx: Context, path: str, module: nn.Module, dims: Iterable[Poly]) -> Iterator[tuple[str, Poly]]:
    numbers: Mapping[str, int] = {name: v for name, v in vars(module).items() if type(v) is int}
    for dim in dict.fromkeys(dims):
        names = [name for name, value in numbers.items() if value == dim.hint]
        if len(names) == 1 and not any(place[:2] == (path, names[0]) for place in ctx.read):
            yield names[0], dim
