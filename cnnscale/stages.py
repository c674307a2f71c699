"""Trace -> stages: which blocks can be repeated.

A *stage* is a chain of blocks of one class under one parent whose outputs have one shape. It begins where a block
changes its shape, not where a container begins, so one flat list may hold many stages. Four kinds are found, in this
order:

1. chains of two or more blocks (of several layers, or of one and a residual), outermost first; a block that itself
   holds such a chain is a wrapper;
2. single blocks of a class that (1) accepted, or that occurs at least twice, or in a container of their own beside
   those of other stages;
3. ``dense`` stages, where every block reads all earlier outputs, ``growing`` ones, where it appends to its input, and
   ``gathered`` chains, whose outputs are all concatenated at the end;
4. plain stacks: modules of one convolution that are alike, and layers side by side in a Sequential (convolution, norm,
   activation), where two equal ones follow each other.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from .ops import operation_name
from .tracing import Call, Trace, is_leaf

__all__ = [
    "Block",
    "Site",
    "called_blocks",
    "class_name",
    "find_stages",
    "flags",
    "is_cat",
    "is_gathered",
    "is_number",
    "is_residual",
    "is_sum",
    "shape",
]


_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LINEAR = (_ConvNd, nn.Linear, _NormBase, nn.Identity, nn.ZeroPad2d)


@dataclass(frozen=True)
class Block:
    """One block: the modules that make it up, and its nodes ``trace.nodes[start:stop]``."""

    modules: tuple[str, ...]
    start: int
    stop: int
    inputs: tuple[fx.Node, ...]
    output: fx.Node
    cls: str
    layers: int
    """Number of convolutions and linear layers."""
    again: tuple[Block, ...] = ()
    """The same modules in their other calls, where what holds them is called several times."""

    @property
    def calls(self) -> tuple[Block, ...]:
        return (self, *self.again)

    @property
    def path(self) -> str:
        return self.modules[0]

    @property
    def parent(self) -> str:
        return self.path.rpartition(".")[0]

    @property
    def keeps_shape(self) -> bool:
        return len(self.inputs) == 1 and shape(self.inputs[0]) == shape(self.output)

    @property
    def growth(self) -> int:
        """Channels that the block appends to its own input, 0 if it does not; part of the input may be added to."""
        if len(self.inputs) != 1 or not is_cat(self.output) or not any(map(self._is_own, self.output.all_input_nodes)):
            return 0
        before, after = shape(self.inputs[0]), shape(self.output)
        return after[1] - before[1] if len(before) == len(after) > 2 and before[2:] == after[2:] else 0

    def _is_own(self, node: fx.Node) -> bool:
        """Whether a node is the block's input, or a slice of it."""
        own = self.inputs[0]
        return node is own or (operation_name(node.target) == "getitem" and node.args[0] is own)


@dataclass(frozen=True)
class Site:
    """A stage as found in a trace. The last block is the one to repeat."""

    blocks: tuple[Block, ...]
    kind: Literal["chain", "dense", "growing", "gathered", "stack"] = "chain"

    @property
    def template(self) -> Block:
        return self.blocks[-1]

    @property
    def can_repeat(self) -> bool:
        """Whether a copy of the last block fits behind it as it is."""
        return self.kind in ("dense", "growing") or self.template.keeps_shape


def shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta["val"]
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def find_stages(trace: Trace) -> list[Site]:
    """All stages of a traced model, in the order of execution."""
    blocks = list(called_blocks(trace))
    runs = [run for siblings in _siblings(blocks).values() for run in _runs(trace, siblings)]
    runs.sort(key=lambda run: (run.blocks[0].path.count("."), run.blocks[0].start))
    candidates = [site for run in runs for site in _split(run)]
    candidates = [_by_hand(trace, site) for site in candidates]
    several = [s for s in candidates if len(s.blocks) > 1]
    chains = [s for s in several if max(b.layers for b in s.blocks) > 1 or is_residual(trace, s.template)]
    alike = [s for s in several if s.template.layers == 1 and s.kind == "chain" and _alike(trace, s)]
    chains = _outside_known(candidates, chains)
    accepted = _innermost(chains)
    accepted += _singles(trace, candidates, chains, alike, accepted)
    accepted += [Site(s.blocks, "stack") for s in _outside(alike, accepted)]
    units = [s for s in candidates if s.template.layers == 1 and s.kind == "chain" and _in_line(trace, s, blocks)]
    units += [s for run in _flat_runs(trace) for s in _split(run)]
    accepted += _stacks(trace, _outside(units, accepted))
    accepted = [s for s in accepted if s.kind in ("chain", "stack") or not s.template.again]
    return sorted(accepted, key=lambda site: site.blocks[0].start)


