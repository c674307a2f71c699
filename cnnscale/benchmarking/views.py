"""A benchmark as text for a terminal; what its cells hold is the same in every other form.

``growth`` is that of MACs, a ratio to the first row of the comparison. ``time`` is the ratio of times round by round,
``+-`` the half of its 95 % interval, and ``beyond`` how much more or less time grew than MACs. ``ms`` is the median of
a batch, ``ms, 1`` that of a batch of one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cnnscale.formatting import cell, fixed_point, labelled, new_table, plain_text, quantity, ratio_text, size_text

if TYPE_CHECKING:
    from .records import Environment, Pair, Report, Row
    from .regressions import Change, Comparison

__all__ = [
    "CHANGE_COLUMNS",
    "COLUMNS",
    "LAYER_COLUMNS",
    "bench_view",
    "cells",
    "change_cells",
    "comparison_view",
    "comparisons",
    "format_bench",
    "layer_cells",
    "pair_text",
    "place_text",
    "title_of",
]

_WIDTH: Final = 120
COLUMNS: Final = (
    *("variant", "input", "depth", "width", "res.", "params", "activ.", "MACs", "growth", "2^phi", "time", "+-"),
    *("beyond", "images/s", "ms", "p95 ms", "ms, 1", "GMAC/s", "peak mem"),
)
CHANGE_COLUMNS: Final = ("variant", "mode", "batch", "ms before", "ms now", "time", "memory", "verdict")
LAYER_COLUMNS: Final = ("part", "output", "of MACs", "of time", "time / MACs", "MACs grew", "time grew")
_MODES: Final = {"infer": "inference", "train": "training step"}


def format_bench(report: Report) -> str:
    return plain_text(bench_view(report))


def bench_view(report: Report, *, width: int = _WIDTH) -> Group:
    """The whole of a benchmark: where it ran, a table per comparison, pairs, and what went wrong."""
    tables: list[RenderableType] = []
    for rows in comparisons(report):
        tables += [Text(), Text(title_of(rows[0])), _rows_table(rows, width)]
        tables += _layers_tables(rows)
    pairs = [labelled(*pair_text(pair, report)) for pair in report.pairs]
    return Group(
        Text(report.model, style="bold"),
        Text(place_text(report.environment), style="dim"),
        *tables,
        *([Text(), *pairs] if pairs else []),
        *(labelled("note", note) for note in report.notes),
        *(labelled(row.name, Text(_first_line(row.problem), style="red")) for row in report.rows if row.problem),
    )


def comparisons(report: Report) -> list[list[Row]]:
    """The rows by comparison: one mode at one batch size."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in report.rows:
        found.setdefault((row.mode, row.batch_size), []).append(row)
    return list(found.values())


def title_of(row: Row) -> str:
    """What a comparison is, from one of its rows: ``inference, batch 8``."""
    return f"{_MODES[row.mode]}, batch {row.batch_size}"


def place_text(env: Environment) -> str:
    """``Some CPU (cpu), fp32, 2 threads, torch 2.9.0``."""
    compiled = env.compile_mode and f"compiled ({env.compile_mode})"
    extras = ["channels last" if env.channels_last else None, compiled, "CUDA graph" if env.cuda_graph else None]
    threads = f"{env.threads} thread{'s' * (env.threads != 1)}"
    return ", ".join(
        [f"{env.device_name} ({env.device})", env.dtype, threads, *filter(None, extras), f"torch {env.torch}"]
    )


def cells(row: Row) -> Iterator[str]:
    """One text per column of :data:`COLUMNS`; ``-`` where there is nothing."""
    timing, cost, got = row.timing, row.cost, row.achieved
    yield row.name
    yield size_text(row.input_size) if row.input_size else "-"
    yield from (f"{x:.2f}" for x in (got.depth, got.width, got.resolution)) if got else ("-",) * 3
    yield from map(quantity, (cost.params, cost.activations, cost.macs)) if cost else ("-",) * 3
    yield ratio_text(row.growth)
    yield ratio_text(row.target_growth)
    yield ratio_text(row.time_growth)
    yield _half_width(row)
    yield "-" if row.beyond_macs is None else f"{row.beyond_macs:+.0%}"
    yield quantity(timing.images_per_s) if timing else "-"
    yield from (fixed_point(timing.latency_ms), fixed_point(timing.p95_ms)) if timing else ("-",) * 2
    yield fixed_point(timing.single_ms) if timing and timing.single_ms else "-"
    yield fixed_point(timing.gmacs_per_s) if timing else "-"
    yield quantity(timing.peak_memory_bytes, "B") if timing and timing.peak_memory_bytes is not None else "-"


