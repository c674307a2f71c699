"""Plan -> network: the graph is rewritten, the module tree is edited, and the two must agree.

1. :func:`rewritten_graph` writes down what the scaled network computes: blocks copied or dropped, literals updated.
2. :func:`edited_module` makes the same changes to a copy of the baseline's module tree.
3. :func:`rebuild` traces that module again. If it computes the rewritten graph, with the predicted shape at every
   node, the module is the result (``form="module"``); else a GraphModule of the rewritten graph is (``form="graph"``).
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import fx, nn

from .analysis import Analysis, Stage
from .attributes import Placed, follow
from .copying import meta_copy
from .costs import copy_atom, multiplicity
from .errors import CnnScaleError, RewriteError
from .fans import follow_fans
from .opening import donor_for, residual_flags
from .schedules import redraw_schedules
from .shapes import Power, Sym
from .sources import Source, solve
from .stages import Block, called_blocks, is_number, is_sum, shape
from .surgery import (
    Edit,
    Origin,
    Undo,
    copies_of,
    edit_blocks,
    forget_cached,
    project,
    resize,
    set_attribute,
    split_path,
    write_attribute,
    write_literal,
)
from .symbolic import Values
from .tracing import Trace, caller, describe, trace

__all__ = ["Aligned", "Rebuilt", "align", "rebuild"]


@dataclass(frozen=True)
class Target:
    """The numbers to build: one per stage, and the value of every atom."""

    analysis: Analysis
    repeats: tuple[int, ...]
    values: Values


@dataclass(frozen=True)
class Rebuilt:
    """The scaled network on the meta device."""

    module: nn.Module
    form: Literal["module", "graph"]
    origins: dict[str, Origin]
    """Module path -> its path in the baseline, and which copy of it this is."""
    places: dict[str, Origin]
    """The same, but a child that the baseline's block lacks has the path that it would have there."""
    mismatch: str = ""
    """Why the native module could not be used."""
    notes: tuple[str, ...] = ()
    """What may not be true of the native module's attributes."""


def rebuild(model: nn.Module, analysis: Analysis, repeats: Sequence[int], values: Values) -> Rebuilt:
    """The scaled network for ``model``, which is left alone.

    Raises:
        RewriteError: neither form runs with the predicted shapes.
    """
    target = Target(analysis, tuple(repeats), values)
    module, origins = edited_module(model, target)
    paths = {origin: path for path, origin in origins.items()}
    expected = rewritten_graph(target, paths)
    mismatch, notes = _written_back(module, target, expected, origins)
    known = {path: analysis.known(origin) for path, origin in origins.items()}
    if not mismatch:
        return Rebuilt(module, "module", known, origins, notes=tuple(notes))
    _same_in_training(model, target, mismatch)
    graph_module = _graph_module(meta_copy(module), expected.graph)
    problem = _difference(graph_module, target, expected, paths)
    if problem:
        raise RewriteError(
            f"the scaled {type(model).__name__} is not what was planned: {problem}; "
            f"its own class differs too: {mismatch}"
        )
    return Rebuilt(graph_module, "graph", known, origins, mismatch)


@dataclass(frozen=True)
class Aligned:
    """The scaled network traced at the baseline's input size, node by node beside the extended baseline."""

    trace: Trace
    sources: dict[fx.Node, tuple[fx.Node, int]]
    """Node -> the one of the extended baseline that it repeats, and which copy of its block it belongs to; for an
    Identity and for a residual that a class adds by itself, those of what it hands on or is added to."""
    origins: dict[str, Origin]
    """The places of :class:`Rebuilt`."""
    repeats: tuple[int, ...]
    values: Values
    """The value of every atom at this input size."""


