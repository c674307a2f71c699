"""Edits on a module tree: repeat or drop blocks, give tensors new shapes, keep attributes true.

Everything here works in place on a copy that belongs to us, on the meta device, and returns where each module of the
edited tree came from.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

from .sources import Place
from .stages import Block
from .tracing import meta_copy

__all__ = [
    "CONTAINERS",
    "Edit",
    "Origin",
    "Undo",
    "copies_of",
    "edit_blocks",
    "forget_cached",
    "new_tensor",
    "redraw_schedules",
    "resize",
    "set_attribute",
    "split_path",
    "write_attribute",
    "write_literal",
]

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Origin(NamedTuple):
    """Where a module comes from: its path before the edit, and which copy of it this is (0: itself)."""

    path: str
    copy: int


@dataclass(frozen=True)
class Edit:
    """Put ``copies`` behind ``block``, each a list of modules in the place of the block's own, or drop the block."""

    block: Block
    copies: tuple[tuple[nn.Module, ...], ...] = ()
    drop: bool = False


def split_path(path: str) -> tuple[str, str]:
    """``"a.b.c"`` -> ``("a.b", "c")``."""
    parent, _, name = path.rpartition(".")
    return parent, name


def edit_blocks(root: nn.Module, edits: Iterable[Edit]) -> dict[str, Origin]:
    """Carry out ``edits``; returns the origin of every module of the new tree (wrappers that are new have none).

    1. A block in a container gets its copies as the container's next children, named as its author would have.
    2. A block that is an attribute becomes a Sequential of itself and its copies.
    3. A dropped block leaves its container; a dropped attribute becomes an Identity.
    """
    edits = [e for e in edits if e.copies or e.drop]
    origins = {id(m): Origin(path, 0) for path, m in root.named_modules()}
    for edit in edits:
        for number, modules in enumerate(edit.copies, 1):
            for path, module in zip(edit.block.modules, modules, strict=True):
                for name, child in module.named_modules():  # what a copy shares with the net is no copy
                    origins.setdefault(id(child), Origin(f"{path}.{name}".strip(".") if name else path, number))
    by_parent: dict[int, list[Edit]] = defaultdict(list)
    parents: dict[int, nn.Module] = {}
    for edit in edits:
        parent = root.get_submodule(edit.block.parent)
        parents[id(parent)] = parent
        by_parent[id(parent)].append(edit)
    dropped = []
    for key, parent in parents.items():
        dropped += _edit_children(parent, by_parent[key])
    return {path: origins[id(m)] for path, m in root.named_modules() if id(m) in origins}


def _edit_children(parent: nn.Module, edits: Sequence[Edit]) -> list[nn.Module]:
    """Edit the children of one module; returns the dropped ones, so that no id is reused while origins are matched."""
    dropped = []
    if not isinstance(parent, CONTAINERS):
        for edit in edits:
            _, name = split_path(edit.block.path)
            child = parent.get_submodule(name)
            if edit.drop:
                dropped.append(child)
                setattr(parent, name, nn.Identity())
            else:
                setattr(parent, name, nn.Sequential(child, *(m for copy in edit.copies for m in copy)))
        return dropped
    behind = {split_path(e.block.modules[-1])[1]: e for e in edits if e.copies}
    gone = {split_path(path)[1] for e in edits if e.drop for path in e.block.modules}
    children: list[tuple[str, nn.Module, bool]] = []
    for name, child in parent._modules.items():
        assert child is not None
        if name in gone:
            dropped.append(child)
        else:
            children.append((name, child, False))
        if name in behind:
            names = [split_path(path)[1] for path in behind[name].block.modules]
            children += [(n, m, True) for copy in behind[name].copies for n, m in zip(names, copy, strict=True)]
    names = _names([(name, is_copy) for name, _, is_copy in children], list(parent._modules))
    parent._modules.clear()
    parent._modules.update({name: child for name, (_, child, _) in zip(names, children, strict=True)})
    return dropped


def _names(children: list[tuple[str, bool]], before: list[str]) -> list[str]:
    """Names in a container after an edit: numbers run on, within each prefix (``unit7`` follows ``unit6``)."""
    if all(name.isdigit() for name in before):
        return [str(i) for i in range(len(children))]
    last: dict[str, int] = {}
    names: list[str] = []
    for name, is_copy in children:
        match = re.fullmatch(r"(.*?)(\d+)", name)
        prefix, number = (match[1], int(match[2])) if match else (f"{name}_", 0)
        if match is None and not is_copy:
            names.append(name)
            continue
        number = last[prefix] + 1 if prefix in last else number + is_copy
        last[prefix] = number
        names.append(f"{prefix}{number}")
    return names


