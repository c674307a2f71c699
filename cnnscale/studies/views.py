"""Studies as text, in the manner of :mod:`cnnscale.formatting`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from cnnscale.formatting import cell, labelled, new_table, quantity, ratio_text, size_text
from cnnscale.searching.views import forecast_line

from .paper import SOURCE, TABLE_7

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnnscale.searching.forecast import Forecast

    from .study import StudyResult
    from .variants import Variant

__all__ = ["study_view", "variants_view"]


def variants_view(figure: str, variants: Sequence[Variant], cost: Forecast) -> Group:
    """A study before it starts."""
    table = new_table("net", "level", "input", "depth", "width", "res.", "MACs", "growth", left=("net",))
    for variant in variants:
        got = variant.plan.achieved
        table.add_row(
            cell(variant.line),
            f"{variant.level:g}",
            size_text(variant.plan.input_size),
            *(f"{x:.3f}" for x in (got.depth, got.width, got.resolution)),
            quantity(variant.plan.after.macs),
            ratio_text(variant.plan.growth),
        )
    heading = Text.assemble((variants[0].plan.model, "bold"), f", {figure}")
    return Group(heading, Text(), table, Text(), forecast_line(cost))


def study_view(result: StudyResult) -> Group:
    """The points of a figure, the verdicts, and the paper's numbers."""
    table = new_table("net", "level", "input", "MACs", "growth", "mean", "sd", "s a training", left=("net",))
    for point in result.points:
        table.add_row(
            cell(point.line),
            f"{point.level:g}",
            size_text(point.input_size),
            quantity(point.macs),
            ratio_text(point.growth),
            "failed" if point.mean is None else f"{point.mean:.4f}",
            "-" if point.spread is None else f"{point.spread:.4f}",
            "-" if point.seconds is None else f"{point.seconds:.1f}",
        )
    verdicts = new_table(
        "line", "at", "against", "ahead by", "+-", "seeds won", "verdict", left=("line", "against", "verdict")
    )
    for verdict in result.verdicts:
        verdicts.add_row(
            cell(verdict.line),
            f"{verdict.level:g}x",
            cell(verdict.other),
            f"{verdict.ahead:+.4f}",
            "-" if verdict.margin is None else f"{verdict.margin:.4f}",
            f"{verdict.wins} of {verdict.seeds}",
            cell(verdict.verdict),
        )
    return Group(table, Text(), *((verdicts, Text()) if result.verdicts else ()), labelled("paper", _paper_text()))


def _paper_text() -> str:
    """Table 7 in one line."""
    nets = "; ".join(
        f"d {row.multipliers.depth:g}, w {row.multipliers.width:g}, r {row.multipliers.resolution:g}: "
        f"{row.gmacs:g} G MACs, top-1 {row.top1:g}"
        for row in TABLE_7
    )
    return f"{TABLE_7[0].baseline} on ImageNet, {nets} ({SOURCE}, table 7)"
