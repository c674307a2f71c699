"""Stages whose blocks concatenate: each added block also widens everything behind it.

With ``g`` channels appended by a block, copy number ``k`` of the last block reads ``k * g`` channels more than the
original, and after ``m`` copies the stage hands on ``m * g`` more. Both numbers are atoms with today's value 0, so
the cost of every copy, and of whatever reads the stage, is the same polynomial at another ``k`` or ``m``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from .inference import Override
from .ops import channel_axis, replaced
from .shapes import Context, Sym
from .stages import Block, Site, is_cat, shape
from .surgery import CONTAINERS
from .symbolic import Atom, Poly, as_poly

__all__ = ["Concatenation", "concatenations"]


@dataclass
class Concatenation:
    """The atoms of one concatenating stage, and what they add at which node."""

    site: Site
    copy: Atom
    """k: which copy of the template (0: the template)."""
    extra: Atom
    """m: blocks added to the stage (negative: removed)."""
    growth: Poly
    """g: channels that each block appends."""
    overrides: dict[fx.Node, Override] = field(default_factory=dict)
    obstacle: str = ""

    def tie(self, ctx: Context, values: dict[fx.Node, Any]) -> None:
        """All blocks of the stage append the same number of channels."""
        today = {self.copy: as_poly(0), self.extra: as_poly(0)}
        for block in self.site.blocks:
            appended = _channels(ctx, values[block.output])[1]
            if self.site.kind == "growing":
                appended = appended - _channels(ctx, values[block.inputs[0]])[1]
            ctx.equations.equate(ctx.equations.resolve(appended).substitute(today), self.growth, block.path)


def concatenations(ctx: Context, sites: Sequence[Site]) -> dict[int, Concatenation]:
    """The concatenating stages among ``sites``, by position."""
    makers = {"dense": _dense, "growing": _growing, "gathered": _gathered}
    return {i: makers[site.kind](ctx, site) for i, site in enumerate(sites) if site.kind in makers}


def _atoms(ctx: Context, site: Site, growth: int) -> Concatenation:
    path = site.template.path
    (copy,) = ctx.equations.atom(f"copy of {path}", 0).atoms()
    (extra,) = ctx.equations.atom(f"blocks behind {path}", 0).atoms()
    return Concatenation(site, copy, extra, ctx.equations.atom(f"growth of {path}", growth, is_width=True))


def _cats(block: Block) -> list[fx.Node]:
    """The concatenations that read everything the block is given."""
    users = [n for n in block.inputs[-1].users if is_cat(n)]
    return [n for n in users if set(block.inputs) <= set(n.all_input_nodes)]


def _dense(ctx: Context, site: Site) -> Concatenation:
    """Every block concatenates all earlier outputs itself (DenseNet)."""
    template = site.template
    made = _atoms(ctx, site, shape(template.output)[1])
    inner = [n for n in _cats(template) if n in _nodes_between(template)]
    growths = {shape(block.output)[1] for block in site.blocks}
    if len(growths) != 1:
        made.obstacle = "its blocks append different numbers of channels"
    elif not _in_container(ctx, site):
        made.obstacle = "its blocks are called one by one, and their outputs concatenated"
    elif len(inner) != 1 or not all(is_cat(user) for user in template.output.users):
        made.obstacle = "its outputs are not simply concatenated"
    else:
        more = {inner[0]: made.copy, **dict.fromkeys(template.output.users, made.extra)}
        for node, atom in more.items():
            made.overrides[node] = _adding(ctx, made, atom, made.overrides.get(node))
    return made


def _growing(ctx: Context, site: Site) -> Concatenation:
    """Every block appends to its own input."""
    template = site.template
    made = _atoms(ctx, site, template.growth)
    if any(user not in _nodes_between(template) for user in template.inputs[0].users):
        made.obstacle = "the input of its last block is read elsewhere too"
        return made
    made.overrides[template.inputs[0]] = _adding(ctx, made, made.copy, None)
    made.overrides[template.output] = _grown(ctx, made)
    return made


def _gathered(ctx: Context, site: Site) -> Concatenation:
    """Every block reads the one before it, and one concatenation reads them all (C2f, ELAN)."""
    template = site.template
    made = _atoms(ctx, site, shape(template.output)[1])
    if not _in_container(ctx, site):
        made.obstacle = "its blocks are called one by one, and their outputs concatenated"
        return made
    gather = [user for user in template.output.users if is_cat(user)]
    made.overrides = {node: _adding(ctx, made, made.extra, None) for node in gather}
    return made


def _in_container(ctx: Context, site: Site) -> bool:
    return isinstance(ctx.module.get_submodule(site.template.parent), CONTAINERS)


def _nodes_between(block: Block) -> set[fx.Node]:
    nodes, node = set(), block.output
    for _ in range(block.stop - block.start):
        nodes.add(node)
        node = node.prev
    return nodes


def _channels(ctx: Context, value: Sym) -> tuple[int, Poly]:
    axis = channel_axis(ctx, value)
    return axis, value.shape[axis]


def _adding(ctx: Context, made: Concatenation, atom: Atom, inner: Override | None) -> Override:
    """The node's value with ``atom * growth`` more channels."""

    def override(value: Any) -> Any:
        value = inner(value) if inner is not None else value
        axis, channels = _channels(ctx, value)
        return replaced(value, axis, channels + made.growth * Poly({(atom,): 1}))

    return override


def _grown(ctx: Context, made: Concatenation) -> Override:
    """The template's output: what copy k would write becomes what copy m does."""

    def override(value: Any) -> Any:
        axis, channels = _channels(ctx, value)
        copy, extra = Poly({(made.copy,): 1}), Poly({(made.extra,): 1})
        return replaced(value, axis, channels - made.growth * copy + made.growth * extra)

    return override
