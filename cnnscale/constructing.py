"""A layer or a tensor -> the expression that makes its like.

torch's own layers keep the arguments of their constructors as attributes of the same names. That is a convention, not
a law, so every expression is tried: what it makes must have the attributes, parameters and buffers of the original.
"""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .errors import ExportError
from .expressions import Callee, Expression, Literal, New

__all__ = ["base_layer", "buffer_value", "class_name", "constructor", "literal", "parameter_value", "written"]

_MAX_ELEMENTS = 4096
"""Of a constant that is written out."""
_UNNAMED = {"in_proj_bias": "bias", "bias_k": "add_bias_kv"}
"""Tensors that are there or not by an argument of another name."""
_IGNORED = ("training", "_is_full_backward_hook", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


def literal(value: Any) -> Literal:
    """A constant as an expression.

    Raises:
        ExportError: no text makes the value.
    """
    return Literal(_text(value))


def _text(value: Any) -> str:
    if value is None or type(value) in (bool, int, str):
        return repr(int(value) if type(value) is int else value)
    if isinstance(value, int):  # an int that remembers where it comes from
        return repr(int(value))
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return str(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(_text, value))
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(k)}: {_text(v)}" for k, v in value.items()) + "}"
    raise ExportError(f"a constant of type {type(value).__name__} cannot be written as source: {value!r:.80}")


# --- layers -----------------------------------------------------------------------------------------------------------


def class_name(cls: type) -> str:
    """How generated source, which imports torch and ``nn``, calls one of torch's layers."""
    return f"nn.{cls.__name__}" if getattr(nn, cls.__name__, None) is cls else f"{cls.__module__}.{cls.__qualname__}"


