"""Where the baseline's channels are in the scaled network: followed through its operations, node by node.

The scaled network is walked beside the baseline (:func:`cnnscale.rewriting.align`). Each tensor in it is, along one
axis, a choice of the channels of its tensor in the baseline. A layer that mixes channels takes any choice, and chooses
anew (:mod:`cnnscale.orders`); what its weights must be follows from both choices. Every other operation is run on
random numbers, in both networks, and its channels are recognised in the result: so concatenation, chunks, shuffles and
flattening need no rules, and an operation that makes something else of repeated channels (a mean over channels of which
some occur twice) is noticed.

A copied block must hand on its input (:mod:`cnnscale.identities`): there channels are recognised as those of the input.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, fx, nn

from .analysis import Analysis
from .comparison import tensors_of
from .costs import multiplicity
from .identities import Goal, Obstacle, goals_of
from .orders import Orders
from .recipes import Delta, Filled, Gathered, Mixed, Recipe
from .recognition import NEW, gathered, recognised, spread
from .rewriting import Aligned
from .running import has_tensors, operands, run
from .samples import Samples, narrow
from .shapes import Sym
from .stages import Block, is_sum
from .surgery import Origin, split_path
from .tracing import Trace, describe
from .weighted import Weighted, is_weight, weighted

__all__ = ["Channels", "Followed", "follow_channels"]


@dataclass(frozen=True)
class Channels:
    """A tensor of the scaled network: ``index`` along ``axis`` of the baseline's tensor ``of``; all of it for None."""

    of: fx.Node
    axis: int = 0
    index: Tensor | None = None

    def of_same_size(self, count: int) -> Channels:
        """The same, without an index that changes nothing of ``count`` channels."""
        same = self.index is not None and self.index.equal(torch.arange(count))
        return Channels(self.of) if same else self

    def along(self, axis: int, count: int) -> Tensor | None:
        """The index along ``axis``, which has ``count`` channels in the baseline; None if it is along another one."""
        if self.index is None:
            return torch.arange(count)
        return self.index if self.axis == axis else None


class Other(Enum):
    """A tensor that is none of the baseline's."""

    ZERO = "zero"
    FREE = "new"


@dataclass(frozen=True)
class Pending:
    """A tensor whose channels lie on no single axis, as within a shuffle: they are looked for after the next step."""

    of: fx.Node
    obstacle: Obstacle


Value = Channels | Other | Pending | tuple[Any, ...] | None
"""None for what is no tensor."""


@dataclass(frozen=True)
class Followed:
    """What was found out about one scaled network."""

    recipes: dict[str, Recipe]
    """Tensor of the scaled network -> how it is made; those without a recipe are drawn."""
    values: dict[fx.Node, Value]
    samples: Samples
    notes: tuple[str, ...]
    """Where the baseline's channels could not be followed, and why."""


def follow_channels(analysis: Analysis, aligned: Aligned, orders: Orders) -> Followed:
    """Follow the channels, and say how each tensor of the scaled network is made."""
    walk = _Walk(analysis, aligned, orders)
    for node in aligned.trace.nodes:
        if node.op != "output":
            walk.env[node] = walk.value(node)
    walk.check_output()
    walk.take_the_rest()
    return Followed(walk.recipes, walk.env, walk.samples, tuple(walk.notes))


