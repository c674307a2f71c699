"""A store as pictures: the grid as a heat map, the halving as a bracket, values against MACs and against time.

Drawn from the ledger alone, so also while others work on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from cnnscale.errors import SearchError
from cnnscale.formatting import quantity
from cnnscale.plans import Plan
from cnnscale.plotting import COLOURS, FAINT, check_folder, new_figure, save

from .ledger import Ledger

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Trained", "Trials", "save_search", "trials_of"]

_DIMENSIONS = ("depth", "width", "resolution")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the finished trainings of one candidate on one rung say."""

    values: tuple[float, ...]
    """One per seed."""
    seconds: float
    """Mean time of a training."""

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for a single one."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def text(self) -> str:
        return f"{self.mean:.3f}" if self.spread is None else f"{self.mean:.3f}\n\N{PLUS-MINUS SIGN}{self.spread:.3f}"


@dataclass(frozen=True, kw_only=True)
class Trials:
    """A store, as pictures need it."""

    kind: str
    model: str
    shares: tuple[float, ...]
    """Of the full schedule, per rung that has a finished training."""
    plans: Mapping[str, Plan]
    facts: Mapping[str, Mapping[str, Any]]
    trained: tuple[Mapping[str, Trained], ...]
    """Per rung: candidate -> what is known of it."""

    @property
    def last(self) -> dict[str, tuple[int, Trained]]:
        """Candidate -> the last rung on which it was trained, and what is known of it there."""
        return {name: (rung, known) for rung, on in enumerate(self.trained) for name, known in on.items()}


def trials_of(ledger: Ledger) -> Trials:
    """What a ledger holds at the moment.

    Raises:
        SearchError: no training is over.
    """
    described, tasks = ledger.description(), ledger.tasks()
    done = [task for task in tasks if task.value is not None]
    if not done:
        raise SearchError("there is nothing to draw: no training is over")
    rungs = []
    for rung in range(max(task.rung for task in done) + 1):
        own = [task for task in done if task.rung == rung]
        rungs.append(
            {
                name: Trained(
                    values=tuple(task.value or 0.0 for task in own if task.candidate == name),
                    seconds=fmean(task.seconds or 0.0 for task in own if task.candidate == name),
                )
                for name in dict.fromkeys(task.candidate for task in own)
            }
        )
    known = ledger.candidates()
    return Trials(
        kind=described.get("kind", ""),
        model=described.get("model", ""),
        shares=tuple(described.get("rungs", [1.0])[: len(rungs)]),
        plans={name: Plan.from_json(plan) for name, (plan, _) in known.items()},
        facts={name: facts for name, (_, facts) in known.items()},
        trained=tuple(rungs),
    )


def save_search(trials: Trials, folder: str | Path) -> list[Path]:
    """Write ``grid``, ``bracket`` and ``cost`` into ``folder``, which is made; of a study only the last one.

    Each as PNG and as SVG; returns the files.

    Raises:
        CnnScaleError: matplotlib is not installed, or a file cannot be written.
    """
    check_folder(folder)
    draw: dict[str, Callable[[Trials], Figure]] = {"cost": _cost}
    if trials.kind == "search":
        draw = {"grid": _grid, "bracket": _bracket, **draw}
    written = []
    for name, picture in draw.items():
        figure = picture(trials)
        for suffix in (".png", ".svg"):
            path = Path(folder) / f"{name}{suffix}"
            save(figure, path)
            written.append(path)
    return written


# --- the grid -----------------------------------------------------------------------------------------------------


def _grid(trials: Trials) -> Figure:
    """One heat map per rung: only what was trained equally long can be compared. Empty cells gave no candidate, or one
    that was dropped before."""
    names = sorted(_DIMENSIONS, key=lambda name: len(_values(trials, name)))[:2]
    down, across = sorted(names, key=_DIMENSIONS.index)
    rows, columns = _values(trials, down), _values(trials, across)
    figure = new_figure(0.8 + len(trials.trained) * (1.4 + 0.75 * len(columns)), 1.6 + 0.6 * len(rows))
    all_axes = figure.subplots(1, len(trials.trained), squeeze=False)[0]
    for axes, share, trained in zip(all_axes, trials.shares, trials.trained, strict=True):
        cells = [[float("nan")] * len(columns) for _ in rows]
        texts: dict[tuple[int, int], str] = {}
        for name, known in trained.items():
            place = rows.index(_wanted(trials, name, down)), columns.index(_wanted(trials, name, across))
            cells[place[0]][place[1]] = known.mean
            texts[place] = known.text
        shown = axes.imshow(cells, cmap="cividis", aspect="auto")
        low, high = shown.get_clim()
        for (row, column), text in texts.items():
            dark = cells[row][column] < (low + high) / 2
            colour = "white" if dark else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        axes.set(xlabel=across, ylabel=down)
        axes.set_title(f"{share:.0%} of the schedule", fontsize=9)
        figure.colorbar(shown, ax=axes, shrink=0.8)
    seeds = max(len(known.values) for trained in trials.trained for known in trained.values())
    figure.suptitle(f"{trials.model}: mean and deviation of {seeds} seeds", fontsize=10)
    return figure