def called_blocks(trace: Trace) -> Iterator[Block]:
    """Every module whose call has one output and takes tensors only, and that is called once, or once in each call of
    what holds it: a trunk that two images go through."""
    calls = _calls(trace)
    for path, own in calls.items():
        blocks = [_called(trace, call) for call in own]
        first = blocks[0]
        if first is None or not all(b is not None and _works_alike(trace, first, b) for b in blocks[1:]):
            continue
        if _each_held(calls, path, own):
            yield dataclasses.replace(first, again=tuple(b for b in blocks[1:] if b is not None))


def _calls(trace: Trace) -> dict[str, list[Call]]:
    """The calls of every module that is no layer."""
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in trace.calls:
        calls[call.path].append(call)
    return calls


def _each_held(calls: dict[str, list[Call]], path: str, own: Sequence[Call | Block]) -> bool:
    """Whether the calls of a module are one, or each within a call of its own of the nearest module around it that is
    called."""
    holder = path.rpartition(".")[0]
    while holder and holder not in calls:
        holder = holder.rpartition(".")[0]
    around = calls.get(holder, [])
    pairs = zip(around, own, strict=False)
    return len(own) == 1 or (len(own) == len(around) and all(a.start <= b.start and b.stop <= a.stop for a, b in pairs))


def _called(trace: Trace, call: Call) -> Block | None:
    output = _only_tensor(call.output)
    block = None if output is None else _block(trace, (call.path,), _start(trace, call), call.stop, output)
    return None if block is None else _joined(trace, block)


def _works_alike(trace: Trace, one: Block, other: Block) -> bool:
    """Whether two calls do the same."""

    def steps(block: Block) -> list[tuple[str, str]]:
        return [(node.op, str(node.target)) for node in trace.nodes[block.start : block.stop]]

    return one.keeps_shape == other.keeps_shape and steps(one) == steps(other)


def _only_tensor(output: Any) -> fx.Node | None:
    """What a call returns, if that is one tensor, alone or beside sizes."""
    several = isinstance(output, (tuple, list))
    tensors = [n for n in (output if several else [output]) if isinstance(n, fx.Node) and shape(n)]
    sizes = [n for n in output if n not in tensors] if several else []
    return tensors[0] if len(tensors) == 1 and all(is_number(n) for n in sizes) else None


def is_number(value: Any) -> bool:
    """Whether a value, or that of a node, is an integer; or several are."""
    if isinstance(value, (tuple, list)):
        return all(map(is_number, value))
    return isinstance(value.meta.get("val") if isinstance(value, fx.Node) else value, int)


def _start(trace: Trace, call: Call) -> int:
    """Where a block begins: a concatenation which its parent makes for it alone belongs to it (dense blocks)."""
    before = trace.nodes[call.start - 1]
    inside = trace.nodes[call.start : call.stop]
    owner = next(reversed(before.meta.get("nn_module_stack") or {"": None}))
    outer = call.path.startswith(f"{owner}.") if owner else True
    own = is_cat(before) and outer and all(user in inside for user in before.users)
    return call.start - own


def _joined(trace: Trace, block: Block) -> Block:
    """The block with the sum or concatenation by which its parent joins input and output: ``x = x + block(x)``.

    Only a parent that holds its blocks in a container, and so loops over them, would join a copy too.
    """
    if not isinstance(trace.modules[block.parent], _CONTAINERS):
        return block
    node = trace.nodes[block.stop]
    joins = len(block.inputs) == 1 and set(node.all_input_nodes) == {*block.inputs, block.output}
    if joins and (is_cat(node) or is_sum(node)) and set(block.output.users) == {node}:
        return dataclasses.replace(block, stop=block.stop + 1, output=node)
    return block


def is_sum(node: fx.Node) -> bool:
    return operation_name(node.target) in ("add", "iadd")


