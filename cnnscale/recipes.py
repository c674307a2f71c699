"""How a tensor of the scaled network is made of one of the baseline's.

:class:`Gathered`: slices of it, each as often as wanted (norms, biases, layer scales).
:class:`Mixed`: the weight of a convolution or linear layer. Its rows are gathered. Where an input channel occurs
several times, each copy gets a share of its weight, and the shares add up to the weight: the sum stays (Net2WiderNet,
Chen et al. 2016, arXiv 1511.05641, which gives all copies the same share). Here they are unequal, so that copies learn
different things, and add up without rounding: a number minus at least its half is exact (Sterbenz' lemma).
:class:`Filled`, :class:`Delta`: one number, and the kernel that hands on its input; both of a copied block.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from .recognition import NEW

__all__ = ["Delta", "Filled", "Gathered", "Mixed", "Recipe", "Shares", "made"]

Shares: TypeAlias = Literal["uneven", "even", "whole", "first"]
"""What the copies of an input channel get of its weight: unequal shares, equal ones, all of it each; or the first copy
has it all and the others, as all that is no first copy, keep the values that they have."""


@dataclass(frozen=True)
class Gathered:
    """Slices of a tensor."""

    source: str
    """The tensor of the baseline."""
    axis: int = 0
    index: Tensor | None = None
    """Which of the baseline's slices, NEW for none of them; None for all in order."""


@dataclass(frozen=True)
class Mixed:
    """Weights whose inputs are shared out."""

    source: str
    rows: Tensor
    """Output channel of the baseline for each output channel."""
    columns: Tensor
    """(groups, inputs): for each input of a group, which of the group's inputs in the baseline; NEW for none."""
    transposed: bool = False
    groups: int = 1
    """Of the baseline."""


@dataclass(frozen=True)
class Filled:
    """One number everywhere."""

    value: float


@dataclass(frozen=True)
class Delta:
    """A kernel of one 1 in each output channel, and zeros."""

    columns: Tensor
    """For each output channel, which input channel of its group it hands on."""
    tap: tuple[int, ...]


Recipe: TypeAlias = Gathered | Mixed | Filled | Delta