def align(
    rebuilt: Rebuilt, analysis: Analysis, repeats: Sequence[int], values: Values, *, own_size: bool = False
) -> Aligned:
    """Which node of the scaled network repeats which of the baseline; with ``own_size`` traced at its own input size.

    Raises:
        RewriteError: the scaled network does not run at the baseline's input size as it does at its own.
    """
    at: Values = {atom: value for atom, value in values.items() if atom.call is None}
    if not own_size:
        at.update(analysis.side_values(analysis.inputs))
    target = Target(analysis, tuple(repeats), at)
    expected = rewritten_graph(target, {origin: path for path, origin in rebuilt.places.items()})
    comparison = _compared(rebuilt.module, target, expected, rebuilt.places)
    problem = comparison if isinstance(comparison, str) else comparison.run()
    if problem or isinstance(comparison, str):
        raise RewriteError(f"at the baseline's input size the scaled model computes something else: {problem}")
    sources = {got: expected.sources[want] for got, want in comparison.same.items()}
    return Aligned(comparison.actual, sources, rebuilt.places, target.repeats, at)


# --- 1. the graph -----------------------------------------------------------------------------------------------------


class Copy(NamedTuple):
    """One copy of a block whose modules' paths begin with one of ``inside``."""

    number: int
    inside: tuple[str, ...]

    def origin(self, target: Target, path: str) -> Origin:
        """Which module the copy calls where the block calls ``path``: what lies outside the block is not copied."""
        origin = _origin(target, path)
        return Origin(origin.path, origin.copy + self.number) if f"{path}.".startswith(self.inside) else origin


class Change(NamedTuple):
    """A literal of the graph that changed, and the module that runs its node, in one copy of a block."""

    owner: str
    old: int
    new: int
    source: Source | None
    copy: Copy


@dataclass
class Expected:
    """The rewritten graph; ``shapes`` predicts each tensor, ``literals`` lists the changed ones by owning module."""

    graph: fx.Graph
    shapes: dict[fx.Node, tuple[int, ...]]
    literals: list[Change]
    identities: set[fx.Node]
    """Calls of Identity modules."""
    sources: dict[fx.Node, tuple[fx.Node, int]]
    """Node -> the one of the extended baseline that it repeats, and which copy of its block it belongs to."""
    sizes: set[fx.Node]
    """Nodes that are no tensors. What they are is seen by the shapes that they make, wherever they were read."""


def rewritten_graph(target: Target, paths: dict[Origin, str]) -> Expected:
    """The extended baseline's graph with each block as often as planned, every literal at its new value."""
    writer = _Writer(target, paths)
    nodes, i = target.analysis.trace.nodes, 0
    places = {block.start: (s, b, block) for s, b, block in target.analysis.block_calls()}
    while i < len(nodes):
        if i in places:
            stage, position, block = places[i]
            writer.write_block(target.analysis.stages[stage], position, block, target.repeats[stage])
            i = block.stop
        else:
            writer.write(nodes[i], Copy(0, ()), target.values)
            i += 1
    writer.expected.graph.lint()
    return writer.expected


def _origin(target: Target, path: str) -> Origin:
    """Where a module of the extended baseline comes from."""
    return target.analysis.origins.get(path, Origin(path, 0))