def resize(root: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give the parameters and buffers named in ``shapes`` new meta tensors; tied tensors stay tied."""
    replaced: dict[int, torch.Tensor] = {}
    tensors = [*root.named_parameters(), *root.named_buffers()]
    for name, tensor in tensors:
        if name in shapes and tuple(tensor.shape) != tuple(shapes[name]):
            replaced[id(tensor)] = new_tensor(tensor, shapes[name], "meta")
    for module in root.modules():
        for store in (module._parameters, module._buffers):
            for name, value in store.items():
                if value is not None and id(value) in replaced:
                    store[name] = replaced[id(value)]  # type: ignore[assignment]


def new_tensor(like: torch.Tensor, shape: Sequence[int], device: torch.device | str) -> torch.Tensor:
    """An empty tensor of ``shape``: a Parameter where ``like`` is one, with its attributes."""
    tensor = torch.empty(tuple(shape), dtype=like.dtype, device=device)
    if isinstance(like, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=like.requires_grad)
        vars(tensor).update(vars(like))
    return tensor


Undo: TypeAlias = Callable[[], None]
"""Takes one change back."""


def set_attribute(owner: nn.Module, name: str, value: Any) -> Undo:
    """Set an attribute; returns what sets it back."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


def write_literal(owner: nn.Module, old: int, new: int) -> list[Undo]:
    """Give every public integer attribute of ``owner`` with the value ``old``, alone or in a tuple, the value ``new``.

    For a literal of the graph of which is not known where it comes from.
    """
    changed = {name: _with_literal(value, old, new) for name, value in vars(owner).items() if not name.startswith("_")}
    return [set_attribute(owner, name, value) for name, value in changed.items() if value is not vars(owner)[name]]


def _with_literal(value: Any, old: int, new: int) -> Any:
    if type(value) is int:
        return new if value == old else value
    if type(value) in (tuple, list) and old in value and all(type(v) is int for v in value):
        return type(value)(new if v == old else v for v in value)
    return value


def write_attribute(owner: nn.Module, place: Place, value: int) -> Undo:
    """Give an integer attribute, or one item of a tuple or list of them, a new value."""
    if place.item is None:
        return set_attribute(owner, place.name, value)
    items = list(getattr(owner, place.name))
    items[place.item] = value
    return set_attribute(owner, place.name, type(getattr(owner, place.name))(items))


def redraw_schedules(baseline: nn.Module, scaled: nn.Module) -> None:
    """Redraw rates that rise linearly from block to block (stochastic depth) over the new number of blocks.

    Rates are ``peak * i / n`` (EfficientNet) or ``peak * i / (n - 1)`` (ConvNeXt); the author's is the one whose
    peak is the rounder number. Where a block of the baseline has rate 0, its author may have put an Identity.
    """
    for cls, name in _rated(baseline):
        slots = _slots(baseline, cls, name)
        values = [slot.rate for slot in slots]
        if len(values) < 2 or (len(values) < 3 and values[0]):
            continue
        step = (values[-1] - values[0]) / (len(values) - 1)
        linear = all(abs(v - i * step) < 1e-9 for i, v in enumerate(values))
        after = _slots(scaled, cls, name)
        if step <= 0 or not linear or len(after) == len(values):
            continue
        inclusive, exclusive = round(values[-1], 9), round(values[-1] + step, 9)
        shifted = len(repr(exclusive)) < len(repr(inclusive))
        peak, steps = (exclusive, len(after)) if shifted else (inclusive, max(1, len(after) - 1))
        pattern = next(slot.module for slot in reversed(slots) if isinstance(slot.module, cls))
        for i, slot in enumerate(after):
            rate = peak * i / steps
            if isinstance(slot.module, cls):
                setattr(slot.module, name, rate)
            elif rate > 0:
                module = copy.deepcopy(pattern)
                setattr(module, name, rate)
                setattr(slot.parent, slot.child, module)


class _Slot(NamedTuple):
    """A place for a module with a rate."""

    parent: nn.Module
    child: str
    module: nn.Module
    rate: float


def _rated(root: nn.Module) -> Iterator[tuple[type[nn.Module], str]]:
    """Classes of modules without parameters that hold a rate, and the rate's name."""
    found = {
        (type(module), name): None
        for module in root.modules()
        for name, value in vars(module).items()
        if isinstance(value, float) and 0 <= value < 1 and not list(module.parameters(recurse=False))
    }
    yield from found


def _slots(root: nn.Module, cls: type[nn.Module], name: str) -> list[_Slot]:
    """Every module of ``cls``, and every Identity in the same place of the same class of block, in order."""
    children = [(parent, key, child) for parent in root.modules() for key, child in parent.named_children()]
    rated = {id(child) for _, _, child in children if type(child) is cls and name in vars(child)}
    places = {(type(parent), key) for parent, key, child in children if id(child) in rated}
    return [
        _Slot(parent, key, child, float(vars(child)[name]) if id(child) in rated else 0.0)
        for parent, key, child in children
        if id(child) in rated or (type(child) is nn.Identity and (type(parent), key) in places)
    ]


def forget_cached(root: nn.Module) -> None:
    """What the model has computed once for eval mode (a bias from a table) goes as its author lets it go: on the way
    through train mode. Modes stay."""
    modes = [(module, module.training) for module in root.modules()]
    root.train()
    for module, mode in modes:
        module.training = mode


def copies_of(
    root: nn.Module, block: Block, count: int, counterpart: Callable[[str], nn.Module]
) -> tuple[tuple[nn.Module, ...], ...]:
    """``count`` copies of a block's modules, without hooks.

    What the block shares with the rest of the net, its copies share too: ``counterpart`` has it, by path, in the net
    that they are for.
    """
    inside = tuple(f"{path}." for path in block.modules)
    outside = [(m, path) for path, m in root.named_modules(remove_duplicate=False) if not f"{path}.".startswith(inside)]
    held = {m for path in block.modules for m in root.get_submodule(path).modules()}
    shared = {module: counterpart(path) for module, path in outside if module in held}
    return tuple(
        tuple(meta_copy(root.get_submodule(path), shared=shared) for path in block.modules) for _ in range(count)
    )
