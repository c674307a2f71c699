"""Which part of a model is scaled, and for which input: the whole, or one submodule inside it.

A submodule is scaled as a net of its own, and its outputs keep their number and channels. So whatever stands around it
still fits, if nothing outside knows its inside: neither calls a module there nor shares a parameter with it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from .batches import BATCH
from .copying import meta_copy
from .errors import CnnScaleError, UsageError
from .inputs import Inputs, InputSize
from .records import Scaling
from .tracing import Call, Trace, describe, trace

__all__ = ["Part", "own_input_size", "part_of"]


@dataclass(frozen=True)
class Part:
    """A model, and the submodule of it that is to be scaled; at path "" it is the model itself."""

    whole: nn.Module
    path: str
    module: nn.Module
    input_size: InputSize
    """Of what the submodule gets in the whole at its own input size, where that is known."""
    note: str = ""

    def replaced(self, scaled: nn.Module) -> nn.Module:
        """A copy of the whole with ``scaled`` in the place of the submodule; it carries the record instead."""
        if not self.path:
            return scaled
        record: Any = scaled.scaling
        del scaled.scaling
        verification = replace(record.verification, notes=(*record.verification.notes, *filter(None, [self.note])))
        result = copy.deepcopy(self.whole, {id(self.module): scaled})
        result.scaling = replace(record, verification=verification)
        return result


def part_of(model: nn.Module, path: str | None) -> Part:
    """The part of ``model`` at the module path ``path``, or the whole.

    Raises:
        UsageError: ``model`` is no module, has no such submodule, or uses what is inside of it from outside.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"scale takes a torch.nn.Module, got {type(model).__name__}; call the factory first")
    if path is None:
        return Part(model, "", model, own_input_size(model))
    module = dict(model.named_modules(remove_duplicate=False)).get(path)
    if not path or module is None:
        names = ", ".join(name for name, _ in model.named_children())
        raise UsageError(f"submodule={path!r} is no submodule of {type(model).__name__}; it has {names or 'none'}")
    _refuse_shared(model, path)
    record: Any = getattr(model, "scaling", None)
    again = isinstance(record, Scaling) and record.plan.options.submodule == path
    size = record.input_size if again else own_input_size(module)
    try:
        traced = trace(meta_copy(model), own_input_size(model))
    except CnnScaleError as error:  # a detector, say: control flow that depends on data
        reason = str(error).partition(";")[0].partition(". ")[0]
        note = f"what {type(model).__name__} does around {path!r} was not traced, and taken on trust: {reason}"
        return Part(model, path, module, size, note)
    entry = _entry(traced, path)
    return Part(model, path, module, size if again or entry is None else entry)


def own_input_size(model: nn.Module) -> InputSize:
    """The input size that a model declares, else 224 pixels and the first convolution's channels."""
    record: Any = getattr(model, "scaling", None)
    if isinstance(record, Scaling) and record.plan.options.submodule is None:
        return record.input_size
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, dict) else None
        if size:
            return Inputs.of(size).input_size
    first = next((m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)
    if first is None:
        return (3, 224, 224)
    return (first.in_channels, *(224,) * len(first.kernel_size))


def _refuse_shared(model: nn.Module, path: str) -> None:
    """Refuse a submodule that shares something with what is around it.

    Raises:
        UsageError: something of the submodule is registered outside of it too.
    """
    own: dict[int, str] = {}
    for name, item in _registered(model):
        if name.startswith(f"{path}."):
            own.setdefault(id(item), name)
    for name, item in _registered(model):
        inside = own.get(id(item))
        if inside is not None and not name.startswith(f"{path}."):
            raise UsageError(
                f"submodule={path!r} cannot be scaled alone: {inside!r} of it is {name!r} of the whole as well; scale "
                "the whole, or a submodule that holds both"
            )


def _registered(model: nn.Module) -> Iterator[tuple[str, object]]:
    yield from model.named_modules(remove_duplicate=False)
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _entry(traced: Trace, path: str) -> InputSize | None:
    """The size of what the submodule is called with, if it is tensors alone.

    Raises:
        UsageError: the whole does not call the submodule, or calls what is inside of it.
    """
    inside = {n for call in traced.calls if call.path == path for n in traced.nodes[call.start : call.stop]}
    inside |= {n for n in traced.nodes if n.op == "call_module" and n.target == path}
    for node in traced.nodes:
        if node.op in ("call_module", "get_attr") and str(node.target).startswith(f"{path}.") and node not in inside:
            raise UsageError(
                f"submodule={path!r} cannot be scaled alone: outside of it, {describe(node)} uses "
                f"{str(node.target)!r}, whose width may change; scale the whole, or name a submodule that is called "
                "as one"
            )
    if not inside:
        raise UsageError(f"submodule={path!r} is never called as a module of its own; scale the whole")
    read = dict.fromkeys(a for node in inside for a in node.all_input_nodes if a not in inside)
    tensors = [node.meta["val"] for node in read if isinstance(node.meta["val"], torch.Tensor)]
    if len(tensors) == 1:
        return tuple(tensors[0].shape[1:])
    call = next((call for call in traced.calls if call.path == path), None)
    return None if call is None else _sizes_of(call, traced.modules[path])


def _sizes_of(call: Call, module: nn.Module) -> InputSize | None:
    """The sizes of the arguments of a call by their names; None where one is no batch of tensors, nor left as it is."""
    signature = inspect.signature(module.forward)
    given = signature.bind(*call.args, **call.kwargs).arguments
    sizes = {}
    for name, value in given.items():
        tensor = value.meta["val"] if isinstance(value, fx.Node) else value
        if isinstance(tensor, torch.Tensor) and tensor.dim() > 1 and len(tensor) == BATCH:
            sizes[name] = tuple(tensor.shape[1:])
        elif tensor is not signature.parameters[name].default:
            return None
    return sizes or None