class _Writer:
    """Emits nodes of the old graph into the new one."""

    def __init__(self, target: Target, paths: dict[Origin, str]) -> None:
        self.target, self.paths = target, paths
        self.expected = Expected(fx.Graph(), {}, [], set(), {}, set())
        self.env: dict[fx.Node, fx.Node] = {}
        self.also: dict[fx.Node, list[fx.Node]] = {}
        """Nodes which stand for several in argument lists (outputs of dense blocks), or for none."""
        self.updates: dict[fx.Node, list[Any]] = {}
        for update in target.analysis.ctx.updates:
            self.updates.setdefault(update.node, []).append(update)
        self.powers: dict[str, dict[float, Power]] = defaultdict(dict)
        for (path, name), value in target.analysis.ctx.attributes.items():
            if isinstance(value, Power):
                self.powers[path][getattr(target.analysis.trace.module.get_submodule(path), name)] = value

    def write_block(self, stage: Stage, position: int, block: Block, repeats: int) -> None:
        count = multiplicity(stage, position, repeats)
        inside = tuple(f"{path}." for path in block.modules)
        nodes = self.target.analysis.trace.nodes[block.start : block.stop]
        atom = copy_atom(stage, position)
        outputs: list[fx.Node] = []
        for number in range(count):
            values = self.target.values
            if stage.concatenation is not None and atom is not None:  # this copy is the last so far
                values = {**values, atom: number, stage.concatenation.extra: number}
            for node in nodes:
                self.write(node, Copy(number, inside), values)
            outputs.append(self.env[block.output])
            if stage.site.kind == "dense":
                self.also[block.inputs[-1]] = [self.env[block.inputs[-1]], *outputs]
            else:
                self.env[block.inputs[0]], entry = outputs[-1], self.env[block.inputs[0]]
                if number == 0:
                    first = entry
        if stage.site.kind == "dense":
            self.also.pop(block.inputs[-1], None)
            self.also[block.output] = outputs
            return
        if count:
            self.env[block.inputs[0]] = first
        else:
            self.env[block.output] = self.env[block.inputs[0]]
        if stage.site.kind == "gathered":
            self.also[block.output] = outputs

    def write(self, node: fx.Node, place: Copy, values: Values) -> None:
        args, kwargs = self._arguments((node.args, node.kwargs))
        for update in self.updates.get(node, ()):
            new = self.target.analysis.ctx.equations.resolve(update.value).at(values)
            if new != update.value.hint:
                args, kwargs = _replaced((args, kwargs), update.path, new)
                self.expected.literals.append(Change(caller(node), update.value.hint, new, update.source, place))
        args, kwargs = self._rescaled(caller(node), (args, kwargs), values)
        target = node.target
        if node.op == "call_module":
            target = self.paths[place.origin(self.target, str(target))]
        elif node.op == "get_attr":
            parent, name = split_path(str(target))
            target = f"{self.paths[place.origin(self.target, parent)]}.{name}".lstrip(".")
        new_node = self.expected.graph.create_node(node.op, target, args, kwargs, name=node.name, type_expr=node.type)
        self.env[node] = new_node
        self.expected.sources[new_node] = node, place.number
        if node.op == "call_module" and isinstance(self.target.analysis.trace.modules[str(node.target)], nn.Identity):
            self.expected.identities.add(new_node)
        if is_number(node):
            self.expected.sizes.add(new_node)
        value = self.target.analysis.values.get(node)
        if isinstance(value, Sym):
            resolve = self.target.analysis.ctx.equations.resolve
            self.expected.shapes[new_node] = tuple(resolve(d).at(values) for d in value.shape)

    def _rescaled(self, owner: str, args: Any, values: Values) -> Any:
        """Arguments with the floats that are powers of a width of the module which runs the node."""
        powers = self.powers.get(owner)
        if powers is None:
            return args
        evaluate = self.target.analysis.ctx.evaluate

        def rescaled(value: Any) -> Any:
            return evaluate(powers[value], values) if type(value) is float and value in powers else value

        return fx.node.map_aggregate(args, rescaled)

    def _arguments(self, value: Any, depth: int = 0) -> Any:
        """(args, kwargs) in terms of new nodes; lists of tensors in them (depth 2) take in the outputs of copies."""
        if isinstance(value, fx.Node):
            return self.env[value]
        if isinstance(value, (tuple, list)):
            parts: list[Any] = []
            for item in value:
                several = self.also.get(item) if depth > 1 and isinstance(item, fx.Node) else None
                parts += [self._arguments(item, depth + 1)] if several is None else several
            return tuple(parts) if isinstance(value, tuple) else parts
        if isinstance(value, dict):
            return {key: self._arguments(item, depth + 1) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*(self._arguments(v, depth + 1) for v in (value.start, value.stop, value.step)))
        return int(value) if isinstance(value, Source) else value


def _replaced(value: Any, path: tuple[Any, ...], new: int) -> Any:
    """Nested arguments with the item at ``path`` replaced."""
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(value, slice):
        parts = {n: getattr(value, n) for n in ("start", "stop", "step")}
        parts[key] = _replaced(parts[key], rest, new)
        return slice(parts["start"], parts["stop"], parts["step"])
    if isinstance(value, dict):
        return {**value, key: _replaced(value[key], rest, new)}
    items = list(value)
    items[key] = _replaced(items[key], rest, new)
    return tuple(items) if isinstance(value, tuple) else items


# --- 2. the module tree -----------------------------------------------------------------------------------------------


