"""What a rule works with: symbolic tensors and the context that collects equations, costs and literals.

Every dimension of every parameter and buffer is an unknown with today's size as its hint. A rule reads the symbolic
arguments of one operation, records the equations that the operation imposes, and returns its symbolic result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from .batches import BATCH
from .equations import Equations
from .inputs import Side
from .sources import Attribute, Place, Source
from .symbolic import Poly, Values, as_poly
from .tracing import describe

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "Comparison",
    "Context",
    "Lit",
    "Power",
    "Product",
    "Ratio",
    "Split",
    "Sym",
    "Update",
    "broadcast",
    "constant",
    "hints",
    "is_size",
    "symbolic_tensors",
]


_AXES = "WHD"  # from the last one


@dataclass(frozen=True)
class Sym:
    """A tensor as far as its shape goes."""

    shape: tuple[Poly, ...]


class Lit(int):
    """An integer that stands literally in a node's arguments; ``path`` says where: ``("args", 1, 2)``. ``source`` is
    how it came from attributes of modules, where that is known."""

    path: tuple[str | int, ...]
    source: Source | None

    def __new__(cls, value: int, path: tuple[str | int, ...]) -> Self:
        self = super().__new__(cls, value)
        self.path = path
        self.source = value if isinstance(value, Source) else None
        return self


@dataclass(frozen=True)
class Power:
    """A float: ``base ** exponent``."""

    base: Poly
    exponent: float


@dataclass(frozen=True)
class Ratio:
    """``above / below``, not yet rounded to an integer."""

    above: Poly
    below: Poly


@dataclass(frozen=True)
class Comparison:
    """``left`` compared with ``right``; ``holds`` says of their difference whether it is true."""

    left: Poly
    right: Poly
    holds: Callable[[int], bool]


@dataclass(frozen=True)
class Product:
    """One summand of a cost: the product of ``factors``, spent by ``node``."""

    kind: Literal["macs", "activations"]
    node: fx.Node
    factors: tuple[Poly, ...]


@dataclass(frozen=True)
class Update:
    """A literal of the graph which follows the widths: ``node``'s argument at ``path`` equals ``value``."""

    node: fx.Node
    path: tuple[str | int, ...]
    value: Poly
    source: Source | None


@dataclass(frozen=True)
class Split:
    """``part`` of ``whole``, a channel dimension: what a literal cuts off it or puts beside it, or what is joined."""

    part: Poly
    whole: Poly
    node: fx.Node


