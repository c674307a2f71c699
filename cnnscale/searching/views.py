"""Searches as text, in the manner of :mod:`cnnscale.formatting`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cnnscale.formatting import cell, labelled, new_table, quantity, ratio_text, size_text

if TYPE_CHECKING:
    from .candidates import Candidates
    from .forecast import Forecast
    from .halving import Rung
    from .result import SearchResult
    from .search import Prepared
    from .status import Status

__all__ = ["duration", "forecast_line", "prepared_view", "progress_text", "result_view", "status_view"]

_LEADERS = 10


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.5 h``, ``2.1 days``: the unit in which it is above one and a half."""
    for size, unit in ((86_400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def prepared_view(ready: Prepared, cost: Forecast) -> Group:
    """A search before it starts: its candidates, its rungs, and what they cost."""
    found = ready.candidates
    plan = found.members[0].plan
    heading = Text.assemble(
        (plan.model, "bold"),
        f", input {size_text(plan.baseline_size)}, {quantity(found.baseline.macs)} MACs; candidates of "
        f"{ratio_text(found.budget)} within {found.tolerance:.1%}",
    )
    return Group(
        heading,
        Text(),
        _candidates_table(found),
        *_left_out_lines(found),
        Text(),
        _rungs_table(ready.rungs, ready.seeds),
        Text(),
        forecast_line(cost),
    )


def _candidates_table(found: Candidates) -> Table:
    table = new_table(
        "candidate", "depth", "width", "res.", "input", "MACs", "growth", "grid points", left=("candidate",)
    )
    for member in found.members:
        got = member.plan.achieved
        table.add_row(
            cell(member.name),
            *(f"{x:.3f}" for x in (got.depth, got.width, got.resolution)),
            size_text(member.plan.input_size),
            quantity(member.plan.after.macs),
            f"{member.plan.growth:.3f}x",
            str(1 + len(member.merged)),
        )
    return table


def _left_out_lines(found: Candidates) -> Iterable[RenderableType]:
    by_reason: dict[str, list[str]] = {}
    for item in found.left_out:
        by_reason.setdefault(item.why, []).append(" ".join(f"{base} {value:g}" for base, value in item.cell.items()))
    for why, cells in by_reason.items():
        yield labelled("left out", f"{'; '.join(cells)}: {why}")


def _rungs_table(rungs: Iterable[Rung], seeds: int) -> Table:
    table = new_table("rung", "share of the schedule", "candidates", "seeds", "trainings", left=())
    for number, rung in enumerate(rungs, 1):
        table.add_row(str(number), f"{rung.share:.0%}", str(rung.candidates), str(seeds), str(rung.trainings))
    return table


def forecast_line(cost: Forecast) -> RenderableType:
    workers = f"{cost.workers} worker{'s' * (cost.workers != 1)}"
    text = f"{cost.trainings} trainings, {quantity(cost.images)} images, {quantity(cost.macs)} MACs"
    return labelled("in all", f"{text}; about {duration(cost.seconds)} with {workers}")


def result_view(result: SearchResult) -> Group:
    """The ranking of the last rung, what is tied, and the coefficients."""
    ranking, best = result.ranking, result.best
    seeds = len(ranking.seeds)
    margin = "no margin: one seed tells nothing of the noise" if ranking.margin is None else f"{ranking.margin:.4f}"
    table = new_table("candidate", "mean", "sd", "behind", "tied", "MACs", "latency ms", "input", left=("candidate",))
    plans = {member.name: member.plan for member in result.candidates.members}
    for entry in ranking.entries:
        latency = result.facts[entry.name].get("latency_ms")
        table.add_row(
            Text(entry.name, style="bold" if entry.name == result.proposed.name else ""),
            f"{entry.mean:.4f}",
            "-" if entry.spread is None else f"{entry.spread:.4f}",
            f"{entry.behind:.4f}",
            "yes" if entry.tied else "",
            quantity(plans[entry.name].after.macs),
            "-" if latency is None else f"{latency:.3g}",
            size_text(plans[entry.name].input_size),
        )
    return Group(
        table,
        Text(),
        labelled("margin", f"{margin} ({ranking.confidence:.0%}, {seeds} paired seed{'s' * (seeds != 1)})"),
        labelled("tied", ", ".join(result.tied)),
        labelled("proposed", f"{result.proposed.name}, the cheapest to run of them"),
        labelled("per unit of phi", f"alpha {best.alpha:.4g}, beta {best.beta:.4g}, gamma {best.gamma:.4g}"),
        *_failed_lines(
            (task.candidate, task.seed, (task.error or "").strip().rpartition("\n")[2]) for task in result.failed
        ),
    )


def _failed_lines(errors: Iterable[tuple[str, int, str]]) -> Iterable[RenderableType]:
    for candidate, seed, error in errors:
        yield labelled("failed", Text(f"{candidate}, seed {seed}: {error}", style="red"))


def progress_text(status: Status) -> str:
    """One line: where it is, and the time left."""
    number = next((i for i, rung in enumerate(status.rungs) if not rung.over), len(status.rungs) - 1)
    rung = status.rungs[number]
    where = f"rung {number + 1} of {len(status.rungs)}: " if len(status.rungs) > 1 else ""
    left = "" if status.seconds_left is None else f", about {duration(status.seconds_left)} left"
    failed = f", {rung.failed} failed" if rung.failed else ""
    return f"{where}{rung.done} of {rung.trainings} trainings done{failed}{'' if status.over else left}"


def status_view(status: Status) -> Group:
    """A store at one moment."""
    table = new_table("rung", "share of the schedule", "trainings", "done", "running", "failed", left=())
    for number, rung in enumerate(status.rungs, 1):
        counts = (rung.trainings, rung.done, rung.running, rung.failed)
        table.add_row(str(number), f"{rung.share:.0%}", *map(str, counts))
    best = new_table("so far", "mean", "seeds", left=("so far",))
    for name, mean, seeds in status.leaders[:_LEADERS]:
        best.add_row(cell(name), f"{mean:.4f}", str(seeds))
    return Group(
        Text.assemble((status.model, "bold"), f", {status.kind}"),
        Text(),
        table,
        Text(),
        *((best, Text()) if status.leaders else ()),
        labelled("now", progress_text(status)),
        *_failed_lines(status.errors),
    )