def edited_module(model: nn.Module, target: Target) -> tuple[nn.Module, dict[str, Origin]]:
    """A meta copy of ``model`` with blocks repeated, tensors resized and the attributes of torch's layers updated."""
    root = meta_copy(model, hooks=True)
    forget_cached(root)
    project(root, target.analysis.projections)
    origins = edit_blocks(root, list(_edits(root, target)))
    _resize(root, origins, target)
    redraw_schedules(target.analysis.baseline, root)
    follow_fans(target.analysis.baseline, root)
    return root, origins


def _edits(root: nn.Module, target: Target) -> Iterator[Edit]:
    """The plan in the baseline's own paths: copies of a stage's template go behind the last block that it has."""
    analysis = target.analysis
    for stage, repeats in zip(analysis.stages, target.repeats, strict=True):
        own = [b for b in stage.blocks if analysis.origins.get(b.path, Origin("", 0)).copy == 0]
        last = _in_baseline(analysis, own[-1])
        if repeats > len(own):
            count = repeats - len(own)
            made = stage.blocks[-1] is not own[-1]
            source, block = (analysis.trace.module, stage.blocks[-1]) if made else (root, last)
            copies = copies_of(source, block, count, lambda path: root.get_submodule(_origin(target, path).path))
            yield Edit(last, copies)
        for block in own[repeats:]:
            yield Edit(_in_baseline(analysis, block), drop=True)


def _in_baseline(analysis: Analysis, block: Block) -> Block:
    return dataclasses.replace(block, modules=tuple(analysis.origins.get(p, Origin(p, 0)).path for p in block.modules))


def _resize(root: nn.Module, origins: dict[str, Origin], target: Target) -> None:
    """Every tensor and every layer attribute at the value that its polynomial has for this copy of its module."""
    analysis, ctx = target.analysis, target.analysis.ctx
    attributes: dict[str, list[tuple[str, Any]]] = {}
    for (path, name), value in ctx.attributes.items():
        attributes.setdefault(path, []).append((name, value))
    shapes: dict[str, tuple[int, ...]] = {}
    for place in _placed(root, origins, target):
        path, module, source, values = place.path, place.module, place.source, place.values
        for name, value in attributes.get(source, ()):
            setattr(module, name, ctx.evaluate(value, values))
        original = analysis.trace.module.get_submodule(source)
        for name in (*module._parameters, *module._buffers):
            tensor = getattr(original, name, None)
            dims = ctx.tensors.get(ctx.shared.get(id(tensor), "")) if tensor is not None else None
            if dims is not None:
                shapes[f"{path}.{name}".lstrip(".")] = tuple(ctx.equations.resolve(d).at(values) for d in dims)
    resize(root, shapes)


def _placed(root: nn.Module, origins: dict[str, Origin], target: Target) -> Iterator[Placed]:
    """Every module that comes from the baseline, with what describes it."""
    extended = {origin: path for path, origin in target.analysis.origins.items()}
    copies = _copy_values(target)
    for path, module in root.named_modules():
        if path in origins:
            source, values = _source(origins[path], extended, copies, target)
            yield Placed(path, module, origins[path], source, values)


def _copy_values(target: Target) -> list[tuple[tuple[str, ...], Any]]:
    """(module paths of a concatenating stage's template, its copy atom)."""
    return [
        (stage.blocks[-1].modules, stage.concatenation.copy)
        for stage in target.analysis.stages
        if stage.concatenation is not None
    ]


def _source(
    origin: Origin, extended: dict[Origin, str], copies: list[tuple[tuple[str, ...], Any]], target: Target
) -> tuple[str, Values]:
    """The path in the extended baseline whose polynomials describe a module, and the values to evaluate them with."""
    made = extended.get(Origin(origin.path, min(origin.copy, 1)))
    if origin.copy and made is not None:
        return made, target.values
    path = extended.get(Origin(origin.path, 0), origin.path)
    for modules, atom in copies:
        if origin.copy and any(path == m or path.startswith(f"{m}.") for m in modules):
            return path, {**target.values, atom: origin.copy}
    return path, target.values


