"""Module -> torch.fx graph, with today's value on every node.

The tracer is concolic: each proxy carries the value that its node has for one input on the meta device, and wherever
Python needs a concrete answer (``if``, ``int()``, ``len()``, iteration) that value gives it. So control flow that
depends on shapes traces; control flow that depends on data does not, and says so.
"""

from __future__ import annotations

import copy
import math
import operator
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from .batches import Batch, example_batch
from .copying import plain_containers
from .creations import sizes_taken
from .errors import ModelError, TraceError
from .inputs import Inputs, InputSize
from .shortcuts import OnMeta, Shortcuts, is_plain
from .sources import Attribute

__all__ = [
    "SAME_SHAPE",
    "Call",
    "Trace",
    "Tracer",
    "argument_of",
    "caller",
    "describe",
    "is_leaf",
    "parametrization",
    "state_kept",
    "trace",
    "user_frame",
]

SAME_SHAPE = (
    _BatchNorm, _DropoutNd, nn.Identity, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid,
    nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softplus,
    nn.Softshrink, nn.Softsign, nn.Threshold,
)  # fmt: skip
"""Layers whose output has the shape of their only input, whatever it is."""


@dataclass(frozen=True)
class Call:
    """One call of one non-leaf module: its nodes are ``nodes[start:stop]`` of the trace, ``output`` its result."""

    path: str
    start: int
    stop: int
    output: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    """What it is called with: nodes, and what is no node."""


@dataclass(frozen=True)
class Trace:
    """A traced model; ``node.meta["val"]`` is a node's value today."""

    module: nn.Module
    """The meta copy that the graph's targets refer to."""
    graph: fx.Graph
    nodes: tuple[fx.Node, ...]
    calls: tuple[Call, ...]
    decisions: dict[fx.Node, bool]
    """Nodes by whose truth Python chose its way, and how it was."""
    numbers: tuple[fx.Node, ...]
    """Nodes that are integers and that Python took for what they were: to count a loop, say."""
    left_out: tuple[str, ...]
    """Names of the optional inputs that it is not given: arguments of ``forward`` whose default is None."""
    input_size: InputSize
    given: frozenset[str]
    """Names of the arguments of ``forward`` that it is given."""

    @cached_property
    def inputs(self) -> Inputs:
        """The input size, taken apart."""
        return Inputs.of(self.input_size)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Every module by its path; shared ones under each of theirs."""
        return dict(self.module.named_modules(remove_duplicate=False))


def is_leaf(module: nn.Module) -> bool:
    """Whether the module is one of torch's own layers, which rules know, and not a container."""
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    cls = type(module).__base__ if parametrize.is_parametrized(module) else type(module)
    assert cls is not None
    home = cls.__module__
    return home.startswith("torch.nn") and not home.startswith("torch.nn.utils") and not isinstance(module, containers)


def trace(module: nn.Module, input_size: InputSize, *, train: bool = False) -> Trace:
    """Trace ``module``, which must be on the meta device and is set to train or eval mode.

    Raises:
        ModelError: the model does not run at ``input_size``, or needs more inputs.
        UsageError: it does not take those inputs.
        TraceError: the model runs, but its control flow depends on data.
    """
    module.train()  # where models forget what they computed for eval mode
    module.train(train)
    batch = example_batch(module, input_size)
    with _scripting_refused(module), state_kept(module), _attributes_marked(module), sizes_taken(), torch.no_grad():
        tracer = Tracer(batch.arguments(module))
        try:
            graph = tracer.trace(module)
        except Exception as error:  # user code may raise anything; it becomes one of two typed errors
            raise _failure(module, batch, tracer.last, error, input_size) from error
    nodes = tuple(graph.nodes)
    absent = (n for n in nodes if n.op == "placeholder" and argument_of(n) not in tracer.arguments)
    left_out = tuple(str(n.target) for n in absent if n.args == (None,))
    numbers, given = tuple(dict.fromkeys(tracer.numbers)), frozenset(tracer.arguments)
    return Trace(module, graph, nodes, tuple(tracer.calls), tracer.decisions, numbers, left_out, input_size, given)


def parametrization(layer: nn.Module, name: str) -> fx.Graph:
    """What computes the parametrised tensor ``name`` of a layer, as a graph without inputs."""
    tracer = Tracer({})
    steps: nn.Module = layer.parametrizations[name]  # type: ignore[index, assignment]  # a ModuleDict, by its contract
    with torch.no_grad():
        return tracer.trace(steps)


