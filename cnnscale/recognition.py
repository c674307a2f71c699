"""Which channels of one tensor are which of another: recognised by their values.

A channel is a slice along one axis. Random projections name each slice by a few numbers, a search proposes for every
slice of the one tensor an equal slice of the other, and the proposal counts only where all elements agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NEW", "gathered", "recognised", "spread"]

NEW = -1
"""In place of a channel of the baseline: it is a new one, with values of its own."""
_NEAR = 1e-9
"""Relative to the largest number: far above rounding in double precision, far below the distance of random numbers."""
_PROJECTIONS = 2


def spread(old: int, new: int) -> Tensor:
    """The channel of ``old`` that each of ``new`` channels repeats: all in order, as equally often as can be."""
    return torch.arange(new) * old // max(1, new)


def gathered(tensor: Tensor, axis: int, index: Tensor) -> Tensor:
    """The slices ``index`` of a floating-point tensor along ``axis``; NaN where they are NEW."""
    index = index.to(tensor.device)
    result = tensor.index_select(axis, index.clamp(min=0))
    return result.index_fill(axis, (index == NEW).nonzero().flatten(), torch.nan) if (index == NEW).any() else result


def recognised(found: Tensor, known: Tensor) -> tuple[int, Tensor] | None:
    """(axis, index) with ``found == gathered(known, axis, index)``; None where there is no such.

    Slices of ``found`` which hold NaN are NEW. Slices of ``known`` that are equal are found in turns.
    """
    if found.dim() != known.dim():
        return None
    differing = [i for i, (a, b) in enumerate(zip(found.shape, known.shape, strict=True)) if a != b]
    if len(differing) > 1:
        return None
    if not differing and _equal(found, known):
        return 0, torch.arange(found.shape[0] if found.dim() else 1)
    for axis in differing or range(found.dim()):
        index = _matched(_projected(found, axis), _projected(known, axis))
        if index is not None and _equal(found, gathered(known, axis, index)):
            return axis, index
    return None


def _projected(x: Tensor, axis: int) -> Tensor:
    """Random projections of each slice: (C, 2)."""
    x = x.movedim(axis, 0).reshape(x.shape[axis], -1)
    weights = torch.rand(x.shape[1], _PROJECTIONS, generator=torch.Generator().manual_seed(x.shape[1]), dtype=x.dtype)
    return x @ weights


def _matched(found: Tensor, known: Tensor) -> Tensor | None:
    """For each row of ``found`` the equal row of ``known``, NEW for NaN; None where a row has no equal."""
    near = _NEAR * max(float(known.abs().max()), torch.finfo(known.dtype).tiny)
    order = torch.argsort(known[:, 0], stable=True)
    keys = known[order]
    # neighbours that are equal form a class, known by its first row
    step = (keys[1:] - keys[:-1]).abs().amax(1) > near
    classes = torch.cat([torch.zeros(1, dtype=torch.long), step.long().cumsum(0)])
    first = torch.searchsorted(classes, torch.arange(int(classes[-1]) + 1))
    is_new = found.isnan().any(1)
    at = torch.searchsorted(keys[first, 0].contiguous(), found[:, 0].nan_to_num().contiguous())
    result = torch.full((len(found),), NEW)
    for shift in (0, -1):
        candidate = (at + shift).clamp(0, len(first) - 1)
        equal = ((keys[first][candidate] - found).abs() <= near).all(1) & ~is_new & (result == NEW)
        result[equal] = candidate[equal]
    if ((result == NEW) & ~is_new).any():
        return None
    sizes = torch.bincount(classes)
    index = torch.full_like(result, NEW)
    lone = ~is_new & (sizes[result.clamp(min=0)] == 1)
    index[lone] = order[first[result[lone]]]
    for number in sorted(set(result[~is_new & ~lone].tolist())):
        members = order[classes == number].sort().values
        places = (result == number).nonzero().flatten()
        index[places] = members[spread(len(members), len(places))]
    return index


def _equal(found: Tensor, wanted: Tensor) -> bool:
    near = _NEAR * float(wanted.nan_to_num().abs().max())
    alike = ((found - wanted).abs() <= near) | (found.isnan() & wanted.isnan())
    return bool(alike.all())
