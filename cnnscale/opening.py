"""Single-block stages: from a block that changes its shape, the block that its author would put behind it.

The copy reads what the block writes. It has stride 1, in = out, inner widths derived anew, no projection, and the
residual that its class adds for equal shapes. The class is not known, so how it does that is learnt from
(1) an instance elsewhere in the net which keeps its shape, or else (2) by changing one plain attribute or removing one
submodule at a time and tracing which change makes the input reach a sum.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from .analysis import Analysis
from .batches import example_batch
from .copying import meta_copy
from .derivation import Derived
from .errors import CnnScaleError
from .inference import infer
from .kernels import KernelRules, follow_kernels, kernel_rules
from .ops import replaced
from .scales import follow_contractions
from .shapes import Context
from .shortcuts import OnMeta
from .sources import solve
from .stages import Block, is_sum, shape
from .surgery import Borrowed, add_children, resize, write_attribute, write_literal
from .symbolic import Values
from .tracing import Trace, caller, trace
from .widths import groups

__all__ = ["Opening", "donor_for", "keeps_shape", "openings", "residual_flags", "resize_ends", "unstride"]

_SMALL = 8  # numbers up to this one are strides, kernels, heads
Rules: TypeAlias = Mapping[str, Derived | None]
"""Layer path -> how its width derives."""


@dataclass(frozen=True)
class Opening:
    """The modules to put behind ``block``, in the places of its own; none where there is an ``obstacle``."""

    block: Block
    modules: tuple[nn.Module, ...] = ()
    obstacle: str = ""
    borrowed: tuple[Borrowed, ...] = ()
    """The children that the block lacks."""


def openings(analysis: Analysis) -> list[Opening]:
    """An opening for every stage whose last block changes its shape."""
    sites = [stage.site for stage in analysis.stages]
    keeping = [b for site in sites for b in site.blocks if b.keeps_shape]
    rules = {path: group.derived for group in groups(analysis, divisor=8) for path in group.layers}
    kernels = kernel_rules(analysis.ctx)
    blocks = [site.template for site in sites if not site.can_repeat]
    return [
        Opening(block, obstacle="its single block writes the network's output")
        if _is_head(analysis, block)
        else _open(analysis, block, keeping, rules, kernels)
        for block in blocks
    ]


def _is_head(analysis: Analysis, block: Block) -> bool:
    """Whether the block's output has no width of its own: its channels are classes, not features."""
    channels = analysis.channels(block.output)
    return channels is not None and not channels.has_width


def donor_for(block: Block, root: nn.Module, keeping: Iterable[Block]) -> Block | None:
    """Of the blocks that keep their shape, that of the same class whose attributes are most like the block's."""
    if len(block.modules) > 1:
        return None
    mine = _names(root.get_submodule(block.path))
    donors = [b for b in keeping if b.cls == block.cls and b.path != block.path]
    return min(donors, key=lambda donor: len(mine ^ _names(root.get_submodule(donor.path))), default=None)


def _names(module: nn.Module) -> set[str]:
    return {*vars(module), *module._modules}


def _open(analysis: Analysis, block: Block, keeping: Iterable[Block], rules: Rules, kernels: KernelRules) -> Opening:
    root = analysis.trace.module
    modules = [meta_copy(root.get_submodule(path)) for path in block.modules]
    whole = modules[0] if len(modules) == 1 else nn.Sequential(*modules)
    unstride(whole)
    try:
        _widen_input(block, whole, rules, kernels)
    except CnnScaleError as error:
        return Opening(block, obstacle=f"its single block changes the shape and cannot be made to keep it: {error}")
    donor, size = donor_for(block, root, keeping), shape(block.output)[1:]
    whole_donor = root.get_submodule(donor.path) if donor is not None else None
    names = _absent(whole_donor, whole) if whole_donor is not None else []
    if donor is not None and names:
        completed = _completed(whole, root, donor, names, size)
        if completed is not None:
            children = tuple(Borrowed(f"{block.path}.{name}", f"{donor.path}.{name}") for name in names)
            return Opening(block, (completed,), borrowed=children)
    best = _best(_variants(whole, whole_donor), size)
    if best is None:
        return Opening(block, obstacle="its single block changes the shape, and no variant of its class keeps it")
    return Opening(block, (best,) if len(modules) == 1 else tuple(best.children()))


def _best(variants: Iterable[nn.Module], size: tuple[int, ...]) -> nn.Module | None:
    """Of the variants that keep the shape and train, the first whose input reaches a sum, or else the first."""
    fitting = None
    for variant in variants:
        reaches = keeps_shape(variant, size)
        if reaches is None or (fitting is not None and not reaches) or not _trains(variant, size):
            continue
        if reaches:
            return variant
        fitting = variant
    return fitting


