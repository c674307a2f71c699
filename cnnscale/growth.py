"""Weights for a scaled network from the baseline's: inherited where they fit, or so that the function is preserved.

Both follow the baseline's channels to where they are (:mod:`cnnscale.following`), so that what grows beside a weight,
an optimizer's momentum or an average over time, can follow it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .analysis import Analysis
from .comparison import assign, compare, tensors_of
from .errors import PreserveError, RewriteError
from .following import Followed, follow_channels
from .itineraries import orders_by_way
from .orders import Orders
from .parting import first_parting
from .recipes import Delta, Filled, Recipe, Shares, made
from .recognition import spread
from .records import Preservation
from .rewriting import Aligned, Rebuilt, align
from .symbolic import Atom, Values

__all__ = ["Preserve", "Weights", "follow", "grow", "grown"]

Weights = Literal["fresh", "inherit", "preserve"]
Preserve = Literal["exact", "best"]


def grow(
    model: nn.Module,
    rebuilt: Rebuilt,
    analysis: Analysis,
    repeats: Sequence[int],
    values: Values,
    *,
    weights: Literal["inherit", "preserve"],
    preserve: Preserve = "exact",
) -> Preservation | None:
    """Give the scaled network, whose weights have been drawn, what it takes over from ``model``.

    Raises:
        PreserveError: with ``weights="preserve"``, the scaled network would not compute the baseline's function.
    """
    if any(tensor.is_meta for tensor in tensors_of(model).values()):
        return None
    scaled, old = rebuilt.module, tensors_of(model)
    if weights == "inherit":
        _, found = follow(model, rebuilt, analysis, repeats, values, anywhere=True)
        assign(scaled, grown(found.recipes, old, tensors_of(scaled), "first"))
        return None
    strict = preserve == "exact"
    aligned, found = follow(model, rebuilt, analysis, repeats, values, anywhere=not strict)
    if strict and found.notes:
        raise PreserveError(f"{found.notes[0]}; {_ADVICE}")
    tensors = grown(found.recipes, old, tensors_of(scaled), "uneven")
    report = dataclasses.replace(compare(model, scaled, analysis.input_size, tensors), notes=found.notes)
    if strict and not report.exact:
        where = first_parting(model, scaled, analysis, aligned, found, tensors)
        raise PreserveError(
            f"the scaled {type(model).__name__} does not compute what the baseline does: its outputs differ by "
            f"{max(report.fp64):.1e} of the largest in double precision and by {max(report.fp32):.1e} in single"
            + (f", first at {where}" if where else "")
            + f"; {_ADVICE}"
        )
    assign(scaled, tensors)
    return report


_ADVICE = (
    "pin the widths or the depth there (pin, pin_depth), take weights='inherit', or preserve='best' for the nearest "
    "that is known, with the error measured"
)


def follow(
    model: nn.Module,
    rebuilt: Rebuilt,
    analysis: Analysis,
    repeats: Sequence[int],
    values: Values,
    *,
    anywhere: bool = False,
) -> tuple[Aligned, Followed]:
    """How each tensor of the scaled network is made of the baseline's; ``anywhere`` takes what can be followed.

    Raises:
        PreserveError: the scaled network does not run at the baseline's input size.
    """
    try:
        aligned = align(rebuilt, analysis, repeats, values)
    except RewriteError as error:
        if not anywhere:
            raise PreserveError(
                f"{error}; a function is preserved at one input size: keep the resolution (depth=, width=)"
            ) from error
        aligned = align(rebuilt, analysis, repeats, values, own_size=True)
    kept = _Norms(model, analysis).largest
    found = follow_channels(analysis, aligned, Orders(analysis, aligned.values, kept))
    own = orders_by_way(analysis, aligned) if found.notes else {}
    if own:
        other = follow_channels(analysis, aligned, Orders(analysis, aligned.values, kept, own))
        found = other if len(other.notes) < len(found.notes) else found
    return aligned, found


@dataclass(frozen=True)
class _Norms:
    """The norms of the channels of each width, over all layers that have it as their output."""

    model: nn.Module
    analysis: Analysis

    def largest(self, width: Atom, count: int) -> Tensor:
        """The ``count`` channels of largest norm, in their order; thinned out evenly where no layer says anything."""
        norms = torch.zeros(width.hint, dtype=torch.float64)
        shared, ctx = self.analysis.ctx.shared, self.analysis.ctx
        for name, tensor in self.analysis.trace.module.named_parameters():
            dims = ctx.tensors.get(shared.get(id(tensor), ""), ())
            single = ctx.equations.resolve(dims[0]).single() if len(dims) > 1 else None
            real = self._real(name)
            if single is not None and single[1] is width and real is not None:
                norms += real.double().cpu().pow(2).reshape(single[0], width.hint, -1).sum((0, 2))
        if not norms.any():
            return spread(width.hint, count)
        return norms.topk(count).indices.sort().values

    def _real(self, name: str) -> Tensor | None:
        parent, _, role = name.rpartition(".")
        path = self.analysis.plain_path(parent)
        tensor = getattr(self.model.get_submodule(path), role, None)
        meta = self.analysis.trace.module.get_parameter(name)
        return tensor.detach() if isinstance(tensor, Tensor) and tensor.shape == meta.shape else None


def grown(
    recipes: Mapping[str, Recipe], old: Mapping[str, Tensor], new: Mapping[str, Tensor], shares: Shares
) -> dict[str, Tensor]:
    """The tensors that the recipes make of ``old``; what they do not say is as in ``new``."""
    return {
        name: made(recipe, None if isinstance(recipe, (Filled, Delta)) else old[recipe.source], new[name], name, shares)
        for name, recipe in recipes.items()
    }
