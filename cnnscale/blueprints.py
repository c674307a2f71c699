"""What each module of a network holds and does, as lines that can be compared between modules.

A forward may differ in train mode (dropout, stochastic depth, auxiliary heads), so the model is traced in both modes; what
differs is written under ``if self.training``.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from .constructing import base_layer
from .errors import ExportError
from .expressions import is_name
from .regions import Region, chain, regions
from .statements import Hole, Line, Names, body
from .tracing import Trace, is_leaf

__all__ = ["Blueprint", "Blueprints", "holes", "is_container", "numbered", "read", "skeleton"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Blueprint:
    """One module that needs a class."""

    path: str
    module: nn.Module
    parameters: tuple[str, ...]
    lines: tuple[Line, ...]
    """Its forward; none where it is never called, or does what Sequential does."""
    chained: bool
    calls: tuple[Region, ...] = field(repr=False)
    """Its calls: in eval mode, then in train mode, as far as it has them."""

    @property
    def children(self) -> tuple[str, ...]:
        return tuple(name for name, child in self.module._modules.items() if child is not None)


@dataclass
class Blueprints:
    """All of a network's."""

    found: dict[str, Blueprint]
    kinds: dict[str, str]
    """How each module is made, by its path: ``layer``, ``class``, or a container of torch."""
    names: Names

    def lines_without(self, blueprint: Blueprint, missing: frozenset[str]) -> tuple[Line, ...]:
        """The forward as it would be if the children ``missing`` handed on what they get."""
        prefix = f"{blueprint.path}." if blueprint.path else ""
        paths = frozenset(prefix + name for name in missing)
        bodies = [body(call, blueprint.parameters, self.names, paths) for call in blueprint.calls]
        return tuple(_both_modes(bodies))


def is_container(module: nn.Module) -> bool:
    return type(module) in _CONTAINERS


def numbered(module: nn.Module) -> bool:
    """Whether the children are called 0, 1, 2, ..."""
    return list(module._modules) == list(map(str, range(len(module._modules))))


def read(model: nn.Module, traces: tuple[Trace, Trace], *, nested: bool) -> Blueprints:
    """The blueprints of ``model`` from its traces in eval and train mode.

    With ``nested`` false, all of the network is written into the root's forward.

    Raises:
        ExportError: the graph cannot be written as source.
    """
    modules = dict(model.named_modules())
    inlined = frozenset(path for path in modules if path and not nested)
    constants = {path: tensor for each in traces for path, tensor in _constants(model, each).items()}
    while True:
        calls = [_calls(regions(each, inlined)) for each in traces]
        kinds = {path: _kind(path, module, calls) for path, module in modules.items()}
        names = Names(functools.partial(_access, modules, kinds), constants)
        found, odd = _blueprints(modules, kinds, calls, names)
        if not odd:
            return Blueprints(found, kinds, names)
        if odd <= inlined:
            raise ExportError(f"{type(model).__name__}.forward does not take one image, or differs between calls")
        inlined |= odd


def _kind(path: str, module: nn.Module, calls: Sequence[Mapping[str, list[Region]]]) -> str:
    """How the source makes a module: ``layer``, ``class``, or the container of torch that it is or may be."""
    if is_container(module) and path:
        return f"nn.{type(module).__name__}"
    if is_leaf(module) and path:
        return "layer"
    own = bool(module._parameters or module._buffers) or base_layer(module) is not None
    if not path or own or any(path in each for each in calls):
        return "class"
    if numbered(module):
        return "nn.ModuleList"
    return "nn.ModuleDict" if not any(hasattr(nn.ModuleDict(), name) for name in module._modules) else "class"


def _access(modules: Mapping[str, nn.Module], kinds: Mapping[str, str], owner: str, path: str) -> str:
    """How a module or tensor is written from a module above it: ``.layers[0].conv``."""
    text = ""
    for name in path[len(owner) + 1 if owner else 0 :].split("."):
        module = modules.get(owner)
        listed = module is not None and name in module._modules and numbered(module)
        if listed and kinds[owner] != "nn.ModuleDict":
            text += f"[{name}]"
        elif is_name(name):
            text += f".{name}"
        else:
            text += f'["{name}"]' if kinds.get(owner) == "nn.ModuleDict" else f'.get_submodule("{name}")'
        owner = f"{owner}.{name}" if owner else name
    return text


def _blueprints(
    modules: Mapping[str, nn.Module],
    kinds: Mapping[str, str],
    calls: Sequence[Mapping[str, list[Region]]],
    names: Names,
) -> tuple[dict[str, Blueprint], frozenset[str]]:
    """(blueprints by path, paths of calls that have to be written where they are made)."""
    odd: set[str] = set()
    found: dict[str, Blueprint] = {}
    for path, module in modules.items():
        own = [each[path] for each in calls if path in each]
        chained = bool(own) and bool(module._modules) and all(chain(module, call) for each in own for call in each)
        if is_container(module) and path:
            if own and not chained and (module._modules or type(module) is not nn.Sequential):
                odd.add(path)
        elif kinds[path] == "class":
            blueprint = Blueprint(path, module, (), (), chained and numbered(module), ())
            if own and not blueprint.chained:
                written = _forward(blueprint, own, names)
                if written is None:
                    odd.add(path)
                    continue
                blueprint = written
            found[path] = blueprint
    return found, frozenset(odd)


