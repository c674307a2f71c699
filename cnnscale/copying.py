"""A network copied on to the meta device: its modules and attributes, but not one weight.

Plain modules are copied here, in two passes: all are made empty, then each is filled. ``copy.deepcopy``, which takes
most of its time to find out how a module wants to be copied, does the rest: modules that say it themselves, and values
that are no plain containers.
"""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["meta_copy", "plain_containers", "plain_copy"]

_HOOKS = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
_ATOMS = frozenset((type(None), bool, int, float, str))
_EMPTY = frozenset((dict, list, set, OrderedDict))


def meta_copy(
    model: nn.Module, *, hooks: bool = False, shared: Mapping[nn.Module, nn.Module] | None = None
) -> nn.Module:
    """A deep copy on the meta device, with or without hooks; no weight is copied and ``model`` is left alone.

    A module that is a key of ``shared`` is not copied: what stands there takes its place.
    """
    memo: dict[int, Any] = {id(module): instead for module, instead in (shared or {}).items()}
    modules = list(model.modules())
    if not hooks:
        memo |= _without_hooks(modules)
    for tensor in _tensors(modules):
        if id(tensor) not in memo:
            memo[id(tensor)] = _meta_like(tensor)
    empty: list[tuple[nn.Module, dict[str, Any]]] = []
    for module in modules:
        state = None if id(module) in memo else _plain_state(module)
        if state is not None:
            memo[id(module)] = type(module).__new__(type(module))
            empty.append((memo[id(module)], state))
    for module, state in empty:
        module.__setstate__({name: _copied(value, memo) for name, value in state.items()})  # type: ignore[no-untyped-call]
    return copy.deepcopy(model, memo)


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy without hooks, on the model's own devices."""
    return copy.deepcopy(model, _without_hooks(list(model.modules())))


def _without_hooks(modules: list[nn.Module]) -> dict[int, Any]:
    """What makes a deep copy leave the hooks out."""
    return {id(vars(module)[name]): OrderedDict() for module in modules for name in _HOOKS}


def _plain_state(module: nn.Module) -> dict[str, Any] | None:
    """What a copy of the module is filled with; None where its class copies itself in a way of its own."""
    if hasattr(module, "__deepcopy__"):
        return None
    reduced = module.__reduce_ex__(4)
    made = len(reduced) > 2 and tuple(reduced[:2]) == (copyreg.__newobj__, (type(module),))  # type: ignore[attr-defined]  # no stub has it
    plain = made and not any(reduced[3:]) and isinstance(reduced[2], dict)
    return reduced[2] if plain else None  # type: ignore[return-value]  # the same


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """``copy.deepcopy(value, memo)``, of what it need not be asked about."""
    cls = type(value)
    if cls in _ATOMS or (cls is tuple and all(type(item) in _ATOMS for item in value)):
        return value
    if id(value) in memo:
        return memo[id(value)]
    if cls is dict:
        new: dict[Any, Any] = {}
        memo[id(value)] = new
        new.update((_copied(key, memo), _copied(item, memo)) for key, item in value.items())
        return new
    if cls in _EMPTY and not value:
        memo[id(value)] = cls()
        return memo[id(value)]
    return copy.deepcopy(value, memo)


def _tensors(modules: list[nn.Module]) -> Iterator[torch.Tensor]:
    for module in modules:
        for store in (module._parameters, module._buffers, vars(module)):
            yield from (t for t in store.values() if isinstance(t, torch.Tensor))
        for container in plain_containers(module):  # results that were kept cannot be copied, constants are
            kept = container.values() if isinstance(container, dict) else container
            yield from (t for t in kept if isinstance(t, torch.Tensor) and not t.is_leaf)


def plain_containers(module: nn.Module) -> list[Any]:
    """The dicts and lists that a module holds as attributes."""
    return [value for value in vars(module).values() if type(value) in (dict, list)]


def _meta_like(tensor: torch.Tensor) -> torch.Tensor:
    meta = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        meta = nn.Parameter(meta, requires_grad=tensor.requires_grad)
        vars(meta).update(vars(tensor))
    return meta
