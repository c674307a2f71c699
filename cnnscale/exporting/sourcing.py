"""A network -> the source of a Python file that builds it, as an engineer would have written it.

1. The network is run once per mode, and each module's forward is traced by itself.
2. Each module becomes the call that makes it: of a layer of torch or of another library, of a container, or of a class
   of the file. Modules whose classes would look alike share one, whose arguments are what differs between them.
3. Where the network's own class can be called so that it makes the network, the file is that call.
"""

from __future__ import annotations

import ast
import copy
import operator
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnscale.errors import ExportError
from cnnscale.inputs import InputSize
from cnnscale.tracing import is_leaf

from .calls import Calls, record, trace_call
from .constructing import constructor, description, public_name, tensor_value
from .layout import assigned_text, class_text, code, forward_text
from .statements import Fixed, Surroundings, both_modes, call, differences, function_body, parsed
from .unifying import Arguments, Blocks, Layer, attributes, numbered, skeleton

__all__ = ["Source", "native_source", "network_source"]

_TORCH = {"torch": "import torch", "nn": "from torch import nn", "F": "import torch.nn.functional as F"}
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Source:
    """The parts of a file."""

    imports: tuple[str, ...]
    """Lines, besides those for torch."""
    classes: str
    made: str
    """The statement of a function that makes the network."""


def native_source(model: nn.Module) -> Source | None:
    """The call of the network's own class that makes it; None where its arguments cannot be read off its attributes."""
    name = public_name(type(model))
    keywords = constructor(model, attributes=False) if name is not None else None
    if name is None or keywords is None:
        return None
    made = ast.Call(parsed(name[1]), [], list(keywords.values()))
    return Source((f"from {name[0]} import {name[1]}",), "", assigned_text("model", made))


def network_source(model: nn.Module, input_size: InputSize, *, train: bool) -> Source:
    """The classes that make the network; with ``train``, what they do in train mode, too.

    Raises:
        ExportError: something of the network cannot be written as source.
        TraceError: a forward's control flow depends on data.
    """
    modes = (False, True) if train else (False,)
    return _Writer(model, [record(model, input_size, train=mode) for mode in modes]).source()


# --- classes ----------------------------------------------------------------------------------------------------------


@dataclass
class _Draft:
    """One module that needs a class."""

    path: str
    module: nn.Module
    inputs: list[str]
    made: dict[str, ast.expr]
    """What it holds, by name."""
    body: list[ast.stmt]

    def key(self) -> Any:
        """What modules of one class have in common."""
        made = tuple((name, skeleton(value)) for name, value in self.made.items())
        return type(self.module), tuple(self.inputs), made, skeleton(self.body)