def _forward(blueprint: Blueprint, own: Sequence[list[Region]], names: Names) -> Blueprint | None:
    """The blueprint with its forward, from its calls in each mode; None where no one forward does what all do."""
    inputs = {tuple(isinstance(i, tuple) for i in call.inputs) for each in own for call in each}
    if len(inputs) != 1 or not next(iter(inputs)):
        return None
    parameters = _parameters(blueprint.module, len(next(iter(inputs))))
    bodies = []
    for each in own:
        variants = [body(call, parameters, names) for call in each]
        if any(variant != variants[0] for variant in variants):
            return None
        bodies.append(variants[0])
    lines = tuple(_both_modes(bodies))
    return replace(blueprint, parameters=parameters, lines=lines, calls=tuple(each[0] for each in own))


def _calls(root: Region) -> dict[str, list[Region]]:
    calls: dict[str, list[Region]] = defaultdict(list)
    waiting = [root]
    while waiting:
        region = waiting.pop()
        calls[region.path].append(region)
        waiting += [item for item in region.items if isinstance(item, Region)]
    return calls


def _parameters(module: nn.Module, count: int) -> tuple[str, ...]:
    """The names of a forward's inputs: its author's where they can be told, else x, x2, ..."""
    given = [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(given) == count:
        return tuple(given)
    return tuple("x" if i == 0 else f"x{i + 1}" for i in range(count))


def _constants(model: nn.Module, trace: Trace) -> dict[str, torch.Tensor]:
    """Tensors that the code makes as it runs, which torch.fx keeps for the graph under names of its own."""
    constants = {}
    for node in trace.nodes:
        if node.op == "get_attr":
            parent, _, name = str(node.target).rpartition(".")
            if name not in {**model.get_submodule(parent)._parameters, **model.get_submodule(parent)._buffers}:
                owner = trace.module.get_submodule(parent)
                value = getattr(owner, name)
                own = getattr(model.get_submodule(parent), name, value)
                constants[str(node.target)] = own if isinstance(own, torch.Tensor) else value
    return constants


# --- two modes --------------------------------------------------------------------------------------------------------


def _both_modes(bodies: Sequence[Sequence[Line]]) -> Iterator[Line]:
    """One forward that does ``bodies[0]`` in eval mode and ``bodies[1]`` in train mode."""
    if len(bodies) == 1:
        yield from bodies[0]
        return
    evaluated, trained = bodies
    start = _agreeing(zip(evaluated, trained, strict=False))
    rest = zip(reversed(evaluated[start:]), reversed(trained[start:]), strict=False)
    end = _agreeing(rest)
    yield from map(_either, evaluated[:start], trained[:start])
    middle = [list(lines[start : len(lines) - end]) for lines in (evaluated, trained)]
    if middle[1]:
        yield ("if self.training:",)
        yield from map(_indented, middle[1])
    if middle[0]:
        returns = bool(middle[1]) and str(middle[1][-1][0]).startswith("return ")
        if not returns:
            yield ("else:" if middle[1] else "if not self.training:",)
        yield from middle[0] if returns else map(_indented, middle[0])
    yield from map(_either, evaluated[len(evaluated) - end :], trained[len(trained) - end :])


def _agreeing(pairs: Iterator[tuple[Line, Line]]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: _either(*pair) is not None, pairs))


def _either(evaluated: Line, trained: Line) -> Line | None:
    """The line that is one or the other by ``self.training``; None where there is no such line."""
    if len(evaluated) != len(trained):
        return None
    tokens: list[str | Hole] = []
    for one, other in zip(evaluated, trained, strict=True):
        if one == other:
            tokens.append(one)
        elif (one, other) == (Hole("False"), Hole("True")):
            tokens.append("self.training")
        elif (one, other) == (Hole("True"), Hole("False")):
            tokens.append("not self.training")
        else:
            return None
    return tuple(tokens)


def _indented(line: Line) -> Line:
    return (f"    {line[0]}", *line[1:]) if line and isinstance(line[0], str) else ("    ", *line)


# --- comparing --------------------------------------------------------------------------------------------------------


def skeleton(lines: Sequence[Line]) -> tuple[tuple[str | None, ...], ...]:
    """The lines with their constants left out."""
    return tuple(tuple(None if isinstance(token, Hole) else token for token in line) for line in lines)


def holes(lines: Sequence[Line]) -> list[str]:
    """The constants of the lines, in order."""
    return [token.text for line in lines for token in line if isinstance(token, Hole)]