@dataclass
class _Walk:
    analysis: Analysis
    aligned: Aligned
    orders: Orders
    env: dict[fx.Node, Value] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        trace, own = self.analysis.trace, self.aligned.trace
        self.samples = Samples(trace)
        self.old, self.new = tensors_of(trace.module), tensors_of(own.module)
        real = (name for name in self.old if not self._origin(name).copy)
        self.by_source = {self._in_baseline(name): self.old[name] for name in real}
        self.names = {id(tensor): name for name, tensor in reversed(self.new.items())}
        self.goals: dict[Block, dict[fx.Node, Goal] | Obstacle] = {}
        for s, b, block in self.analysis.block_calls():
            if not multiplicity(self.analysis.stages[s], b, self.aligned.repeats[s]):
                self.samples.instead[block.output] = block.inputs[0]

    # --- one node -----------------------------------------------------------------------------------------------------

    def value(self, node: fx.Node) -> Value:
        """What ``node`` of the scaled network is; the recipes of the tensors that it reads are noted."""
        source, number = self.aligned.sources[node]
        if node.op == "placeholder":
            return Channels(source)
        if node.op == "call_module" and isinstance(self.aligned.trace.modules[str(node.target)], nn.Identity):
            return self.env[node.all_input_nodes[0]]
        if not has_tensors(node.meta.get("val")):
            return None
        try:
            if self.analysis.is_copied(source, number):
                return self._copied(node, source)
            return self._original(node, source)
        except Obstacle as obstacle:
            self.notes.append(f"{describe(obstacle.node)}: {obstacle.why}")
            return self._guessed(node, source)

    def _original(self, node: fx.Node, source: fx.Node) -> Value:
        if is_sum(node) and not is_sum(source):
            raise Obstacle(node, "its class adds a residual where, as here, widths have become equal")
        layer, like = weighted(node, self.aligned.trace.modules), weighted(source, self.analysis.trace.modules)
        if node.op == "get_attr":
            return self._attribute(node, source)
        taken = self._several(node)
        if taken is not None:
            return replace(taken, of=source) if isinstance(taken, Channels) else taken
        if layer is not None and like is not None and layer.kind == "mixes":
            mixed = self._mixed(node, source, layer, like)
            if mixed is not None:
                return mixed
        return self._seen(node, source, layer, like)

    def _several(self, node: fx.Node) -> Value:
        """One of several results that were recognised together."""
        several = self.env.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        at: Any = node.args[1] if len(node.args) > 1 else None
        return several[at] if isinstance(several, tuple) and isinstance(at, int) else None

    # --- tensors that the network reads as such -----------------------------------------------------------------------

    def _attribute(self, node: fx.Node, source: fx.Node) -> Value:
        if all(_is_layers_weight(node, user) for user in node.users if has_tensors(user.meta.get("val"))):
            return Other.FREE  # the layer says what it must be
        name, value = str(source.target), source.meta["val"]
        if not value.is_floating_point():
            real = tensors_of(self.analysis.baseline).get(self._in_baseline(name))
            if real is not None and real.shape == node.meta["val"].shape:
                self.samples.fixed[source] = real.detach().cpu()
        axis, index = self._chosen(node, name)
        self._note(str(node.target), Gathered(self._in_baseline(name), axis, index))
        return Channels(source, axis, index)

    def _chosen(self, node: fx.Node, name: str) -> tuple[int, Tensor | None]:
        """The order of the one axis of a parameter that is a width.

        Raises:
            Obstacle: several are.
        """
        dims = self._dims(name)
        orders = [self.orders.of(dim) for dim in dims]
        moved = [i for i, (o, dim) in enumerate(zip(orders, dims, strict=True)) if not o.equal(torch.arange(dim.hint))]
        if len(moved) > 1:
            raise Obstacle(node, "several of its dimensions change, and what is computed from it would change too")
        return (moved[0], orders[moved[0]]) if moved else (0, None)

    def _dims(self, name: str) -> tuple[Any, ...]:
        shared = self.analysis.ctx.shared.get(id(self.old.get(name)))
        return self.analysis.ctx.tensors.get(shared, ()) if shared is not None else ()

    # --- layers that mix channels -------------------------------------------------------------------------------------

    def _mixed(self, node: fx.Node, source: fx.Node, layer: Weighted, like: Weighted) -> Value:
        """A layer whose weight shares out what each channel had to the channels that repeat it.

        None where it works along another axis than that of the channels.
        """
        given = self.env[layer.source]
        count = like.source.meta["val"].shape[like.axis]
        inputs = given.along(layer.axis, count) if isinstance(given, Channels) else None
        if inputs is None:
            if isinstance(given, Channels):
                return None
            if isinstance(given, Pending):
                raise given.obstacle
            raise Obstacle(node, "nothing that the baseline knows reaches it")
        weight, old = self.new[layer.tensors["weight"]], self.old[like.tensors["weight"]]
        if weight.shape[2:] != old.shape[2:]:
            raise Obstacle(node, f"its kernel changes from {tuple(old.shape[2:])} to {tuple(weight.shape[2:])}")
        takes = weight.shape[0] if layer.transposed else weight.shape[1] * layer.groups
        if len(inputs) != takes:
            raise Obstacle(node, f"what it takes changes from {count} to {takes} with the resolution")
        outputs = old.shape[1] * like.groups if like.transposed else old.shape[0]
        new_outputs = weight.shape[1] * layer.groups if layer.transposed else weight.shape[0]
        columns, group = self._columns(node, inputs, count, layer, like)
        rows = self._rows(source, like, outputs, new_outputs, group)
        self._note(
            layer.tensors["weight"],
            Mixed(self._in_baseline(like.tensors["weight"]), rows, columns, layer.transposed, like.groups),
        )
        if "bias" in layer.tensors:
            self._note(layer.tensors["bias"], Gathered(self._in_baseline(like.tensors["bias"]), 0, rows))
        return Channels(source, layer.axis, rows).of_same_size(outputs)

    def _columns(
        self, node: fx.Node, inputs: Tensor, count: int, layer: Weighted, like: Weighted
    ) -> tuple[Tensor, Tensor]:
        """Which input of its group each input repeats, and the group of the baseline that each group repeats.

        Raises:
            Obstacle: a group has inputs of several groups, or a channel of the baseline does not arrive.
        """
        size = count // like.groups
        inputs = inputs.reshape(layer.groups, -1)
        owner = torch.where(inputs == NEW, NEW, torch.div(inputs, size, rounding_mode="floor"))
        group = owner.amax(1)
        if ((owner != group[:, None]) & (owner != NEW)).any() or (group == NEW).any():
            raise Obstacle(node, "a group has channels of several of the baseline's groups")
        columns = torch.where(inputs == NEW, NEW, inputs - group[:, None] * size)
        arrived = torch.zeros(layer.groups, size + 1, dtype=torch.bool).scatter(1, columns + 1, value=True)[:, 1:]
        silent = self._silent(like.source, like.axis, count).reshape(like.groups, size)[group]
        if not (arrived | silent).all():
            raise Obstacle(node, "not all channels of the baseline arrive there")
        return columns, group

    def _silent(self, node: fx.Node, axis: int, count: int) -> Tensor:
        """Which of a node's channels are always zero."""
        on, which = self.samples.silent.get(self.samples.source(node), (axis, torch.zeros(count, dtype=torch.bool)))
        return which if on == axis else torch.zeros(count, dtype=torch.bool)

    def _rows(self, source: fx.Node, like: Weighted, outputs: int, new_outputs: int, group: Tensor) -> Tensor:
        """The outputs in the layer's own order or that of their width; where that leaves a group, in order within each
        group."""
        dims = self._dims(like.tensors["weight"])
        width = dims[1] * like.groups if like.transposed else dims[0]
        order = self.orders.own[source] if source in self.orders.own else self.orders.of(width)
        size, new_size = outputs // like.groups, new_outputs // len(group)
        within = spread(size, new_size) if new_size >= size else torch.arange(new_size)
        rows = order if len(order) == new_outputs else spread(outputs, new_outputs)
        apart = torch.div(rows, size, rounding_mode="floor") != group.repeat_interleave(new_size)
        return rows if not (apart & (rows != NEW)).any() else (group[:, None] * size + within).flatten()

    # --- everything else ----------------------------------------------------------------------------------------------

    def _seen(self, node: fx.Node, source: fx.Node, layer: Weighted | None, like: Weighted | None) -> Value:
        """The channels of an operation's result, as they are seen when it is run."""
        inputs = [self.env[each] for each in operands(node)]
        if layer is not None and like is not None:
            self._fit(node, layer, like)
            given = self.env[layer.source]
            if layer.kind == "scales" and isinstance(given, Channels):
                return replace(given, of=source)
        same = all(map(_is_whole, inputs))
        if inputs and same and _shapes(node) == _shapes(source):
            return _whole(source)
        if not inputs and not _reads_tensors(node):
            return self._constant(node, source)
        known = self._run(source, self.analysis.trace, self.samples.of, like, new=False)
        found = self._run(node, self.aligned.trace, self._sample, layer, new=True)
        try:
            return self._recognised(node, found, known, source)
        except Obstacle as obstacle:
            if len(inputs) > 1 or layer is not None:
                raise
            self.samples.pending.add(source)
            return Pending(source, _first(inputs, obstacle))

    def _constant(self, node: fx.Node, source: fx.Node) -> Value:
        found, known = (run(each, self.analysis.trace.modules, lambda n: n.meta["val"], {}) for each in (node, source))
        if not isinstance(found, Tensor) or found.is_meta or found.shape != known.shape or not found.equal(known):
            raise Obstacle(node, "it depends on sizes that change")
        self.samples.fixed[source] = known
        return Channels(source)

    def _fit(self, node: fx.Node, layer: Weighted, like: Weighted) -> None:
        """The tensors of a layer have a number for each of its input's channels, or stay."""
        given = self.env[layer.source]
        for role, name in layer.tensors.items():
            old, new = self.old[like.tensors[role]], self.new[name]
            index, axis = None, 0
            if isinstance(given, Channels) and given.index is not None:
                count = like.source.meta["val"].shape[given.axis]
                pairs = list(zip(old.shape, new.shape, strict=True))
                at = [i for i, pair in enumerate(pairs) if pair == (count, len(given.index))]
                if len(at) == 1:
                    axis, index = at[0], given.index
            if index is None and old.shape != new.shape:
                raise Obstacle(node, f"its {role} changes from {tuple(old.shape)} to {tuple(new.shape)}")
            self._note(name, Gathered(self._in_baseline(like.tensors[role]), axis, index))

    def _run(self, node: fx.Node, trace: Trace, value_of: Any, layer: Weighted | None, *, new: bool) -> Any:
        tensors = {role: self._held(name, new=new) for role, name in layer.tensors.items()} if layer else {}
        try:
            return run(node, trace.modules, value_of, tensors)
        except Obstacle:
            raise
        except Exception as error:  # an operation that does not run alone, or on these numbers
            raise Obstacle(node, f"it does not run on random numbers ({type(error).__name__}: {error})") from error

    def _held(self, name: str, *, new: bool) -> Tensor:
        """Numbers for a tensor of a layer; the scaled layer's are those of the baseline's."""
        tensor = self.new[name] if new else self.old[name]
        if not tensor.is_floating_point():
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        if not new:
            return narrow(tensor.shape, crc32(self._in_baseline(name).encode()))
        recipe = self.recipes[self.names[id(tensor)]]
        assert isinstance(recipe, Gathered)
        sample = narrow(self.by_source[recipe.source].shape, crc32(recipe.source.encode()))
        return sample if recipe.index is None else gathered(sample, recipe.axis, recipe.index)

    def _sample(self, node: fx.Node) -> Any:
        return self._with(node, self.samples.of)

    def _with(self, node: fx.Node, numbers: Any) -> Any:
        """The value of a node of the scaled network, where ``numbers`` are those of the baseline."""
        value = self.env.get(node)
        shape = node.meta["val"].shape if isinstance(node.meta.get("val"), Tensor) else ()
        if isinstance(value, Channels):
            sample = numbers(value.of)
            return sample if value.index is None else gathered(sample, value.axis, value.index)
        if isinstance(value, Other):
            return torch.full(shape, 0.0 if value is Other.ZERO else torch.nan, dtype=torch.float64)
        if isinstance(value, tuple):
            raise Obstacle(node, "its several results are read as one")
        if isinstance(value, Pending):
            if len(operands(node)) > 1:
                raise value.obstacle
            return self._run(node, self.aligned.trace, lambda each: self._with(each, numbers), None, new=True)
        return node.meta.get("val")

    def _recognised(self, node: fx.Node, found: Any, known: Any, source: fx.Node) -> Value:
        if isinstance(found, (tuple, list)):
            return tuple(self._recognised(node, f, k, source) for f, k in zip(found, known, strict=True))
        if not isinstance(found, Tensor):
            return None
        hit = recognised(found, known)
        if hit is None:
            raise Obstacle(node, "what it makes of the repeated channels is not what it makes of the baseline's")
        axis, index = hit
        rows = known.movedim(axis, 0).reshape(known.shape[axis] if known.dim() else 1, -1) == 0
        if rows.all(1).any() and not rows.all():
            self.samples.silent[source] = axis, rows.all(1)
        return Channels(source, axis, index).of_same_size(known.shape[axis] if known.dim() else 1)

    # --- copied blocks ------------------------------------------------------------------------------------------------

    def _copied(self, node: fx.Node, source: fx.Node) -> Value:
        """A node of a block that hands on its input, as its goal says."""
        goal = self._goals(source).get(source)
        layer = weighted(node, self.aligned.trace.modules)
        if goal is None:
            return Other.FREE
        if goal == "zero":
            silenced = [layer.tensors[role] for role in layer.silenced] if layer is not None else []
            for name in [str(node.target)] if is_weight(node) else silenced:
                self._note(name, Filled(0.0))
            return Other.ZERO
        value = self._carried(node, layer)
        if isinstance(value, Channels) and self.analysis.is_copied(source, 0):
            self.samples.instead.setdefault(source, value.of)
        return value

    def _goals(self, source: fx.Node) -> dict[fx.Node, Goal]:
        """The goals of the block of ``source``. One whose output is only concatenated with others' may be new.

        Raises:
            Obstacle: the block cannot hand on its input.
        """
        s, block = self.analysis.owners[source]
        stage = self.analysis.stages[s]
        if block not in self.goals:
            try:
                self.goals[block] = {} if stage.site.kind == "dense" else goals_of(block, self.analysis.trace.modules)
            except Obstacle as obstacle:
                self.goals[block] = {} if stage.site.kind == "gathered" else obstacle
        goals = self.goals[block]
        if isinstance(goals, Obstacle):
            raise goals
        return goals

    def _carried(self, node: fx.Node, layer: Weighted | None) -> Value:
        several = self._several(node)
        if several is not None:
            return several
        carried = [given for given in map(self.env.get, operands(node)) if isinstance(given, (Channels, Pending))]
        if not carried or len({given.of for given in carried}) > 1:
            raise Obstacle(node, "the block's input does not reach it whole")
        if layer is not None:
            return self._undone(node, layer, carried[0])
        found = self._run(node, self.aligned.trace, lambda each: self._with(each, self.samples.wide), None, new=True)
        known = self.samples.wide(carried[0].of)
        try:
            if isinstance(found, (tuple, list)):
                return tuple(self._as_input(node, each, known, carried[0].of) for each in found)
            return self._as_input(node, found, known, carried[0].of)
        except Obstacle as obstacle:
            if len(operands(node)) > 1 or found.dim() == known.dim():
                raise
            return Pending(carried[0].of, _first(carried, obstacle))

    def _as_input(self, node: fx.Node, found: Tensor, known: Tensor, of: fx.Node) -> Value:
        hit = recognised(found, known)
        if hit is None:
            raise Obstacle(node, "it changes what the block before hands on, so a copy of the block is no identity")
        return Channels(of, *hit).of_same_size(known.shape[hit[0]])

    def _undone(self, node: fx.Node, layer: Weighted, carried: Channels | Pending) -> Value:
        """A layer that hands on its input."""
        if isinstance(carried, Pending):
            raise carried.obstacle
        if layer.kind == "mixes":
            return self._delta(node, layer, carried)
        for role in layer.tensors.keys() & layer.undone.keys():
            self._note(layer.tensors[role], Filled(layer.undone[role]))
        return carried

    def _delta(self, node: fx.Node, layer: Weighted, carried: Channels) -> Value:
        """A layer that hands on its inputs one by one."""
        weight = self.new[layer.tensors["weight"]]
        inputs = carried.along(layer.axis, carried.of.meta["val"].shape[layer.axis])
        if layer.tap is None or inputs is None or weight.shape[0] < len(inputs):
            raise Obstacle(node, "it cannot hand on all its channels as they are")
        size, new_size = weight.shape[1], weight.shape[0] // layer.groups
        columns = spread(size, new_size).repeat(layer.groups)
        index = inputs[torch.arange(layer.groups).repeat_interleave(new_size) * size + columns]
        self._note(layer.tensors["weight"], Delta(columns, layer.tap))
        if "bias" in layer.tensors:
            self._note(layer.tensors["bias"], Filled(0.0))
        return Channels(carried.of, layer.axis, index).of_same_size(carried.of.meta["val"].shape[layer.axis])

    # --- where channels are not followed ------------------------------------------------------------------------------

    def _guessed(self, node: fx.Node, source: fx.Node) -> Value:
        """The channels in the order of their width."""
        if isinstance(node.meta["val"], (tuple, list)):
            return tuple(Other.FREE for _ in node.meta["val"])
        layer, like = weighted(node, self.aligned.trace.modules), weighted(source, self.analysis.trace.modules)
        if layer is not None and like is not None and not self.analysis.is_copied(*self.aligned.sources[node]):
            for role, name in layer.tensors.items():
                self._guess(name, like.tensors[role], layer.groups)
        value = self.analysis.values.get(source)
        orders = [self.orders.of(dim) for dim in value.shape] if isinstance(value, Sym) else []
        moved = [i for i, o in enumerate(orders) if not o.equal(torch.arange(source.meta["val"].shape[i]))]
        if tuple(map(len, orders)) != tuple(node.meta["val"].shape) or len(moved) > 1:
            return Other.FREE
        return Channels(source, moved[0], orders[moved[0]]) if moved else Channels(source)

    def _guess(self, name: str, like: str, groups: int) -> None:
        """A recipe by the widths of a tensor alone."""
        if self.names[id(self.new[name])] in self.recipes:
            return
        orders = [self.orders.of(dim) for dim in self._dims(like)[:2]]
        old, new, source = self.old[like], self.new[name], self._in_baseline(like)
        if old.shape == new.shape:
            self._note(name, Gathered(source))
        elif len(orders) == 2 and groups == 1 and tuple(map(len, orders)) == tuple(new.shape[:2]):
            self._note(name, Mixed(source, orders[0], orders[1][None]))
        elif orders and len(orders[0]) == new.shape[0] and old.shape[1:] == new.shape[1:]:
            self._note(name, Gathered(source, 0, orders[0]))

    def check_output(self) -> None:
        """What the network returns must be the baseline's as it is."""
        output = next(node for node in reversed(self.aligned.trace.nodes) if node.op == "output")
        for node in operands(output):
            value = self.env[node]
            if not _is_whole(value):
                why = value.obstacle.why if isinstance(value, Pending) else "it is not the baseline's as it is"
                self.notes.append(f"{describe(node)}, an output: {why}")

    def take_the_rest(self) -> None:
        """Tensors that eval mode does not read (auxiliary heads) go by their widths alone."""
        paths = {origin: path for path, origin in self.aligned.origins.items()}
        for name in self.old:
            origin = self._origin(name)
            path = paths.get(origin)
            own = f"{path}.{split_path(name)[1]}".lstrip(".")
            if not origin.copy and path is not None and own in self.new:
                groups = getattr(self.aligned.trace.modules[path], "groups", 1)
                self._guess(own, name, groups if isinstance(groups, int) else 1)

    # --- names --------------------------------------------------------------------------------------------------------

    def _origin(self, name: str) -> Origin:
        """Where the layer of a tensor of the extended baseline comes from."""
        path, _ = split_path(name)
        return self.analysis.origins.get(path, Origin(path, 0))

    def _in_baseline(self, name: str) -> str:
        """The name that a tensor of the extended baseline has in the baseline."""
        return f"{self.analysis.known(self._origin(name)).path}.{split_path(name)[1]}".lstrip(".")

    def _note(self, name: str, recipe: Recipe) -> None:
        """Enter a recipe.

        Raises:
            Obstacle: the tensor is used twice, and would have to be two.
        """
        own = self.names[id(self.new[name])]
        known = self.recipes.setdefault(own, recipe)
        if not _agree(known, recipe):
            raise Obstacle(self._reader(name), "it is called several times, and its channels differ between the calls")

    def _reader(self, name: str) -> fx.Node:
        parents = (name, split_path(name)[0])
        return next(node for node in reversed(self.aligned.trace.nodes) if str(node.target) in parents)