class _Writer:
    def __init__(self, model: nn.Module, recorded: Sequence[Calls]) -> None:
        self.model, self.recorded = model, recorded
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.imports: dict[str, str] = {}
        self.records: dict[str, tuple[str, ...]] = {}
        self.names: set[str] = {"torch", "nn", "F", "math", "operator", "namedtuple", "OrderedDict", "build"}
        self.made: dict[str, ast.expr] = {}
        self.classes: list[str] = []
        self.own: dict[str, int] = {}
        """Modules that need a class -> how many levels of such are below them."""
        self.shared = self._shared()
        self.bodies: dict[Any, tuple[list[str], list[ast.stmt]]] = {}

    def source(self) -> Source:
        for path, module in reversed(list(self.modules.items())):
            self._classify(path, module)
        for height in range(max(self.own.values(), default=-1) + 1):
            groups: dict[Any, list[_Draft]] = defaultdict(list)
            for path in (path for path in self.modules if self.own.get(path) == height):
                draft = self._draft(path)
                groups[draft.key()].append(draft)
            for drafts in sorted(groups.values(), key=len, reverse=True):
                self._write(drafts)
        records = [
            f'{name} = namedtuple("{name}", {list(fields)})'.replace("'", '"') for name, fields in self.records.items()
        ]
        text = "\n\n\n".join([*records, *self.classes])
        return Source(tuple(self._import_lines(text)), text, assigned_text("model", self.made[""]))

    def _import_lines(self, text: str) -> Iterator[str]:
        for name in ("OrderedDict", "namedtuple"):
            if f"{name}(" in text:
                yield f"from collections import {name}"
        for name in ("math", "operator"):
            if re.search(rf"\b{name}\.", text):
                yield f"import {name}"
        for name, line in _TORCH.items():
            if re.search(rf"\b(?<![\w.]){name}\.", text):
                yield line
        for known, line in self.imports.items():
            if re.search(rf"\b{known}\(", text):
                yield line

    def _shared(self) -> dict[str, str]:
        """Paths of modules with a state that stand elsewhere, too -> where they come first."""
        first: dict[int, str] = {}
        found: dict[str, str] = {}
        for path, module in self.modules.items():
            original = first.setdefault(id(module), path)
            if original != path and module.state_dict() and not any(path.startswith(f"{p}.") for p in found):
                found[path] = original
        return found

    def _ties(self) -> Iterator[ast.stmt]:
        """Statements of the network's constructor that make modules and tensors of several names one."""
        first: dict[int, str] = {}
        for path, module in self.modules.items():
            if path in self.shared:
                yield self._tie(path, self.shared[path])
            if any(f"{path}.".startswith(f"{p}.") for p in self.shared):
                continue
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                full = self._child(path, name)
                if tensor is not None and first.setdefault(id(tensor), full) != full:
                    yield self._tie(full, first[id(tensor)])

    def _tie(self, path: str, first: str) -> ast.stmt:
        target, value = (self._access("", each, self.model) for each in (path, first))
        return ast.Assign([target], value, lineno=0)

    # -- what makes each module

    def _classify(self, path: str, module: nn.Module) -> None:
        """How a module is made, the modules that it holds being known."""
        children = [self._child(path, name) for name in self._children(module)]
        if path in self.shared:  # its place is taken
            self._make(path, call("nn.Identity"))
            return
        if type(module) in _CONTAINERS and path:
            return
        name = public_name(type(module)) if path and (is_leaf(module) or not children) else None
        keywords = constructor(module) if name is not None else None
        if name is None or keywords is None:
            below = [self.own[p] for p in self._below(path) if p in self.own]
            self.own[path] = max(below, default=-1) + 1
            return
        bare = not children and not module._parameters and not module._buffers
        called = parsed(f"nn.{name[1]}") if name[0] == "torch.nn" else parsed(self._imported(*name))
        made = (Layer if bare else ast.Call)(called, [], list(keywords.values()))
        if isinstance(made, Layer) and type(module).__module__.endswith("activation"):
            made.role = "activation"
        self._make(path, made)

    def _make(self, path: str, made: ast.expr) -> None:
        self.made[path] = made
        for child in self._below(path):
            self.own.pop(child, None)

    def _below(self, path: str) -> Iterator[str]:
        return (p for p in self.modules if p != path and (not path or p.startswith(f"{path}.")))

    def _children(self, module: nn.Module) -> list[str]:
        return [name for name, child in module._modules.items() if child is not None]

    def _child(self, path: str, name: str) -> str:
        return f"{path}.{name}" if path else name

    def _expression(self, path: str) -> ast.expr:
        """What makes the module."""
        if path in self.made:
            return self.made[path]
        module, kind = self.modules[path], type(self.modules[path])
        items = [self._expression(self._child(path, name)) for name in self._children(module)]
        blocks = len({item.func.id for item in items if isinstance(item, ast.Call) and isinstance(item.func, ast.Name)})
        function = parsed(f"nn.{kind.__name__}")
        args: list[ast.expr] = items
        if kind is nn.ModuleDict or not _is_numbered(module):
            args = [ast.Dict([Fixed(name) for name in module._modules], items)]
            args = args if kind is nn.ModuleDict else [ast.Call(parsed("OrderedDict"), args, [])]
        elif kind is nn.ModuleList:
            args = [ast.List(items, ast.Load())]
        same = blocks == 1 and all(isinstance(i, ast.Call) and isinstance(i.func, ast.Name) for i in items)
        return (Blocks if same else ast.Call)(function, args, [])

    def _imported(self, module: str, name: str) -> str:
        """The name by which the file knows what it imports."""
        line = f"from {module} import {name}"
        if line not in self.imports.values():
            known = self._name(name)
            self.imports[known] = line if known == name else f"{line} as {known}"
            return known
        return next(known for known, other in self.imports.items() if other == line)

    def _name(self, wanted: str) -> str:
        name, number = wanted, 2
        while name in self.names:
            name, number = f"{wanted}{number}", number + 1
        self.names.add(name)
        return name

    # -- one module

    def _draft(self, path: str) -> _Draft:
        module = self.modules[path]
        made = {name: self._parameter(t) for name, t in module._parameters.items() if t is not None}
        made |= {name: self._buffer(module, name) for name, t in module._buffers.items() if t is not None}
        made |= {name: self._expression(self._child(path, name)) for name in self._children(module)}
        bodies = [self._body(path, calls) for calls in self.recorded if calls.made.get(path)]
        if _is_sequential(module):
            bodies = []
        if len({tuple(inputs) for inputs, _ in bodies}) > 1:
            raise ExportError(f"{path}.forward has other inputs in train mode")
        body = both_modes(*(body for _, body in bodies)) if len(bodies) == 2 else bodies[0][1] if bodies else []
        return _Draft(path, module, bodies[0][0] if bodies else [], made, body)

    def _parameter(self, tensor: nn.Parameter) -> ast.expr:
        return call("nn.Parameter", tensor_value(tensor, exact=False))

    def _buffer(self, module: nn.Module, name: str) -> ast.expr:
        exact = name in module._non_persistent_buffers_set
        value = tensor_value(module._buffers[name], exact=exact)  # type: ignore[arg-type]  # None was left out
        rest = {"persistent": Fixed(False)} if exact else {}
        return call("self.register_buffer", Fixed(name), value, **rest)

    def _body(self, path: str, calls: Calls) -> tuple[list[str], list[ast.stmt]]:
        """The forward in one mode: it must do the same in every call. Modules that are alike do alike."""
        module = calls.modules[path]
        key = type(module), module.training, description(module), tuple(calls.made[path])
        if key not in self.bodies:
            around = Surroundings(
                lambda target: self._access(path, target, module),
                self._imported,
                self._record,
                lambda target: self._child(path, target) not in self.own,
            )
            found = [function_body(trace_call(calls, path, each), around) for each in calls.made[path].values()]
            inputs, body = found[0]
            if any(names != inputs or differences(body, other) != [] for names, other in found):
                raise ExportError(f"{path or 'the network'} is called several times and does not do the same each time")
            self.bodies[key] = inputs, body
        return copy.deepcopy(self.bodies[key])

    def _record(self, cls: type) -> str:
        self.records[cls.__name__] = cls._fields  # type: ignore[attr-defined]  # a named tuple
        return cls.__name__

    def _access(self, path: str, target: str, traced: nn.Module) -> ast.expr:
        """A module or tensor as it is written in a forward: ``self.layers[0].conv``."""
        owner, made = self.modules[path], parsed("self")
        for name in target.split("."):
            if name in owner._modules and type(owner) in _CONTAINERS and _is_numbered(owner):
                made = ast.Subscript(made, Fixed(int(name)))
            elif name in owner._modules and type(owner) is nn.ModuleDict:
                made = ast.Subscript(made, Fixed(name))
            elif name.isidentifier():
                made = ast.Attribute(made, name)
            elif name in owner._modules:
                made = ast.Call(ast.Attribute(made, "get_submodule"), [Fixed(name)], [])
            if name not in (*owner._modules, *owner._parameters, *owner._buffers):
                value = getattr(owner, name, None)
                value = operator.attrgetter(target)(traced) if value is None else value
                return tensor_value(value, exact=True)
            owner = owner._modules.get(name, owner) or owner
        return made

    # -- one class

    def _write(self, drafts: Sequence[_Draft]) -> None:
        """The class of these modules, and the call of it that makes each."""
        first, arguments = drafts[0], Arguments()
        name = self._name(type(first.module).__name__)
        made = {child: arguments.unify([d.made[child] for d in drafts], child, child) for child in first.made}
        body, held = attributes(
            [d.body for d in drafts],
            arguments,
            lambda column, held: self._attribute(drafts, column, {*first.made, *held}),
        )
        parameters = arguments.finish({"nn", "torch", "F"})
        sequential = _is_sequential(first.module) and _is_numbered(first.module) and not first.module._parameters
        init: list[ast.stmt] = []
        if sequential:
            init.append(ast.Expr(ast.Call(parsed("super().__init__"), list(made.values()), [])))
        elif made or held:
            init = [ast.Expr(parsed("super().__init__()"))]
            init += [_assigned(key, value) for key, value in held.items()]
            init += [_assigned(key, value) for key, value in made.items()]
            init += self._ties() if not first.path else []
        signature = [parameter.argument(0) for parameter in parameters]
        base = "nn.Sequential" if _is_sequential(first.module) else "nn.Module"
        forward = forward_text(first.inputs, body, self._lists(first.path)) if body else ""
        self.classes.append(class_text(name, base, _docstring(drafts), signature, init, forward))
        for i, draft in enumerate(drafts):
            self.made[draft.path] = ast.Call(parsed(name), [], [p.argument(i) for p in parameters])

    def _attribute(self, drafts: Sequence[_Draft], column: Sequence[ast.Constant], taken: set[str]) -> str:
        """A name for a value that differs between modules: that of the attribute in which they have it."""
        for name in vars(drafts[0].module):
            values = [vars(draft.module).get(name) for draft in drafts]
            plain = all(isinstance(value, (int, float, str, tuple)) for value in values)
            if plain and not name.startswith("_") and [repr(v) for v in values] == [repr(c.value) for c in column]:
                return name
        return next(name for name in numbered("size") if name not in taken)

    def _lists(self, path: str) -> dict[str, list[str]]:
        """Lists of layers as they are written in the module's forward, and their members."""
        paths = [p for p in self._below(path) if type(self.modules[p]) in _CONTAINERS and self.modules[p]._modules]
        found = {self._written(path, p): self._members(path, p) for p in paths}
        if len({name.rstrip("0123456789") for name in self.modules[path]._modules}) == 1:
            found["self.children()"] = self._members(path, path)
        return found

    def _members(self, path: str, holder: str) -> list[str]:
        return [self._written(path, self._child(holder, name)) for name in self._children(self.modules[holder])]

    def _written(self, path: str, target: str) -> str:
        return code(self._access(path, target.removeprefix(path).removeprefix("."), self.modules[path]))


def _assigned(name: str, value: ast.expr) -> ast.stmt:
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "self.register_buffer":
        return ast.Expr(value)
    if not name.isidentifier():
        return ast.Expr(call("self.add_module", Fixed(name), value))
    return ast.Assign([parsed(f"self.{name}")], value, lineno=0)


def _docstring(drafts: Sequence[_Draft]) -> str:
    paths = [draft.path for draft in drafts]
    if paths == [""]:
        return "The network."
    return ", ".join(paths) + "." if len(paths) < 3 else f"{paths[0]} and {len(paths) - 1} more."


def _is_numbered(module: nn.Module) -> bool:
    """Whether the children are called 0, 1, 2, ..."""
    return list(module._modules) == list(map(str, range(len(module._modules))))


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