def pair_text(pair: Pair, report: Report) -> tuple[str, str]:
    """``phi 1 / phi 0`` and ``time 2.36 (2.33 to 2.40): slower``; says which comparison, where there are several."""
    several = len({(each.mode, each.batch_size) for each in report.pairs}) > 1
    part = f" ({pair.mode}, batch {pair.batch_size})" if several else ""
    told = _interval(pair.ratio.low, pair.ratio.middle, pair.ratio.high)
    return f"{pair.name} / {pair.other}{part}", f"time {told}: {pair.verdict}"


def _interval(low: float, middle: float, high: float) -> str:
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def comparison_view(comparison: Comparison) -> Group:
    """A run against an earlier one."""
    table = new_table(*CHANGE_COLUMNS, left=("variant", "mode", "verdict"))
    for change in comparison.changes:
        table.add_row(*map(cell, change_cells(change)), style="red" if change.regressed else "")
    notes = [labelled("note", note) for note in comparison.notes]
    return Group(Text(), Text("against the earlier run", style="bold"), table, *notes)


def change_cells(change: Change) -> Iterator[str]:
    """One text per column of :data:`CHANGE_COLUMNS`."""
    here, there = change.row.timing, change.old.timing
    assert here and there  # noqa: PT018 - one fact: both were timed
    yield from (change.row.name, change.row.mode, str(change.row.batch_size))
    yield from (fixed_point(there.latency_ms), fixed_point(here.latency_ms))
    yield _interval(change.ratio.low, change.ratio.middle, change.ratio.high)
    yield ratio_text(change.memory_growth)
    yield f"{change.verdict}, REGRESSED" if change.regressed else change.verdict


def _rows_table(rows: Sequence[Row], width: int) -> Table:
    """One line per variant, or one column where that takes more than ``width`` characters."""
    shown = [[*map(cell, cells(row))] for row in rows]
    table = new_table(*COLUMNS, left=("variant", "input"))
    for row, line in zip(rows, shown, strict=True):
        table.add_row(*line, style="" if row.verified else "red")
    if Console(width=2 * _WIDTH).measure(table).maximum <= width:
        return table
    upright = new_table("variant", *(row.name for row in rows), left=("variant",))
    for label, *line in [*zip(COLUMNS, *shown, strict=True)][1:]:
        upright.add_row(Text(label, style="bold"), *line)
    return upright


def _layers_tables(rows: Sequence[Row]) -> list[RenderableType]:
    """Per variant that was profiled, its parts: shares of MACs and time, and how both grew."""
    tables: list[RenderableType] = []
    for row in (row for row in rows if row.stages):
        table = new_table(*LAYER_COLUMNS, left=("part",))
        for line in layer_cells(row, rows):
            table.add_row(*map(cell, line))
        tables += [Text(), Text(f"{row.name}: where the time goes"), table]
    return tables


def layer_cells(row: Row, rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """One line of texts per part of a row's network, for :data:`LAYER_COLUMNS`.

    Growths are against the same part of the first of ``rows`` that is of the same model.
    """
    baseline = next(each for each in rows if each.model == row.model)
    alike = len(baseline.stages) == len(row.stages)
    whole_macs = row.growth / baseline.growth if row.growth and baseline.growth else 0.0
    whole_time = row.time_growth / baseline.time_growth if row.time_growth and baseline.time_growth else 0.0
    for share, then in zip(row.stages, baseline.stages if alike else [None] * len(row.stages), strict=True):
        macs = whole_macs * share.macs / then.macs if then and then.macs else None
        time = whole_time * share.time / then.time if then and then.time else None
        dearness = share.time / share.macs if share.macs else None
        size = "x".join(map(str, share.sides)) or "-"
        yield (
            share.path,
            size,
            f"{share.macs:.1%}",
            f"{share.time:.1%}",
            *map(ratio_text, (dearness, macs or None, time or None)),
        )


def _half_width(row: Row) -> str:
    if row.time_growth is None or row.time_growth_low is None or row.time_growth_high is None:
        return "-"
    return f"{(row.time_growth_high - row.time_growth_low) / 2 / row.time_growth:.1%}"


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0]
