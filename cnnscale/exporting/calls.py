"""Each module's forward as a graph of its own, in which the call of a submodule is one node.

The model is run once, and what each module is called with is recorded; then the modules are traced one by one.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from cnnscale.batches import example_batch
from cnnscale.copying import meta_copy
from cnnscale.errors import ModelError, TraceError
from cnnscale.inputs import InputSize
from cnnscale.tracing import Tracer, state_kept, user_frame

__all__ = ["Call", "Calls", "is_input", "record", "trace_call"]


@dataclass(frozen=True)
class Call:
    """One call of a module, as values on the meta device."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any


@dataclass(frozen=True)
class Calls:
    """Those calls of every module, by its path, that differ in more than the values of tensors."""

    modules: dict[str, nn.Module]
    made: dict[str, dict[Any, Call]]
    """By the call's signature."""


def record(model: nn.Module, input_size: InputSize, *, train: bool) -> Calls:
    """What happens in a meta copy of ``model`` that is given one batch.

    Raises:
        ModelError: the model does not run.
    """
    root = meta_copy(model)
    root.train()  # where models forget what they computed for eval mode
    root.train(train)
    calls = Calls(dict(root.named_modules()), {path: {} for path, _ in root.named_modules()})
    given: list[Any] = []
    for path, module in calls.modules.items():
        module.register_forward_pre_hook(functools.partial(_given, given), with_kwargs=True)
        module.register_forward_hook(functools.partial(_made, given, calls.made[path]))
    try:
        with state_kept(root), torch.no_grad():
            example_batch(root, input_size).into(root)
    except Exception as error:  # user code may raise anything
        mode = "train" if train else "eval"
        raise ModelError(f"{type(model).__name__} does not run at {input_size} in {mode} mode: {error}") from error
    for module in calls.modules.values():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return calls


def _given(given: list[Any], _module: nn.Module, args: Any, kwargs: Any) -> None:
    given.append(_copied((args, kwargs)))


def _made(given: list[Any], calls: dict[Any, Call], _module: nn.Module, _args: Any, result: Any) -> None:
    arguments = given.pop()
    args, kwargs = arguments
    calls.setdefault(_signature(arguments), Call(args, kwargs, _copied(result)))


def _copied(value: Any) -> Any:
    """The value with lists of its own: a list may grow in the call, or later."""
    return pytree.tree_map(lambda leaf: leaf, value)


def _signature(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, dict):
        return tuple((key, _signature(v)) for key, v in value.items())
    return tuple(map(_signature, value)) if isinstance(value, (tuple, list)) else value


def trace_call(calls: Calls, path: str, call: Call) -> fx.Graph:
    """What the forward of the module at ``path`` does in one call.

    Arguments that hold a tensor or a number are inputs, a list of them is one input; the others are constants.

    Raises:
        TraceError: torch.fx cannot follow the forward, or what it does depends on random numbers.
    """
    module = calls.modules[path]
    tracer = _CallTracer(call, {id(calls.modules[below]): made for below, made in calls.made.items()})
    drawn = random.getstate(), torch.get_rng_state().tolist()
    with state_kept(module), torch.no_grad():
        try:
            graph = tracer.trace(module)
        except Exception as error:  # user code may raise anything
            raise TraceError(
                f"cannot trace {type(module).__name__}.forward: {type(error).__name__}: {error}"
                f"{user_frame(error.__traceback__)}"
            ) from error
    if drawn != (random.getstate(), torch.get_rng_state().tolist()):  # operations on the meta device draw none
        raise TraceError(f"{type(module).__name__}.forward decides by random numbers what it does")
    return graph


def is_input(value: Any) -> bool:
    """Whether an argument is an input of a call's graph, rather than a constant."""
    if isinstance(value, (tuple, list)):
        return any(map(is_input, value))
    if isinstance(value, dict):
        return any(map(is_input, value.values()))
    return isinstance(value, (torch.Tensor, int, float)) and not isinstance(value, bool)


class _CallTracer(Tracer):
    """Follows one module's forward, given its arguments, and none of its submodules'."""

    def __init__(self, call: Call, known: Mapping[int, Mapping[Any, Call]]) -> None:
        super().__init__({})
        self.call, self.known = call, known

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002  # torch's signature
        return True

    def create_args_for_root(self, root_fn: Any, *_rest: Any, **_named: Any) -> tuple[Any, list[Any]]:
        signature = inspect.signature(root_fn)
        bound = signature.bind(self.root, *self.call.args, **self.call.kwargs)
        for name, value in list(bound.arguments.items())[1:]:
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(self._input(f"{name}_{i}", v) for i, v in enumerate(value))
            elif kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: self._input(key, v) for key, v in value.items()}
            else:
                bound.arguments[name] = self._input(name, value)
        function = functools.partial(root_fn, **bound.kwargs)
        function.__globals__ = root_fn.__globals__  # type: ignore[attr-defined]  # where torch.fx looks for math
        return function, list(bound.args)

    def _input(self, name: str, value: Any) -> Any:
        if not is_input(value):
            return value
        node = self.create_node("placeholder", name, (), {})
        node.meta["val"] = value
        return self._structured(self.proxy(node), value)

    def _structured(self, proxy: Any, value: Any) -> Any:
        """Lists and dicts as the forward expects them, of the items of the input."""
        if type(value) in (tuple, list):
            return type(value)(self._structured(proxy[i], v) for i, v in enumerate(value))
        if type(value) is dict:
            return {key: self._structured(proxy[key], v) for key, v in value.items()}
        return proxy

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op == "call_module":  # it has run before
            given = fx.node.map_arg((tuple(node.args), dict(node.kwargs)), lambda n: n.meta["val"])
            made = self.known.get(id(self.root.get_submodule(str(node.target))), {})
            if _signature(given) in made:
                return made[_signature(given)].result
        return super()._evaluate(node)
