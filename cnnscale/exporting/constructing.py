"""A module or a tensor -> the expression that makes its like.

Layers keep the arguments of their constructors as attributes of the same names. That is a convention, not a law, so
every call is tried: what it makes must have the attributes, parameters, buffers and submodules of the original.
"""

from __future__ import annotations

import ast
import importlib.machinery
import inspect
import sys
import warnings
from typing import Any

import torch
from torch import nn

from cnnscale.copying import meta_copy
from cnnscale.errors import ExportError

from .statements import call, constant

__all__ = ["Argument", "constructor", "description", "public_name", "tensor_value"]

_MAX_ELEMENTS = 64
"""Of a constant that is written out."""
_IGNORED = ("training", "_is_full_backward_hook", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_UNNAMED = {"bias": "in_proj_bias", "add_bias_kv": "bias_k"}
"""Arguments that say whether there is a tensor of another name."""


class Argument(ast.keyword):
    """A keyword argument that is printed without its name where it is ``first``, and not at all where ``default``."""

    default: ast.expr | None = None
    first: bool = False

    @classmethod
    def of(cls, name: str, value: ast.expr, default: ast.expr | None, *, first: bool) -> Argument:
        argument = cls(name, value)
        argument.default, argument.first = default, first
        return argument


def public_name(cls: type) -> tuple[str, str] | None:
    """(module, name) to import a class by: the shortest that a new process finds; None where there is none."""
    if cls.__module__ == "__main__" or "." in cls.__qualname__:
        return None
    parts = cls.__module__.split(".")
    if importlib.machinery.PathFinder.find_spec(parts[0]) is None:
        return None
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[:length])
        if getattr(sys.modules.get(name), cls.__name__, None) is cls:
            return name, cls.__name__
    return None


def constructor(module: nn.Module, *, attributes: bool = True) -> dict[str, ast.keyword] | None:
    """The arguments of the call of its class that makes a module like ``module``; None where none was found.

    With ``attributes`` false, plain attributes of the two may differ.
    """
    cls = type(module)
    parameters = [p for p in inspect.signature(cls).parameters.values() if p.name not in ("device", "dtype")]
    parameters = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    raw = {p.name: _argument(module, p) for p in parameters}
    if any(value is inspect.Parameter.empty for value in raw.values()):
        return None
    like = meta_copy(module)
    for values in ({name: _collapsed(value) for name, value in raw.items()}, raw):
        if _makes(cls, values, like, attributes=attributes):
            try:
                return {p.name: _written(p, values[p.name]) for p in parameters if not _left_out(p, values[p.name])}
            except ExportError:
                return None
    return None


def _argument(module: nn.Module, parameter: inspect.Parameter) -> Any:
    name = parameter.name
    for tensor in (name, _UNNAMED.get(name)):
        if tensor in module._parameters:  # the argument says whether there is one
            return module._parameters[tensor] is not None
    value = getattr(module, name, parameter.default)
    return parameter.default if isinstance(value, (torch.Tensor, nn.Module)) or callable(value) else value


def _collapsed(value: Any) -> Any:
    """(3, 3) -> 3: what the constructor makes a tuple of."""
    if type(value) is tuple and value and all(type(v) is int and v == value[0] for v in value):
        return value[0]
    return value


def _makes(cls: type[nn.Module], values: dict[str, Any], module: nn.Module, *, attributes: bool) -> bool:
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = cls(**values).train(module.training)
    except Exception:  # a constructor may refuse in any way; another call is tried
        return False
    return description(made, attributes=attributes) == description(module, attributes=attributes)


def description(module: nn.Module, *, attributes: bool = True) -> tuple[str, ...]:
    """All that a module is but for its tensors' values, as text: its layers, its tensors' shapes, plain attributes."""
    tensors = (*module.named_parameters(), *module.named_buffers())
    shapes = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors]
    return repr(module), repr(shapes), *(map(_plain, module.modules()) if attributes else ())


def _plain(module: nn.Module) -> str:
    kept = {k: v for k, v in vars(module).items() if k not in _IGNORED and not k.endswith("_hooks")}
    return repr(sorted(kept.items()))


def _left_out(parameter: inspect.Parameter, value: Any) -> bool:
    return value is parameter.default and not isinstance(value, (bool, int, float, str, tuple, type(None)))


def _written(parameter: inspect.Parameter, value: Any) -> Argument:
    required = parameter.default is parameter.empty
    return Argument.of(
        parameter.name, constant(value), None if required else constant(parameter.default), first=required
    )


def tensor_value(tensor: torch.Tensor, *, exact: bool) -> ast.expr:
    """What a tensor starts from: its constant, else zeros, or small random numbers for a parameter.

    Args:
        tensor: a parameter or buffer.
        exact: its values are wanted.

    Raises:
        ExportError: exact values are wanted and are unknown, or too many to be written.
    """
    data = None if tensor.is_meta else tensor.detach().cpu()
    shape = ast.Tuple([constant(side) for side in tensor.shape], ast.Load())
    dtype = {} if tensor.dtype == torch.float32 else {"dtype": constant(tensor.dtype)}
    if data is not None and data.numel() and bool((data == data.reshape(-1)[0]).all()):
        return call("torch.full", shape, _shortest(data.reshape(-1)[0].item(), data), **dtype)
    if not exact and isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
        return ast.BinOp(ast.Constant(0.02), ast.Mult(), call("torch.randn", shape, **dtype))
    if not exact:
        return call("torch.zeros", shape, **dtype)
    if data is None or data.numel() > _MAX_ELEMENTS:
        raise ExportError(
            f"a constant tensor of shape {tuple(tensor.shape)} is not in the state dict and too large for a source "
            "file: register it as a persistent buffer"
        )
    return call("torch.tensor", constant(data.tolist()), dtype=constant(data.dtype))


def _shortest(value: Any, data: torch.Tensor) -> ast.expr:
    """The fewest digits that give the constant in its dtype."""
    if not isinstance(value, float):
        return constant(value)
    texts = (float(f"{value:.{digits}g}") for digits in range(1, 18))
    return constant(next((v for v in texts if torch.tensor(v, dtype=data.dtype).item() == value), value))