def is_residual(trace: Trace, block: Block) -> bool:
    """Whether the block adds something to its own input, or to what an Identity hands on of it."""
    sums = _sums(trace, block)
    return block.keeps_shape and any(block.inputs[0] in (_handed_on(trace, a) for a in n.all_input_nodes) for n in sums)


def _handed_on(trace: Trace, node: fx.Node) -> fx.Node:
    """What a node hands on: itself, save for the calls of Identities."""
    while node.op == "call_module" and isinstance(trace.modules[str(node.target)], nn.Identity):
        node = node.all_input_nodes[0]
    return node


def _chains(trace: Trace, block: Block) -> bool:
    """Whether a copy can be chained behind the block: outside containers a Sequential calls both, with one argument."""
    if isinstance(trace.modules[block.parent], _CONTAINERS):
        return True
    wanted = inspect.signature(type(trace.modules[block.path]).forward).parameters.values()
    needed = [p for p in wanted if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return len(needed) <= 2  # self and the input


def _is_gate(block: Block) -> bool:
    """Whether the block multiplies its own input by something (squeeze and excitation)."""
    return operation_name(block.output.target) in ("mul", "imul") and block.inputs[0] in block.output.args


def _is_linear(trace: Trace, block: Block) -> bool:
    """Whether the block is but a row of linear layers, and bends nothing: two of them are no deeper than one."""

    def linear(node: fx.Node) -> bool:
        layer = trace.modules[str(node.target)] if node.op == "call_module" else None
        return isinstance(layer, _LINEAR) or operation_name(node.target) in ("conv1d", "conv2d", "conv3d", "pad")

    nodes = [node for node in trace.nodes[block.start : block.stop] if node.op != "get_attr"]
    return all(linear(node) and len(node.all_input_nodes) == 1 for node in nodes)


def _has_residual(trace: Trace, block: Block) -> bool:
    """Whether the block adds two feature maps."""
    return any(len(set(map(shape, n.all_input_nodes))) == 1 for n in _sums(trace, block))


def _sums(trace: Trace, block: Block) -> Iterator[fx.Node]:
    nodes = trace.nodes[block.start : block.stop]
    return (n for n in nodes if is_sum(n) and all(isinstance(a, fx.Node) for a in n.args))


def _block(trace: Trace, modules: tuple[str, ...], start: int, stop: int, output: fx.Node) -> Block | None:
    nodes = trace.nodes[start:stop]
    inside = set(nodes)
    read = dict.fromkeys(a for n in nodes for a in n.all_input_nodes if a not in inside)
    inputs = tuple(node for node in read if not is_number(node))  # sizes come from where they may, and go there
    escapes = any(user not in inside for n in nodes if n is not output and not is_number(n) for user in n.users)
    if not inputs or output not in inside or escapes or not all(map(shape, (*inputs, output))):
        return None
    layers = sum(_is_weighted(trace, n) for n in nodes)
    cls = class_name(trace.modules[modules[0]])
    return Block(modules, start, stop, inputs, output, cls, layers) if layers else None


def class_name(module: nn.Module) -> str:
    """The module's class; of a wrapper, whose weights all lie in one child of the user's own class, the child's too."""
    name = type(module).__qualname__
    weighted = [child for child in module.children() if any(True for _ in child.parameters())]
    own = any(True for _ in module.parameters(recurse=False))
    if len(weighted) != 1 or own or is_leaf(weighted[0]) or type(weighted[0]) in _CONTAINERS:
        return name
    return f"{name}[{class_name(weighted[0])}]"


def _is_weighted(trace: Trace, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(trace.modules[str(node.target)], (_ConvNd, nn.Linear))
    return node.op == "call_function" and operation_name(node.target) in ("conv1d", "conv2d", "conv3d", "linear")


def _siblings(blocks: Iterable[Block]) -> dict[str, list[Block]]:
    groups: dict[str, list[Block]] = defaultdict(list)
    for block in sorted(blocks, key=lambda b: b.start):
        groups[block.parent].append(block)
    return groups


def _runs(trace: Trace, siblings: list[Block]) -> list[Site]:
    """Maximal runs of neighbours of one class and one way of working, chained or densely connected."""
    runs: list[Site] = []
    for block in siblings:
        last = runs[-1] if runs else None
        if last is not None and last.template.cls == block.cls and not _part(trace, last.template, block):
            before = last.template
            if last.kind == "chain" and _reads(block, before):
                runs[-1] = Site((*last.blocks, block))
                continue
            dense = set(block.inputs) == {*before.inputs, before.output} and shape(block.output) == shape(before.output)
            if dense and (last.kind == "dense" or len(last.blocks) == 1):
                runs[-1] = Site((*last.blocks, block), "dense")
                continue
        runs.append(Site((block,)))
    return runs


def _reads(block: Block, before: Block) -> bool:
    """Whether a block reads the output of another one alone, in each of its calls."""
    outputs = [(call.output,) for call in before.calls]
    return [call.inputs for call in block.calls] == outputs


def _part(trace: Trace, one: Block, other: Block) -> bool:
    """Whether two blocks that keep their shapes are told to work differently (attend in windows, then in a grid)."""
    return one.keeps_shape and other.keeps_shape and flags(trace, one) != flags(trace, other)


def flags(trace: Trace, block: Block) -> dict[str, bool]:
    """The plain flags of a block's own module."""
    attributes = vars(trace.modules[block.path])
    return {k: v for k, v in attributes.items() if isinstance(v, bool) and k != "training"}


def _split(run: Site) -> Iterator[Site]:
    """A chain cut where a block changes the shape; blocks that grow by one number stay together, behind the one that
    opens their stage."""
    if run.kind == "dense":
        yield run
        return
    parts = [(growth, tuple(blocks)) for growth, blocks in groupby(run.blocks, lambda block: block.growth)]
    grows = [growth > 0 and len(blocks) > 1 for growth, blocks in parts]
    for (_, blocks), growing, opens in zip(parts, grows, [*grows[1:], False], strict=True):
        if growing:
            yield Site(blocks, "growing")
            continue
        *sites, last = _cut(blocks)
        yield from sites
        if not opens or len(last.blocks) > 1:
            yield last


def _cut(blocks: tuple[Block, ...]) -> Iterator[Site]:
    start = 0
    for i, block in enumerate(blocks):
        if i and not block.keeps_shape:
            yield _chain(blocks[start:i])
            start = i
    yield _chain(blocks[start:])


def _chain(blocks: tuple[Block, ...]) -> Site:
    return Site(blocks, "gathered" if is_gathered(blocks) else "chain")


def is_gathered(blocks: Sequence[Block]) -> bool:
    """Whether one concatenation reads several blocks, all of them."""
    gathers = [{user for user in block.output.users if is_cat(user)} for block in blocks]
    return len(blocks) > 1 and bool(set.intersection(*gathers))


def _by_hand(trace: Trace, site: Site) -> Site:
    """Gathered blocks that are called one by one: nobody gathers more, so copies go between the last one and that."""
    called = not isinstance(trace.modules[site.template.parent], _CONTAINERS)
    large = site.template.layers > 1 or is_residual(trace, site.template)
    return Site(site.blocks) if site.kind == "gathered" and called and large else site


def is_cat(node: fx.Node) -> bool:
    return operation_name(node.target) in ("cat", "concat", "concatenate")


def _held(sites: Iterable[Site]) -> Iterator[tuple[str, Block]]:
    """(path of a module, block inside it), for every module that holds a block of ``sites``."""
    for block in (b for s in sites for b in s.blocks):
        holder = block.parent
        while holder:
            yield holder, block
            holder = holder.rpartition(".")[0]


def _innermost(chains: list[Site]) -> list[Site]:
    """The outermost of the chains whose blocks hold no chain."""
    holders = {path for path, _ in _held(chains)}
    return _outermost(s for s in chains if not any(b.path in holders for b in s.blocks))


def _outside_known(candidates: list[Site], chains: list[Site]) -> list[Site]:
    """Without the chains inside a block of a class that makes a chain itself elsewhere."""
    known = {s.template.cls for s in _innermost(chains)} - {"Sequential"}
    blocks = {b.path: b.cls for s in candidates for b in s.blocks}
    inside = {b.path for path, b in _held(chains) if blocks.get(path) in known and blocks[path] != b.cls}
    return [s for s in chains if s.template.path not in inside]


def _outside(sites: Iterable[Site], accepted: list[Site]) -> list[Site]:
    """The sites that share no block with an accepted one, at any level."""
    taken = [b for s in accepted for b in s.blocks]
    return [s for s in sites if not any(a.start < b.stop and b.start < a.stop for a in taken for b in s.blocks)]


def _outermost(sites: Iterable[Site]) -> list[Site]:
    accepted: list[Site] = []
    for site in sites:
        accepted += _outside([site], accepted)
    return accepted


def _singles(
    trace: Trace, candidates: list[Site], chains: list[Site], alike: list[Site], accepted: list[Site]
) -> list[Site]:
    """Stages of one block: of a class that is repeated elsewhere, or that occurs twice and wraps nothing, or in a row.

    The stem of such a class is none. A wrapper holds a chain, a block of a class that is repeated elsewhere, or a
    residual block of a class that occurs twice, and is not itself repeated elsewhere; or it is but a container of one
    block of a class of its own, and adds nothing to its input. Without a residual, layers that are alike are a stage
    too, and what holds them is its wrapper.
    """
    known = {s.template.cls for s in accepted}
    alone = [s for s in candidates if len(s.blocks) == 1 and s.kind == "chain"]
    singles = [s for s in alone if s.template.layers > 1]
    residual = [s for s in singles if is_residual(trace, s.template)]
    often = Counter(s.template.cls for s in residual)
    holders = {path for path, _ in _held([*chains, *(s for s in residual if often[s.template.cls] > 1)])}
    wrappers = {(path, b.layers) for path, b in _held(candidates) if b.cls != "Sequential"}
    lone = [
        s
        for s in singles
        if (s.template.path not in holders or s.template.cls in known)
        and ((s.template.path, s.template.layers) not in wrappers or s in residual)
    ]
    stacks = {path for path, _ in _held(alike)}
    lone = [s for s in _outside(lone, accepted) if not _is_gate(s.template) and _chains(trace, s.template)]
    lone = [s for s in lone if not _is_linear(trace, s.template) and not _is_stem(trace, s.template, accepted)]
    holding = {path for path, _ in _held(s for s in lone if s.template.cls in known)}
    lone = [s for s in lone if s.template.path not in holding or s.template.cls in known]
    blocks = [s for s in lone if s.template.path not in stacks or _has_residual(trace, s.template)]
    twice = {cls for cls, times in Counter(s.template.cls for s in blocks).items() if times > 1} - {"Sequential"}
    layers = [s for s in alone if s.template.layers == 1 and not is_leaf(trace.modules[s.template.path])]
    listed = [s for s in [*lone, *_outside(layers, accepted)] if _is_listed(trace, s.template, accepted)]
    return _outermost([*(s for s in lone if s.template.cls in known | twice), *listed])


def _is_stem(trace: Trace, block: Block, accepted: list[Site]) -> bool:
    """Whether the block takes the image and stands on its own, where all stages of its class are held in containers."""
    stages = [s.template.parent for s in accepted if s.template.cls == block.cls]
    held = [isinstance(trace.modules[parent], _CONTAINERS) for parent in (block.parent, *stages)]
    return block.inputs[0].op == "placeholder" and len(held) > 1 and not held[0] and all(held[1:])


def _is_listed(trace: Trace, block: Block, accepted: list[Site]) -> bool:
    """Whether the block has a container of its own, in a row of them (``blocks.0``, ``stage1``) that holds a stage."""

    def row(path: str) -> tuple[str, type]:
        return path.rstrip("0123456789"), type(trace.modules[path])

    numbered = isinstance(trace.modules[block.parent], (nn.Sequential, nn.ModuleList)) and block.parent[-1:].isdigit()
    alone = len(trace.modules[block.parent]._modules) == 1
    return numbered and alone and any(row(s.template.parent) == row(block.parent) for s in accepted)


# --- plain stacks -----------------------------------------------------------------------------------------------------


def _stacks(trace: Trace, units: list[Site]) -> list[Site]:
    """Stages of single layers: modules that hold one convolution, or layers side by side in a Sequential.

    They count only where two equal ones, shape-preserving both, stand in one stage or one container of the net.
    """
    proven = {
        _signature(trace, a)
        for s in units
        for a, b in zip(s.blocks, s.blocks[1:], strict=False)
        if a.keeps_shape and b.keeps_shape and _signature(trace, a) == _signature(trace, b)
    } | {_signature(trace, s.template) for s in units for o in units if s is not o and _same_conv(trace, s, o)}
    return [Site(s.blocks, "stack") for s in units if _signature(trace, s.template) in proven]


def _in_line(trace: Trace, site: Site, blocks: Sequence[Block]) -> bool:
    """Whether a copy put behind the last block of a site would be called: not so in a list that is not a chain."""
    first, last = site.blocks[0], site.template
    siblings = [b for b in blocks if b.parent == first.parent and b not in site.blocks]
    if not siblings or type(trace.modules[first.parent]) is not nn.ModuleList:
        return True
    return any(b.inputs == (last.output,) or first.inputs == (b.output,) for b in siblings)


def _alike(trace: Trace, site: Site) -> bool:
    """Whether all blocks of a site are the same layers, their widths and strides aside."""
    return len({_signature(trace, block) for block in site.blocks}) == 1


def _same_conv(trace: Trace, one: Site, other: Site) -> bool:
    """Whether two stages each end in the same shape-preserving layer."""
    return (
        one.template.keeps_shape
        and other.template.keeps_shape
        and shape(one.template.output)[1] == shape(other.template.output)[1]
        and one.template.parent == other.template.parent
        and _signature(trace, one.template) == _signature(trace, other.template)
        and _leads_to(one.template, other.template)
    )


def _leads_to(one: Block, other: Block) -> bool:
    """Whether ``other`` reads what ``one`` made of the image; parallel layers (a pyramid's) are no stack."""
    ahead, seen = [one.output], {one.output}
    while ahead:
        users = [user for user in ahead.pop().users if user not in seen]
        if other.output in users:
            return True
        seen.update(users)
        ahead += users
    return False


def _signature(trace: Trace, block: Block) -> tuple[object, ...]:
    """What makes two single-layer blocks alike, their widths aside."""
    parts: list[object] = [block.cls]
    for node in trace.nodes[block.start : block.stop]:
        if node.op == "call_module":
            module = trace.modules[str(node.target)]
            parts.append((type(module), getattr(module, "kernel_size", None), getattr(module, "dilation", None)))
    return tuple(parts)


def _flat_runs(trace: Trace) -> Iterator[Site]:
    """Chains of units within one Sequential; a unit is a convolution and the layers up to the next, shape unchanged."""
    run: list[Block] = []
    for unit in _units(trace):
        chained = run and unit.parent == run[-1].parent and _reads(unit, run[-1])
        if run and not chained:
            yield Site(tuple(run))
            run = []
        run.append(unit)
    if run:
        yield Site(tuple(run))


def _units(trace: Trace) -> Iterator[Block]:
    """The units that are called once, or once in each call of their Sequential."""
    calls = _calls(trace)
    times = Counter(str(node.target) for node in trace.nodes if node.op == "call_module")
    found: dict[tuple[str, ...], list[Block]] = defaultdict(list)
    for unit in _called_units(trace):
        found[unit.modules].append(unit)
    for (path, *_), own in found.items():
        alike = len(own) == times[path] and all(_works_alike(trace, own[0], unit) for unit in own)
        if alike and _each_held(calls, path, own):
            yield dataclasses.replace(own[0], again=tuple(own[1:]))


def _called_units(trace: Trace) -> Iterator[Block]:
    start = 0
    paths: list[str] = []
    nodes = trace.nodes
    for i, node in enumerate((*nodes, None)):
        path = str(node.target) if node is not None and node.op == "call_module" else ""
        if paths and not (path and _continues(trace, nodes[i - 1], nodes[i], paths)):
            unit = _block(trace, tuple(paths), start, i, nodes[i - 1])
            if unit is not None:
                yield unit
            paths = []
        if paths:
            paths.append(path)
        elif path and _opens(trace, path):
            start, paths = i, [path]


def _opens(trace: Trace, path: str) -> bool:
    parent = trace.modules[path.rpartition(".")[0]]
    return isinstance(trace.modules[path], _ConvNd) and type(parent) is nn.Sequential


def _continues(trace: Trace, before: fx.Node, node: fx.Node, paths: list[str]) -> bool:
    """Whether ``node`` is a weightless or norm layer beside ``before``, fed by it alone, of the same shape."""
    path = str(node.target)
    return (
        path.rpartition(".")[0] == paths[0].rpartition(".")[0]
        and node.all_input_nodes == [before]
        and len(before.users) == 1
        and not _is_weighted(trace, node)
        and shape(node) == shape(before)
        and not isinstance(trace.modules[path], (nn.MaxPool2d, nn.AvgPool2d))
    )