@dataclass
class Context:
    """Everything that walking a graph finds out; shared by the walks of several graphs of one model."""

    module: nn.Module
    equations: Equations = field(default_factory=Equations)
    tensors: dict[str, tuple[Poly, ...]] = field(default_factory=dict)
    """Dimensions of each parameter and buffer, under its first name."""
    sides: dict[Side, Poly] = field(default_factory=dict)
    """The unknowns that the sides of the inputs are; inputs of one size share theirs."""
    batch: Poly = field(init=False)
    """How many images a batch has."""
    computed: dict[str, Sym] = field(default_factory=dict)
    """Tensors of layers which a parametrisation computes, by the name under which the layer reads them."""
    producers: dict[str, Poly] = field(default_factory=dict)
    """Module path (or parameter name) of each convolution and linear layer -> its output width."""
    inputs: dict[str, Poly] = field(default_factory=dict)
    """The same layers -> their input width."""
    attributes: dict[tuple[str, str], Any] = field(default_factory=dict)
    """(module path, attribute) -> the polynomial, tuple of them or power that it holds: of torch's layers, and of
    modules that multiply activations."""
    products: list[Product] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    places: dict[Place, Poly] = field(default_factory=dict)
    """Attributes of the model's own modules that are numbers of channels."""
    splits: list[Split] = field(default_factory=list)
    pads: list[Split] = field(default_factory=list)
    joins: list[Split] = field(default_factory=list)
    """What concatenations are made of."""
    contractions: list[tuple[fx.Node, Poly]] = field(default_factory=list)
    """Products of two tensors: (node, the dimension that they are summed over)."""
    reaches: dict[str, tuple[Poly, list[Poly]]] = field(default_factory=dict)
    """Module path of each kernel that slides over channels -> how far it reaches, the channels of each call."""
    read: set[Place] = field(default_factory=set)
    """Attributes of the model's own modules that stand in arguments."""
    factors: list[Poly] = field(default_factory=list)
    """Numbers that the batch is multiplied by: channels that are folded into it, or how many groups of them."""
    counts: dict[fx.Node, Poly] = field(default_factory=dict)
    """Nodes that are rows of numbers from 0 on -> how many, where that depends on the input size."""
    sums: list[tuple[fx.Node, Poly]] = field(default_factory=list)
    """Additions of two tensors of one shape: (node, their channel dimension)."""
    frozen: dict[str, str] = field(default_factory=dict)
    """Where -> why a width had to stay."""
    shared: dict[int, str] = field(default_factory=dict)
    node: fx.Node = None  # type: ignore[assignment]  # set before each rule runs

    def __post_init__(self) -> None:
        self.batch = self.equations.atom("N", BATCH)
        for name, tensor in (*self.module.named_parameters(), *self.module.named_buffers()):
            self.shared[id(tensor)] = name

    @property
    def where(self) -> str:
        return describe(self.node)

    def side(self, side: Side) -> Poly:
        """A side of an input that may grow."""
        axis, own = side
        if side not in self.sides:
            self.sides[side] = self.equations.atom(_AXES[axis], own)
        return self.sides[side]

    def tensor(self, name: str) -> Sym | None:
        """The parameter or buffer ``name`` as unknowns; tied tensors share theirs. None where the slot is empty."""
        if name in self.computed:
            return self.computed[name]
        parent, _, attribute = name.rpartition(".")
        tensor = getattr(self.module.get_submodule(parent), attribute, None)
        if tensor is None:
            return None
        if id(tensor) not in self.shared:  # a constant of the trace
            return constant(tensor)
        name = self.shared[id(tensor)]
        if name not in self.tensors:
            self.tensors[name] = tuple(
                as_poly(size)
                if size == 1 or i >= self._channel_dims(parent, tensor)
                else self.equations.atom(f"{name}:{i}", size, is_width=True)
                for i, size in enumerate(tensor.shape)
            )
        return Sym(self.tensors[name])

    def _channel_dims(self, module: str, tensor: torch.Tensor) -> int:
        """How many leading dimensions may be channels: not those of a kernel, and none of a table of indices."""
        if not tensor.is_floating_point():
            return 0
        return 2 if isinstance(self.module.get_submodule(module), _ConvNd) else tensor.dim()

    def equate(self, left: Poly, right: Poly | int) -> None:
        right = as_poly(right)
        if left is not right:  # mostly it is, and to describe a node takes longer than to compare
            self.equations.equate(left, right, self.where)

    def settle(self) -> None:
        """Decide what the equations leave open, when all are there. A factor of the batch that is no tensor's width by
        itself is a number of groups, and stays."""
        self.equations.retry()
        dims = (self.equations.resolve(dim) for dims in self.tensors.values() for dim in dims)
        widths = {monomial[0] for dim in dims for monomial in dim.terms if len(monomial) == 1}
        for factor in map(self.equations.resolve, self.factors):
            if widths.isdisjoint(factor.atoms()):
                self.equations.freeze(factor, "the batch")
        self.equations.settle()

    def quotient(self, poly: Poly, divisor: Poly | int) -> Poly:
        return self.equations.quotient(poly, as_poly(divisor), f"{self.node.name}/{divisor}", self.where)

    def call(self, function: str, argument: Poly, *parameters: float | None) -> Poly:
        return self.equations.call(function, argument, *parameters)

    def decide(self, condition: Comparison, truth: bool) -> None:
        """``condition`` stays as it is: the model takes another way where it does not."""
        holds = condition.holds if truth else lambda difference: not condition.holds(difference)
        self.equations.decide(condition.left - condition.right, holds, self.where)

    def is_channel(self, poly: Poly) -> bool:
        """Whether ``poly`` depends on a width that may still change."""
        return self.equations.resolve(poly).has_width

    def constant(self, poly: Poly, why: str) -> int:
        """Today's value of ``poly``, which from now on stays."""
        if self.equations.freeze(poly, self.where):
            self.frozen.setdefault(self.where, why)
        return poly.hint

    def kernel(self, sides: tuple[Poly, ...]) -> list[Poly]:
        """The sides of a kernel, which are no channels."""
        for side in sides:
            self.equations.freeze(side)
        return [as_poly(side.hint) for side in sides]

    def literal(self, value: Poly | int, poly: Poly) -> Poly:
        """``value`` in the arguments equals ``poly``; where it is a literal, it will be rewritten.

        Wherever a module's attribute stands for a number of channels, it stands for the same one.
        """
        if isinstance(value, Lit):
            self.updates.append(Update(self.node, value.path, poly, value.source))
            if isinstance(value.source, Attribute) and self.is_channel(poly):
                self.equate(self.places.setdefault(value.source.place, poly), poly)
        else:
            self.equate(as_poly(value), poly)
        return poly

    def evaluate(self, value: Poly | Power | tuple[Poly, ...], values: Values) -> float | tuple[int, ...]:
        """A polynomial, a power of one, or a tuple of them, under ``values``."""
        if isinstance(value, Power):
            return float(self.equations.resolve(value.base).at(values) ** value.exponent)
        if isinstance(value, Poly):
            return self.equations.resolve(value).at(values)
        return tuple(self.equations.resolve(poly).at(values) for poly in value)

    def spend(self, kind: Literal["macs", "activations"], *factors: Poly) -> None:
        self.products.append(Product(kind, self.node, factors))

    def mark_read(self, argument: Any) -> Any:
        """Note the attributes that an argument of a node comes from; returns it."""
        if isinstance(argument, Source):
            self.read.update(attribute.place for attribute in argument.attributes())
        return argument

    def contract(self, left: Poly, right: Poly, *others: Poly) -> None:
        """Two tensors are multiplied and summed over ``left``, which is ``right``; ``others`` is the result's shape."""
        self.equate(left, right)
        self.contractions.append((self.node, left))
        self.spend("macs", *others, left)

    def produce(self, name: str, inputs: Poly, outputs: Poly) -> None:
        """Layer ``name`` turns channels ``inputs`` into channels ``outputs`` of its own choosing."""
        self.producers.setdefault(name, outputs)
        self.inputs.setdefault(name, inputs)