def base_layer(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch that a user's layer derives from and adds nothing to that its constructor would not make."""
    for cls in type(module).__mro__:
        if cls is nn.Module or cls in (nn.Sequential, nn.ModuleList, nn.ModuleDict):
            return None
        if cls.__module__.startswith("torch.nn.modules."):
            return cls
    return None


def constructor(module: nn.Module, cls: type[nn.Module] | None = None) -> New:
    """The call that makes a layer like ``module``; of its base class ``cls``, where that is given.

    Raises:
        ExportError: no call of the constructor does.
    """
    made = cls or type(module)
    parameters = [p for p in inspect.signature(made).parameters.values() if p.name not in ("device", "dtype")]
    parameters = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    raw = {p.name: _argument(module, p) for p in parameters}
    if not any(value is inspect.Parameter.empty for value in raw.values()):
        collapsed = {name: _collapsed(value) for name, value in raw.items()}
        for arguments in (collapsed, raw):
            if _makes(made, arguments, module, whole=cls is None):
                return _call(made, parameters, arguments)
    raise ExportError(f"no arguments of {class_name(made)} were found that make the layer {module!r:.200}")


def _argument(module: nn.Module, parameter: inspect.Parameter) -> Any:
    name = parameter.name
    for tensor, argument in _UNNAMED.items():
        if argument == name and tensor in module._parameters:
            return module._parameters[tensor] is not None
    value = getattr(module, name, parameter.default)
    if name in module._parameters:  # the argument says whether there is one
        return value is not None
    return parameter.default if isinstance(value, (torch.Tensor, nn.Module)) or callable(value) else value


def _collapsed(value: Any) -> Any:
    """(3, 3) -> 3: what the constructor makes a tuple of."""
    if type(value) is tuple and value and all(type(v) is int and v == value[0] for v in value):
        return value[0]
    return value


def _makes(cls: type[nn.Module], arguments: dict[str, Any], module: nn.Module, *, whole: bool) -> bool:
    """Whether ``cls(**arguments)`` is like ``module``; all of it, or as far as a base class goes."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = cls(**arguments)
    except Exception:  # a constructor may refuse in any way; another one is tried
        return False
    if dict(_shapes(made)).items() - dict(_shapes(module)).items():
        return False
    if not whole:
        return True
    attributes = [
        {k: v for k, v in vars(m).items() if k not in _IGNORED and not k.endswith("_hooks")} for m in (made, module)
    ]
    return dict(_shapes(made)) == dict(_shapes(module)) and repr(attributes[0]) == repr(attributes[1])


def _shapes(module: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    tensors = itertools.chain(module.named_parameters(), module.named_buffers())
    return ((name, tuple(tensor.shape)) for name, tensor in tensors)


def _call(cls: type[nn.Module], parameters: list[inspect.Parameter], arguments: dict[str, Any]) -> New:
    positional = frozenset(p.name for p in parameters if p.default is p.empty)
    defaults = tuple((p.name, literal(p.default)) for p in parameters if p.default is not p.empty and _plain(p.default))
    kept = tuple((p.name, literal(arguments[p.name])) for p in parameters if _plain(arguments[p.name]))
    return New(Callee(class_name(cls), positional, defaults), kept)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, tuple, list))


# --- tensors ----------------------------------------------------------------------------------------------------------


def parameter_value(tensor: torch.Tensor) -> Expression:
    """What a parameter that is not a layer's starts from: its constant, else small random numbers."""
    constant = _constant(tensor)
    if constant is None:
        return _filled("0.02 * torch.randn", tensor)
    return _full(constant, tensor)


def buffer_value(tensor: torch.Tensor, *, persistent: bool) -> Expression:
    """A buffer's value, written out in full where no file of weights has it.

    Raises:
        ExportError: it would have to be written out, and is too large or on the meta device.
    """
    constant = _constant(tensor)
    if constant is not None:
        return _full(constant, tensor)
    return _filled("torch.zeros", tensor) if persistent else written(tensor)


def written(tensor: torch.Tensor) -> Expression:
    """A constant tensor as an expression that is as short as its values allow."""
    if tensor.is_meta:
        raise ExportError("a constant tensor is on the meta device, where it has no values to write out")
    tensor = tensor.detach().cpu()
    repeats = [1] * tensor.dim()
    for dim in range(tensor.dim()):
        if tensor.shape[dim] > 1 and bool((tensor == tensor.narrow(dim, 0, 1)).all()):
            repeats[dim] = tensor.shape[dim]
            tensor = tensor.narrow(dim, 0, 1)
    if tensor.numel() > _MAX_ELEMENTS:
        raise ExportError(
            f"a constant tensor of {tensor.numel()} elements is not in the state dict, and too large to be written as "
            "source: register it as a persistent buffer"
        )
    arguments: list[tuple[str, Expression]] = [("data", literal(tensor.tolist()))]
    if tensor.dtype not in (torch.float32, torch.int64, torch.bool):
        arguments.append(("dtype", literal(tensor.dtype)))
    made = New(Callee("torch.tensor", frozenset({"data"})), tuple(arguments))
    if set(repeats) <= {1}:
        return made
    return New(Callee("torch.tile", frozenset({"input", "dims"})), (("input", made), ("dims", literal(tuple(repeats)))))


def _constant(tensor: torch.Tensor) -> float | None:
    if tensor.is_meta or not tensor.numel() or tensor.is_complex():
        return None
    first = tensor.detach().reshape(-1)[0]
    return first.item() if bool((tensor.detach() == first).all()) else None


def _full(constant: float, tensor: torch.Tensor) -> Expression:
    name = {0: "torch.zeros", 1: "torch.ones"}.get(constant)  # type: ignore[call-overload]
    return _filled(name or f"{_shortest(constant, tensor.dtype)} * torch.ones", tensor)


def _shortest(constant: float, dtype: torch.dtype) -> str:
    """The fewest digits that give the constant in its dtype."""
    for digits in range(1, 18):
        text = f"{constant:.{digits}g}"
        if torch.tensor(float(text), dtype=dtype).item() == constant:
            return text
    return repr(constant)


def _filled(name: str, tensor: torch.Tensor) -> New:
    sides = [(f"dim{i}", literal(side)) for i, side in enumerate(tensor.shape)] or [("dim0", Literal("()"))]
    positional = frozenset(name for name, _ in sides)
    arguments = tuple(sides)
    if tensor.dtype != torch.float32:
        arguments += (("dtype", literal(tensor.dtype)),)
    return New(Callee(name, positional), arguments)
