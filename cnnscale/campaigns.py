"""The commands that train: ``search``, ``status``, ``export`` and ``study``.

Progress goes to stderr: a bar with the time left on a terminal, a line now and then elsewhere.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .coefficients import Coefficients
from .errors import CnnScaleError, UsageError
from .options import MODEL_HELP, Json, Model, Rounding, amount, rounding_option
from .plotting import check_folder
from .searching.grid import BASES, Base, Grid
from .searching.views import prepared_view, progress_text, result_view, status_view
from .studies.views import study_view, variants_view
from .terminal import NONE, command, note, option, show, stderr

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor

    from .inputs import InputSize
    from .searching.forecast import Forecast
    from .searching.ledger import Ledger
    from .searching.search import Prepared, Watch
    from .training import Classification

__all__ = ["add_commands"]

_train = functools.partial(option, panel="How to train")
_run = functools.partial(option, panel="Where to run and what to keep")
_MAPPED = 6  # pictures that class activation maps are drawn of
_PLAIN_S = 60.0  # between two lines of progress where there is no terminal

_STORE = Annotated[
    Path, typer.Argument(metavar="STORE", help="The SQLite file of a search or study.", show_default=False)
]


@dataclass(frozen=True)
class _Training:
    """The ready training function, and how often it is called."""

    data: Annotated[str, _train("mnist-clutter, or a folder of pictures or tensors.", metavar="DIR|mnist-clutter")] = (
        "mnist-clutter"
    )
    epochs: Annotated[int, _train("Of the full schedule.")] = 6
    batch_size: Annotated[int, _train("Images per step.")] = 128
    lr: Annotated[float, _train("The highest of the one-cycle schedule.")] = 0.01
    weight_decay: Annotated[float, _train("Of AdamW.")] = 0.05
    label_smoothing: Annotated[float, _train("Of the cross entropy.")] = 0.0
    ema: Annotated[float | None, _train("Decay of an average of the weights, which is then scored.")] = None
    seeds: Annotated[int, _train("Trainings per net.")] = 3

    def function(self, score_on: Literal["validation", "test"]) -> Classification:
        from .training import Classification

        settings = {name: value for name, value in asdict(self).items() if name != "seeds"}
        return Classification(score_on=score_on, **settings)


@dataclass(frozen=True)
class _Running:
    """Where trainings run."""

    workers: Annotated[int | None, _run("Processes; default: one per GPU, or per core.")] = None
    executor: Annotated[str, _run("local, ray, or ray://HOST:PORT.")] = "local"
    max_retries: Annotated[int, _run("How often a training is begun again whose worker died.")] = 2
    checkpoints: Annotated[
        Path | None, _run("Folder that all workers see; default: beside the store.", metavar="DIR", show_default=False)
    ] = None
    resume: Annotated[bool, _run("Go on with a store that is there.")] = True
    dry_run: Annotated[bool, _run("Show the work and its cost; train nothing.", "--dry-run")] = False

    def keywords(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "dry_run"}


def search(
    model: Model,
    training: _Training,
    running: _Running,
    rounding: Rounding,
    budget: Annotated[float, option("MACs of the candidates, relative to the baseline's.")] = 2.0,
    alpha: Annotated[list[float], option("Depths on the grid; default: 1 1.1 1.2 1.3 1.4.", metavar="F...")] = NONE,
    beta: Annotated[list[float], option("Widths on the grid.", metavar="F...")] = NONE,
    gamma: Annotated[list[float], option("Resolutions on it; default: 1 1.1 1.15 1.2 1.3.", metavar="F...")] = NONE,
    solve: Annotated[Base, option("Which one follows from the budget.")] = "beta",
    tolerance: Annotated[float, option("Allowed deviation of a candidate's MACs.")] = 0.02,
    rungs: Annotated[list[float], option("Shares of the schedule; default: 0.5 1.", metavar="F...")] = NONE,
    keep: Annotated[float, option("Part of the candidates that goes on to the next rung.")] = 0.5,
    latency_ms: Annotated[float | None, option("Leave out what takes longer per batch, measured here.")] = None,
    peak_memory: Annotated[str | None, option("Leave out what needs more, in bytes: 2G.", metavar="N")] = None,
    store: Annotated[Path, _run("SQLite file; the same command goes on with it.", metavar="FILE")] = Path(
        "runs/search.db"
    ),
    plot: Annotated[Path | None, _run("Pictures there at the end, as PNG and SVG.", metavar="DIR")] = None,
    as_json: Json = False,
) -> None:
    """Find alpha, beta and gamma for a model: train nets of equal MACs and rank them."""
    from .loading import Factory, load
    from .searching.search import prepare
    from .searching.search import search as run_search

    loaded = load(model)
    train_fn = training.function("validation")
    keywords: dict[str, Any] = {
        "budget": budget,
        "grid": _grid({"alpha": tuple(alpha), "beta": tuple(beta), "gamma": tuple(gamma)}, solve),
        "tolerance": tolerance,
        "rungs": tuple(rungs) or (0.5, 1.0),
        "keep": keep,
        "seeds": training.seeds,
        **rounding.rounding_keywords(loaded.input_size),
    }
    ready = prepare(loaded.model, **keywords)
    view = prepared_view(ready, _search_cost(ready, train_fn, running))
    if running.dry_run:
        show(view)
        return
    stderr().print(view)
    if plot is not None:
        check_folder(plot)
    limits: dict[str, Any] = {"latency_ms": latency_ms, "peak_memory_bytes": amount("--peak-memory", peak_memory)}
    with _watched(store) as watch:
        result = run_search(
            Factory(model), train_fn, store=store, watch=watch, **keywords, **limits, **running.keywords()
        )
    if plot is not None:
        _draw(store, plot)
    if as_json:
        typer.echo(result.to_json(), nl=False)
    else:
        show(result_view(result))


def _grid(values: dict[Base, tuple[float, ...]], solve: Base) -> Grid:
    """The grid, with the default's values for the bases that were not given, but for the one to solve."""
    default = Grid.default()
    named = {base: values[base] or (() if base == solve else default.values(base)) for base in BASES}
    return Grid(solve=solve, **named)