def _wanted(trials: Trials, name: str, dimension: str) -> float:
    return round(float(getattr(trials.plans[name].multipliers, dimension)), 3)


def _values(trials: Trials, dimension: str) -> list[float]:
    return sorted({_wanted(trials, name, dimension) for name in trials.plans})


# --- the halving --------------------------------------------------------------------------------------------------


def _bracket(trials: Trials) -> Figure:
    """Candidates by rank, rung by rung; those that went on are joined."""
    orders = [sorted(trained, key=lambda name: -trained[name].mean) for trained in trials.trained]
    figure = new_figure(2.5 + 2.6 * len(orders), 1.4 + 0.34 * len(orders[0]))
    axes = figure.subplots()
    for rung, order in enumerate(orders):
        for rank, name in enumerate(order):
            goes_on = rung + 1 < len(orders) and name in orders[rung + 1]
            colour = COLOURS[0] if goes_on or rung == len(orders) - 1 else FAINT
            axes.plot(rung, rank, "o", color=colour, markersize=6)
            known = trials.trained[rung][name].text.replace("\n", " ")
            axes.annotate(
                f"{name}  {known}" if rung == 0 else known,
                (rung, rank),
                (-9 if rung == 0 else 9, 0),
                textcoords="offset points",
                ha="right" if rung == 0 else "left",
                va="center",
                fontsize=8,
                color=colour,
            )
            if goes_on:
                axes.plot([rung, rung + 1], [rank, orders[rung + 1].index(name)], color=COLOURS[5], lw=1.2, zorder=0)
    axes.set_xticks(range(len(orders)), [f"{share:.0%} of the schedule" for share in trials.shares])
    axes.set(xlim=(-1.15, len(orders) - 0.45), ylim=(len(orders[0]) - 0.4, -0.6), yticks=[])
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.set_title(f"{trials.model}: best on top, those that went on joined", fontsize=10)
    return figure


# --- cost ---------------------------------------------------------------------------------------------------------


def _cost(trials: Trials) -> Figure:
    """Values against MACs, against the time of a training and, where it was measured, against latency."""
    panels: list[tuple[str, Callable[[str, Trained], float | None]]] = [
        ("MACs of an image", lambda name, known: float(trials.plans[name].after.macs)),
        ("seconds of a training", lambda name, known: known.seconds),
    ]
    if any("latency_ms" in facts for facts in trials.facts.values()):
        panels.append(("milliseconds of a forward pass", lambda name, known: trials.facts[name].get("latency_ms")))
    figure = new_figure(3.6 * len(panels) + 1.6, 3.8)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    ordered = sorted(trials.last, key=lambda name: (-trials.last[name][0], -trials.last[name][1].mean))
    numbers = {name: number for number, name in enumerate(ordered, 1)}
    for axes, (label, cost) in zip(all_axes, panels, strict=True):
        for rung, share in enumerate(trials.shares):
            _draw_costs(axes, list(_points(trials, rung, cost)), numbers, share, final=rung == len(trials.shares) - 1)
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(lambda value, _: quantity(value))
        axes.tick_params(labelsize=8)
        axes.margins(x=0.12)
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel("value of the training function")
    all_axes[0].legend(fontsize=8)
    named = "\n".join(f"{number}  {name}" for name, number in numbers.items())
    all_axes[-1].text(1.04, 1.0, named, transform=all_axes[-1].transAxes, va="top", fontsize=7)
    figure.suptitle(f"{trials.model}: mean and deviation over the seeds", fontsize=10)
    return figure


def _points(
    trials: Trials, rung: int, cost: Callable[[str, Trained], float | None]
) -> Iterator[tuple[float, str, Trained]]:
    """Of the candidates whose last rung this is."""
    for name, (last, known) in trials.last.items():
        at = cost(name, known)
        if last == rung and at is not None:
            yield at, name, known


def _draw_costs(
    axes: Axes,
    points: Sequence[tuple[float, str, Trained]],
    numbers: Mapping[str, int],
    share: float,
    *,
    final: bool,
) -> None:
    if not points:
        return
    colour = COLOURS[0] if final else FAINT
    axes.errorbar(
        [at for at, _, _ in points],
        [known.mean for _, _, known in points],
        yerr=[known.spread or 0.0 for _, _, known in points],
        fmt="o",
        color=colour,
        markersize=4,
        capsize=2,
        lw=1,
        label=f"{share:.0%} of the schedule",
    )
    for at, name, known in points:
        axes.annotate(f"{numbers[name]}", (at, known.mean), (4, 3), textcoords="offset points", fontsize=8)
