"""A comparison whose rows go to a file as they are measured, and which does not measure what is there already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cnnscale.timing.rounds import Tick
from cnnscale.timing.settings import Settings

from .comparing import Job, compare
from .environment import environment
from .records import Report, Row
from .results import Store
from .variants import Variant

__all__ = ["recorded"]


def recorded(
    variants: Iterable[Variant], settings: Settings, store: Store | None, *, resume: bool, tick: Tick
) -> Report:
    """:func:`compare`, with every row in the store as soon as its comparison is done.

    With ``resume``, a comparison that the store has, of the same variants in the same place, is not measured again;
    nor is one that failed there.
    """
    where = environment(settings)

    def known(job: Job, rows: Sequence[Row]) -> Sequence[Row] | None:
        return store.known(job, rows, settings, where) if store and resume else None

    def on_rows(job: Job, rows: Sequence[Row], complete: bool) -> None:
        if store:
            store.append(rows, job, settings, where, complete=complete)

    return compare(variants, settings, known=known, on_rows=on_rows, tick=tick)
