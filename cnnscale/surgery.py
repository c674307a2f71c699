"""Edits on a module tree: repeat or drop blocks, give tensors new shapes, keep attributes true.

Everything here works in place on a copy that belongs to us, on the meta device, and returns where each module of the
edited tree came from.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

from .copying import meta_copy
from .sources import Place
from .stages import Block

__all__ = [
    "CONTAINERS",
    "Borrowed",
    "Edit",
    "Origin",
    "Projection",
    "Undo",
    "add_children",
    "copies_of",
    "edit_blocks",
    "forget_cached",
    "new_tensor",
    "project",
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


class Borrowed(NamedTuple):
    """A child at ``path`` that the baseline's own block lacks; it was made after the baseline's module ``donor``."""

    path: str
    donor: str

    def holds(self, path: str) -> bool:
        """Whether the module at ``path`` belongs to the new child."""
        return f"{path}.".startswith(f"{self.path}.")

    def origin(self, origin: Origin) -> Origin:
        """``origin``, or for a module of the new child the one in the baseline that it was made after."""
        return Origin(self.donor + origin.path[len(self.path) :], 1) if self.holds(origin.path) else origin


@dataclass(frozen=True)
class Edit:
    """Put ``copies`` behind ``block``, each a list of modules in the place of the block's own, or drop the block."""

    block: Block
    copies: tuple[tuple[nn.Module, ...], ...] = ()
    drop: bool = False


@dataclass(frozen=True)
class Projection:
    """Give the block at ``block`` the child ``name``, made after the baseline's module ``donor``."""

    block: str
    name: str
    module: nn.Module
    donor: str
    order: tuple[str, ...]
    """The children of the donor's block in their order."""

    @property
    def child(self) -> Borrowed:
        """The new child."""
        return Borrowed(f"{self.block}.{self.name}".lstrip("."), self.donor)


def project(root: nn.Module, projections: Iterable[Projection]) -> None:
    """Carry out ``projections``; each new child stands where the donor's author has it."""
    for made in projections:
        add_children(root.get_submodule(made.block), {made.name: meta_copy(made.module)}, made.order)


def add_children(block: nn.Module, made: Mapping[str, nn.Module], order: Sequence[str]) -> None:
    """Give ``block`` new children, in the places that they have in ``order``."""
    for name, child in made.items():
        setattr(block, name, child)
    names = [n for n in order if n in block._modules] + [n for n in block._modules if n not in order]
    children = {name: block._modules[name] for name in names}
    block._modules.clear()
    block._modules.update(children)


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
    _rename_keys(parent, dict(_successors(list(parent._modules), [name for name, _, _ in children], names)))
    parent._modules.clear()
    parent._modules.update({name: child for name, (_, child, _) in zip(names, children, strict=True)})
    return dropped


def _successors(before: list[str], kept: list[str], names: list[str]) -> Iterator[tuple[str, str]]:
    """(name of a child before the edit, after it): of its last copy, or of the child before it where it is gone."""
    last = dict(zip(kept, names, strict=True))
    current = names[0] if names else ""
    for name in before:
        current = last.get(name, current)
        yield name, current


def _rename_keys(parent: nn.Module, renamed: Mapping[str, str]) -> None:
    """Dictionaries of a container whose keys are names of its children (which of them to return) follow the names."""
    for name, value in vars(parent).items():
        if not name.startswith("_") and isinstance(value, dict) and value and renamed.keys() >= value.keys():
            entries = {renamed[key]: entry for key, entry in value.items()}
            if len(entries) == len(value):
                setattr(parent, name, type(value)(entries))


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