def _search_cost(ready: Prepared, train_fn: Classification, running: _Running) -> Forecast:
    work = [
        (member.plan, ready.seeds * train_fn.images(rung.share))
        for rung in ready.rungs
        for member in ready.candidates.members[: rung.candidates]
    ]
    return _cost(ready.model, work, ready.trainings, train_fn, running)


def _cost(model: Any, work: Any, trainings: int, train_fn: Classification, running: _Running) -> Forecast:
    from .searching.forecast import forecast
    from .searching.workers import default_devices, default_workers, threads_of

    workers = running.workers or default_workers()
    return forecast(
        model,
        work,
        trainings=trainings,
        batch_size=train_fn.batch_size,
        workers=workers,
        threads=threads_of(workers),
        device=default_devices()[0],
    )


@contextmanager
def _watched(store: Path) -> Iterator[Watch]:
    """Something that shows the progress of a store; on Ctrl-C it says how to go on."""
    from rich.progress import BarColumn, Progress, TextColumn

    console = stderr()
    bar = Progress(BarColumn(), TextColumn("{task.description}"), console=console, disable=not console.is_terminal)
    try:
        with bar:
            yield _Watcher(bar)
    except KeyboardInterrupt:
        note(f"{store} keeps what is done; the same command goes on with it")
        raise


@dataclass
class _Watcher:
    bar: Progress
    _told_at: float = field(default_factory=time.monotonic)
    _task: Any = None

    def __call__(self, ledger: Ledger) -> None:
        from .searching.status import status_of

        plain = self.bar.disable
        if plain and time.monotonic() - self._told_at < _PLAIN_S:
            return
        self._told_at = time.monotonic()
        status = status_of(ledger)
        text = progress_text(status)
        if plain:
            note(text)
            return
        if self._task is None:
            self._task = self.bar.add_task(text)
        total = sum(rung.trainings for rung in status.rungs)
        over = sum(rung.done + rung.failed for rung in status.rungs)
        self.bar.update(self._task, description=text, completed=over, total=total)


def status(store: _STORE, as_json: Json = False) -> None:
    """Show how far a search or study has come, also while it runs."""
    from .searching.ledger import Ledger
    from .searching.status import status_of

    with closing(Ledger(store, create=False)) as ledger:
        found = status_of(ledger)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        show(status_view(found))


def export(
    store: _STORE,
    form: Annotated[Literal["csv", "json"], option("Of what is written to stdout.", "--format")] = "csv",
    plot: Annotated[Path | None, option("Pictures there, as PNG and SVG, and no rows.", metavar="DIR")] = None,
) -> None:
    """Write every training of a store, with its candidate's facts, also while it runs."""
    from .searching.ledger import Ledger
    from .searching.result import as_csv, export_rows

    if plot is not None:
        _draw(store, plot)
        return
    with closing(Ledger(store, create=False)) as ledger:
        rows = export_rows(ledger)
    typer.echo(as_csv(rows) if form == "csv" else json.dumps(rows, indent=2) + "\n", nl=False)


def _draw(store: Path, folder: Path) -> None:
    from .searching.ledger import Ledger
    from .searching.plots import save_search, trials_of

    with closing(Ledger(store, create=False)) as ledger:
        trials = trials_of(ledger)
    note(f"wrote {', '.join(map(str, save_search(trials, folder)))}")


