"""Rows of blocks of one shape that are not all alike: what repeats is a cycle of them, or each kind for itself.

A *row* is what one container calls in turn, all of one shape. Blocks are of one *kind* if they have one class and
equal parameters; the first block of a row, which may have a stride or a projection, is of any.

1. Where the kinds take turns at the end of a row, twice at least (convolution, attention, convolution, attention;
   dilations 1, 2, 1, 2), the turn is one block of several modules, and goes on as it went. Blocks right before that
   are of the same classes and kernels, but change the shape, are the turn that opens the stage.
2. Else each run of one kind is a stage of its own. Together they grow as one stage does (:func:`rows`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch.nn.modules.conv import _ConvNd

from .stages import Block, Site, flags
from .surgery import CONTAINERS
from .tracing import Trace

__all__ = ["divided", "rows"]


class _Kind(NamedTuple):
    cls: str
    build: Hashable
    """None where the block opens the row: that fits any of its class."""


def divided(trace: Trace, sites: Sequence[Site], added: Sequence[str] = ()) -> list[Site]:
    """``sites`` with every mixed row divided anew, in the order of execution. Modules ``added`` make no other kind."""
    found: list[Site] = []
    for row in rows(trace, sites):
        blocks = [block for site in row for block in site.blocks]
        found += _divided(trace, blocks, added) if _is_plain(row) else row
    return _with_openings(trace, sorted(found, key=lambda site: site.blocks[0].start))


def _with_openings(trace: Trace, sites: Sequence[Site]) -> list[Site]:
    """The sites, with the turn that opens a stage of turns in it."""
    found: list[Site] = []
    for site in sites:
        period = len(site.template.modules)
        first = [block for before in found[-period:] for block in before.blocks]
        if site.kind == "chain" and period > 1 and _opens(trace, first, site.blocks[0]):
            found[-period:] = [Site((_joined(first), *site.blocks))]
        else:
            found.append(site)
    return found


def _opens(trace: Trace, blocks: Sequence[Block], turn: Block) -> bool:
    """Whether the blocks are what the turn would be where the shape changes: its classes and kernels, one by one."""
    paths = [path for block in blocks for path in block.modules]
    ends = [*(block.inputs for block in blocks[1:]), turn.inputs]
    chained = ends == [(block.output,) for block in blocks]
    return (
        len(paths) == len(blocks) == len(turn.modules)
        and all(path.rpartition(".")[0] == turn.parent for path in paths)
        and chained
        and _are_closed(blocks, len(blocks))
        and all(_same_kernels(trace, path, other) for path, other in zip(paths, turn.modules, strict=True))
    )


def _same_kernels(trace: Trace, path: str, other: str) -> bool:
    one, two = trace.modules[path], trace.modules[other]
    kernels = [
        {name: layer.kernel_size for name, layer in block.named_modules() if isinstance(layer, _ConvNd)}
        for block in (one, two)
    ]
    shared = kernels[0].keys() & kernels[1].keys()
    return type(one) is type(two) and bool(shared) and all(kernels[0][name] == kernels[1][name] for name in shared)


def rows(trace: Trace, sites: Sequence[Site]) -> list[list[Site]]:
    """The sites that follow one another in one container, without a change of shape between them."""
    found: list[list[Site]] = []
    for site in sites:
        first, before = site.blocks[0], found[-1][-1] if found else None
        chained = before is not None and site.kind == before.kind == "chain" and first.parent == before.template.parent
        if before is not None and chained and _in_container(trace, first) and _follows(before.template, first):
            found[-1].append(site)
        else:
            found.append([site])
    return found


def _follows(before: Block, block: Block) -> bool:
    return block.keeps_shape and block.inputs == (before.output,)


def _in_container(trace: Trace, block: Block) -> bool:
    return isinstance(trace.modules[block.parent], CONTAINERS)


def _is_plain(row: Sequence[Site]) -> bool:
    return all(site.kind == "chain" and len(block.modules) == 1 for site in row for block in site.blocks)


def _divided(trace: Trace, blocks: Sequence[Block], added: Sequence[str]) -> Iterator[Site]:
    if not _in_container(trace, blocks[0]):
        yield Site(tuple(blocks))
        return
    kinds = [_kind(trace, block, added, is_first=i == 0) for i, block in enumerate(blocks)]
    start, period = _cycle(blocks, kinds)
    run: list[int] = []
    for i in range(start):
        if run and not _alike(kinds[run[-1]], kinds[i]):
            yield Site(tuple(blocks[j] for j in run))
            run = []
        run.append(i)
    if run:
        yield Site(tuple(blocks[j] for j in run))
    if period:
        yield Site(tuple(_joined(blocks[i : i + period]) for i in range(start, len(blocks), period)))


def _kind(trace: Trace, block: Block, added: Sequence[str], *, is_first: bool) -> _Kind:
    known = [
        (name, module)
        for name, module in trace.modules[block.path].named_modules()
        if not f"{block.path}.{name}.".startswith(tuple(f"{path}." for path in added))
    ]
    tensors = tuple((name, n, tuple(t.shape)) for name, m in known for n, t in m.named_parameters(recurse=False))
    dilations = tuple(layer.dilation for _, layer in known if isinstance(layer, _ConvNd))
    build = tuple(sorted(flags(trace, block).items())), tensors, dilations
    return _Kind(block.cls, None if is_first else build)


def _alike(one: _Kind, other: _Kind) -> bool:
    if None in (one.build, other.build):
        return one.cls == other.cls or _outer(one.cls) == other.cls or one.cls == _outer(other.cls)
    return one == other


def _outer(cls: str) -> str:
    """The class without what it wraps: a block with a projection holds more, and so wraps nothing."""
    return cls.partition("[")[0]


def _cycle(blocks: Sequence[Block], kinds: Sequence[_Kind]) -> tuple[int, int]:
    """(where the turns begin, blocks in each), of the shortest turn that ends the row; (all blocks, 0) without."""
    count = len(kinds)
    for period in range(2, count // 2 + 1):
        length = period
        while length < count and _alike(kinds[count - length - 1], kinds[count - length - 1 + period]):
            length += 1
        start = count - length // period * period
        changes = any(not _alike(a, b) for a, b in zip(kinds[-period:], kinds[-period + 1 :], strict=False))
        if length // period > 1 and changes and _are_closed(blocks[start:], period):
            return start, period
    return count, 0


def _are_closed(blocks: Sequence[Block], period: int) -> bool:
    """Whether what the blocks of a turn hand to each other goes nowhere else."""
    inner = [(a, b) for i, (a, b) in enumerate(pairwise(blocks), 1) if i % period]
    return all(a.stop == b.start and all(_reads(b, user) for user in a.output.users) for a, b in inner)


def _reads(block: Block, node: object) -> bool:
    current = block.output
    for _ in range(block.stop - block.start):
        if current is node:
            return True
        current = current.prev
    return False


def _joined(blocks: Sequence[Block]) -> Block:
    """The blocks of one turn as one block."""
    first, last = blocks[0], blocks[-1]
    return Block(
        tuple(path for block in blocks for path in block.modules),
        first.start,
        last.stop,
        first.inputs,
        last.output,
        " + ".join(block.cls for block in blocks),
        sum(block.layers for block in blocks),
        tuple(_joined(calls) for calls in zip(*(block.again for block in blocks), strict=True)),
    )