def unstride(module: nn.Module) -> None:
    """Stride 1 in every convolution; a pooling that only strides becomes an identity."""
    for child in module.modules():
        stride = getattr(child, "stride", None)
        if isinstance(child, _ConvNd):
            child.stride = (1,) * len(child.stride)
        elif isinstance(child, (nn.MaxPool2d, nn.AvgPool2d, nn.MaxPool1d, nn.AvgPool1d)) and stride not in (1, (1, 1)):
            child.stride = 1
            if child.kernel_size in (stride, 2, (2, 2)):
                child.kernel_size, child.padding = 1, 0


def _widen_input(block: Block, module: nn.Module, rules: Rules, kernels: KernelRules) -> None:
    """Give ``module`` as many input channels as it has output channels, and derive its inner widths from them.

    It is read at the sides that it will see, those that the block hands on: tables of places are made for these.
    """
    after, *sides = shape(block.output)[1:]
    before = (shape(block.inputs[0])[1], *sides)

    def inner(path: str) -> Derived | None:
        return rules.get(_full_path(block, path))

    local = resize_ends(module, before, after, inner, kernels)
    for name, value in vars(module).items():  # the block's own number of input channels, which only the copy may read
        unread = not any(place[:2] == ("", name) for place in local.read)
        if type(value) is int and value == before[0] > _SMALL and unread:
            setattr(module, name, after)


