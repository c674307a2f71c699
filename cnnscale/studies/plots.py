"""A study's points as a picture, with the paper's own numbers beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cnnscale.coefficients import Multipliers
from cnnscale.plotting import COLOURS, FAINT, new_figure, save

from .paper import SOURCE, TABLE_7
from .variants import COMPOUND

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .study import Point, StudyResult

__all__ = ["save_study"]

_MARKERS = "osD^vPX*"


def save_study(result: StudyResult, folder: str | Path) -> list[Path]:
    """Write ``FIGURE.png`` and ``FIGURE.svg`` into ``folder``; returns their paths.

    Raises:
        CnnScaleError: matplotlib is not installed, or a file cannot be written.
    """
    figure = new_figure(9.0, 4.6)
    ours, papers = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_points(ours, result)
    _draw_paper(papers)
    paths = [Path(folder) / f"{result.figure}{suffix}" for suffix in (".png", ".svg")]
    for path in paths:
        save(figure, path)
    return paths


def _draw_points(axes: Axes, result: StudyResult) -> None:
    """Each line of the figure from the baseline on; bars are standard deviations over the seeds."""
    trained = [point for point in result.points if point.mean is not None]
    baseline = next((point for point in trained if point.line == "baseline"), None)
    lines = dict.fromkeys(point.line for point in trained if point is not baseline)
    for number, line in enumerate(lines):
        own = sorted((point for point in trained if point.line == line), key=lambda point: point.macs)
        own = [baseline, *own] if baseline else own
        axes.errorbar(
            [point.macs / 1e6 for point in own],
            [_mean(point) for point in own],
            yerr=[point.spread or 0.0 for point in own],
            color=COLOURS[number % len(COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linewidth=2.2 if line == COMPOUND else 1.3,
            capsize=3,
            label=line,
        )
        for point in own if not baseline else ():
            where = (point.macs / 1e6, _mean(point))
            axes.annotate(f"{point.level:g}", where, (4, -10), textcoords="offset points", fontsize=7, color=FAINT)
    seeds = max((len(point.values) for point in trained), default=0)
    axes.set(xscale="log", xlabel="MACs of an image, in millions", ylabel="value of the training function")
    axes.set_title(f"{result.figure}: mean and deviation of {seeds} seeds", fontsize=10)
    for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatter("{x:g}")
    axes.tick_params(which="both", labelsize=7)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)


def _draw_paper(axes: Axes) -> None:
    """Table 7: what each dimension alone, and compound scaling, gained."""
    first, *rows = TABLE_7
    names = [_named(row.multipliers) for row in rows]
    gains = [row.top1 - first.top1 for row in rows]
    colours = [COLOURS[3] if row.multipliers.depth > 1 < row.multipliers.width else FAINT for row in rows]
    bars = axes.barh(range(len(rows)), gains, color=colours, height=0.6)
    labels = [f"+{gain:.1f} to {row.top1:g}" for gain, row in zip(gains, rows, strict=True)]
    axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.35)
    growth = rows[-1].gmacs / first.gmacs
    axes.set_title(f"the paper: {first.baseline}, ImageNet,\n{growth:.1f} times the MACs", fontsize=10)
    axes.set_xlabel(f"points of top-1 above {first.top1:g}\n({SOURCE}, table 7)", fontsize=8)


def _named(multipliers: Multipliers) -> str:
    factors = {"d": multipliers.depth, "w": multipliers.width, "r": multipliers.resolution}
    return ", ".join(f"{key} {value:g}" for key, value in factors.items() if value != 1)


def _mean(point: Point) -> float:
    assert point.mean is not None
    return point.mean