def _equalised(target: Target) -> Iterator[Block]:
    """Modules of the baseline that changed their number of channels, and no longer do; blocks of a stage or not."""
    for block in called_blocks(target.analysis.trace):
        if len(block.inputs) == 1 and not block.growth:
            before, after = (target.analysis.channels(node) for node in (block.inputs[0], block.output))
            sides = [shape(node)[2:] for node in (block.inputs[0], block.output)]
            if before is None or after is None or sides[0] != sides[1] or before.hint == after.hint:
                continue
            if before.at(target.values) == after.at(target.values):
                yield block


def _add_residuals(module: nn.Module, origins: dict[str, Origin], target: Target) -> list[Undo]:
    """Where a block's ends have become equal, set the flags by which its class adds the residual for equal shapes."""
    analysis = target.analysis
    keeping = [block for _, _, block in analysis.blocks() if block.keeps_shape]
    paths = {origin: path for path, origin in origins.items()}
    undo: list[Undo] = []
    for block in _equalised(target):
        donor = donor_for(block, analysis.trace.module, keeping)
        path = paths.get(_origin(target, block.path))
        if donor is None or path is None:
            continue
        resolve = analysis.ctx.equations.resolve
        value = analysis.values[block.inputs[0]]
        size = tuple(resolve(dim).at(target.values) for dim in value.shape[1:])
        like = analysis.trace.module.get_submodule(donor.path)
        flags = residual_flags(module.get_submodule(path), like, size)
        undo += [set_attribute(module.get_submodule(path), name, flag) for name, flag in flags.items()]
    return undo


# --- 3. the agreement -------------------------------------------------------------------------------------------------


def _written_back(
    module: nn.Module, target: Target, expected: Expected, origins: dict[str, Origin]
) -> tuple[str, list[str]]:
    """Make the module compute the expected graph by writing changed sizes into its attributes: ("", notes) if it does.

    Where a literal comes from is not always recorded, so the owner's integers of the same value are tried, all at once
    and then none; so are the attributes that follow widths without being read. The trace decides.
    """
    first = ""
    for follows, writes in itertools.product((True, False), (True, False) if expected.literals else (False,)):
        notes = ["attributes that hold widths stay: with new ones, forward computes something else"]
        undo: list[Undo] = []
        if follows:
            undo, notes = follow(target.analysis, _placed(module, origins, target), target.repeats)
        if writes:
            undo += _write_literals(module, target, expected, origins)
        undo += _add_residuals(module, origins, target)
        mismatch = _difference(module, target, expected, {origin: path for path, origin in origins.items()})
        if not mismatch:
            return "", notes
        first = first or mismatch
        for restore in reversed(undo):
            restore()
    return first, []


def _write_literals(module: nn.Module, target: Target, expected: Expected, origins: dict[str, Origin]) -> list[Undo]:
    modules = {origin: module.get_submodule(path) for path, origin in origins.items()}
    undo: list[Undo] = []
    wanted: dict[Copy, list[tuple[Source, int]]] = defaultdict(list)
    for change in expected.literals:
        owner = modules.get(change.copy.origin(target, change.owner))
        if change.source is not None:
            wanted[change.copy].append((change.source, change.new))
        elif owner is not None:
            undo += write_literal(owner, change.old, change.new)
    for copy_, sources in wanted.items():
        for place, value in solve(sources).items():
            owner = modules.get(copy_.origin(target, place.module))
            if owner is not None:
                undo.append(write_attribute(owner, place, value))
    return undo


def _difference(module: nn.Module, target: Target, expected: Expected, paths: dict[Origin, str]) -> str:
    """How the module's trace differs from the expected graph; "" if it does not."""
    comparison = _compared(module, target, expected, {path: origin for origin, path in paths.items()})
    return comparison if isinstance(comparison, str) else comparison.run()


def _compared(module: nn.Module, target: Target, expected: Expected, origins: dict[str, Origin]) -> _Comparison | str:
    """The comparison of the module's trace with the expected graph; why there is none where it does not trace."""
    paths = {origin: path for path, origin in origins.items()}
    try:
        actual = trace(meta_copy(module), target.analysis.inputs_at(target.values).input_size)
    except CnnScaleError as error:
        return str(error)
    equalised = (_origin(target, block.path) for block in _equalised(target))
    return _Comparison(actual, expected, {paths[origin] for origin in equalised if origin in paths})


