"""Pictures of a report's comparisons: throughput against MACs, latencies, memory; each as PNG and as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnscale.plotting import COLOURS, FAINT, check_folder, new_figure, save

from .charted import latencies, memories, throughputs
from .records import Report, Row
from .views import comparisons, place_text, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["save_plots"]

_MARKER, _ROW, _FRAME = 7, 0.42, 1.3
_FIRST, _OTHER = COLOURS[1], COLOURS[0]
"""Of the row that others are compared with, and of the others."""


def save_plots(report: Report, folder: str | Path) -> list[Path]:
    """Write the pictures of every comparison of a report; those that have nothing to show are left out.

    Returns:
        The files: ``throughput-infer-8.png``, where inference was measured at batch 8, and so on.

    Raises:
        CnnScaleError: matplotlib is not installed, or a file cannot be written.
    """
    check_folder(folder)
    written = []
    for rows in comparisons(report):
        for name, draw in _PICTURES.items():
            figure = draw(rows)
            if figure is None:
                continue
            figure.suptitle(f"{report.model}: {title_of(rows[0])}\n{place_text(report.environment)}", fontsize=9)
            for suffix in (".png", ".svg"):
                path = Path(folder) / f"{name}-{rows[0].mode}-{rows[0].batch_size}{suffix}"
                save(figure, path)
                written.append(path)
    return written


def _throughput(rows: Sequence[Row]) -> Figure | None:
    """Both in powers of two; the broken line is what the first row's GMAC/s would give."""
    points = throughputs(rows)
    if not points:
        return None
    figure = new_figure()
    axes = figure.subplots()
    first = points[0]
    ends = [min(p.gmacs for p in points), max(p.gmacs for p in points)]
    label = f"at the {first.gmacs * first.images_per_s:.3g} GMAC/s of {first.name}"
    axes.plot(ends, [first.images_per_s * first.gmacs / x for x in ends], "--", color=FAINT, lw=1, label=label)
    for p in points:
        colour = _FIRST if p is first else _OTHER
        axes.plot(p.gmacs, p.images_per_s, "o", color=colour, markersize=_MARKER)
        axes.annotate(p.name, (p.gmacs, p.images_per_s), (6, 5), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="GMACs of an image", ylabel="images per second")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    axes.margins(0.18)
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return figure


def _latency(rows: Sequence[Row]) -> Figure | None:
    """The line reaches from 5 to 95 % of all steps, the box holds the middle half, the mark is the median."""
    found = latencies(rows)
    if not found:
        return None
    figure = new_figure(height=_FRAME + _ROW * len(found))
    axes = figure.subplots()
    for y, (_, _, (low, early, middle, late, high)) in enumerate(found):
        colour = _OTHER if y else _FIRST
        axes.plot([low, high], [y, y], color=colour, lw=1.2)
        axes.barh(y, late - early, left=early, height=0.5, color=colour, alpha=0.5)
        axes.plot([middle, middle], [y - 0.32, y + 0.32], color="black", lw=1.5)
    axes.set_yticks(range(len(found)), [latency.name for latency in found])
    axes.set(xlabel="milliseconds per batch: 5 to 95 %, the middle half, the median", xlim=(0, None))
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    return figure


def _memory(rows: Sequence[Row]) -> Figure | None:
    peaks = memories(rows)
    if not peaks:
        return None
    figure = new_figure(height=_FRAME + _ROW * len(peaks))
    axes = figure.subplots()
    bars = axes.barh(
        range(len(peaks)),
        [peak.peak_bytes / 1e6 for peak in peaks],
        height=0.6,
        color=[_OTHER if i else _FIRST for i in range(len(peaks))],
    )
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    axes.set_yticks(range(len(peaks)), [peak.name for peak in peaks])
    axes.set(xlabel="peak memory in MB: weights, input and all that one step takes beyond them")
    axes.margins(x=0.1)
    axes.invert_yaxis()
    return figure


_PICTURES: dict[str, Callable[[Sequence[Row]], Figure | None]] = {
    "throughput": _throughput,
    "latency": _latency,
    "memory": _memory,
}