@dataclass(frozen=True)
class _Fine(Rounding):
    """As for other commands, but to single channels: the nets of studies are small."""

    divisor: Annotated[int, rounding_option("Channels are rounded to its multiples.")] = 1


def study(
    figure: Annotated[
        Literal["figure3", "figure4", "figure8", "cam"],
        typer.Argument(metavar="FIGURE", help="figure3, figure4, figure8, or cam: figure 7.", show_default=False),
    ],
    training: _Training,
    running: _Running,
    rounding: _Fine,
    model: Annotated[str, option(MODEL_HELP)] = "cnnscale.reference:build",
    levels: Annotated[
        list[float], option("Instead of the paper's: multipliers, of figure8 growths of MACs.", metavar="F...")
    ] = NONE,
    alpha: Annotated[float | None, option("With beta and gamma: one more line of figure8 and cam.")] = None,
    beta: Annotated[float | None, option("Likewise; what is not given is the paper's.")] = None,
    gamma: Annotated[float | None, option("Likewise.")] = None,
    out: Annotated[
        Path | None, _run("Folder for results and store; default: runs/FIGURE.", metavar="DIR", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the nets of one of the paper's figures on your data, and compare them."""
    from .loading import Factory, load
    from .studies.cam import Kept, maps_of, save_maps
    from .studies.plots import save_study
    from .studies.study import run_study, trained_once
    from .studies.variants import FIGURES

    loaded = load(model)
    train_fn = training.function("test")
    keywords = {key: value for key, value in rounding.rounding_keywords(loaded.input_size).items() if value is not None}
    own = {name: base for name, base in (("alpha", alpha), ("beta", beta), ("gamma", gamma)) if base is not None}
    if own and figure not in ("figure8", "cam"):
        raise UsageError(f"{figure} compares no coefficients: --{next(iter(own))} belongs to figure8 and cam")
    if own:
        keywords["coefficients"] = Coefficients(**own)
    variants = tuple(FIGURES[figure](loaded.model, levels, **keywords))
    nets = trained_once(variants)
    work = [(variant.plan, training.seeds * train_fn.images(1.0)) for variant in nets.values()]
    cost = _cost(loaded.model, work, len(nets) * training.seeds, train_fn, running)
    view = variants_view(figure, variants, cost)
    if running.dry_run:
        show(view)
        return
    stderr().print(view)
    folder = out or Path("runs") / figure
    store = folder / "study.db"
    weights = str((folder / "weights").absolute())
    with _watched(store) as watch:
        result = run_study(
            figure,
            Factory(model),
            Kept(train_fn, weights) if figure == "cam" else train_fn,
            levels=levels,
            seeds=training.seeds,
            store=store,
            watch=watch,
            **keywords,
            **running.keywords(),
        )
    for name, text in ((f"{figure}.json", result.to_json()), (f"{figure}.csv", result.to_csv())):
        (folder / name).write_text(text, encoding="utf-8")
        note(f"wrote {folder / name}")
    try:
        note(f"wrote {', '.join(map(str, save_study(result, folder)))}")
        if figure == "cam":
            maps = maps_of(Factory(model), nets, weights, lambda size: _one_of_each(train_fn, size))
            note(f"wrote {', '.join(map(str, save_maps(maps, folder)))}")
    except CnnScaleError as error:  # the results are there, and the same command draws them later
        note(f"no picture: {error}")
    if as_json:
        typer.echo(result.to_json(), nl=False)
    else:
        show(study_view(result))


def _one_of_each(train_fn: Classification, input_size: InputSize) -> tuple[Tensor, Tensor]:
    """The first test picture of each of the first classes."""
    images, labels = train_fn.pictures("test", input_size)
    classes = sorted(set(labels.tolist()))[:_MAPPED]
    first = [int((labels == each).nonzero()[0]) for each in classes]
    return images[first], labels[first]


def add_commands() -> None:
    """Register the commands of this module, after those of :mod:`cnnscale.cli`."""
    command(
        "search cnnscale.reference:build --divisor 1 --dry-run",
        "search resnet18 --data pictures --budget 2 --seeds 3 --store runs/resnet18.db",
    )(search)
    command("status runs/search.db")(status)
    command(
        "export runs/search.db > trainings.csv",
        "export runs/search.db --format json",
        "export runs/search.db --plot pictures",
    )(export)
    command(
        "study figure8 --seeds 3",
        "study cam --data pictures",
        "study figure8 --alpha 1 --beta 1.15 --gamma 1.2",
        "study figure3 --model resnet18 --data pictures --divisor 8 --dry-run",
    )(study)