class _Comparison:
    """Walks the trace of the scaled module beside the expected graph; an Identity counts as nothing on either side."""

    def __init__(self, actual: Trace, expected: Expected, equalised: set[str]) -> None:
        self.actual, self.expected, self.equalised = actual, expected, equalised
        self.wanted = [node for node in expected.graph.nodes if node not in expected.identities]
        self.same: dict[fx.Node, fx.Node] = {}
        """Node of the trace -> the one of the expected graph whose value it has."""
        self.order = {node: i for i, node in enumerate(actual.nodes)}

    def run(self) -> str:
        """The first difference, "" without any. Residuals that a class adds by itself where a block's ends have become
        equal are none."""
        at = 0
        for got in self.actual.nodes:
            want = self.wanted[at] if at < len(self.wanted) else None
            if self._is_identity(got):
                self.same[got] = self.same[got.all_input_nodes[0]]
                continue
            problem = self._problem(got, want)
            if problem and self._is_new_residual(got):
                self.same[got] = self.same[max(got.all_input_nodes, key=self.order.__getitem__)]
                continue
            if problem or want is None:
                return problem
            self.same[got] = want
            at += 1
        return "" if at == len(self.wanted) else "some operations are missing"

    def _inputs(self, want: fx.Node) -> list[fx.Node]:
        """The tensors that an expected node reads, Identities looked through."""
        return list(dict.fromkeys(self._source(n) for n in want.all_input_nodes if n not in self.expected.sizes))

    def _source(self, node: fx.Node) -> fx.Node:
        return self._source(node.all_input_nodes[0]) if node in self.expected.identities else node

    def _problem(self, got: fx.Node, want: fx.Node | None) -> str:
        if want is None:
            return f"{describe(got)} is one operation too many"
        if want.op != got.op or (want.op != "placeholder" and str(want.target) != str(got.target)):
            return f"{describe(got)} instead of {want.name!r} ({want.target})"
        tensors = (n for n in got.all_input_nodes if self.same[n] not in self.expected.sizes)
        if list(dict.fromkeys(self.same[n] for n in tensors)) != self._inputs(want):
            return f"{describe(got)} has other inputs than {want.name!r}"
        value, shapes = got.meta.get("val"), self.expected.shapes
        if isinstance(value, torch.Tensor) and want in shapes and tuple(value.shape) != shapes[want]:
            return f"{describe(got)} should have shape {shapes[want]}"
        return ""

    def _is_identity(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self.actual.modules[str(node.target)], nn.Identity)

    def _is_new_residual(self, node: fx.Node) -> bool:
        owner = next(reversed(node.meta.get("nn_module_stack") or {"": None}))
        return owner in self.equalised and is_sum(node) and len(node.all_input_nodes) == 2


def _same_in_training(model: nn.Module, target: Target, mismatch: str) -> None:
    """A GraphModule has one graph: it can stand in only for a model that computes the same in train and eval mode.

    Raises:
        RewriteError: the model computes something else in train mode.
    """
    analysis = target.analysis
    training = trace(meta_copy(analysis.trace.module), analysis.input_size, train=True)
    same = [(n.op, str(n.target), str(n.args), str(n.kwargs)) for n in training.nodes]
    if same != [(n.op, str(n.target), str(n.args), str(n.kwargs)) for n in analysis.trace.nodes]:
        raise RewriteError(
            f"{type(model).__name__} cannot be scaled: its forward holds sizes that do not follow its layers "
            f"({mismatch}), and it computes something else in train mode, which a graph would lose; "
            "read those sizes from module attributes or from tensor shapes"
        )


def _graph_module(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A GraphModule whose submodules and parameters stand in the order of ``root``, not of first use."""
    module = fx.GraphModule(root, copy.deepcopy(graph), class_name=type(root).__name__)
    for path, child in [("", module), *module.named_modules()]:
        like = root.get_submodule(path)
        for store, order in ((child._modules, like._modules), (child._parameters, like._parameters)):
            kept = {name: store[name] for name in order if name in store}
            store.clear()
            store.update(kept)
    return module
