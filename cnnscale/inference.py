"""Graph -> equations: every node's rule is run once, and its result is held against the traced value.

The checks at the end of :func:`infer` make a wrong rule loud: the symbolic shape, at today's sizes, must be the shape
that torch itself gave.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from .errors import CnnScaleError, UnsupportedOpError
from .layers import layer_rule
from .ops import RULES, integers, operation_name, unknown
from .shapes import Comparison, Context, Lit, Sym, constant, hints, symbolic_tensors
from .sources import Source
from .symbolic import Poly, as_poly
from .tracing import Trace, argument_of, parametrization

__all__ = ["Override", "infer"]

Override = Callable[[Any], Any]
"""Changes a node's symbolic result, by the node's name (depth changes the channels behind concatenating stages)."""


def infer(
    ctx: Context, trace: Trace, overrides: dict[str, Override] | None = None, *, free: bool = False
) -> dict[fx.Node, Any]:
    """Walk ``trace``, filling ``ctx``; returns each node's symbolic value.

    The inputs' channels and the channels of whatever the network returns are pinned, unless ``free``.

    Raises:
        UnsupportedOpError: an operation has no rule, or a rule cannot express it.
    """
    nodes = [node for node in trace.nodes if not (free and node.op == "output")]
    env = _walk(ctx, trace, nodes, overrides or {})
    for node, truth in trace.decisions.items():
        condition = env.get(node)
        if isinstance(condition, Comparison):
            ctx.node = node
            ctx.decide(condition, truth)
    for node in trace.numbers:
        number = env.get(node)
        if isinstance(number, Poly) and not ctx.is_channel(number):
            ctx.node = node
            ctx.equate(number, number.hint)
    return env


def _walk(
    ctx: Context, trace: Trace, nodes: Iterable[fx.Node], overrides: Mapping[str, Override]
) -> dict[fx.Node, Any]:
    """The symbolic value of each node."""
    env: dict[fx.Node, Any] = {}
    for node in nodes:
        ctx.node = node
        fx.node.map_aggregate((node.args, node.kwargs), ctx.mark_read)
        try:
            value = _value(ctx, trace, node, env)
            if isinstance(value, torch.Tensor):
                value = constant(value)
            if isinstance(value, Sym) and hints(value) != hints(node.meta["val"]):
                raise UnsupportedOpError(
                    f"the width rule for {ctx.where} gives shape {hints(value)}; please open an issue"
                )
        except CnnScaleError:
            raise
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, AssertionError) as error:
            raise UnsupportedOpError(
                f"the width rule for {ctx.where} does not cover this use ({type(error).__name__}: {error}); "
                "open an issue with this line, or keep the part out by scaling a submodule"
            ) from error
        if node.name in overrides:
            value = overrides[node.name](value)
        env[node] = value
    return env


def _value(ctx: Context, trace: Trace, node: fx.Node, env: dict[fx.Node, Any]) -> Any:
    if node.op == "placeholder":
        return _input(ctx, trace, node.meta["val"]) if argument_of(node) in trace.given else node.meta["val"]
    if node.op == "get_attr":
        return _attribute(ctx, str(node.target))
    if node.op == "output":
        for sym in symbolic_tensors(_arguments(node.args, env)):
            for dim in sym.shape[1:]:
                ctx.equations.freeze(dim, "the output")
        return None
    args, kwargs = _arguments((node.args, node.kwargs), env)
    if node.op == "call_module":
        return _layer(ctx, trace, trace.modules[str(node.target)], str(node.target), args, kwargs)
    if isinstance(node.target, type) and issubclass(node.target, tuple):  # a NamedTuple of outputs
        return (*args, *kwargs.values())
    name = operation_name(node.target)
    number = integers(ctx, name, args)
    if number is not None:
        return number
    known = RULES.get(name)
    if known is not None:
        return known(ctx, *args, **kwargs)
    return unknown(ctx) if symbolic_tensors((args, kwargs)) else node.meta["val"]


def _input(ctx: Context, trace: Trace, value: Any) -> Any:
    """What the model is given for an argument: its channels are pinned, and its sides too where they do not grow."""
    if isinstance(value, dict):
        return {name: _input(ctx, trace, each) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_input(ctx, trace, each) for each in value)
    size = tuple(value.shape[1:])
    sides = [ctx.side(side) for side in trace.inputs.sides_of(size)]
    return Sym((ctx.batch, as_poly(size[0]), *(sides or map(as_poly, size[1:]))))


def _attribute(ctx: Context, target: str) -> Any:
    value = operator.attrgetter(target)(ctx.module)
    if not isinstance(value, torch.Tensor):
        return value
    sym = ctx.tensor(target)
    assert sym is not None
    return sym


def _layer(
    ctx: Context, trace: Trace, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    known = layer_rule(module)
    tensors = [*args, *kwargs.values()]
    if known is None or not tensors or not isinstance(tensors[0], Sym):
        unknown(ctx)
    _compute(ctx, trace, module, path)
    if len(tensors) == 1:
        return known(ctx, path, module, tensors[0])
    return known(ctx, path, module, *args, **kwargs)


def _compute(ctx: Context, trace: Trace, layer: nn.Module, path: str) -> None:
    """Walk what computes a layer's parametrised tensors, as the model itself is walked."""
    caller = ctx.node
    for name in getattr(layer, "parametrizations", ()):
        if (full := f"{path}.{name}".lstrip(".")) not in ctx.computed:
            *nodes, output = parametrization(layer, name).nodes
            for node in nodes:
                if node.op in ("get_attr", "call_module"):
                    node.target = f"{path}.parametrizations.{name}.{node.target}".lstrip(".")
            ctx.computed[full] = _walk(ctx, trace, nodes, {})[output.args[0]]
    ctx.node = caller


def _arguments(value: Any, env: dict[fx.Node, Any], path: tuple[str | int, ...] = ()) -> Any:
    """A node's (args, kwargs), its nodes replaced by symbolic values and literal integers marked with their place."""
    if isinstance(value, fx.Node):
        return env[value]
    if isinstance(value, dict):
        return {k: _arguments(v, env, (*path, k)) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        items = [_arguments(v, env, (*path, i)) for i, v in enumerate(value)]
        return items if type(value) is list else tuple(items)  # torch.fx's own lists are no plain lists
    if isinstance(value, slice):
        return slice(*(_arguments(getattr(value, n), env, (*path, n)) for n in ("start", "stop", "step")))
    if type(value) is int or isinstance(value, Source):
        return Lit(value, path)
    return value