def resize_ends(
    module: nn.Module,
    size: Sequence[int],
    channels: int,
    rule: Callable[[str], Derived | None] = lambda path: None,
    kernels: KernelRules | None = None,
) -> Context:
    """Give ``module``, which runs on inputs of ``size``, so many input and output channels, and derive its inner widths
    by the ``rule`` for each layer's path; those without one stay. Returns what was found out about the module.

    Raises:
        CnnScaleError: alone, the module cannot be read, has several outputs, or a width would fall below 1.
    """
    inner = trace(module, tuple(size))
    local = Context(module)
    first = local.equations.atom("in", size[0], is_width=True)
    values = infer(local, inner, {inner.nodes[0].name: lambda x: replaced(x, 1, first)}, free=True)
    output = next(n for n in reversed(inner.nodes) if n.op == "output").args[0]
    if not isinstance(output, fx.Node):
        raise CnnScaleError("alone, it has several outputs")
    local.settle()
    follow_contractions(local)
    follow_kernels(local, kernels or {})
    local.equations.settle()
    result = values[output]
    numbers: Values = {}
    for poly in (first, result.shape[1]):
        single = local.equations.resolve(poly).single()
        if single is not None:
            numbers[single[1]] = channels // single[0]
    for path, poly in local.producers.items():
        single, derived = local.equations.resolve(poly).single(), rule(path)
        if single is None or single[1] in numbers or derived is None:
            continue
        base = channels if derived.base != "own input" else local.equations.resolve(local.inputs[path]).at(numbers)
        numbers[single[1]] = max(1, derived.width(base) // single[0])
    _apply(module, local, numbers)
    return local


def _full_path(block: Block, path: str) -> str:
    """The path in the net of a layer within the block."""
    if len(block.modules) == 1:
        return f"{block.path}.{path}" if path else block.path
    first, _, rest = path.partition(".")
    return f"{block.modules[int(first)]}.{rest}" if rest else block.modules[int(first)]


def _apply(module: nn.Module, local: Context, numbers: Values) -> None:
    shapes = {name: tuple(local.equations.resolve(d).at(numbers) for d in dims) for name, dims in local.tensors.items()}
    if any(size < 1 for dims in shapes.values() for size in dims):
        raise CnnScaleError("a width would fall below 1")
    resize(module, shapes)
    for (path, name), value in local.attributes.items():
        setattr(module.get_submodule(path), name, local.evaluate(value, numbers))
    solved = []
    for update in local.updates:
        new = local.equations.resolve(update.value).at(numbers)
        if update.source is not None:
            solved.append((update.source, new))
        else:
            write_literal(module.get_submodule(caller(update.node)), update.value.hint, new)
    for place, value in solve(solved).items():
        write_attribute(module.get_submodule(place.module), place, value)


def _completed(
    module: nn.Module, root: nn.Module, donor: Block, names: Sequence[str], size: tuple[int, ...]
) -> nn.Module | None:
    """``module`` like the donor, with the children ``names`` that only the donor has (the norm of an input that is
    added, say), at the width of ``size``; None where they do not fit."""
    like = root.get_submodule(donor.path)
    resized = meta_copy(like)
    try:
        resize_ends(resized, shape(donor.inputs[0])[1:], size[0])
    except CnnScaleError:
        return None
    variant = _like(module, like, _absent(module, like))
    add_children(variant, {name: resized.get_submodule(name) for name in names}, tuple(like._modules))
    return variant if keeps_shape(variant, size) is not None and _trains(variant, size) else None


def _variants(module: nn.Module, donor: nn.Module | None) -> Iterator[nn.Module]:
    """Candidates in order of trust: with the donor's flags and nothing that it lacks gone, one child, or all of them;
    as it is; one plain attribute flipped; one child gone. A single layer stays as it is."""
    if donor is not None:
        absent = _absent(module, donor)
        for gone in ([], *([name] for name in absent if len(absent) > 1), absent):
            yield _like(module, donor, gone)
    yield module
    if _layers(module) == 1:
        return
    for name, value in vars(module).items():
        if isinstance(value, bool) and name != "training":
            variant = copy.deepcopy(module)
            setattr(variant, name, not value)
            yield variant
    for name, child in module.named_children():
        if _weights(child) * 2 > _weights(module):  # that is no projection, but what the block is there for
            continue
        for nothing in (None, nn.Identity()):
            variant = copy.deepcopy(module)
            setattr(variant, name, nothing)
            yield variant


def _layers(module: nn.Module) -> int:
    return sum(isinstance(m, (_ConvNd, nn.Linear)) for m in module.modules())


def _weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _absent(module: nn.Module, donor: nn.Module) -> list[str]:
    """The children with parameters which the donor has empty."""
    return [
        name
        for name, child in module.named_children()
        if any(True for _ in child.parameters())
        and (name in donor._modules or vars(donor).get(name, 0) is None)
        and not any(True for _ in (donor._modules.get(name) or nn.Identity()).parameters())
    ]


def _like(module: nn.Module, donor: nn.Module, gone: Iterable[str]) -> nn.Module:
    """``module`` with the donor's flags and strides, and what it has in the place of the children ``gone``."""
    variant = copy.deepcopy(module)
    for name, value in vars(donor).items():
        mine = vars(variant).get(name)
        flag = isinstance(value, bool) and isinstance(mine, bool) and name != "training"
        stride = value in (1, (1, 1)) and not isinstance(value, bool) and isinstance(mine, (int, tuple, list))
        if flag or (stride and not isinstance(mine, bool)):
            setattr(variant, name, copy.copy(value))
    for name in gone:
        if name in donor._modules:
            variant._modules[name] = copy.deepcopy(donor._modules[name])
        else:
            del variant._modules[name]
            setattr(variant, name, None)
    return variant


def residual_flags(module: nn.Module, donor: nn.Module, size: tuple[int, ...]) -> dict[str, bool]:
    """The donor's plain flags, if with them the input of ``module`` reaches a sum as in the donor; else none."""
    flags = {
        name: value
        for name, value in vars(donor).items()
        if isinstance(value, bool) and name != "training" and vars(module).get(name, value) != value
    }
    variant = meta_copy(module)
    for name, value in flags.items():
        setattr(variant, name, value)
    if not flags or not keeps_shape(variant, size):
        return {}
    sums = [sum(is_sum(node) for node in trace(net, size).nodes) for net in (meta_copy(module), variant)]
    return flags if sums[1] == sums[0] + 1 else {}


def keeps_shape(module: nn.Module, size: tuple[int, ...]) -> bool | None:
    """None if the module does not map ``size`` to itself, or leaves a parameter unread; else whether its input reaches
    a sum unchanged."""
    try:
        traced = trace(module, size)
    except CnnScaleError:
        return None
    output = next(n for n in reversed(traced.nodes) if n.op == "output").args[0]
    value = output.meta["val"] if isinstance(output, fx.Node) else None
    if not isinstance(value, torch.Tensor) or tuple(value.shape[1:]) != tuple(size) or not _reads_all(traced):
        return None
    return _is_summed(traced, traced.nodes[0])


def _reads_all(traced: Trace) -> bool:
    read = {str(node.target) for node in traced.nodes if node.op in ("call_module", "get_attr")}
    return all(name in read or name.rpartition(".")[0] in read for name, _ in traced.module.named_parameters())


def _is_summed(traced: Trace, node: fx.Node) -> bool:
    """Whether a node's value reaches a sum unchanged, that is directly or by way of an Identity."""
    return any(
        is_sum(user)
        or (
            user.op == "call_module"
            and type(traced.modules[str(user.target)]) is nn.Identity
            and _is_summed(traced, user)
        )
        for user in node.users
    )


def _trains(module: nn.Module, size: Sequence[int]) -> bool:
    """Whether gradients can be computed: with an Identity in the place of a layer, a class that works in place may
    overwrite what its other layers have read."""
    (image,) = example_batch(module, tuple(size)).tensors
    image.requires_grad_()
    try:
        with OnMeta():
            meta_copy(module).train()(image.clone()).sum().backward()
    except Exception:  # user code may raise anything
        return False
    return True