def made(recipe: Recipe, old: Tensor | None, new: Tensor, name: str, shares: Shares) -> Tensor:
    """The tensor ``name`` by its recipe, in double precision.

    Args:
        recipe: how.
        old: the baseline's tensor; None for recipes that need none.
        new: the values of what the baseline does not say.
        name: seeds the shares, so that whatever grows beside a weight is shared out as it is.
        shares: of the copies of an input channel.
    """
    with torch.no_grad():
        if isinstance(recipe, Filled):
            return torch.full_like(new, recipe.value, dtype=_wide(new.dtype))
        if isinstance(recipe, Delta):
            return _delta(recipe, new)
        assert old is not None
        if isinstance(recipe, Gathered):
            return _gathered(recipe, old, new, first=shares == "first")
        return _mixed(recipe, old, new, name, shares).to(_wide(new.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype.is_floating_point else dtype


def _delta(recipe: Delta, new: Tensor) -> Tensor:
    value = torch.zeros_like(new, dtype=torch.float64)
    rows = torch.arange(len(value), device=new.device)
    taps = [torch.full_like(rows, place) for place in recipe.tap]
    return value.index_put((rows, recipe.columns.to(new.device), *taps), value.new_ones(()))


def _gathered(recipe: Gathered, old: Tensor, new: Tensor, *, first: bool) -> Tensor:
    if recipe.index is None:
        return old.to(_wide(old.dtype))
    index = _firsts(recipe.index) if first else recipe.index
    value = new.to(_wide(new.dtype))
    known = (index != NEW).nonzero().flatten().to(new.device)
    taken = old.to(value.dtype).index_select(recipe.axis, index[index != NEW].to(old.device))
    return value.index_copy(recipe.axis, known, taken)


def _firsts(index: Tensor) -> Tensor:
    """``index`` with NEW for every channel that occurred before."""
    return torch.where(_ranks(index) == 0, index, NEW)


def _ranks(index: Tensor) -> Tensor:
    """How many equal entries stand before each."""
    order = torch.argsort(index, stable=True)
    ordered = index[order]
    starts = torch.searchsorted(ordered, ordered)
    return torch.empty_like(index).index_copy(0, order, torch.arange(len(index)) - starts)


def _mixed(recipe: Mixed, old: Tensor, new: Tensor, name: str, shares: Shares) -> Tensor:
    """(outputs, inputs of a group, *kernel); of a transposed convolution (inputs, outputs of a group, *kernel)."""
    if recipe.transposed:
        old, new = _turned(old, recipe.groups), _turned(new, len(recipe.columns))
    old = _fitted(old, new)
    rows = _firsts(recipe.rows) if shares == "first" else recipe.rows
    groups = len(recipe.columns)
    value = new.clone()
    kept = (rows != NEW).nonzero().flatten()
    by_group = _by_group(value, groups)
    weight = _by_group(old.index_select(0, rows.clamp(min=0).to(old.device)), groups)
    shared = by_group.clone() if shares == "first" else torch.zeros_like(by_group)
    generator = torch.Generator(new.device).manual_seed(
        int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    )
    for at, column, places in _classes(recipe.columns):
        for place, share in zip(places, _shared(weight[at, column], len(places), shares, generator), strict=True):
            if share is not None:
                shared[at, place] = share
    result = shared.transpose(1, 2).flatten(0, 1)
    value[kept] = result[kept]
    return _turned(value, groups) if recipe.transposed else value


def _turned(weight: Tensor, groups: int) -> Tensor:
    """Inputs and outputs change places, within each group."""
    return _by_group(weight, groups).flatten(0, 1)


def _by_group(weight: Tensor, groups: int) -> Tensor:
    """(outputs, inputs, *kernel) -> (groups, inputs, outputs of a group, *kernel)."""
    return weight.reshape(groups, len(weight) // groups, *weight.shape[1:]).transpose(1, 2)


def _fitted(old: Tensor, new: Tensor) -> Tensor:
    """``old`` with the kernel of ``new``: the middle of a larger one, zeros about a smaller one."""
    for dim in range(2, old.dim()):
        size = min(old.shape[dim], new.shape[dim])
        middle = old.narrow(dim, (old.shape[dim] - size) // 2, size)
        low = (new.shape[dim] - size) // 2
        shape = list(middle.shape)
        shape[dim] = new.shape[dim]
        old = middle.new_zeros(shape)
        old.narrow(dim, low, size).copy_(middle)
    return old


def _classes(columns: Tensor) -> list[tuple[Tensor, Tensor, list[Tensor]]]:
    """Input channels by how often they occur: (groups, columns of the baseline, places of each copy)."""
    groups, inputs = columns.shape
    known = int(columns.max()) + 1
    flat = torch.where(columns == NEW, NEW, columns + torch.arange(groups)[:, None] * known).flatten()
    ranks = _ranks(flat)
    counts = torch.bincount(flat[flat != NEW], minlength=groups * known)
    found = []
    for times in sorted(set(counts[counts > 0].tolist())):
        keys = (counts == times).nonzero().flatten()
        places = []
        for rank in range(times):
            at = ((ranks == rank) & (flat != NEW)).nonzero().flatten()
            at = at[torch.argsort(flat[at])]
            at = at[counts[flat[at]] == times]
            places.append(at % inputs)
        found.append((keys // known, keys % known, places))
    return found


def _shared(weight: Tensor, times: int, shares: Shares, generator: torch.Generator) -> list[Tensor | None]:
    if shares == "uneven":
        return list(_uneven(weight, times, generator))
    if shares == "first":
        return [weight, *[None] * (times - 1)]
    return [weight / times if shares == "even" else weight] * times


def _uneven(weight: Tensor, times: int, generator: torch.Generator) -> list[Tensor]:
    """Random shares which add up to ``weight`` without rounding. Those of a zero are opposite numbers."""
    if times == 1:
        return [weight]
    larger = (times + 1) // 2
    drawn = torch.rand(weight.shape, generator=generator, dtype=weight.dtype, device=weight.device) * 0.4 - 0.2
    one = weight * (max(0.5, larger / times - 0.1) + drawn.abs())
    if not weight.all():
        one = torch.where(weight == 0, drawn * (float(weight.abs().mean()) or 1e-3), one)
    other = weight - one
    if 2 * larger == times:  # either may be the larger one
        one, other = torch.where(drawn > 0, other, one), torch.where(drawn > 0, one, other)
    return [*_uneven(one, larger, generator), *_uneven(other, times - larger, generator)]