def broadcast(ctx: Context, shapes: Iterable[tuple[Poly, ...]]) -> tuple[Poly, ...]:
    """The shape that torch's broadcasting gives; dimensions that meet are equal, save where one is 1."""
    columns: Mapping[int, list[Poly]] = defaultdict(list)
    for shape in shapes:
        for i, dim in enumerate(reversed(shape)):
            columns[i].append(dim)
    return tuple(_meet(ctx, columns[i]) for i in reversed(range(len(columns))))


def _meet(ctx: Context, dims: list[Poly]) -> Poly:
    known = [dim for dim in dims if dim.constant != 1]
    if not known:
        return as_poly(1)
    first = next((dim for dim in known if dim.hint != 1), known[0])
    for dim in known:
        if dim.hint == first.hint:
            ctx.equate(first, dim)
        else:
            ctx.equate(dim, 1)
    return first


def is_size(value: object) -> bool:
    return isinstance(value, (Poly, int)) and not isinstance(value, bool)


def symbolic_tensors(args: Any) -> list[Sym]:
    """All symbolic tensors in nested arguments, in order."""
    if isinstance(args, Sym):
        return [args]
    if isinstance(args, Mapping):
        args = args.values()
    elif not isinstance(args, (tuple, list)):
        return []
    return [sym for value in args for sym in symbolic_tensors(value)]


def constant(tensor: torch.Tensor) -> Sym:
    """A tensor whose sizes do not move."""
    return Sym(tuple(map(as_poly, tensor.shape)))


def hints(value: Any) -> Any:
    """Today's sizes of a symbolic value, nested as it is."""
    if isinstance(value, Sym):
        return tuple(dim.hint for dim in value.shape)
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, Poly):
        return value.hint
    if isinstance(value, (tuple, list)):
        return tuple(hints(v) for v in value)
    return value