def _reads_tensors(node: fx.Node) -> bool:
    return any(has_tensors(each.meta.get("val")) for each in node.all_input_nodes)


def _shapes(node: fx.Node) -> Any:
    """The shapes of a node's result, nested as it is."""

    def shapes(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return [shapes(each) for each in value]
        return tuple(value.shape) if isinstance(value, Tensor) else ()

    return shapes(node.meta.get("val"))


def _is_whole(value: Value) -> bool:
    """Whether a value is that of the baseline as it is."""
    if isinstance(value, tuple):
        return all(map(_is_whole, value))
    return isinstance(value, Channels) and value.index is None


def _first(inputs: Iterable[Value], obstacle: Obstacle) -> Obstacle:
    """The obstacle at which channels were lost first."""
    return next((given.obstacle for given in inputs if isinstance(given, Pending)), obstacle)


def _whole(source: fx.Node) -> Value:
    value = source.meta.get("val")
    return tuple(Channels(source) for _ in value) if isinstance(value, (tuple, list)) else Channels(source)


def _is_layers_weight(node: fx.Node, user: fx.Node) -> bool:
    """Whether ``user`` is a functional layer, and ``node`` its weight or bias."""
    layer = weighted(user, {}) if user.op == "call_function" else None
    return layer is not None and str(node.target) in layer.tensors.values()


def _agree(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes are the same."""
    if type(one) is not type(other):
        return False
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return all(a.equal(b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or a == b for a, b in pairs)