@contextmanager
def _scripting_refused(module: nn.Module) -> Iterator[None]:
    for path, child in module.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            raise TraceError(
                f"module {path or '(root)'} is scripted, so its code cannot be read; pass the eager module"
            )
    yield


@contextmanager
def state_kept(module: nn.Module) -> Iterator[None]:
    """What the model keeps for its next call (a table computed once, say) is forgotten after a trace: proxies."""
    stores = [store for child in module.modules() for store in (vars(child), *plain_containers(child))]
    before = [(store, copy.copy(store)) for store in stores]
    try:
        yield
    finally:
        for store, values in before:
            store.clear()
            if isinstance(store, dict):
                store.update(values)
            else:
                store.extend(values)


@contextmanager
def _attributes_marked(module: nn.Module) -> Iterator[None]:
    """While the model is traced, integer attributes of its own modules know their places."""
    stores = [(path, vars(child)) for path, child in module.named_modules() if not is_leaf(child)]
    before = [(store, dict(store)) for _, store in stores]
    for path, store in stores:
        for name, value in store.items():
            if name.startswith("_"):
                continue
            if type(value) is int and value > 1:
                store[name] = Attribute(value, path, name)
            elif type(value) in (tuple, list) and value and all(type(v) is int for v in value):
                store[name] = type(value)(Attribute(v, path, name, i) for i, v in enumerate(value))
    try:
        yield
    finally:
        for store, values in before:
            for name, value in values.items():
                if isinstance(store.get(name), (Attribute, tuple, list)):
                    store[name] = value


class _Value(fx.Proxy):
    """A proxy that answers with today's value where Python insists on one."""

    @property
    def value(self) -> Any:
        return self.node.meta["val"]

    def __bool__(self) -> bool:
        answer = bool(self.value)
        if isinstance(self.tracer, Tracer):
            self.tracer.decisions[self.node] = answer
        return answer

    def __int__(self) -> int:
        return int(self._number())

    def __index__(self) -> int:
        return operator.index(self._number())

    def _number(self) -> Any:
        """The value, which Python goes on with by itself: a size then stands for what it is today."""
        if isinstance(self.tracer, Tracer) and type(self.value) is int:
            self.tracer.numbers.append(self.node)
        return self.value

    def __float__(self) -> float:
        return float(self.value)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return iter([self._item(i) for i in range(len(self.value))])

    def _item(self, index: int) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        """A node without a value: the tensor itself has changed for every node behind."""
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __contains__(self, item: Any) -> bool:
        return item in self.value

    def keys(self) -> Any:
        return self.value.keys()

    def __ceil__(self) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", math.ceil, (self,), {})

    def __floor__(self) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", math.floor, (self,), {})


class _Stack(OrderedDict[str, tuple[str, Any]]):
    """The modules that are being called; torch.fx copies it for every node."""

    def __copy__(self) -> OrderedDict[str, tuple[str, Any]]:
        return OrderedDict(self)


class Tracer(fx.Tracer):
    """Follows a model's code with proxies that know their values."""

    proxy_buffer_attributes = True

    def __init__(self, arguments: dict[str, Any]) -> None:
        """``arguments`` are those that ``forward`` is given, by name."""
        super().__init__()
        self.module_stack = _Stack()
        self.arguments = arguments
        self.evaluating = False
        self.shortcuts = Shortcuts()
        self.calls: list[Call] = []
        self.decisions: dict[fx.Node, bool] = {}
        self.numbers: list[fx.Node] = []
        self.last: fx.Node | None = None

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """The arguments that the model is not given are left out, as when it is called."""
        function, (root, *arguments) = super().create_args_for_root(root_fn, is_module, concrete_args)
        return function, [root, *(a if self._is_given(a) else _left_out(a) for a in arguments)]

    def _is_given(self, argument: Any) -> bool:
        return isinstance(argument, fx.Proxy) and argument_of(argument.node) in self.arguments

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002  # torch's signature
        return is_leaf(m)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, target, *args, **kwargs)
        if kind == "get_attr" and "val" not in node.meta:  # torch.fx makes some without a proxy
            node.meta["val"] = self._today(node)
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> fx.Proxy:
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        self.last = proxy.node
        if "val" not in proxy.node.meta:
            proxy.node.meta["val"] = self._today(proxy.node)
        return proxy

    def _today(self, node: fx.Node) -> Any:
        """The node's value; while it is computed, modules and attributes are real ones, not proxies."""
        self.evaluating = True
        try:
            return self._evaluate(node)
        finally:
            self.evaluating = False

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.evaluating:
            return forward(*args, **kwargs)
        start = len(self.graph.nodes)
        result = super().call_module(m, forward, args, kwargs)
        if not is_leaf(m):
            path, stop = self.path_of_module(m), len(self.graph.nodes)
            output, args, kwargs = (fx.node.map_aggregate(each, _node_of) for each in (result, args, kwargs))
            self.calls.append(Call(path, start, stop, output, args, kwargs))
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self.evaluating:
            return attr_val
        name, tensor = self.tensors.get(id(attr_val), ("", None))
        if tensor is None or tensor is not attr_val:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    @cached_property
    def tensors(self) -> dict[int, tuple[str, torch.Tensor]]:
        """id -> (first name, tensor) of all that the root has; torch.fx goes through them for each that is read."""
        named = reversed([*self.root.named_parameters(), *self.root.named_buffers()])
        return {id(tensor): (name, tensor) for name, tensor in named}

    def _evaluate(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            return self.arguments.get(argument_of(node), node.args[0] if node.args else None)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.root)
        args = fx.node.map_arg(node.args, lambda n: n.meta["val"])
        kwargs = fx.node.map_arg(node.kwargs, lambda n: n.meta["val"])
        if node.op == "output":
            return args[0]
        if node.op == "call_module":
            function: Any = self.root.get_submodule(str(node.target))
            if isinstance(function, SAME_SHAPE) and len(args) == 1 and is_plain(args[0]):
                return args[0]
        elif node.op == "call_method":
            function = getattr(args[0], str(node.target))
            args = args[1:]
        else:
            function = node.target
        with self.shortcuts:
            return function(*args, **kwargs)


def _left_out(argument: Any) -> Any:
    """What ``forward`` sees of an argument that its caller leaves out; the argument itself where it must not be."""
    if not isinstance(argument, fx.Proxy):
        return argument
    name, default = str(argument.node.target), argument.node.args
    if name.startswith("*"):
        return {} if name.startswith("**") else ()
    return default[0] if default else argument


def _node_of(value: Any) -> Any:
    return value.node if isinstance(value, fx.Proxy) else value


def _failure(
    module: nn.Module, batch: Batch, last: fx.Node | None, error: Exception, input_size: InputSize
) -> ModelError | TraceError:
    """What to tell: does the model itself fail at this input, or only its trace?"""
    where = user_frame(error.__traceback__)
    kind, reason = type(error).__name__, str(error).strip().split("\n")[0]
    try:
        with OnMeta():
            batch.into(module)
    except Exception as own:  # the user's model fails by itself
        data = "meta" in str(own) and ("item" in str(own) or "local_scalar" in str(own) or "data" in str(own))
        if not data:
            return ModelError(
                f"{type(module).__name__} does not run at input_size {input_size}: {type(own).__name__}: "
                f"{str(own).strip().splitlines()[0] if str(own).strip() else own!r}{user_frame(own.__traceback__)}; "
                "pass the (C, H, W) that the model takes as input_size, of several inputs that of each"
            )
    node = f" after node {last.name!r}" if last is not None else ""
    sizes = any(cls.__name__ in reason for cls in (_Value, Attribute))
    return TraceError(
        f"cannot trace {type(module).__name__}{node}: {kind}: {reason}{where}; {_SIZES if sizes else _DATA}"
    )


_DATA = "control flow that depends on the data cannot be scaled: make it depend on shapes, or scale a submodule"
_SIZES = "it takes no traced sizes: use x.new_zeros(sizes), torch.zeros(sizes) or the like, or scale a submodule"


def argument_of(node: fx.Node) -> str:
    """The name of the argument of ``forward`` that a placeholder stands for."""
    return str(node.target).lstrip("*")


def user_frame(tb: TracebackType | None) -> str:
    """`` at file:line`` of the innermost frame that is neither torch's nor ours, or nothing."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    for frame in reversed(traceback.extract_tb(tb)):
        if not frame.filename.startswith((*ours, "<")):
            return f" at {frame.filename}:{frame.lineno} ({frame.line})"
    return ""


def caller(node: fx.Node) -> str:
    """The path of the module whose forward makes this call."""
    return str(next(reversed((node.meta.get("nn_module_stack") or {"": ("", None)}).values()))[0])


def describe(node: fx.Node) -> str:
    """The node for an error message: name, operation, module path and value's shape."""
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    module = f" in {stack[-1][0] or '(root)'} ({stack[-1][1].__name__})" if stack else ""
    value = node.meta.get("val")
    shape = f", shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else ""
    return f"node {node.name!r} ({target}){module}{shape}"
